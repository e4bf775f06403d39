"""The route is the template that the framework matched, in the span's name and in the metrics; never the raw path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import HANG_S, Receive, Scope, Send, answer, event
from tests.telemetry.apps import KINDS, app_around
from tests.telemetry.functions import run_program
from tests.telemetry.received import Received
from tracedbridge import create_bridge
from tracedbridge.messages import Kind

pytestmark = pytest.mark.telemetry


@pytest.mark.parametrize("kind", KINDS)
def test_no_framework(kind: Kind, received: Received) -> None:
    """Without a framework there is no route, and the span is named by its method."""
    with create_bridge(app_around(kind, lambda headers: "ok")) as bridge:
        bridge(event(path="/items/3"), None)
    span = received.server()
    assert span.name == "GET"
    assert "http.route" not in span.attributes
    (point,) = received.histogram("http.server.request.duration")
    assert "http.route" not in point.attributes


def fastapi() -> Any:
    """An app with a router, a mounted app, a page that fails and a folder of files."""
    from fastapi import APIRouter, FastAPI

    app, mounted, router = FastAPI(), FastAPI(), APIRouter(prefix="/v1")

    @app.get("/")
    async def home() -> str:
        return "home"

    @app.get("/items/{item_id}")
    async def item(item_id: int) -> int:
        return item_id

    @app.get("/files/{rest:path}")
    def file(rest: str) -> str:
        return rest

    @app.get("/crash/{number}")
    async def crash(number: int) -> None:
        raise ValueError(number)

    @router.get("/users/{name}")
    async def user(name: str) -> str:
        return name

    @mounted.get("/deep/{name}")
    async def deep(name: str) -> str:
        return name

    app.include_router(router)
    app.mount("/sub", mounted)
    return app


def starlette() -> Any:
    """An app with routes, a mount of routes and a mount of a plain app."""
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Mount, Route

    async def page(request: Any) -> PlainTextResponse:
        return PlainTextResponse("page")

    async def plain(scope: Scope, receive: Any, send: Any) -> None:
        await PlainTextResponse("plain")(scope, receive, send)

    routes = [Route("/items/{item}", page), Mount("/m", routes=[Route("/deep/{item}", page)]), Mount("/raw", app=plain)]
    return Starlette(routes=routes)


def copying() -> Any:
    """The same behind a middleware that hands on a copy of the scope."""
    inner = starlette()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await inner(dict(scope), receive, send)

    return app


def flask() -> Any:
    """An app with converters, a blueprint, and pages that fail or stream."""
    from flask import Blueprint, Flask

    app = Flask("shop")
    blueprint = Blueprint("b", "shop", url_prefix="/v1")

    @app.get("/items/<int:item_id>")
    def item(item_id: int) -> str:
        return str(item_id)

    @app.get("/crash/<name>")
    def crash(name: str) -> str:
        raise ValueError(name)

    @app.get("/stream/<name>")
    def stream(name: str) -> Any:
        return app.response_class(piece for piece in (name, "!"))

    @blueprint.get("/users/<name>")
    def user(name: str) -> str:
        return name

    app.register_blueprint(blueprint)
    return app


def mounted_flask() -> Any:
    """The same below another path, which goes into SCRIPT_NAME."""
    from werkzeug.exceptions import NotFound
    from werkzeug.middleware.dispatcher import DispatcherMiddleware

    return DispatcherMiddleware(NotFound(), {"/shop": flask()})


def bottle() -> Any:
    """An app with a rule."""
    import bottle as library  # type: ignore[import-untyped]  # bottle is not typed

    app = library.Bottle()

    @app.get("/items/<item_id:int>")  # type: ignore[untyped-decorator]  # bottle is not typed
    def item(item_id: int) -> str:
        return str(item_id)

    return app


@pytest.mark.frameworks
@pytest.mark.parametrize(
    ("make", "path", "status", "route"),
    [
        pytest.param(fastapi, "/", 200, "/", id="fastapi: root"),
        pytest.param(fastapi, "/items/3?a=b", 200, "/items/{item_id}", id="fastapi: parameter"),
        pytest.param(fastapi, "/items/x", 422, "/items/{item_id}", id="fastapi: parameter that is refused"),
        pytest.param(fastapi, "/files/a/b", 200, "/files/{rest:path}", id="fastapi: path"),
        pytest.param(fastapi, "/crash/1", 500, "/crash/{number}", id="fastapi: exception"),
        pytest.param(fastapi, "/v1/users/ann", 200, "/v1/users/{name}", id="fastapi: router"),
        pytest.param(fastapi, "/sub/deep/x", 200, "/sub/deep/{name}", id="fastapi: mounted app"),
        pytest.param(fastapi, "/nowhere", 404, None, id="fastapi: not found"),
        pytest.param(starlette, "/items/3", 200, "/items/{item}", id="starlette: parameter"),
        pytest.param(starlette, "/m/deep/3", 200, "/m/deep/{item}", id="starlette: mount"),
        pytest.param(starlette, "/nowhere", 404, None, id="starlette: not found"),
        pytest.param(copying, "/items/3", 200, None, id="starlette: behind a copied scope"),
        pytest.param(flask, "/items/3?a=b", 200, "/items/<int:item_id>", id="flask: converter"),
        pytest.param(flask, "/crash/x", 500, "/crash/<name>", id="flask: exception"),
        pytest.param(flask, "/stream/x", 200, "/stream/<name>", id="flask: stream"),
        pytest.param(flask, "/v1/users/ann", 200, "/v1/users/<name>", id="flask: blueprint"),
        pytest.param(flask, "/nowhere", 404, None, id="flask: not found"),
        pytest.param(mounted_flask, "/shop/items/3", 200, "/shop/items/<int:item_id>", id="flask: with SCRIPT_NAME"),
        pytest.param(mounted_flask, "/nowhere", 404, None, id="flask: beside the mount"),
        pytest.param(bottle, "/items/3", 200, "/items/<item_id:int>", id="bottle: rule"),
        pytest.param(bottle, "/nowhere", 404, None, id="bottle: not found"),
    ],
)
def test_frameworks(
    make: Callable[[], Any],
    path: str,
    status: int,
    route: str | None,
    received: Received,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Span, HTTP metric and line have the framework's template; an unknown path has none."""
    with create_bridge(make()) as bridge:
        assert answer(bridge(event(path=path), None)).status == status
    span = received.server()
    assert span.name == ("GET" if route is None else f"GET {route}")
    assert span.attributes.get("http.route") == route
    (point,) = received.histogram("http.server.request.duration")
    assert point.attributes.get("http.route") == route
    assert received.log("invocation").attributes.get("route") == route


