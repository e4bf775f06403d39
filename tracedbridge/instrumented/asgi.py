"""
An ASGI app with our telemetry around it, for any server that speaks ASGI.

Source: ASGI 3.0, HTTP & WebSocket 2.5, Lifespan 2.0.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from tracedbridge import ending
from tracedbridge.errors import AppProtocolError, StartupError
from tracedbridge.instrumented.requests import request_of_scope, scope_with
from tracedbridge.instrumented.threads import must_settle, on_a_thread
from tracedbridge.messages import Response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tracedbridge.boot import ColdStart
    from tracedbridge.messages import Invocation
    from tracedbridge.protocols import Telemetry

    Receive = Callable[[], Awaitable[dict[str, Any]]]
    Send = Callable[[dict[str, Any]], Awaitable[None]]
    App = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]

__all__ = ("TracedAsgi",)


class TracedAsgi:
    """An ASGI 3 app."""

    def __init__(self, app: App, telemetry: Telemetry, cold_start: ColdStart) -> None:
        """
        Args:
            app: ASGI 3.
            telemetry: Of this app, closed with it.
            cold_start: Gets the lifespan's startup.
        """
        self._app = app
        self._telemetry = telemetry
        self._cold_start = cold_start
        self._is_closed = False
        self._traced_websocket: App | None = None
        # A server may run without lifespan.
        ending.close_at_end(self)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Serve one connection; ASGI 3."""
        if scope["type"] == "http":
            await self.serve(scope, receive, send)
            if must_settle():
                await on_a_thread(self._telemetry.settle)
        elif scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        elif scope["type"] == "websocket":
            await self.converse(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def serve(self, scope: dict[str, Any], receive: Receive, send: Send, context: object = None) -> None:
        """
        Serve one HTTP request.

        Args:
            scope: As in ASGI.
            receive: As in ASGI.
            send: As in ASGI.
            context: The platform's, as event formats have it; knows its id and its deadline.
        """
        raised: BaseException | None = None
        with self._telemetry.watch(context) as invocation:
            invocation.is_streamed = True
            asked = request_of_scope(scope)
            inner = scope_with(scope, asked, invocation.arrived(asked))
            invocation.scope = inner
            exchange = _Exchange(invocation, receive, send)
            try:
                await self._app(inner, exchange.receive, exchange.send)
            except BaseException as error:  # noqa: BLE001 - raised again below, when all is noted
                raised = error
            exchange.over(raised)
        if raised is not None:
            raise raised

    async def converse(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Serve one WebSocket."""
        if self._traced_websocket is None:
            self._traced_websocket = await on_a_thread(self._websocket_app)
        await self._traced_websocket(scope, receive, send)

    def settle(self) -> None:
        """Export what has been told; see `tracedbridge.bridge.Bridge.settle`."""
        self._telemetry.settle()

    def close(self) -> None:
        """Send what is left; once."""
        if not self._is_closed:
            self._is_closed = True
            ending.forget(self)
            self._telemetry.close()

    def _websocket_app(self) -> App:
        return self._telemetry.conversing(self._app)

    async def _live(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        life = _Life(self._telemetry, self._cold_start, receive, send)
        try:
            await self._app(scope, life.receive, life.send)
        finally:
            life.over()
            if life.has_stopped:
                await on_a_thread(self.close)


class _Exchange:
    """One request, as its messages pass."""

    def __init__(self, invocation: Invocation, receive: Receive, send: Send) -> None:
        self._invocation = invocation
        self._receive = receive
        self._send = send
        self._is_complete = False
        invocation.bytes_in = invocation.bytes_out = 0

    async def receive(self) -> dict[str, Any]:
        message = await self._receive()
        if message["type"] == "http.request":
            self._invocation.bytes_in = (self._invocation.bytes_in or 0) + len(message.get("body", b""))
        elif message["type"] == "http.disconnect" and not self._is_complete:
            self._invocation.is_abandoned = True
        return message

    async def send(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            message = self._started(message)
        await self._send(message)
        if kind == "http.response.body":
            self._invocation.bytes_out = (self._invocation.bytes_out or 0) + len(message.get("body", b""))
            if not message.get("more_body", False):
                self._completed()
        elif kind == "http.response.pathsend":
            # The server sends a file by itself, and nobody tells how long it is.
            self._completed()

    def over(self, error: BaseException | None) -> None:
        """Note how the app ended."""
        invocation = self._invocation
        if error is None:
            if not self._is_complete and not invocation.is_abandoned:
                what = "the last message of its response body" if invocation.response else "a response"
                invocation.failed(AppProtocolError(f"the app returned before {what}"))
        elif not (invocation.is_abandoned and isinstance(error, asyncio.CancelledError | OSError)):
            invocation.failed(error)
        if invocation.response is None and not invocation.is_abandoned:
            # What every server answers for an app that did not.
            invocation.response = Response(500, [], b"")

    def _started(self, message: dict[str, Any]) -> dict[str, Any]:
        invocation = self._invocation
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in message.get("headers", ())]
        response = invocation.response = Response(message["status"], headers, b"")
        for name, value in headers:
            response.fields.setdefault(name.lower(), []).append(value)
        invocation.response_started()
        return message

    def _completed(self) -> None:
        self._is_complete = True
        self._invocation.answered_ns = time.monotonic_ns()


class _Life:
    """The lifespan, as its messages pass."""

    def __init__(self, telemetry: Telemetry, cold_start: ColdStart, receive: Receive, send: Send) -> None:
        self._telemetry = telemetry
        self._cold_start = cold_start
        self._receive = receive
        self._send = send
        self._tasks_before = len(asyncio.all_tasks())
        # What watches the part that is under way.
        self._part: Any = telemetry.loading()
        self._part.__enter__()
        self.has_stopped = False

    async def receive(self) -> dict[str, Any]:
        message = await self._receive()
        if message["type"] == "lifespan.shutdown":
            self._begin(self._telemetry.stopping())
        return message

    async def send(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "lifespan.startup.complete":
            self._cold_start.background_tasks = max(len(asyncio.all_tasks()) - self._tasks_before, 0)
            self._cold_start.mark("lifespan")
            self._cold_start.ready()
            self._end(None)
        elif kind == "lifespan.startup.failed":
            self._end(StartupError(f"the app's lifespan startup failed: {message.get('message', '')}".rstrip(": ")))
        elif kind in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
            failed = kind.endswith("failed")
            self._end(StartupError(str(message.get("message", ""))) if failed else None)
            self.has_stopped = True
        await self._send(message)

    def over(self) -> None:
        """Note that the app has left its lifespan: it knows none, if that is its answer to the first message."""
        self._end(None)

    def _begin(self, part: Any) -> None:
        self._end(None)
        self._part = part
        part.__enter__()

    def _end(self, error: BaseException | None) -> None:
        part, self._part = self._part, None
        if part is None:
            return
        if error is None:
            part.__exit__(None, None, None)
            return
        try:
            part.__exit__(type(error), error, error.__traceback__)
        except BaseException as raised:
            # A context manager that watches lets it through.
            if raised is not error:
                raise
