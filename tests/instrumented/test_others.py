"""Where somebody else traces the same requests there is one SERVER span, with what both know, and one measurement."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware as AsgiMiddleware
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind

from tests.instrumented.calling import Call, scope
from tests.instrumented.test_wsgi import Server, environ
from tests.support import Receive, Scope, Send, answer, event, respond
from tests.telemetry.functions import run_function
from tests.telemetry.received import Received
from tracedbridge import create_bridge, instrument

pytestmark = [pytest.mark.telemetry, pytest.mark.frameworks]

_wsgi: Any = pytest.importorskip("opentelemetry.instrumentation.wsgi", reason="it comes with the frameworks")

KINDS = ["asgi", "wsgi"]
PLACES = ["around", "within"]


class Route:
    """What Starlette leaves in a scope."""

    path = "/items/{number}"


async def asgi_app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer, with a span; fail if it is asked to."""
    scope["route"] = Route
    with trace.get_tracer("shop").start_as_current_span("work"):
        if scope["path"] == "/crash":
            raise RuntimeError("out of stock")
        await respond(send)


def wsgi_app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Answer, with a span; fail if it is asked to."""
    with trace.get_tracer("shop").start_as_current_span("work"):
        if environ["PATH_INFO"] == "/crash":
            raise RuntimeError("out of stock")
        start_response("200 OK", [])
        return [b"ok"]


@contextmanager
def serving(kind: str, place: str) -> Iterator[Callable[[str], None]]:
    """Give a function that asks an instrumented app with the contrib middleware of its kind at that place."""
    middleware: Any = AsgiMiddleware if kind == "asgi" else _wsgi.OpenTelemetryMiddleware
    app: Any = asgi_app if kind == "asgi" else wsgi_app
    traced: Any = instrument(app if place == "around" else middleware(app), kind=kind)  # type: ignore[arg-type]
    served = middleware(traced) if place == "around" else traced

    def ask(path: str) -> None:
        if kind == "asgi":
            Call(served, scope(path))()
        else:
            Server().serve(served, environ(path))

    try:
        yield ask
    finally:
        traced.close()


class Own:
    """An app's own providers, and what came of them."""

    def __init__(self, sampler: Any = None) -> None:
        self.kept = InMemorySpanExporter()
        self.reader = InMemoryMetricReader()
        self.traces = TracerProvider(shutdown_on_exit=False, sampler=sampler)
        self.traces.add_span_processor(SimpleSpanProcessor(self.kept))
        self.metrics = MeterProvider([self.reader], shutdown_on_exit=False)

    def spans(self, kind: SpanKind) -> list[ReadableSpan]:
        """Return the spans of a kind."""
        return [span for span in self.kept.get_finished_spans() if span.kind is kind]

    def measured(self) -> dict[str, int]:
        """Return how many requests were measured, by each metric of a server's request duration."""
        counted: dict[str, int] = {}
        data = self.reader.get_metrics_data()
        for metrics in data.resource_metrics if data is not None else ():
            for scope_metrics in metrics.scope_metrics:
                for metric in scope_metrics.metrics:
                    if metric.name in ("http.server.request.duration", "http.server.duration"):
                        points: Any = metric.data.data_points
                        counted[metric.name] = counted.get(metric.name, 0) + sum(point.count for point in points)
        return counted

    def close(self) -> None:
        """Shut them down."""
        self.traces.shutdown()
        self.metrics.shutdown()


@pytest.fixture
def own(own_providers: Callable[..., None]) -> Iterator[Own]:
    """Providers of the app's, set as the global ones."""
    own = Own()
    own_providers(traces=own.traces, metrics=own.metrics)
    yield own
    own.close()


@pytest.mark.parametrize("kind", KINDS)
def test_another_tracers_span(kind: str, own: Own, received: Received) -> None:
    """It gets our attributes, our line its ids, and the app's spans are below it; there is no second one."""
    with serving(kind, "around") as ask:
        for path in ("/items/1", "/items/2"):
            ask(path)
    cold, warm = own.spans(SpanKind.SERVER)
    assert cold.attributes is not None
    assert warm.attributes is not None
    assert [span.attributes["faas.coldstart"] for span in (cold, warm) if span.attributes] == [True, False]
    assert warm.attributes["faas.trigger"] == "http"
    assert "faas.invocation_id" in warm.attributes
    assert warm.attributes.get("http.route") == ("/items/{number}" if kind == "asgi" else None)
    assert [event.name for event in warm.events] == ["first byte"]
    lines = [record for record in received.logs if record.body == "invocation"]
    assert [line.span_id for line in lines] == [f"{span.context.span_id:016x}" for span in (cold, warm)]
    below = [span for span in own.kept.get_finished_spans() if span.name == "work" and span.parent is not None]
    contexts = {span.context.span_id for span in (cold, warm)} | {
        span.context.span_id for span in own.spans(SpanKind.INTERNAL)
    }
    assert {span.parent.span_id for span in below if span.parent} <= contexts
    assert received.servers() == []


