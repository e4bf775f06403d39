"""The minimal ASGI app: every contender answers with it, or with one that says the same."""

from __future__ import annotations

# All contenders have loaded it before the app.
from typing import Any

BODY = b"Hello, world!\n"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer every request with the same text."""
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": BODY})
