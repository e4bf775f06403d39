"""WSGI apps and handler classes behind an ASGI server: each request on a thread, its response passed on by parts."""

from __future__ import annotations

import asyncio
import contextvars
import time
from typing import TYPE_CHECKING, Any

from tracedbridge import ending
from tracedbridge.answers import answer_to, with_fields
from tracedbridge.instrumented.requests import request_of_scope
from tracedbridge.instrumented.threads import on_a_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tracedbridge.apps.http_server import HttpServerApp
    from tracedbridge.apps.wsgi import WsgiApp
    from tracedbridge.messages import Invocation, Request, Response
    from tracedbridge.protocols import Telemetry

    Receive = Callable[[], Awaitable[dict[str, Any]]]
    Send = Callable[[dict[str, Any]], Awaitable[None]]

__all__ = ("Threaded",)


class Threaded:
    """One app that runs on threads."""

    def __init__(self, app: WsgiApp | HttpServerApp, telemetry: Telemetry) -> None:
        """Answer with ``app``."""
        self._app = app
        self._telemetry = telemetry
        self._is_closed = False
        ending.close_at_end(self)

    def close(self) -> None:
        """Send what is left; once."""
        if not self._is_closed:
            self._is_closed = True
            ending.forget(self)
            self._telemetry.close()

    async def serve(self, scope: dict[str, Any], receive: Receive, send: Send, context: object) -> BaseException | None:
        """
        Answer one HTTP request.

        Returns:
            What the app raised, if it did; its client has got a 500 then.

        Raises:
            BaseException: The same, in the middle of a response, which can only be broken off.
        """
        body = await _body_of(receive)
        if body is None:
            return None
        request = request_of_scope(scope)
        request.body = body
        sink = _Sink(asyncio.get_running_loop(), send, request.method)
        # Nobody else asks, and a stream for nobody is to end.
        leaving = asyncio.create_task(sink.watch(receive))
        surroundings = contextvars.copy_context()
        try:
            return await on_a_thread(lambda: surroundings.run(self._answer, request, sink, context))
        finally:
            leaving.cancel()

    def _answer(self, request: Request, sink: _Sink, context: object) -> BaseException | None:
        raised: BaseException | None = None
        with self._telemetry.watch(context) as invocation:
            invocation.is_streamed = True
            invocation.bytes_in, invocation.bytes_out = len(request.body), 0
            sink.invocation = invocation
            try:
                self._app.stream(invocation.arrived(request), invocation, sink)
                sink.end()
            except BaseException as error:  # noqa: BLE001 - whatever an app raises, its client gets an answer
                raised = self._failed(error, sink, invocation)
        if raised is not None and not sink.is_whole:
            raise raised
        return raised

    def _failed(self, error: BaseException, sink: _Sink, invocation: Invocation) -> BaseException | None:
        if sink.has_left and isinstance(error, OSError):
            invocation.is_abandoned = True
            sink.is_whole = True
            return None
        invocation.failed(error)
        if not sink.has_begun:
            answer = answer_to(error)
            sink.begin(answer)
            sink.write(answer.body)
            sink.end()
        return error


class _Sink:
    """The way back to the client, from another thread; implements `tracedbridge.protocols.Sink`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, send: Send, method: str) -> None:
        self._loop = loop
        self._send = send
        self._method = method
        self.has_body = method != "HEAD"
        self.invocation: Invocation | None = None
        self.has_begun = self.is_whole = self.has_left = False

    async def watch(self, receive: Receive) -> None:
        """Note when the client goes away."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self.has_left = not self.is_whole

    def begin(self, response: Response) -> None:
        headers = with_fields(response).fields
        if response.status in (204, 304):
            self.has_body = False
        assert self.invocation is not None
        self.invocation.response = response
        self.has_begun = True
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name in headers for value in headers[name]]
        self._pass({"type": "http.response.start", "status": response.status, "headers": raw})

    def write(self, data: bytes) -> None:
        if not self.has_body:
            return
        assert self.invocation is not None
        self.invocation.bytes_out = (self.invocation.bytes_out or 0) + len(data)
        self._pass({"type": "http.response.body", "body": data, "more_body": True})

    def end(self) -> None:
        """Send the end of the body."""
        self._pass({"type": "http.response.body", "body": b"", "more_body": False})
        self.is_whole = True
        assert self.invocation is not None
        self.invocation.answered_ns = time.monotonic_ns()

    def _pass(self, message: dict[str, Any]) -> None:
        if self.has_left:
            raise OSError("the client has gone away")
        # It waits: who reads slowly is not to fill our memory.
        asyncio.run_coroutine_threadsafe(_awaited(self._send(message)), self._loop).result()


async def _awaited(sending: Awaitable[None]) -> None:
    await sending


async def _body_of(receive: Receive) -> bytes | None:
    """Return the whole body; None if the client went away before its end."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)
