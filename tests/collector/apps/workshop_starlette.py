"""The workshop with Starlette, in a thread of its pool."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tests.collector.apps.workshop import craft


def make(request: Request) -> JSONResponse:
    """Make one."""
    return JSONResponse(craft(request.path_params["item"]))


app = Starlette(routes=[Route("/items/{item:int}", make)])
