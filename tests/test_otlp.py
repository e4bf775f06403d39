"""The decoder gives back what the official encoders were given, and refuses everything else by name."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from google.rpc.status_pb2 import Status
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics import Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.status import Status as SpanStatus
from opentelemetry.trace.status import StatusCode

from tracedbridge.telemetry import otlp
from tracedbridge.telemetry.otlp import (
    JSON,
    PROTOBUF,
    DecodeError,
    Exemplar,
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
    attributes: dict[str, otlp.Value] = {
        "text": "é",
        "yes": True,
        "int": -7,
        "float": 0.5,
        "bytes": b"\xff",
        "list": ("a", "b"),
        "empty": (),
    }
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
            attributes=attributes,
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
    # Bucket i holds (base ** i, base ** (i + 1)] for base = 2 ** 2 ** -scale, so a power of two is its bucket's end.
    assert point.positive == {2 * 2**point.scale - 1: 1}


def test_summary_and_exemplar_arrive_whole() -> None:
    """What the Python SDK never sends, a summary or an exemplar of an integer, is decoded as well."""
    request = ExportMetricsServiceRequest()
    metrics = request.resource_metrics.add().scope_metrics.add().metrics
    summary = metrics.add(name="took").summary.data_points.add(count=2, sum=3.0, time_unix_nano=9)
    summary.quantile_values.add(quantile=0.5, value=1.0)
    counted = metrics.add(name="sold").sum.data_points.add(as_int=4)
    counted.exemplars.add(as_int=1, trace_id=bytes.fromhex(TRACE_ID), span_id=bytes.fromhex(SPAN_ID), time_unix_nano=8)
    metrics.add(name="nothing")
    took, sold, nothing = decode("metrics", request.SerializeToString(), content_type=PROTOBUF)
    assert isinstance(took, MetricRecord)
    assert took.points == (SummaryPoint({}, 0, 9, 2, 3.0, {0.5: 1.0}),)
    assert isinstance(sold, MetricRecord)
    assert sold.points == (NumberPoint({}, 0, 0, 4, (Exemplar(8, 1, TRACE_ID, SPAN_ID, {}),)),)
    assert isinstance(nothing, MetricRecord)
    assert (nothing.kind, nothing.points) == ("none", ())


def log_request() -> ExportLogsServiceRequest:
    """Build a request with one record inside a span and one outside."""
    request = ExportLogsServiceRequest()
    of_resource = request.resource_logs.add()
    of_resource.resource.attributes.add(key="service.name").value.string_value = "index"
    records = of_resource.scope_logs.add().log_records
    inside = records.add(time_unix_nano=5, observed_time_unix_nano=6, severity_number=9, event_name="invocation")
    inside.trace_id, inside.span_id = bytes.fromhex(TRACE_ID), bytes.fromhex(SPAN_ID)
    status = inside.body.kvlist_value.values.add(key="status")
    status.value.int_value = 200
    inside.attributes.add(key="cold").value.bool_value = True
    inside.attributes.add(key="void")
    records.add(observed_time_unix_nano=7, severity_number=18, severity_text="critical").body.string_value = "gone"
    return request


LOGS = [
    LogRecord(
        time_ns=5,
        severity="INFO",
        severity_number=9,
        body={"status": 200},
        attributes={"cold": True, "void": None},
        trace_id=TRACE_ID,
        span_id=SPAN_ID,
        event_name="invocation",
        resource={"service.name": "index"},
        scope=Scope("", "", {}),
    ),
    LogRecord(
        time_ns=7,
        severity="critical",
        severity_number=18,
        body="gone",
        attributes={},
        trace_id="",
        span_id="",
        event_name="",
        resource={"service.name": "index"},
        scope=Scope("", "", {}),
    ),
]


def test_logs_arrive_whole() -> None:
    """A log record keeps its structured body, its severity and the span that it was written in."""
    assert decode("logs", log_request().SerializeToString(), content_type=PROTOBUF) == LOGS


JSON_SPANS: dict[str, Any] = {
    "resourceSpans": [
        {
            "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "index"}}]},
            "scopeSpans": [
                {
                    "scope": {"name": "shop", "version": "1.2"},
                    "spans": [
                        {
                            "traceId": TRACE_ID.upper(),
                            "spanId": SPAN_ID,
                            "parentSpanId": PARENT_ID,
                            "name": "GET /",
                            "kind": 2,
                            "startTimeUnixNano": "1000",
                            "endTimeUnixNano": 2000,
                            "attributes": [
                                {"key": "n", "value": {"intValue": "-7"}},
                                # Not an id, although it is called like one.
                                {"key": "traceId", "value": {"bytesValue": "/w=="}},
                            ],
                            "links": [{"traceId": "f" * 32, "spanId": "e" * 16}],
                            "status": {"code": 2, "message": "boom"},
                            "addedByALaterProtocol": [1],
                        }
                    ],
                }
            ],
        }
    ]
}


def test_json_is_read_as_otlp_writes_it() -> None:
    """OTLP/JSON has hex ids, numbers for enums, 64-bit integers as text, and fields that we do not know yet."""
    assert decode("traces", json.dumps(JSON_SPANS).encode(), content_type="Application/JSON; charset=utf-8") == [
        SpanRecord(
            trace_id=TRACE_ID,
            span_id=SPAN_ID,
            parent_id=PARENT_ID,
            name="GET /",
            kind="server",
            start_ns=1_000,
            end_ns=2_000,
            attributes={"n": -7, "traceId": b"\xff"},
            events=(),
            links=(SpanLink("f" * 32, "e" * 16, {}),),
            status="error",
            status_message="boom",
            resource={"service.name": "index"},
            scope=Scope("shop", "1.2", {}),
        )
    ]


def test_unknown_numbers_are_the_first_of_their_kind() -> None:
    """A span kind or a status code that a later protocol adds does not cost the span."""
    request = ExportTraceServiceRequest()
    span = request.resource_spans.add().scope_spans.add().spans.add(kind=77)
    span.trace_id, span.span_id = bytes.fromhex(TRACE_ID), bytes.fromhex(SPAN_ID)
    span.status.code = 9  # type: ignore[assignment]  # no such code
    (record,) = decode("traces", request.SerializeToString(), content_type=PROTOBUF)
    assert isinstance(record, SpanRecord)
    assert (record.kind, record.status, record.parent_id) == ("unspecified", "unset", "")


def raw_deflate(data: bytes) -> bytes:
    """Compress without the wrapper of zlib, as some clients do."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


