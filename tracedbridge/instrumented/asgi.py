"""
An ASGI app with our telemetry around it, for any server that speaks ASGI.

What passes is noted when it has passed: whatever is wrong with a message, the server says so, and not this.

Source: ASGI 3.0, HTTP & WebSocket 2.5, Lifespan 2.0; its extensions for trailers, path send and zero copy send.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

from tracedbridge import ending
from tracedbridge.errors import AppProtocolError, ShutdownError, StartupError
from tracedbridge.instrumented.requests import read_scope, response_of, scope_with
from tracedbridge.instrumented.threads import OwnTasks, Settling, is_cancelled, must_settle, on_a_thread
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

# What frameworks raise where the client has gone away; Starlette's, with no OSError behind it.
_GONE = frozenset(("ClientDisconnect", "ClientDisconnected"))


class TracedAsgi:
    """An ASGI 3 app."""

    def __init__(self, app: App, telemetry: Telemetry, cold_start: ColdStart, *, is_off: bool = False) -> None:
        """
        Args:
            app: ASGI 3.
            telemetry: Of this app, closed with it.
            cold_start: Gets the lifespan's startup.
            is_off: The app is called as if this were not there.
        """
        self._app = app
        self._telemetry = telemetry
        self._cold_start = cold_start
        # Nobody watches, or nobody does so any more.
        self._is_off = is_off
        self._traced_websocket: App | None = None
        self._settling = Settling(telemetry.settle)
        self._pid = os.getpid()
        if not is_off:
            # A server may run without lifespan.
            ending.settle_at_end(self)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Serve one connection; ASGI 3."""
        kind = None if self._is_off else scope.get("type")
        if kind == "http":
            try:
                await self.serve(scope, receive, send)
            finally:
                await self._settle_if_due()
        elif kind == "lifespan":
            await self._live(scope, receive, send)
        elif kind == "websocket":
            await self.converse(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def serve(self, scope: dict[str, Any], receive: Receive, send: Send, context: object = None) -> None:
        """
        Serve one HTTP request.

        Nobody feels its loop, as is done for an event (`Invocation.runs_on`): many requests are on it at once, and a
        stall would be told by each of them, whoever has caused it.

        Args:
            scope: As in ASGI.
            receive: As in ASGI.
            send: As in ASGI.
            context: The platform's, as event formats have it; knows its id and its deadline.
        """
        if os.getpid() != self._pid:
            # A worker that was forked when the app was loaded already.
            self._pid = os.getpid()
            ending.settle_at_end(self)
        raised: BaseException | None = None
        with self._telemetry.watch(context) as invocation:
            invocation.is_streamed = True
            inner = scope
            if (asked := read_scope(scope)) is not None:
                inner = scope_with(scope, asked, invocation.arrived(asked))
            invocation.scope = inner
            exchange = _Exchange(invocation, scope, inner, receive, send)
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
        try:
            await self._traced_websocket(scope, receive, send)
        finally:
            await self._settle_if_due()

    def settle(self) -> None:
        """Export what has been told; see `tracedbridge.bridge.Bridge.settle`."""
        self._settling()

    def close(self) -> None:
        """Send what is left; once. The app is served on, unwatched, if it is at all."""
        if not self._is_off:
            self._is_off = True
            ending.forget(self)
            self._telemetry.close()

    async def _settle_if_due(self) -> None:
        # Who is thrown away may not wait.
        if must_settle() and not isinstance(sys.exception(), GeneratorExit):
            await on_a_thread(self._settling)

    def _websocket_app(self) -> App:
        return self._telemetry.conversing(self._app)

    async def _live(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        life = _Life(self, self._telemetry, self._cold_start, receive, send)
        try:
            await self._app(scope, life.receive, life.send)
        finally:
            life.over()


class _Exchange:
    """One request, as its messages pass."""

    def __init__(
        self, invocation: Invocation, scope: dict[str, Any], inner: dict[str, Any], receive: Receive, send: Send
    ) -> None:
        self._invocation = invocation
        self._scope = scope
        self._inner = inner
        self._receive = receive
        self._send = send
        # Whether the last message of the response is about to pass, has passed, and whether it is trailers.
        self._is_ending = self._is_complete = self._has_trailers = False
        # A body that the server drops is none.
        self._has_body = scope.get("method") != "HEAD"
        asked = invocation.request
        told = (None if asked is None else asked.first("content-length")) or ""
        self._is_told = told.isdecimal()
        invocation.bytes_in = int(told) if self._is_told else 0
        invocation.bytes_out = 0

    async def receive(self) -> dict[str, Any]:
        message = await self._receive()
        kind = _type_of(message)
        if kind == "http.request" and not self._is_told:
            self._invocation.bytes_in = (self._invocation.bytes_in or 0) + _length_of(message)
        elif kind == "http.disconnect":
            if self._is_ending:
                # The server is done with the response, and tells a listener before the sender: who is cancelled for
                # that, as Starlette's streams are on trio, does not come back from `send`.
                self._complete()
            else:
                self._invocation.is_abandoned = True
        return message

    async def send(self, message: dict[str, Any]) -> None:
        kind = _type_of(message)
        response: Response | None = None
        if kind == "http.response.start":
            self._share()
            response, message = self._started(message)
        if self._is_last(kind, message):
            self._is_ending = True
            self._share()
            self._invocation.last_byte()
        try:
            await self._send(message)
        except OSError:
            # How a server says that there is nobody to send it to; ASGI 2.4.
            self._invocation.is_abandoned = not self._is_complete
            raise
        if response is not None:
            self._invocation.response = response
            self._has_body = self._has_body and response.status not in (204, 304)
            self._has_trailers = bool(message.get("trailers", False))
            self._invocation.response_started()
        elif kind == "http.response.body" and self._has_body:
            self._invocation.bytes_out = (self._invocation.bytes_out or 0) + _length_of(message)
        if self._is_ending:
            self._complete()

    def over(self, error: BaseException | None) -> None:
        """Note how the app ended."""
        self._share()
        invocation = self._invocation
        if error is None:
            if not self._is_complete and not invocation.is_abandoned:
                what = "the last message of its response body" if invocation.response else "a response"
                invocation.failed(AppProtocolError(f"the app returned before {what}"))
        elif is_cancelled(error):
            # The server's way to say that nobody waits any more; or that its own end has come.
            invocation.is_abandoned = not self._is_complete
        elif not (invocation.is_abandoned and _is_gone(error)):
            invocation.failed(error)
        if invocation.response is None and not invocation.is_abandoned:
            # What every server answers for an app that did not.
            invocation.response = Response(500, [], b"")

    def _started(self, message: dict[str, Any]) -> tuple[Response | None, dict[str, Any]]:
        """Return the response that a message begins, None if it is malformed, and the message with our headers."""
        if not isinstance(message.get("headers", ()), list | tuple):
            # It may be one that can be read once.
            message = _with_list(message)
        response = response_of(message)
        if response is not None and (ours := self._invocation.trace_headers(response)):
            told = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in ours]
            message = {**message, "headers": [*message.get("headers", ()), *told]}
        return response, message

    def _complete(self) -> None:
        if not self._is_complete:
            self._is_complete = True
            self._invocation.answered_ns = time.monotonic_ns()

    def _is_last(self, kind: object, message: dict[str, Any]) -> bool:
        if kind == "http.response.trailers":
            return not message.get("more_trailers", False)
        if self._has_trailers:
            return False
        if kind in ("http.response.body", "http.response.zerocopysend"):
            return not message.get("more_body", False)
        # The server sends a file by itself, and nobody tells how long it is.
        return kind == "http.response.pathsend"

    def _share(self) -> None:
        """Have those around the app see what it leaves in its scope, such as its route, as if the scope were theirs."""
        if self._inner is self._scope:
            return
        for key, value in self._inner.items():
            if key != "headers" and self._scope.get(key) is not value:
                self._scope[key] = value


class _Life:
    """The lifespan, as its messages pass."""

    def __init__(
        self, app: TracedAsgi, telemetry: Telemetry, cold_start: ColdStart, receive: Receive, send: Send
    ) -> None:
        self._app = app
        self._telemetry = telemetry
        self._cold_start = cold_start
        self._receive = receive
        self._send = send
        self._tasks = OwnTasks()
        # What watches the part that is under way.
        self._part: Any = telemetry.loading()
        self._part.__enter__()

    async def receive(self) -> dict[str, Any]:
        message = await self._receive()
        if _type_of(message) == "lifespan.shutdown":
            self._begin(self._telemetry.stopping())
        return message

    async def send(self, message: dict[str, Any]) -> None:
        kind = _type_of(message)
        if kind == "lifespan.startup.complete":
            self._cold_start.background_tasks = self._tasks()
            self._cold_start.mark("lifespan")
            self._cold_start.ready()
            self._end(None)
        elif kind == "lifespan.startup.failed":
            self._end(StartupError(f"the app's lifespan startup failed: {message.get('message', '')}".rstrip(": ")))
        elif kind in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
            failed = kind == "lifespan.shutdown.failed"
            self._end(ShutdownError(str(message.get("message", ""))) if failed else None)
            # Before the server hears of it, who ends the process next, uvicorn by the signal that it got.
            await on_a_thread(self._app.close)
            # On that thread a signal's handler cannot be given back, here it mostly can.
            ending.forget(self._app)
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


def _type_of(message: Any) -> object:
    try:
        return message["type"]
    except (TypeError, KeyError):
        # No message at all: the server says so.
        return None


def _with_list(message: dict[str, Any]) -> dict[str, Any]:
    try:
        return {**message, "headers": list(message["headers"])}
    except TypeError:
        return message


def _length_of(message: dict[str, Any]) -> int:
    try:
        return len(message.get("body", b""))
    except TypeError:
        return 0


def _is_gone(error: BaseException) -> bool:
    """Say whether an exception says that the client has gone away, or comes from one that does."""
    seen: BaseException | None = error
    # Of causes a handful; a circle of them would go on for ever.
    for _ in range(8):
        if seen is None:
            return False
        if isinstance(seen, OSError) or type(seen).__name__ in _GONE:
            return True
        seen = seen.__cause__ or seen.__context__
    return False