@pytest.mark.parametrize("kind", KINDS)
def test_its_cold_start(kind: str, own: Own, received: Received) -> None:
    """It is below the span, which links to the trace of what the app did before any request."""
    with serving(kind, "around") as ask:
        ask("/")
    (span,) = own.spans(SpanKind.SERVER)
    (cold,) = [each for each in own.kept.get_finished_spans() if each.name == "cold start"]
    (startup,) = [each for each in own.kept.get_finished_spans() if each.name == "startup"]
    assert cold.parent is not None
    assert cold.parent.span_id == span.context.span_id
    assert [link.context.span_id for link in span.links] == [startup.context.span_id]


@pytest.mark.parametrize("kind", KINDS)
def test_its_error(kind: str, own: Own, received: Received) -> None:
    """An exception is told by both of us, once, as each does it."""
    with serving(kind, "around") as ask, pytest.raises(RuntimeError):
        ask("/crash")
    (span,) = own.spans(SpanKind.SERVER)
    assert span.attributes is not None
    assert span.attributes["error.type"] == "RuntimeError"
    assert received.log("invocation").attributes["error"] == "RuntimeError"


@pytest.mark.parametrize("kind", KINDS)
def test_one_that_is_not_sampled(kind: str, own_providers: Callable[..., None], received: Received) -> None:
    """Then this request is not, and still has its line, with the ids."""
    own = Own(ALWAYS_OFF)
    own_providers(traces=own.traces)
    with serving(kind, "around") as ask:
        ask("/")
    assert own.kept.get_finished_spans() == ()
    assert received.servers() == []
    assert int(received.log("invocation").trace_id, 16) != 0
    own.close()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", KINDS)
def test_measured_once_in_the_apps_provider(kind: str, place: str, own: Own, received: Received) -> None:
    """A request counts once, whoever has measured it."""
    with serving(kind, place) as ask:
        for number in range(5):
            ask(f"/{number}")
    assert list(own.measured().values()) == [5]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", KINDS)
def test_measured_once_in_ours(kind: str, place: str, own_providers: Callable[..., None], received: Received) -> None:
    """A request counts once, and by us, who know its route."""
    with serving(kind, place) as ask:
        for number in range(5):
            ask(f"/{number}")
    assert sum(point.count for point in received.histogram("http.server.request.duration")) == 5
    assert "http.server.duration" not in {metric.name for metric in received.metrics}


@pytest.mark.parametrize("kind", KINDS)
def test_one_within(kind: str, own: Own, received: Received) -> None:
    """An instrumentation within the app finds our span, and makes no SERVER span."""
    with serving(kind, "within") as ask:
        ask("/items/1")
    (span,) = own.spans(SpanKind.SERVER)
    assert span.attributes is not None
    assert span.attributes["faas.trigger"] == "http"


# The bridge, which watches an app by itself.


def test_a_bridge_around_it(received: Received) -> None:
    """A request of a bridge to an instrumented app is told once, with the bridge's span."""
    traced: Any = instrument(asgi_app)
    with create_bridge(traced) as bridge:
        assert answer(bridge(event())).status == 200
    traced.close()
    assert len(received.servers()) == 1
    assert len([record for record in received.logs if record.body == "invocation"]) == 1


def test_a_module_that_the_bridge_loads(tmp_path: Path) -> None:
    """An app that is instrumented in its own file is what it was for ``vc_handler``, which tells of it by itself."""
    ran = run_function(
        tmp_path,
        "from tracedbridge import instrument\n"
        "async def app(scope, receive, send):\n"
        "    assert scope['type'] == 'http'\n"
        "    await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n"
        "    await send({'type': 'http.response.body', 'body': b'ok'})\n"
        "app = instrument(app)\n",
        [event(), event()],
    )
    assert [answer(each).body for each in ran.answers] == [b"ok", b"ok"]
    assert [line["event"] for line in ran.lines if line["event"] == "invocation"] == ["invocation"] * 2


def test_asyncio_is_not_needed(received: Received) -> None:
    """An app on a loop of another kind, as trio's, is served without one of asyncio's."""
    trio = pytest.importorskip("trio")
    traced: Any = instrument(asgi_app)
    trio.run(Call(traced, scope("/items/1")).run)
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
    traced.close()
    assert received.server().attributes["http.route"] == "/items/{number}"