PLAIN = log_request().SerializeToString()


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        pytest.param("", PLAIN, id="none"),
        pytest.param("identity", PLAIN, id="identity"),
        pytest.param(" GZIP ", gzip.compress(PLAIN), id="gzip"),
        pytest.param("gzip", gzip.compress(PLAIN[:9]) + gzip.compress(PLAIN[9:]), id="gzip in two members"),
        pytest.param("deflate", zlib.compress(PLAIN), id="deflate"),
        pytest.param("deflate", raw_deflate(PLAIN), id="raw deflate"),
    ],
)
def test_encodings(encoding: str, body: bytes) -> None:
    """A body means the same in every encoding that OTLP exporters use."""
    assert decode("logs", body, content_type=PROTOBUF, content_encoding=encoding) == LOGS


def json_span(**fields: object) -> bytes:
    """Return a JSON request with one good span, but for ``fields``."""
    span = {"traceId": TRACE_ID, "spanId": SPAN_ID, **fields}
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}).encode()


DEEP_VALUE: dict[str, Any] = {"intValue": 1}
for _ in range(60):
    DEEP_VALUE = {"arrayValue": {"values": [DEEP_VALUE]}}


@pytest.mark.parametrize(
    ("content_type", "encoding", "body", "status", "reason"),
    [
        pytest.param("text/plain", "", b"", 415, "content-type 'text/plain'", id="type"),
        pytest.param("", "", b"", 415, "content-type ''", id="no type"),
        pytest.param(PROTOBUF, "br", b"", 415, "content-encoding 'br'", id="encoding"),
        pytest.param(PROTOBUF, "gzip", b"plain", 400, "no gzip", id="no gzip"),
        pytest.param(PROTOBUF, "gzip", gzip.compress(PLAIN)[:-9], 400, "no gzip", id="half a gzip"),
        pytest.param(PROTOBUF, "deflate", b"\xffplain", 400, "no deflate", id="no deflate"),
        pytest.param(PROTOBUF, "deflate", zlib.compress(PLAIN)[:-9], 400, "no deflate", id="half a deflate"),
        pytest.param(PROTOBUF, "", b"\xff\xff", 400, "could not decode traces", id="no protobuf"),
        pytest.param(JSON, "", b"{", 400, "JSONDecodeError", id="no JSON"),
        pytest.param(JSON, "", b"\xff\xfe{", 400, "could not decode traces", id="no text"),
        pytest.param(JSON, "", b"[]", 400, "not an object", id="JSON list"),
        pytest.param(JSON, "", b'{"a":' * 100_000, 400, "RecursionError", id="deep JSON"),
        pytest.param(JSON, "", b'{"resourceSpans": 1}', 400, "resourceSpans", id="wrong shape"),
        pytest.param(JSON, "", json_span(traceId="zz"), 400, "no hex", id="id is no hex"),
        pytest.param(JSON, "", json_span(traceId="aa"), 400, "trace id", id="trace id too short"),
        pytest.param(JSON, "", json_span(spanId="0" * 16), 400, "span id", id="span id of zeros"),
        pytest.param(JSON, "", json_span(parentSpanId="aa"), 400, "parent span id", id="parent id too short"),
        pytest.param(JSON, "", json_span(traceId=7), 400, "could not decode traces", id="id is a number"),
        pytest.param(JSON, "", json_span(name="\ud800"), 400, "could not decode traces", id="lone surrogate"),
        pytest.param(JSON, "", json_span(startTimeUnixNano="-1"), 400, "startTimeUnixNano", id="time before 1970"),
        pytest.param(
            JSON, "", json_span(attributes=[{"key": "k", "value": DEEP_VALUE}]), 400, "too deep", id="deep value"
        ),
    ],
)
def test_refusals(content_type: str, encoding: str, body: bytes, status: int, reason: str) -> None:
    """What cannot be decoded is refused with the HTTP status and the reason, in one line."""
    with pytest.raises(DecodeError) as refused:
        decode("traces", body, content_type=content_type, content_encoding=encoding)
    assert refused.value.status == status
    assert reason in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_small_body_takes_little_memory(encoding: str) -> None:
    """To unpack a body takes about as much memory as is in it, and not as much as there may be."""
    body = (gzip.compress if encoding == "gzip" else zlib.compress)(b'{"resourceSpans": []}')
    tracemalloc.start()
    try:
        decode("traces", body, content_type=JSON, content_encoding=encoding)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 2_000_000


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_bomb_is_not_unpacked(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small body that unpacks to a huge one is refused with 413 before it takes the memory."""
    monkeypatch.setattr(otlp, "MAX_BODY_BYTES", 100_000)
    pack = gzip.compress if encoding == "gzip" else zlib.compress
    bomb = pack(bytes(30_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError) as refused:
            decode("traces", bomb, content_type=PROTOBUF, content_encoding=encoding)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert refused.value.status == 413
    assert peak_bytes < 1_000_000


def test_body_as_large_as_allowed_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is the last size that is taken, packed or not."""
    monkeypatch.setattr(otlp, "MAX_BODY_BYTES", len(PLAIN))
    assert decode("logs", PLAIN, content_type=PROTOBUF) == LOGS
    assert decode("logs", gzip.compress(PLAIN), content_type=PROTOBUF, content_encoding="gzip") == LOGS
    monkeypatch.setattr(otlp, "MAX_BODY_BYTES", len(PLAIN) - 1)
    for body, encoding in ((PLAIN, ""), (gzip.compress(PLAIN), "gzip"), (zlib.compress(PLAIN), "deflate")):
        with pytest.raises(DecodeError) as refused:
            decode("logs", body, content_type=PROTOBUF, content_encoding=encoding)
        assert refused.value.status == 413


# So long that it is unpacked in several steps.
LONG = b'{"resourceSpans": []}' + b" " * 600_000


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        pytest.param("", LONG, id="plain"),
        pytest.param("gzip", gzip.compress(LONG), id="gzip"),
        pytest.param("gzip", gzip.compress(LONG[:300_000]) + gzip.compress(LONG[300_000:]), id="gzip in two parts"),
        pytest.param("deflate", zlib.compress(LONG), id="deflate"),
    ],
)
def test_bound_of_a_long_body(encoding: str, body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is exact to the byte for a long body, too."""
    monkeypatch.setattr(otlp, "MAX_BODY_BYTES", len(LONG))
    assert decode("traces", body, content_type=JSON, content_encoding=encoding) == []
    monkeypatch.setattr(otlp, "MAX_BODY_BYTES", len(LONG) - 1)
    with pytest.raises(DecodeError) as refused:
        decode("traces", body, content_type=JSON, content_encoding=encoding)
    assert refused.value.status == 413


def test_checksum_of_a_body_as_large_as_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body is unpacked to its end, where its checksum is, even if not a byte more may come."""
    monkeypatch.setattr(otlp, "MAX_BODY_BYTES", len(LONG))
    with pytest.raises(DecodeError) as refused:
        decode("traces", gzip.compress(LONG)[:-8] + bytes(8), content_type=JSON, content_encoding="gzip")
    assert refused.value.status == 400


VALID = encode_spans([sdk_span(attributes={"a": ("b", "c")}, parent_id=PARENT_ID)]).SerializeToString()


@settings(max_examples=300, deadline=None)
@given(
    signal=st.sampled_from(["traces", "metrics", "logs"]),
    content_type=st.sampled_from([PROTOBUF, JSON, "text/plain"]),
    encoding=st.sampled_from(["", "gzip", "deflate", "br"]),
    body=st.binary(max_size=200)
    | st.binary(max_size=50).map(gzip.compress)
    | st.builds(lambda at, put: VALID[:at] + put + VALID[at + 1 :], st.integers(0, len(VALID)), st.binary(max_size=3))
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["resourceSpans", "scopeSpans", "spans", "traceId", "name", "attributes", "value", "x"]
                ),
                inner,
                max_size=4,
            )
        ),
    ).map(lambda document: json.dumps(document).encode()),
)
def test_any_bytes_are_decoded_or_refused(signal: otlp.Signal, content_type: str, encoding: str, body: bytes) -> None:
    """Whatever the bytes and the headers are, the outcome is a list of records or a DecodeError."""
    try:
        outcome: object = decode(signal, body, content_type=content_type, content_encoding=encoding)
    except DecodeError as error:
        outcome = error.status
    assert isinstance(outcome, list) or outcome in (400, 413, 415)


def test_status_is_written_in_the_clients_type() -> None:
    """A refusal is a google.rpc.Status, as protobuf or JSON, also with text that is no UTF-8."""
    status = Status()
    status.ParseFromString(encode_status("no \ud800", PROTOBUF))
    assert status.message == "no ?"
    assert json.loads(encode_status("no", JSON)) == {"message": "no"}
