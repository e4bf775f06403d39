"""An app may set providers of its own, per signal and whenever it likes: they win, and are never shut down by us."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import _logs, metrics, trace
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.support import HANG_S, event
from tests.telemetry.apps import Pairs, asgi_around, lifespan_around
from tests.telemetry.functions import run_function
from tests.telemetry.received import Received
from tracedbridge import create_bridge

pytestmark = pytest.mark.telemetry

Put = Callable[..., None]

MOMENTS = ("before the bridge", "in lifespan", "in the first request", "in the second request")


class Traces:
    """An app's own tracer provider, and what came of it."""

    def __init__(self) -> None:
        """Keep every span."""
        self.kept = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.kept))

    def spans(self) -> Sequence[ReadableSpan]:
        """Return what was exported."""
        return self.kept.get_finished_spans()

    def names(self) -> list[str]:
        """Return the names of what was exported, sorted."""
        return sorted(span.name for span in self.spans())

    def close(self) -> None:
        """Shut it down, as only the app may."""
        self.provider.shutdown()


def run_at(moment: str, put: Callable[[], None], work: Callable[[], object]) -> None:
    """Answer three events, and do ``put`` at that moment and ``work`` in every request."""
    number = 0

    def startup() -> None:
        if moment == "in lifespan":
            put()

    def request(headers: Pairs) -> str:
        nonlocal number
        number += 1
        if moment == f"in the {('zeroth', 'first', 'second', 'third')[number]} request":
            put()
        work()
        return "ok"

    if moment == "before the bridge":
        put()
    with create_bridge(lifespan_around(request, startup)) as bridge:
        for _ in range(3):
            bridge(event(), None)


@pytest.mark.parametrize("moment", MOMENTS)
def test_tracer_provider(moment: str, own_providers: Put, received: Received) -> None:
    """A tracer provider of the app's gets the SERVER span and its children; after that ours exports no span."""
    own = Traces()
    # Handed out before anything is set.
    early_tracer = trace.get_tracer("shop")
    later_tracer: list[trace.Tracer] = []

    def work() -> None:
        with early_tracer.start_as_current_span("early"), trace.get_tracer("later").start_as_current_span("later"):
            pass
        # Handed out in the first request, used in all.
        later_tracer.append(trace.get_tracer("kept"))
        with later_tracer[0].start_as_current_span("kept"):
            pass

    run_at(moment, lambda: own_providers(traces=own.provider), work)
    before = 1 if moment == "in the second request" else 0
    spans = own.spans()
    servers = [span for span in spans if span.kind is trace.SpanKind.SERVER]
    assert len(servers) == 3 - before
    for server in servers:
        assert server.context is not None
        below = [span for span in spans if span.parent is not None and span.parent.span_id == server.context.span_id]
        assert {"early", "kept"} <= {span.name for span in below}
        assert {span.context.trace_id for span in below if span.context is not None} == {server.context.trace_id}
    assert [span.name for span in spans].count("later") == 3 - before
    assert [span.name for span in spans].count("cold start") == 1 - before
    assert "lifespan shutdown" in own.names()
    assert [span.attributes["faas.coldstart"] for span in received.servers()] == [True] * before
    # Still theirs, and still at work.
    own.provider.get_tracer("after").start_span("after").end()
    assert "after" in own.names()
    own.close()


def test_a_provider_in_the_first_request(own_providers: Put, received: Received) -> None:
    """
    A SERVER span that began before the app set its provider goes there whole, with the ids that it had.

    So does what was below it: no half of a trace is left with us.
    """
    own = Traces()
    early_tracer = trace.get_tracer("shop")

    def work(headers: Pairs) -> str:
        own_providers(traces=own.provider)
        span = trace.get_current_span()
        span.set_attribute("shop.by", "the app")
        with early_tracer.start_as_current_span("after"):
            pass
        return dict(headers)["traceparent"]

    with create_bridge(asgi_around(work)) as bridge:
        told = bridge(event(path="/1?a=b", headers={"user-agent": "curl"}), None)["body"].split("-")
    assert received.spans == []
    (server,) = [span for span in own.spans() if span.kind is trace.SpanKind.SERVER]
    assert server.context is not None
    assert server.attributes is not None
    assert [f"{server.context.trace_id:032x}", f"{server.context.span_id:016x}"] == told[1:3]
    expected = {"shop.by": "the app", "url.path": "/1", "user_agent.original": "curl", "http.response.status_code": 200}
    assert expected.items() <= server.attributes.items()
    (after,) = [span for span in own.spans() if span.name == "after"]
    assert after.parent == server.context
    own.close()


