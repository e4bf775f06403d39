"""
Decodes OTLP/HTTP requests into plain records: what really went over the wire, without protobuf.

Source: OpenTelemetry Protocol specification 1.9, "OTLP/HTTP" and "JSON Protobuf Encoding".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from tracedbridge.telemetry.otlp_bodies import (
    JSON,
    MAX_BODY_BYTES,
    PROTOBUF,
    DecodeError,
    Signal,
    decoding,
    encode_status,
    request_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
    from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord as LogMessage
    from opentelemetry.proto.metrics.v1.metrics_pb2 import (
        Exemplar as ExemplarMessage,
    )
    from opentelemetry.proto.metrics.v1.metrics_pb2 import (
        ExponentialHistogramDataPoint,
        HistogramDataPoint,
        Metric,
        NumberDataPoint,
        SummaryDataPoint,
    )
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

__all__ = (
    "JSON",
    "MAX_BODY_BYTES",
    "PROTOBUF",
    "DecodeError",
    "Exemplar",
    "ExponentialHistogramPoint",
    "HistogramPoint",
    "LogRecord",
    "MetricRecord",
    "NumberPoint",
    "Point",
    "Record",
    "Scope",
    "Signal",
    "SpanEvent",
    "SpanLink",
    "SpanRecord",
    "SummaryPoint",
    "Value",
    "decode",
    "encode_status",
)

_T = TypeVar("_T")

Value: TypeAlias = "str | bool | int | float | bytes | tuple[Value, ...] | dict[str, Value] | None"
"""The value of an attribute, or the body of a log record."""

SpanKind = Literal["unspecified", "internal", "server", "client", "producer", "consumer"]
StatusCode = Literal["unset", "ok", "error"]
Instrument = Literal["gauge", "sum", "histogram", "exponential_histogram", "summary", "none"]
Temporality = Literal["unspecified", "delta", "cumulative"]

# By number in the protocol; a number that a later protocol adds counts as the first.
_SPAN_KINDS: tuple[SpanKind, ...] = ("unspecified", "internal", "server", "client", "producer", "consumer")
_STATUS_CODES: tuple[StatusCode, ...] = ("unset", "ok", "error")
_TEMPORALITIES: tuple[Temporality, ...] = ("unspecified", "delta", "cumulative")
_SEVERITIES = ("TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL")


@dataclass(frozen=True, slots=True)
class Scope:
    """The library that a record comes from."""

    name: str
    version: str
    attributes: dict[str, Value]


@dataclass(frozen=True, slots=True)
class SpanEvent:
    """Something that happened during a span."""

    time_ns: int
    name: str
    attributes: dict[str, Value]


@dataclass(frozen=True, slots=True)
class SpanLink:
    """Another span that a span points to; ids in lower-case hex."""

    trace_id: str
    span_id: str
    attributes: dict[str, Value]


@dataclass(frozen=True, slots=True)
class SpanRecord:
    """One span; ids in lower-case hex, ``parent_id`` empty for a root, times in nanoseconds since 1970."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: SpanKind
    start_ns: int
    end_ns: int
    attributes: dict[str, Value]
    events: tuple[SpanEvent, ...]
    links: tuple[SpanLink, ...]
    status: StatusCode
    status_message: str
    resource: dict[str, Value]
    scope: Scope


@dataclass(frozen=True, slots=True)
class Exemplar:
    """One measured value and the span that it was measured in; ids in lower-case hex, empty if unknown."""

    time_ns: int
    value: int | float
    trace_id: str
    span_id: str
    attributes: dict[str, Value]


@dataclass(frozen=True, slots=True)
class NumberPoint:
    """One point of a sum or a gauge; ``value`` is None where no value was recorded."""

    attributes: dict[str, Value]
    start_ns: int
    time_ns: int
    value: int | float | None
    exemplars: tuple[Exemplar, ...]


@dataclass(frozen=True, slots=True)
class HistogramPoint:
    """One point of a histogram; one bucket more than bounds."""

    attributes: dict[str, Value]
    start_ns: int
    time_ns: int
    count: int
    sum: float | None
    min: float | None
    max: float | None
    bounds: tuple[float, ...]
    bucket_counts: tuple[int, ...]
    exemplars: tuple[Exemplar, ...]


@dataclass(frozen=True, slots=True)
class ExponentialHistogramPoint:
    """One point of an exponential histogram; buckets by index, empty ones left out."""

    attributes: dict[str, Value]
    start_ns: int
    time_ns: int
    count: int
    sum: float | None
    min: float | None
    max: float | None
    scale: int
    zero_count: int
    positive: dict[int, int]
    negative: dict[int, int]
    exemplars: tuple[Exemplar, ...]


@dataclass(frozen=True, slots=True)
class SummaryPoint:
    """One point of a summary; values by quantile."""

    attributes: dict[str, Value]
    start_ns: int
    time_ns: int
    count: int
    sum: float
    quantiles: dict[float, float]


