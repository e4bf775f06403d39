"""The workshop with FastAPI: a dependency that yields, a background task, spans by decorators, lines in lifespan."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import BackgroundTasks, Depends, FastAPI

from tests.collector.apps.workshop import craft, polish, tracer

_logger = logging.getLogger("workshop.web")
_logger.warning("imported")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Make a span and a line at either end."""
    with tracer.start_as_current_span("open"):
        _logger.warning("opens")
    yield
    with tracer.start_as_current_span("shut"):
        _logger.warning("shuts")


app = FastAPI(lifespan=lifespan)


async def bench() -> AsyncIterator[str]:
    """Have a span open around the handler."""
    with tracer.start_as_current_span("bench"):
        yield "oak"


@app.get("/items/{item}")
async def make(item: int, bench: Annotated[str, Depends(bench)], tasks: BackgroundTasks) -> dict[str, Any]:
    """Make one."""
    await polish(item)
    tasks.add_task(_clean, item)
    return craft(item) | {"bench": bench}


async def _clean(item: int) -> None:
    with tracer.start_as_current_span("clean", attributes={"item": item}):
        _logger.warning("cleaning")