def test_a_provider_that_samples_nothing(own_providers: Put, received: Received) -> None:
    """The sampler of the app's own provider decides for the SERVER span, too."""
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

    kept = InMemorySpanExporter()
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    run_at("before the bridge", lambda: own_providers(traces=provider), lambda: None)
    assert kept.get_finished_spans() == ()
    assert received.spans == []
    provider.shutdown()


def test_unconfigured_but_with_a_provider(own_providers: Put) -> None:
    """With no endpoint of ours an app's own provider still gets the SERVER span."""
    own = Traces()
    run_at("in lifespan", lambda: own_providers(traces=own.provider), lambda: None)
    assert own.names().count("GET") == 3
    own.close()


def _values(reader: InMemoryMetricReader) -> dict[str, float]:
    data = reader.get_metrics_data()
    values: dict[str, float] = {}
    for resource in data.resource_metrics if data is not None else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    value = getattr(point, "value", None)
                    values[metric.name] = values.get(metric.name, 0) + (point.count if value is None else value)  # type: ignore[union-attr]  # a histogram's
    return values


@pytest.mark.parametrize("moment", MOMENTS)
def test_meter_provider(moment: str, own_providers: Put, received: Received) -> None:
    """A meter provider of the app's gets our metrics and the app's; after that ours exports no metric."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    made: dict[str, Any] = {}

    def work() -> None:
        if not made:
            meter = metrics.get_meter("shop")
            made["sold"] = meter.create_counter("shop.sold")
            made["stock"] = meter.create_up_down_counter("shop.stock")
            made["price"] = meter.create_histogram("shop.price")
            made["level"] = meter.create_gauge("shop.level")
        made["sold"].add(1)
        made["stock"].add(-1)
        made["price"].record(3)
        made["level"].set(7)

    run_at(moment, lambda: own_providers(metrics=provider), work)
    before = 1 if moment == "in the second request" else 0
    values = _values(reader)
    assert values["faas.invocations"] == values["faas.invoke_duration"] == 3 - before
    assert values.get("faas.coldstarts", 0) == 1 - before
    assert (values["shop.sold"], values["shop.stock"], values["shop.price"], values["shop.level"]) == (
        3 - before, before - 3, 3 - before, 7,
    )  # fmt: skip
    if not before:
        assert received.metrics == []
    else:
        assert received.counts("faas.invocations") == {(): 1}
        assert received.counts("shop.sold") == {(): 1}
    # Still theirs, and still at work.
    provider.get_meter("after").create_counter("after").add(1)
    assert "after" in _values(reader)
    provider.shutdown()


def test_instruments_from_before_the_bridge(received: Received) -> None:
    """Instruments and tracers that an app made before it was given to a bridge count for us."""
    sold = metrics.get_meter("shop").create_counter("shop.sold")
    early_tracer, early_logger = trace.get_tracer("shop"), _logs.get_logger("shop")

    def work(headers: Pairs) -> str:
        sold.add(2)
        with early_tracer.start_as_current_span("early"):
            early_logger.emit(LogRecord(body="early", severity_number=SeverityNumber.INFO))
        return "ok"

    with create_bridge(asgi_around(work)) as bridge:
        bridge(event(), None)
    early = received.span("early")
    assert early.parent_id == received.server().span_id
    assert received.log("early").span_id == early.span_id
    assert received.counts("shop.sold") == {(): 2}


def test_instruments_of_our_provider(received: Received) -> None:
    """Every instrument of the API works with our meter provider, observables included."""

    def level(_: CallbackOptions) -> list[Observation]:
        return [Observation(5)]

    def startup() -> None:
        meter = metrics.get_meter("shop")
        meter.create_counter("c").add(1)
        meter.create_up_down_counter("u").add(-2)
        meter.create_histogram("h").record(3)
        meter.create_gauge("g").set(4)
        meter.create_observable_counter("oc", [level])
        meter.create_observable_up_down_counter("ou", [level])
        meter.create_observable_gauge("og", [level])

    with create_bridge(lifespan_around(lambda headers: "ok", startup)) as bridge:
        bridge(event(), None)
    names = ("c", "u", "g", "oc", "ou", "og")
    assert {name: received.counts(name) for name in names} == {
        "c": {(): 1}, "u": {(): -2}, "g": {(): 4}, "oc": {(): 5}, "ou": {(): 5}, "og": {(): 5},
    }  # fmt: skip
    assert [point.sum for point in received.histogram("h")] == [3]


@pytest.mark.parametrize("moment", MOMENTS)
def test_logger_provider(moment: str, own_providers: Put, received: Received) -> None:
    """A logger provider of the app's gets our records and the app's; after that ours exports no record."""
    kept = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]  # the SDK's, which is not annotated
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(kept))
    early_logger = _logs.get_logger("shop")
    later: list[_logs.Logger] = []

    def work() -> None:
        later.append(_logs.get_logger("kept"))
        for logger in (early_logger, later[0]):
            logger.emit(LogRecord(body="sold", severity_number=SeverityNumber.INFO))

    run_at(moment, lambda: own_providers(logs=provider), work)
    before = 1 if moment == "in the second request" else 0
    bodies = [each.log_record.body for each in kept.get_finished_logs()]
    assert (bodies.count("invocation"), bodies.count("sold")) == (3 - before, 6 - 2 * before)
    assert sorted(str(record.body) for record in received.logs) == ["invocation", "sold", "sold"] * before
    provider.get_logger("after").emit(LogRecord(body="after"))
    assert [each.log_record.body for each in kept.get_finished_logs()][-1] == "after"
    provider.shutdown()


AT_IMPORT = """
from opentelemetry import _logs, metrics, trace
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

