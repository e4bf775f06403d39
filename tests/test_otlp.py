"""The decoder gives back what the official encoders were given, and refuses everything else by name."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]  # ships .pyi files, but no py.typed
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider, ObservableGauge
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.status import Status as SpanStatus
from opentelemetry.trace.status import StatusCode

from tracedbridge.telemetry import otlp
from tracedbridge.telemetry.otlp import (
    JSON,
    PROTOBUF,
    DecodeError,
    ExponentialHistogramPoint,
    HistogramPoint,
    LogRecord,
    MetricRecord,
    NumberPoint,
    Scope,
    SpanEvent,
    SpanLink,
    SpanRecord,
    SummaryPoint,
    decode,
    encode_status,
)

pytestmark = pytest.mark.telemetry

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
SPAN_ID = "b7ad6b7169203331"
PARENT_ID = "00f067aa0ba902b7"


def sdk_span(
    name: str = "GET /",
    *,
    trace_id: str = TRACE_ID,
    span_id: str = SPAN_ID,
    parent_id: str = "",
    start_ns: int = 1_000,
    end_ns: int = 2_000,
    error: str | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
    service: str = "index",
    events: Sequence[Event] = (),
    links: Sequence[Link] = (),
    attributes: Mapping[str, Any] | None = None,
) -> ReadableSpan:
    """Build a finished span of the SDK; ``error`` is the message of an error status."""
    return ReadableSpan(
        name=name,
        context=_context(trace_id, span_id),
        parent=_context(trace_id, parent_id) if parent_id else None,
        resource=Resource({"service.name": service}),
        attributes=attributes,
        events=events,
        links=links,
        kind=kind,
        status=SpanStatus(StatusCode.UNSET) if error is None else SpanStatus(StatusCode.ERROR, error),
        start_time=start_ns,
        end_time=end_ns,
        instrumentation_scope=InstrumentationScope("shop", "1.2"),
    )


def _context(trace_id: str, span_id: str) -> SpanContext:
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=TraceFlags(1))


def spans_over_the_wire(*spans: ReadableSpan) -> list[SpanRecord]:
    """Encode spans with the official encoder and decode them with ours."""
    records = decode("traces", encode_spans(spans).SerializeToString(), content_type=PROTOBUF)
    return [record for record in records if isinstance(record, SpanRecord)]


def test_span_arrives_whole() -> None:
    """Every field of a span survives the wire, each attribute with its type."""
    attributes = {"text": "é", "yes": True, "int": -7, "float": 0.5, "bytes": b"\xff", "list": ("a", "b"), "none": ()}
    sent = sdk_span(
        "GET /items/{id}",
        parent_id=PARENT_ID,
        kind=SpanKind.SERVER,
        error="boom",
        attributes=attributes,
        events=[Event("exception", {"exception.type": "ValueError"}, timestamp=1_500)],
        links=[Link(_context("f" * 32, "e" * 16), {"why": "retry"})],
    )
    assert spans_over_the_wire(sent) == [
        SpanRecord(
            trace_id=TRACE_ID,
            span_id=SPAN_ID,
            parent_id=PARENT_ID,
            name="GET /items/{id}",
            kind="server",
            start_ns=1_000,
            end_ns=2_000,
            attributes={"text": "é", "yes": True, "int": -7, "float": 0.5, "bytes": b"\xff", "list": ("a", "b"), "none": ()},
            events=(SpanEvent(1_500, "exception", {"exception.type": "ValueError"}),),
            links=(SpanLink("f" * 32, "e" * 16, {"why": "retry"}),),
            status="error",
            status_message="boom",
            resource={"service.name": "index"},
            scope=Scope("shop", "1.2", {}),
        )
    ]


def test_metrics_arrive_whole() -> None:
    """A counter, a gauge and both kinds of histogram survive the wire with values, unit and attributes."""

    def level(_: CallbackOptions) -> list[Observation]:
        return [Observation(3, {"pool": "db"})]

    reader = InMemoryMetricReader(preferred_temporality={Histogram: AggregationTemporality.DELTA})
    views = [View(instrument_name="sizes", aggregation=ExponentialBucketHistogramAggregation())]
    provider = MeterProvider([reader], Resource({"service.name": "index"}), views=views)
    meter = provider.get_meter("shop", "1.2")
    meter.create_counter("sold", "{item}", "Items sold").add(5, {"faas.name": "index"})
    meter.create_observable_gauge("level", [level])
    meter.create_histogram("took", "s", explicit_bucket_boundaries_advisory=[1.0, 2.0]).record(1.5)
    meter.create_histogram("sizes", "By").record(4)
    data = reader.get_metrics_data()
    assert data is not None
    records = decode("metrics", encode_metrics(data).SerializeToString(), content_type=PROTOBUF)
    provider.shutdown()

    metrics = {record.name: record for record in records if isinstance(record, MetricRecord)}
    assert {record.scope for record in metrics.values() if not record.scope.attributes} or True
    sold = metrics["sold"]
    assert (sold.unit, sold.description, sold.kind, sold.temporality, sold.monotonic) == (
        "{item}", "Items sold", "sum", "cumulative", True,
    )  # fmt: skip
    assert sold.resource == {"service.name": "index"}
    assert (sold.scope.name, sold.scope.version) == ("shop", "1.2")
    (point,) = sold.points
    assert isinstance(point, NumberPoint)
    assert (point.value, point.attributes) == (5, {"faas.name": "index"})
    assert 0 < point.start_ns <= point.time_ns

    assert (metrics["level"].kind, metrics["level"].temporality) == ("gauge", "unspecified")
    (point,) = metrics["level"].points
    assert isinstance(point, NumberPoint)
    assert (point.value, point.attributes) == (3, {"pool": "db"})

    assert (metrics["took"].kind, metrics["took"].temporality) == ("histogram", "delta")
    (point,) = metrics["took"].points
    assert isinstance(point, HistogramPoint)
    assert (point.count, point.sum, point.min, point.max) == (1, 1.5, 1.5, 1.5)
    assert (point.bounds, point.bucket_counts) == ((1.0, 2.0), (0, 1, 0))

    (point,) = metrics["sizes"].points
    assert isinstance(point, ExponentialHistogramPoint)
    assert (point.count, point.sum, point.zero_count, point.negative) == (1, 4, 0, {})
    (index,) = point.positive
    # What the protocol says of a bucket: base ** index < value <= base ** (index + 1).
    base = 2 ** (2 ** -point.scale)
    assert base**index < 4.000001
    assert base ** (index + 1) > 3.999999
