"""The shop as an ASGI app by hand: no framework, no route."""

from __future__ import annotations

import json
from typing import Any

from tests.collector.apps.shop import look_up, open_shop


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Serve lifespan and ``/items/{item}``."""
    if scope["type"] == "lifespan":
        await receive()
        open_shop()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    found = look_up(int(scope["path"].rpartition("/")[2]))
    body = json.dumps(found, separators=(",", ":")).encode()
    headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
