"""TRACEDBRIDGE_ASGI_DETAIL: a span for each receive and send below the SERVER span, and no metric twice."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from tests.support import Receive, Scope, Send, answer, event
from tests.telemetry.apps import app_around, lifespan_around
from tests.telemetry.received import Received, drawn
from tracedbridge import create_bridge

pytestmark = pytest.mark.telemetry


@pytest.fixture(autouse=True)
def detail(plain_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for."""
    monkeypatch.setenv("TRACEDBRIDGE_ASGI_DETAIL", "1")


async def _shop(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        assert (await receive())["type"] == "lifespan.startup"
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        await send({"type": "lifespan.shutdown.complete"})
        return
    await receive()
    if scope["path"] == "/crash":
        raise ConnectionError("no route")
    with trace.get_tracer("shop").start_as_current_span("query"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"a", "more_body": True})
    await send({"type": "http.response.body", "body": b"b"})


def test_messages(received: Received) -> None:
    """Each message of the app's is a span in our trace; the app's own spans are below, too; one span is SERVER."""
    with create_bridge(_shop) as bridge:
        bridge(event(), None)
        assert answer(bridge(event(path="/warm"), None)).body == b"ab"
    _, warm = received.servers()
    spans = [span for span in received.spans if span.trace_id == warm.trace_id]
    assert [span.kind for span in spans].count("server") == 1
    below = [span.name for span in spans]
    assert len([name for name in below if name.endswith("receive")]) == 1
    assert len([name for name in below if name.endswith("send")]) == 3
    assert below.count("query") == 1
    assert not [line for line in drawn(spans).splitlines() if line.startswith("…")]
    assert warm.parent_id == ""


def test_metrics_once(received: Received) -> None:
    """The middleware's own metrics go nowhere: ours have counted already."""
    with create_bridge(_shop) as bridge:
        for _ in range(3):
            bridge(event(), None)
    assert {metric.scope.name for metric in received.metrics} == {"tracedbridge"}
    assert sum(point.count for point in received.histogram("http.server.request.duration")) == 3


def test_metrics_once_for_the_apps_provider(own_providers: Callable[..., None], received: Received) -> None:
    """Nor do they go to a meter provider of the app's, which has no view that drops them."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    own_providers(metrics=provider)
    with create_bridge(_shop) as bridge:
        bridge(event(), None)
    data = reader.get_metrics_data()
    assert data is not None
    scopes = {each.scope.name for resource in data.resource_metrics for each in resource.scope_metrics}
    assert scopes == {"tracedbridge"}
    provider.shutdown()


def test_lifespan_goes_through(received: Received) -> None:
    """Startup and shutdown are as without it."""
    said: list[str] = []
    app = lifespan_around(lambda headers: "ok", lambda: said.append("up"), lambda: said.append("down"))
    with create_bridge(app) as bridge:
        bridge(event(), None)
    assert said == ["up", "down"]
    assert received.span("lifespan startup")
    assert received.span("lifespan shutdown")


def test_errors_come_through(received: Received) -> None:
    """An exception of the app's is on the SERVER span as without it."""
    with create_bridge(_shop) as bridge:
        assert answer(bridge(event(path="/crash"), None)).status == 500
    span = received.server()
    assert (span.status, span.attributes["error.type"]) == ("error", "ConnectionError")
    assert [each.attributes["exception.message"] for each in span.events] == ["no route"]


def test_a_remote_parent(received: Received) -> None:
    """The caller's trace goes through our span to the middleware's."""
    caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with create_bridge(_shop) as bridge:
        bridge(event(headers={"traceparent": caller}), None)
    span = received.server()
    assert span.parent_id == caller.split("-")[2]
    sends = [each for each in received.spans if each.name.endswith("send")]
    assert {each.trace_id for each in sends} == {span.trace_id}
    assert not {each.parent_id for each in sends} & {caller.split("-")[2]}


def test_an_asgi_2_app(received: Received) -> None:
    """A double callable of ASGI 2 is wrapped as well."""

    def app(scope: Scope) -> object:
        async def instance(receive: Receive, send: Send) -> None:
            await _shop(scope, receive, send)

        return instance

    with create_bridge(app) as bridge:
        assert answer(bridge(event(), None)).body == b"ab"
    assert len([span for span in received.spans if span.name.endswith("send")]) == 3


@pytest.mark.frameworks
def test_routes(received: Received) -> None:
    """The route is still found."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def page(request: Request) -> PlainTextResponse:
        return PlainTextResponse("page")

    with create_bridge(Starlette(routes=[Route("/items/{item}", page)])) as bridge:
        bridge(event(path="/items/3"), None)
    assert received.server().name == "GET /items/{item}"


@pytest.mark.parametrize("kind", ["wsgi", "http_server"])
def test_other_kinds(kind: str, received: Received) -> None:
    """Other kinds have no messages, and nothing changes for them."""
    app = app_around("wsgi" if kind == "wsgi" else "http_server", lambda headers: "ok")
    with create_bridge(app) as bridge:
        bridge(event(), None)
    assert drawn(received.spans) == "GET (server)\n  cold start\n    import app"


def test_not_asked_for(received: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the variable there are no such spans."""
    monkeypatch.setenv("TRACEDBRIDGE_ASGI_DETAIL", "off")
    with create_bridge(_shop) as bridge:
        bridge(event(), None)
    assert not [span for span in received.spans if span.name.endswith(("send", "receive"))]
