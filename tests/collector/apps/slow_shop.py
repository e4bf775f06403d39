"""An ASGI app that imports at import, in lifespan and in its first request, and leaves a task running at startup."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from importlib import import_module
from typing import Any

__all__ = ("app",)

import_module("warehouse.shelves")
with suppress(ImportError):
    # An optional dependency that is not there is no error.
    import_module("ingredients_of_soap")

_tasks: list[asyncio.Task[bool]] = []


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Serve lifespan, which fails if ``SHOP_FAILS`` is set, and everything else."""
    if scope["type"] == "lifespan":
        await receive()
        import_module("warehouse.pool")
        if os.environ.get("SHOP_FAILS"):
            raise ConnectionError("no database")
        _tasks.append(asyncio.create_task(asyncio.Event().wait()))
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    import_module("warehouse.invoices")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
