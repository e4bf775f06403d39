"""The shop with FastAPI, which traces and measures by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from tests.collector.apps.shop import look_up, open_shop


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the shop."""
    open_shop()
    yield


app = FastAPI(lifespan=lifespan)


@app.get("/items/{item}")
async def read_item(item: int) -> dict[str, int]:
    """Look an item up."""
    return look_up(item)
