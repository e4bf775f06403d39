"""Calls an ASGI app as a server does, with messages that the test chooses."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

__all__ = ("Call", "lifespan", "scope")


def scope(path: str = "/", method: str = "GET", **more: object) -> dict[str, Any]:
    """Return an HTTP scope as uvicorn makes it."""
    return {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.5"}, "http_version": "1.1", "method": method,
        "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "headers": [(b"host", b"shop.example")], "client": ("127.0.0.1", 5), "server": ("127.0.0.1", 80), "state": {},
    } | more  # fmt: skip


class Call:
    """One call of an app: what it was sent, and what it sent."""

    def __init__(self, app: Any, told: dict[str, Any], messages: Sequence[Any] = ()) -> None:
        """
        Args:
            app: ASGI 3.
            told: Its scope.
            messages: What ``receive`` gives; after the last one it waits for ever.
        """
        self.scope = told
        self.sent: list[Any] = []
        # Raised by `send` for the message with this number.
        self.fails_at: dict[int, Exception] = {}
        self._app = app
        self._messages = list(messages) or [{"type": "http.request", "body": b"", "more_body": False}]

    async def run(self) -> None:
        """Call it, in the loop that runs; raises what it raises."""
        await self._app(self.scope, self._receive, self._send)

    def __call__(self) -> list[Any]:
        """Call it in a loop of its own, and return what it sent."""
        asyncio.run(self.run())
        return self.sent

    async def _receive(self) -> Any:
        if not self._messages:
            await asyncio.Event().wait()
        return self._messages.pop(0)

    async def _send(self, message: Any) -> None:
        number = len(self.sent)
        self.sent.append(message)
        if number in self.fails_at:
            raise self.fails_at[number]


def lifespan(app: Any) -> Call:
    """Return a call of a whole lifespan."""
    told = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
    return Call(app, told, [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
