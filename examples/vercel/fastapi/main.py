"""A FastAPI app on Vercel: a lifespan, a route with a span of its own, and a stream."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from opentelemetry import trace

from tracedbridge import instrument

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

tracer = trace.get_tracer(__name__)
PRICES: dict[int, int] = {}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load what every request needs: a part of the cold start."""
    PRICES.update({1: 41, 2: 42, 3: 43})
    yield


app = FastAPI(title="Fruit", lifespan=lifespan)


@app.get("/price/{item_id}")
async def price(item_id: int) -> dict[str, int]:
    """Answer with a price, and show the looking up as a span."""
    with tracer.start_as_current_span("look up price", attributes={"item.id": item_id}):
        if item_id not in PRICES:
            raise HTTPException(404, f"no item {item_id}")
        return {"id": item_id, "cents": PRICES[item_id]}


@app.get("/countdown")
async def countdown() -> StreamingResponse:
    """Stream: the span ends with the last part, and has an event for the first one."""

    async def parts() -> AsyncIterator[str]:
        for number in (3, 2, 1):
            yield f"{number}\n"
            await asyncio.sleep(0.01)

    return StreamingResponse(parts(), media_type="text/plain")


# The one line. Where `tracedbridge build` has made the entry, which traces by itself, it does nothing.
app = instrument(app)  # type: ignore[assignment]  # an ASGI app still