@pytest.mark.frameworks
@pytest.mark.parametrize(
    ("path", "routes"),
    [
        pytest.param("/raw/any/thing", {None, "/raw", "/raw/{path:path}"}, id="an app that has no routes"),
        pytest.param("/m/nowhere", {None, "/m", "/m/{path:path}"}, id="no route below a mount"),
    ],
)
def test_mounts(path: str, routes: set[str | None], received: Received) -> None:
    """A mount that is all that matched is its own prefix, once, or no route."""
    with create_bridge(starlette()) as bridge:
        bridge(event(path=path), None)
    assert received.server().attributes.get("http.route") in routes


@pytest.mark.frameworks
def test_several_invocations(received: Received) -> None:
    """The route of one invocation does not stay for the next."""
    with create_bridge(flask()) as bridge:
        for path in ("/items/1", "/nowhere", "/items/2"):
            bridge(event(path=path), None)
    assert [span.name for span in received.servers()] == ["GET /items/<int:item_id>", "GET", "GET /items/<int:item_id>"]


DJANGO = """
import json, sys
import django
from django.conf import settings
from django.http import HttpResponse
from django.urls import include, path

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="s", DEBUG=False, LOGGING_CONFIG=None)
django.setup()

def page(request, **rest):
    return HttpResponse("page")

def crash(request):
    raise ValueError("boom")

urlpatterns = [
    path("", page),
    path("items/<int:item_id>/", page),
    path("crash/", crash),
    path("v1/", include([path("users/<slug:name>", page)])),
]

from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
import tracedbridge

def ask(path):
    return {"body": json.dumps({"method": "GET", "path": path, "headers": {"host": "shop.example"}})}

for application in (get_wsgi_application(), get_asgi_application()):
    with tracedbridge.create_bridge(application) as bridge:
        for path in ("/", "/items/3/", "/crash/", "/v1/users/ann", "/nowhere"):
            bridge(ask(path), None)
"""


@pytest.mark.frameworks
def test_django(tmp_path: Path, received: Received) -> None:
    """Django's template is what its resolver says, for WSGI and ASGI alike."""
    done = run_program(
        tmp_path, DJANGO, OTEL_EXPORTER_OTLP_ENDPOINT=received.endpoint,
        TRACEDBRIDGE_FLUSH_TIMEOUT_MS=str(HANG_S * 1000),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    routes = ["/", "/items/<int:item_id>/", "/crash/", "/v1/users/<slug:name>", None]
    assert [span.attributes.get("http.route") for span in received.servers()] == routes * 2
    assert [span.name for span in received.servers()] == [f"GET {route}" if route else "GET" for route in routes] * 2
