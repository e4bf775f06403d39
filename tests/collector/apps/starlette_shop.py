"""The shop with Starlette, which has routes and traces nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tests.collector.apps.shop import look_up, open_shop


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Open the shop."""
    open_shop()
    yield


async def read_item(request: Request) -> JSONResponse:
    """Look an item up."""
    return JSONResponse(look_up(request.path_params["item"]))


app = Starlette(routes=[Route("/items/{item:int}", read_item)], lifespan=lifespan)