tracer = trace.get_tracer("shop")
counter = metrics.get_meter("shop").create_counter("sold")
with tracer.start_as_current_span("before"):
    pass

spans, points, records = InMemorySpanExporter(), InMemoryMetricReader(), InMemoryLogRecordExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
trace.set_tracer_provider(provider)
metrics.set_meter_provider(MeterProvider([points]))
logs = LoggerProvider()
logs.add_log_record_processor(SimpleLogRecordProcessor(records))
_logs.set_logger_provider(logs)

async def app(scope, receive, send):
    assert scope["type"] == "http"
    with tracer.start_as_current_span("query"):
        counter.add(1)
    data = points.get_metrics_data()
    names = [m.name for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics] if data else []
    told = (
        [span.name for span in spans.get_finished_spans()],
        [record.log_record.body for record in records.get_finished_logs()],
        "sold" in names,
        "faas.invocations" in names,
    )
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": repr(told).encode()})
"""


def test_providers_at_import(tmp_path: Path, received: Received) -> None:
    """Through ``vc_handler``, providers that the app sets while it is imported win over ours, which came before."""
    ran = run_function(
        tmp_path, AT_IMPORT, [event(), event()], OTEL_EXPORTER_OTLP_ENDPOINT=received.endpoint,
        TRACEDBRIDGE_FLUSH="before", TRACEDBRIDGE_FLUSH_TIMEOUT_MS=str(HANG_S * 1000), TRACEDBRIDGE_IMPORTS="off",
    )  # fmt: skip
    assert (ran.code, ran.stderr) == (0, "")
    assert ran.answers[0]["body"] == repr((["query"], [], True, False))
    assert ran.answers[1]["body"] == repr(
        (["query", "import app", "cold start", "GET", "query"], ["invocation"], True, True)
    )
    # Made before the app had a provider: the only one that is ours.
    assert [span.name for span in received.spans] == ["before"]
    assert (received.metrics, received.logs) == ([], [])


@pytest.mark.parametrize("how", ["decorator", "coroutine decorator", "context manager"])
def test_tracers_of_our_provider(how: str, received: Received) -> None:
    """``start_as_current_span`` of a tracer of ours works in every way that the SDK's does."""

    def work(headers: Pairs) -> str:
        tracer = trace.get_tracer("shop")
        if how == "context manager":
            with tracer.start_as_current_span("work") as span:
                span.set_attribute("a", 1)
        elif how == "decorator":

            @tracer.start_as_current_span("work", attributes={"a": 1})
            def plain() -> None:
                pass

            plain()
        else:
            import asyncio

            @tracer.start_as_current_span("work", attributes={"a": 1})
            async def coroutine() -> None:
                await asyncio.sleep(0)
                assert trace.get_current_span().get_span_context().is_valid

            with asyncio.Runner() as runner:
                runner.run(coroutine())
        return "ok"

    from tests.telemetry.apps import app_around

    with create_bridge(app_around("wsgi", work)) as bridge:
        bridge(event(), None)
    span = received.span("work")
    assert span.attributes == {"a": 1}
    assert span.parent_id == received.server().span_id


def test_our_providers_are_the_sdks(received: Received) -> None:
    """Code in the wild adds processors to the global provider, and asks whether it is the SDK's."""
    kept = InMemorySpanExporter()

    def startup() -> None:
        provider = trace.get_tracer_provider()
        assert isinstance(provider, TracerProvider)
        provider.add_span_processor(SimpleSpanProcessor(kept))
        assert provider.resource.attributes["service.name"]
        assert provider.force_flush()

    with create_bridge(lifespan_around(lambda headers: "ok", startup)) as bridge:
        bridge(event(), None)
    assert "GET" in [span.name for span in kept.get_finished_spans()]
    assert len(received.servers()) == 1