Point = NumberPoint | HistogramPoint | ExponentialHistogramPoint | SummaryPoint
"""One point of a metric, by its kind."""


@dataclass(frozen=True, slots=True)
class MetricRecord:
    """One metric with its points; ``kind`` is ``"none"`` if it came without any."""

    name: str
    unit: str
    description: str
    kind: Instrument
    temporality: Temporality
    monotonic: bool
    points: tuple[Point, ...]
    resource: dict[str, Value]
    scope: Scope


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One log record; ids in lower-case hex, empty outside a span; ``severity`` as text, empty if unknown."""

    time_ns: int
    severity: str
    severity_number: int
    body: Value
    attributes: dict[str, Value]
    trace_id: str
    span_id: str
    event_name: str
    resource: dict[str, Value]
    scope: Scope


Record = SpanRecord | MetricRecord | LogRecord
"""What a request carries, by its signal."""


def decode(signal: Signal, body: bytes, *, content_type: str, content_encoding: str = "") -> list[Record]:
    """
    Decode the body of one OTLP/HTTP request.

    Args:
        signal: What the path says that the body holds.
        body: As it came over the wire.
        content_type: ``application/x-protobuf`` or ``application/json``; parameters are ignored.
        content_encoding: ``gzip``, ``deflate``, ``identity`` or empty.

    Returns:
        The records in the order of the wire, all of the signal's class.

    Raises:
        DecodeError: 415 for another type or encoding, 413 for more than ``MAX_BODY_BYTES`` unpacked, 400 for
            bytes that are not what the headers say. Nothing else, whatever the bytes are.
    """
    # As this module says it: by the same name serving/ knows how much of a body to read.
    request = request_of(
        signal, body, content_type=content_type, content_encoding=content_encoding, limit_bytes=MAX_BODY_BYTES
    )
    with decoding(signal):
        return list(_RECORDS[signal](request))


def _spans(request: ExportTraceServiceRequest) -> Iterable[SpanRecord]:
    for of_resource in request.resource_spans:
        resource = _attributes(of_resource.resource.attributes)
        for of_scope in of_resource.scope_spans:
            scope = _scope(of_scope.scope)
            for span in of_scope.spans:
                yield _span(span, resource, scope)


def _span(span: Span, resource: dict[str, Value], scope: Scope) -> SpanRecord:
    return SpanRecord(
        trace_id=_id("trace id", span.trace_id, 16),
        span_id=_id("span id", span.span_id, 8),
        parent_id=_id("parent span id", span.parent_span_id, 8, optional=True),
        name=span.name,
        kind=_named(_SPAN_KINDS, span.kind),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        attributes=_attributes(span.attributes),
        events=tuple(
            SpanEvent(time_ns=event.time_unix_nano, name=event.name, attributes=_attributes(event.attributes))
            for event in span.events
        ),
        links=tuple(
            SpanLink(
                trace_id=_id("trace id of a link", link.trace_id, 16),
                span_id=_id("span id of a link", link.span_id, 8),
                attributes=_attributes(link.attributes),
            )
            for link in span.links
        ),
        status=_named(_STATUS_CODES, span.status.code),
        status_message=span.status.message,
        resource=resource,
        scope=scope,
    )


def _metrics(request: ExportMetricsServiceRequest) -> Iterable[MetricRecord]:
    for of_resource in request.resource_metrics:
        resource = _attributes(of_resource.resource.attributes)
        for of_scope in of_resource.scope_metrics:
            scope = _scope(of_scope.scope)
            for metric in of_scope.metrics:
                yield _metric(metric, resource, scope)


def _metric(metric: Metric, resource: dict[str, Value], scope: Scope) -> MetricRecord:
    kind: Instrument = metric.WhichOneof("data") or "none"
    points: tuple[Point, ...] = ()
    temporality = 0
    if kind == "gauge":
        points = tuple(map(_number_point, metric.gauge.data_points))
    elif kind == "sum":
        points = tuple(map(_number_point, metric.sum.data_points))
        temporality = metric.sum.aggregation_temporality
    elif kind == "histogram":
        points = tuple(map(_histogram_point, metric.histogram.data_points))
        temporality = metric.histogram.aggregation_temporality
    elif kind == "exponential_histogram":
        points = tuple(map(_exponential_point, metric.exponential_histogram.data_points))
        temporality = metric.exponential_histogram.aggregation_temporality
    elif kind == "summary":
        points = tuple(map(_summary_point, metric.summary.data_points))
    return MetricRecord(
        name=metric.name,
        unit=metric.unit,
        description=metric.description,
        kind=kind,
        temporality=_named(_TEMPORALITIES, temporality),
        monotonic=metric.sum.is_monotonic,
        points=points,
        resource=resource,
        scope=scope,
    )


def _number_point(point: NumberDataPoint) -> NumberPoint:
    value = point.WhichOneof("value")
    return NumberPoint(
        attributes=_attributes(point.attributes),
        start_ns=point.start_time_unix_nano,
        time_ns=point.time_unix_nano,
        value=None if value is None else getattr(point, value),
        exemplars=_exemplars(point.exemplars),
    )


def _histogram_point(point: HistogramDataPoint) -> HistogramPoint:
    return HistogramPoint(
        attributes=_attributes(point.attributes),
        start_ns=point.start_time_unix_nano,
        time_ns=point.time_unix_nano,
        count=point.count,
        sum=point.sum if point.HasField("sum") else None,
        min=point.min if point.HasField("min") else None,
        max=point.max if point.HasField("max") else None,
        bounds=tuple(point.explicit_bounds),
        bucket_counts=tuple(point.bucket_counts),
        exemplars=_exemplars(point.exemplars),
    )


def _exponential_point(point: ExponentialHistogramDataPoint) -> ExponentialHistogramPoint:
    positive, negative = point.positive, point.negative
    return ExponentialHistogramPoint(
        attributes=_attributes(point.attributes),
        start_ns=point.start_time_unix_nano,
        time_ns=point.time_unix_nano,
        count=point.count,
        sum=point.sum if point.HasField("sum") else None,
        min=point.min if point.HasField("min") else None,
        max=point.max if point.HasField("max") else None,
        scale=point.scale,
        zero_count=point.zero_count,
        positive={index: count for index, count in enumerate(positive.bucket_counts, positive.offset) if count},
        negative={index: count for index, count in enumerate(negative.bucket_counts, negative.offset) if count},
        exemplars=_exemplars(point.exemplars),
    )


def _summary_point(point: SummaryDataPoint) -> SummaryPoint:
    return SummaryPoint(
        attributes=_attributes(point.attributes),
        start_ns=point.start_time_unix_nano,
        time_ns=point.time_unix_nano,
        count=point.count,
        sum=point.sum,
        quantiles={at.quantile: at.value for at in point.quantile_values},
    )


def _exemplars(exemplars: Iterable[ExemplarMessage]) -> tuple[Exemplar, ...]:
    return tuple(
        Exemplar(
            time_ns=exemplar.time_unix_nano,
            value=exemplar.as_int if exemplar.WhichOneof("value") == "as_int" else exemplar.as_double,
            trace_id=_id("trace id of an exemplar", exemplar.trace_id, 16, optional=True),
            span_id=_id("span id of an exemplar", exemplar.span_id, 8, optional=True),
            attributes=_attributes(exemplar.filtered_attributes),
        )
        for exemplar in exemplars
    )


def _logs(request: ExportLogsServiceRequest) -> Iterable[LogRecord]:
    for of_resource in request.resource_logs:
        resource = _attributes(of_resource.resource.attributes)
        for of_scope in of_resource.scope_logs:
            scope = _scope(of_scope.scope)
            for record in of_scope.log_records:
                yield _log(record, resource, scope)


def _log(record: LogMessage, resource: dict[str, Value], scope: Scope) -> LogRecord:
    number = int(record.severity_number)
    # Four numbers to a name: 9 to 12 are INFO to INFO4.
    name = _SEVERITIES[(number - 1) // 4] if 1 <= number <= 24 else ""
    return LogRecord(
        # Records of a bridge from another logging library may know only when they were seen.
        time_ns=record.time_unix_nano or record.observed_time_unix_nano,
        severity=record.severity_text or name,
        severity_number=number,
        body=_value(record.body),
        attributes=_attributes(record.attributes),
        trace_id=_id("trace id of a log record", record.trace_id, 16, optional=True),
        span_id=_id("span id of a log record", record.span_id, 8, optional=True),
        event_name=record.event_name,
        resource=resource,
        scope=scope,
    )


def _scope(scope: InstrumentationScope) -> Scope:
    return Scope(scope.name, scope.version, _attributes(scope.attributes))


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Value]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Value:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return tuple(map(_value, value.array_value.values))
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    # The index into a string table belongs to the profiling signal and is to be read as absent.
    if kind is None or kind == "string_value_strindex":
        return None
    plain: str | bool | int | float | bytes = getattr(value, kind)
    return plain


def _id(what: str, raw: bytes, size: int, *, optional: bool = False) -> str:
    if optional and not any(raw):
        return ""
    if len(raw) != size or not any(raw):
        raise DecodeError(400, f"could not decode a {what}: {raw.hex()[:40]!r} is not {size} bytes, or all zero")
    return raw.hex()


def _named(names: tuple[_T, ...], number: int) -> _T:
    return names[number] if 0 <= number < len(names) else names[0]


_RECORDS: dict[Signal, Callable[[Any], Iterable[Record]]] = {"traces": _spans, "metrics": _metrics, "logs": _logs}
