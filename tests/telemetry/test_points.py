"""Our own aggregation says what the SDK's instruments say of the same values."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader, MetricsData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from tracedbridge.telemetry.current import SCOPE
from tracedbridge.telemetry.metrics import INSTRUMENTS, Metrics
from tracedbridge.telemetry.points import Points

RESOURCE = Resource({"service.name": "shop"})
TEMPORALITIES: dict[str, dict[type, AggregationTemporality]] = {
    "cumulative": {},
    "delta": {Counter: AggregationTemporality.DELTA, Histogram: AggregationTemporality.DELTA},
    # What OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE=lowmemory asks for may differ by instrument.
    "delta histograms": {Histogram: AggregationTemporality.DELTA},
}

# Values below, on and above the first and last bounds; attribute sets that repeat.
VALUES: tuple[tuple[str, float, dict[str, Any]], ...] = (
    ("faas.invoke_duration", 0.001, {"faas.trigger": "http", "faas.coldstart": True}),
    ("faas.invoke_duration", 0.005, {"faas.trigger": "http", "faas.coldstart": False}),
    ("faas.invoke_duration", 0.0051, {"faas.trigger": "http", "faas.coldstart": False}),
    ("faas.invoke_duration", 10.0, {"faas.trigger": "http", "faas.coldstart": False}),
    ("faas.invoke_duration", 99.0, {"faas.trigger": "http", "faas.coldstart": False}),
    ("faas.mem_usage", 3 * 1024 * 1024, {"faas.trigger": "http"}),
    ("faas.errors", 1, {"faas.trigger": "http", "error.type": "500"}),
    ("faas.errors", 1, {"faas.trigger": "http", "error.type": "KeyError"}),
    ("faas.errors", 1, {"faas.trigger": "http", "error.type": "500"}),
    ("faas.invocations", 1, {}),
)


def context(sampler: Any = ALWAYS_ON) -> Context:
    """Return a context with a span, sampled or not."""
    span = TracerProvider(sampler=sampler, shutdown_on_exit=False).get_tracer("test").start_span("here")
    return trace.set_span_in_context(span, Context())


def shown(data: MetricsData | None) -> dict[str, Any]:
    """Return everything that metrics data says, but for its times and the order of points."""
    if data is None:
        return {}
    (resource,) = data.resource_metrics
    assert resource.resource.attributes["service.name"] == "shop"
    metrics = {}
    for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
        points = []
        for point in metric.data.data_points:
            fields = dataclasses.asdict(point)
            assert fields.pop("start_time_unix_nano") <= fields.pop("time_unix_nano")
            for exemplar in fields["exemplars"]:
                assert exemplar.pop("time_unix_nano") > 0
            fields["attributes"] = sorted(fields["attributes"].items())
            fields["explicit_bounds"] = tuple(fields.get("explicit_bounds", ()))
            fields["bucket_counts"] = tuple(fields.get("bucket_counts", ()))
            points.append(fields)
        temporality = metric.data.aggregation_temporality  # type: ignore[union-attr]  # we make no gauges
        points.sort(key=lambda fields: str(fields["attributes"]))
        metrics[metric.name] = (type(metric.data).__name__, metric.unit, metric.description, temporality, points)
    return metrics


@pytest.mark.parametrize("temporality", TEMPORALITIES.values(), ids=TEMPORALITIES.keys())
def test_as_the_sdk(temporality: dict[type, AggregationTemporality]) -> None:
    """The same values give the same points, exemplars included, collection after collection."""
    reader = InMemoryMetricReader(preferred_temporality=temporality)
    provider = MeterProvider([reader], RESOURCE, shutdown_on_exit=False)
    theirs = Metrics(provider.get_meter(SCOPE), "shop")
    ours = Points(RESOURCE, InstrumentationScope(SCOPE), "shop", temporality)
    here = context()
    for values in (VALUES, VALUES[:1], ()):
        for name, value, attributes in values:
            theirs.record(name, value, here, attributes)
            ours.record(name, value, here, attributes)
        assert shown(ours.add_to(None)) == shown(reader.get_metrics_data())


def test_exemplars_need_a_sampled_span() -> None:
    """A value from a span that is not sampled, or from none, is no exemplar."""
    points = Points(RESOURCE, InstrumentationScope(SCOPE), "shop", None)
    points.record("faas.invocations", 1, context(ALWAYS_OFF))
    points.record("faas.invocations", 1, Context())
    (point,) = shown(points.add_to(None))["faas.invocations"][4]
    assert (point["value"], point["exemplars"]) == (2, [])


@pytest.mark.parametrize(("asked", "sampler", "count"), [("always_on", ALWAYS_OFF, 1), ("always_off", ALWAYS_ON, 0)])
def test_exemplar_filter(asked: str, sampler: Any, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """``OTEL_METRICS_EXEMPLAR_FILTER`` means what it means in the SDK."""
    monkeypatch.setenv("OTEL_METRICS_EXEMPLAR_FILTER", asked)
    points = Points(RESOURCE, InstrumentationScope(SCOPE), "shop", None)
    points.record("faas.invocations", 1, context(sampler))
    (point,) = shown(points.add_to(None))["faas.invocations"][4]
    assert len(point["exemplars"]) == count


def test_attribute_sets_are_bounded() -> None:
    """Past 2000 attribute sets further ones fall into one that says so."""
    points = Points(RESOURCE, InstrumentationScope(SCOPE), "shop", None)
    for number in range(2005):
        points.record("faas.errors", 1, None, {"error.type": str(number)})
    made = shown(points.add_to(None))["faas.errors"][4]
    (overflow,) = [point for point in made if ("otel.metric.overflow", True) in point["attributes"]]
    assert (len(made), overflow["value"]) == (2001, 5)


def test_points_join_the_sdks() -> None:
    """Points go out beside what the app recorded, in one resource."""
    reader = InMemoryMetricReader()
    MeterProvider([reader], RESOURCE, shutdown_on_exit=False).get_meter("app").create_counter("sold").add(3)
    points = Points(RESOURCE, InstrumentationScope(SCOPE), "shop", None)
    points.record("faas.invocations", 1, None)
    assert set(shown(points.add_to(reader.get_metrics_data()))) == {"sold", "faas.invocations"}


def invocations(points: Points) -> list[float]:
    """Collect, and return the values of one counter."""
    metrics = shown(points.add_to(None))
    return [point["value"] for point in metrics["faas.invocations"][4]] if metrics else []


def test_threads_lose_nothing() -> None:
    """Values of several threads add up, collections in between included."""
    points = Points(RESOURCE, InstrumentationScope(SCOPE), "shop", TEMPORALITIES["delta"])
    counts: list[float] = []
    begin = threading.Barrier(5)

    def record() -> None:
        begin.wait(10)
        for _ in range(500):
            points.record("faas.invocations", 1, None)

    threads = [threading.Thread(target=record) for _ in range(4)]
    for thread in threads:
        thread.start()
    begin.wait(10)
    while any(thread.is_alive() for thread in threads):
        counts += invocations(points)
    counts += invocations(points)
    assert sum(counts) == 2000


def test_every_instrument_is_taken() -> None:
    """Each entry of INSTRUMENTS can be recorded, with its own unit and description."""
    points = Points(RESOURCE, InstrumentationScope(SCOPE), "shop", None)
    for instrument in INSTRUMENTS:
        points.record(instrument.name, 1, None)
    made = shown(points.add_to(None))
    assert {name: (unit, description) for name, (_, unit, description, _, _) in made.items()} == {
        instrument.name: (instrument.unit, instrument.description) for instrument in INSTRUMENTS
    }
