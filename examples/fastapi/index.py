"""A FastAPI function: a lifespan that takes its time, a span and a log line of its own, and an error."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import structlog
from fastapi import FastAPI, HTTPException, Request
from opentelemetry import trace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

log = structlog.get_logger()
tracer = trace.get_tracer(__name__)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, dict[int, str]]]:
    """Load what every request needs; seen as ``lifespan startup`` in the first trace."""
    # In place of a connection pool or a model: slow enough to be noticed.
    await asyncio.sleep(0.1)
    yield {"items": {1: "apple", 2: "pear", 3: "plum"}}


app = FastAPI(title="Fruit", lifespan=lifespan)


@app.get("/items/{item_id}")
async def item(item_id: int, request: Request) -> dict[str, int | str]:
    """Answer with one item; all of them share the span name ``GET /items/{item_id}``."""
    items: dict[int, str] = request.state.items
    if item_id not in items:
        raise HTTPException(404, f"no item {item_id}")
    return {"id": item_id, "name": items[item_id]}


@app.get("/price/{item_id}")
async def price(item_id: int) -> dict[str, int]:
    """Make a child span with the plain OpenTelemetry API."""
    with tracer.start_as_current_span("look up price", attributes={"item.id": item_id}):
        await asyncio.sleep(0.02)
        return {"id": item_id, "cents": 40 + item_id}


@app.post("/orders/{item_id}", status_code=201)
async def order(item_id: int) -> dict[str, str]:
    """Write a log line; it carries the ids of the trace, the span and the invocation."""
    log.info("order placed", item_id=item_id)
    return {"status": "placed"}


@app.get("/crash")
async def crash() -> None:
    """Raise: the client gets a neutral 500, span and log line get the exception."""
    raise RuntimeError("the shelf is empty")
