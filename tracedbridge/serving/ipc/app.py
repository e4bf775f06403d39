"""The ASGI app that the server of IPC mode serves: the user's, with the platform's part of each request around it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from tracedbridge.serving.ipc.channel import Running, running
from tracedbridge.serving.ipc.internal import taken_from
from tracedbridge.serving.ipc.timing import HEADER

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tracedbridge.instrumented.asgi import TracedAsgi
    from tracedbridge.serving.ipc.captured import Captured
    from tracedbridge.serving.ipc.channel import Channel
    from tracedbridge.serving.ipc.settling import Settling
    from tracedbridge.serving.ipc.threaded import Threaded

    Receive = Callable[[], Awaitable[dict[str, Any]]]
    Send = Callable[[dict[str, Any]], Awaitable[None]]

__all__ = ("IpcApp",)

_PING = "/_vercel/ping"


class IpcApp:
    """One app, served to the platform."""

    def __init__(self, app: TracedAsgi | Threaded, channel: Channel, captured: Captured, settling: Settling) -> None:
        """
        Args:
            app: The user's.
            channel: Gets a message at the beginning and at the end of each request.
            captured: Is told which requests run.
            settling: Waited for before a request's end is told.
        """
        self._app = app
        self._channel = channel
        self._captured = captured
        self._settling = settling
        # What lifespan startup failed with.
        self.failure = ""
        # What the first response tells of the cold start; empty after that.
        self.timing = b""

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Serve one connection; ASGI 3."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] == _PING:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
        else:
            await self._request(scope, receive, send)

    async def _request(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        internal, inner = taken_from(scope)
        context = internal.ids.told()
        self._channel.send("handler-started", {"handlerStartedAt": time.time_ns() // 1_000_000, "context": context})
        request = Running(internal.ids, is_conversation=scope["type"] == "websocket")
        running.set(request)
        self._captured.requests.add(internal.ids)
        error: BaseException | None = None
        try:
            if scope["type"] == "websocket":
                await self._converse(inner, receive, send, request)
            else:
                error = await self._app.serve(inner, receive, self._timed(send) if self.timing else send, internal)
        except BaseException as raised:
            error = raised
            raise
        finally:
            # After the response: the client has its last byte.
            await self._captured.ended(internal.ids)
            await self._settling.done()
            request.is_over = True
            self._end(request, error)

    def _timed(self, send: Send) -> Send:
        async def told(message: dict[str, Any]) -> None:
            # What is malformed, the server is to say.
            is_start = isinstance(message, dict) and message.get("type") == "http.response.start"
            if is_start and (timing := self.timing):
                self.timing = b""
                message = {**message, "headers": [*(message.get("headers") or ()), (HEADER, timing)]}
            await send(message)

        return told

    def _end(self, request: Running, error: BaseException | None) -> None:
        if not request.has_told_end:
            request.has_told_end = True
            self._channel.send("end", {"context": request.ids.told(), **_error_of(error)})

    async def _converse(self, scope: dict[str, Any], receive: Receive, send: Send, request: Running) -> None:
        async def told(message: dict[str, Any]) -> None:
            await send(message)
            kind = message["type"]
            if kind in ("websocket.accept", "websocket.close") or (
                kind == "websocket.http.response.body" and not message.get("more_body", False)
            ):
                # To the platform the request is its handshake: no message passes before it has ended.
                await self._captured.ended(request.ids)
                self._end(request, None)

        converse = getattr(self._app, "converse", None)
        if converse is None:
            # WSGI and handler classes know none.
            await receive()
            await told({"type": "websocket.close", "code": 1000})
            return
        await converse(scope, receive, told)

    async def _live(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        is_asked = is_answered = False

        async def asked() -> dict[str, Any]:
            nonlocal is_asked
            message = await receive()
            is_asked = True
            return message

        async def answered(message: dict[str, Any]) -> None:
            nonlocal is_answered
            is_answered = True
            if message["type"] == "lifespan.startup.failed":
                self.failure = str(message.get("message") or "it gave no reason")
            await send(message)

        if not callable(self._app):
            # The others know no lifespan, which this is the way to say.
            raise NotImplementedError("lifespan")
        try:
            await self._app(scope, asked, answered)
        except Exception as error:
            if not is_asked or is_answered:
                raise
            # The server would take it for an app that knows no lifespan.
            await answered({"type": "lifespan.startup.failed", "message": f"{type(error).__name__}: {error}"})


def _error_of(error: BaseException | None) -> dict[str, Any]:
    if error is None:
        return {}
    return {"error": {"name": type(error).__name__, "message": str(error)}}
