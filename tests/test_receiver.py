"""The local receiver takes what real exporters send, answers as OTLP says, and leaves nothing behind."""

from __future__ import annotations

import http.client
import json
import socket
import sys
import threading
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from google.rpc.status_pb2 import Status
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace.export import SpanExportResult

from tests.support import bounded
from tests.test_otlp import JSON_SPANS, SPAN_ID, TRACE_ID, sdk_span
from tracedbridge.serving import intake
from tracedbridge.serving.receiver import Receiver
from tracedbridge.telemetry import otlp
from tracedbridge.telemetry.otlp import LogRecord, MetricRecord, NumberPoint

pytestmark = pytest.mark.telemetry

PROTOBUF = "application/x-protobuf"


class Reply(NamedTuple):
    """An answer of the receiver."""

    status: int
    content_type: str | None
    allow: str | None
    body: bytes


@pytest.fixture(name="receiver")
def running_receiver() -> Iterator[Receiver]:
    """A receiver that listens."""
    with Receiver() as receiver:
        yield receiver


def send(receiver: Receiver, method: str, path: str, body: bytes = b"", **headers: str) -> Reply:
    """Send one request; ``content_type`` is the header content-type."""
    connection = http.client.HTTPConnection(receiver.endpoint.removeprefix("http://"), timeout=20)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named)
        response = connection.getresponse()
        return Reply(response.status, response.headers["content-type"], response.headers["allow"], response.read())
    finally:
        connection.close()


def span_bytes(span_id: str = SPAN_ID) -> bytes:
    """Encode one span."""
    return encode_spans([sdk_span(span_id=span_id)]).SerializeToString()


@pytest.mark.parametrize("compression", list(Compression))
def test_spans_of_the_official_exporter(receiver: Receiver, compression: Compression) -> None:
    """The official exporter succeeds, in each of its encodings, and its span is there."""
    exporter = OTLPSpanExporter(f"{receiver.endpoint}/v1/traces", compression=compression)
    assert exporter.export([sdk_span("GET /")]) is SpanExportResult.SUCCESS
    exporter.shutdown()  # type: ignore[no-untyped-call]  # the exporter's, which is not annotated
    (span,) = receiver.spans
    assert (span.name, span.trace_id, span.span_id) == ("GET /", TRACE_ID, SPAN_ID)
    assert receiver.refusals == ()


def test_metrics_and_logs_of_the_official_exporters(receiver: Receiver) -> None:
    """Metrics and log records arrive by the official exporters, each kept as what it is."""
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(f"{receiver.endpoint}/v1/metrics"))
    metrics = MeterProvider([reader])
    metrics.get_meter("shop").create_counter("sold").add(2)
    metrics.force_flush()
    metrics.shutdown()
    logs = LoggerProvider()
    logs.add_log_record_processor(SimpleLogRecordProcessor(OTLPLogExporter(f"{receiver.endpoint}/v1/logs")))
    logs.get_logger("shop").emit(body="gone", severity_text="error")
    logs.shutdown()

    (metric,) = receiver.metrics[:1]
    assert isinstance(metric, MetricRecord)
    assert [point.value for point in metric.points if isinstance(point, NumberPoint)] == [2]
    (record,) = receiver.logs
    assert isinstance(record, LogRecord)
    assert (record.body, record.severity) == ("gone", "error")
    assert receiver.spans == ()


def test_json(receiver: Receiver) -> None:
    """JSON is taken as well, and answered in JSON."""
    reply = send(receiver, "POST", "/v1/traces", json.dumps(JSON_SPANS).encode(), content_type="application/json")
    assert reply == Reply(200, "application/json", None, b"{}")
    assert [span.span_id for span in receiver.spans] == [SPAN_ID]


@pytest.mark.parametrize("path", ["/v1/traces", "/v1/metrics", "/v1/logs"])
def test_protobuf_is_answered_in_protobuf(receiver: Receiver, path: str) -> None:
    """The answer to protobuf is the empty response message of the path's service; an empty request is one, too."""
    assert send(receiver, "POST", path, b"", content_type=PROTOBUF) == Reply(200, PROTOBUF, None, b"")


@pytest.mark.parametrize(
    ("method", "path", "content_type", "body", "status"),
    [
        pytest.param("POST", "/v1/profiles", PROTOBUF, b"", 404, id="no such signal"),
        pytest.param("POST", "/", PROTOBUF, b"", 404, id="root"),
        pytest.param("GET", "/v1/traces", "", b"", 405, id="GET"),
        pytest.param("POST", "/v1/traces", "text/plain", b"x", 415, id="content type"),
        pytest.param("POST", "/v1/traces", PROTOBUF, b"\xff", 400, id="no protobuf"),
        pytest.param("POST", "/v1/traces", "application/json", b"[", 400, id="no JSON"),
        pytest.param("POST", "/v1/traces", PROTOBUF, bytes(2_000_000), 413, id="too large"),
    ],
)
def test_refusals(
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    path: str,
    content_type: str,
    body: bytes,
    status: int,
) -> None:
    """A bad request gets the status that names its fault and is kept to be told; nothing is stored."""
    monkeypatch.setattr(otlp, "MAX_BODY_BYTES", 1_000_000)
    reply = send(receiver, method, path, body, content_type=content_type)
    assert reply.status == status
    assert reply.allow == ("POST" if status == 405 else None)
    (refusal,) = receiver.refusals
    assert refusal.startswith(f"{method} {path}: {status}: ")
    if content_type == PROTOBUF:
        told = Status()
        told.ParseFromString(reply.body)
        assert (reply.content_type, refusal.endswith(told.message)) == (PROTOBUF, True)
    elif content_type == "application/json":
        assert refusal.endswith(json.loads(reply.body)["message"])
    else:
        assert reply.content_type == "text/plain; charset=utf-8"
        assert refusal.endswith(reply.body.decode().strip())
    assert receiver.spans == receiver.metrics == receiver.logs == ()


def raw(receiver: Receiver, sent: bytes) -> bytes:
    """Send bytes, then the end, and return all that comes back."""
    host, _, port = receiver.endpoint.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    return received


HEAD = b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\n"


@pytest.mark.parametrize(
    ("sent", "status_line"),
    [
        pytest.param(
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(span_bytes()), span_bytes()),
            b"HTTP/1.1 200 ",
            id="chunked",
        ),
        pytest.param(
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (1_000_001, bytes(1_000_001)),
            b"HTTP/1.1 413 ",
            id="chunked, one byte too many",
        ),
        pytest.param(HEAD + b"Content-Length: 99\r\n\r\nshort", b"HTTP/1.1 400 ", id="shorter than it says"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", b"HTTP/1.1 400 ", id="bad chunk"),
        pytest.param(HEAD + b"\r\n", b"HTTP/1.1 411 ", id="no length"),
        pytest.param(HEAD + b"Content-Length: many\r\n\r\n", b"HTTP/1.1 400 ", id="bad length"),
        pytest.param(HEAD + b"Content-Length: %b\r\n\r\n" % (b"9" * 5_000), b"HTTP/1.1 413 ", id="length beyond all"),
        pytest.param(b"GET http://[/ HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 ", id="no URL"),
        pytest.param(b"\x16\x03\x01\x00\r\n\r\n", b"HTTP/1.1 400 ", id="TLS"),
    ],
)
def test_bytes_on_the_socket(
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    sent: bytes,
    status_line: bytes,
) -> None:
    """Chunked bodies are taken, broken ones are answered, and neither writes to the terminal."""
    monkeypatch.setattr(otlp, "MAX_BODY_BYTES", 1_000_000)
    assert raw(receiver, sent).startswith(status_line)
    assert len(receiver.spans) == (b" 200 " in status_line)
    assert send(receiver, "POST", "/v1/logs", content_type=PROTOBUF).status == 200
    assert capfd.readouterr() == ("", "")


def test_oldest_records_make_room() -> None:
    """A full store keeps the newest records of each signal and counts what it dropped."""
    with Receiver(max_records=2) as receiver:
        for number in range(1, 6):
            send(receiver, "POST", "/v1/traces", span_bytes(f"{number:016x}"), content_type=PROTOBUF)
        assert [int(span.span_id, 16) for span in receiver.spans] == [4, 5]
        assert receiver.dropped == 3


def test_many_clients_at_once(receiver: Receiver) -> None:
    """Requests of several threads are all stored, none twice."""

    def send_five(first: int) -> None:
        for number in range(first, first + 5):
            send(receiver, "POST", "/v1/traces", span_bytes(f"{number:016x}"), content_type=PROTOBUF)

    threads = [threading.Thread(target=send_five, args=(first,)) for first in range(1, 41, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(int(span.span_id, 16) for span in receiver.spans) == list(range(1, 41))


def test_close_leaves_nothing() -> None:
    """close() ends all threads and sockets, with silent and half-sent connections open, and may come twice."""
    before = set(threading.enumerate())
    receiver = Receiver()
    address = ("127.0.0.1", int(receiver.endpoint.rpartition(":")[2]))
    assert send(receiver, "POST", "/v1/traces", span_bytes(), content_type=PROTOBUF).status == 200
    with socket.create_connection(address, timeout=20), socket.create_connection(address, timeout=20) as half:
        half.sendall(HEAD + b"Content-Length: 99\r\n\r\nhalf")
        bounded(receiver.close, timeout_s=5)
        receiver.close()
    assert set(threading.enumerate()) == before
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=20)
    # What had come is still there to be looked at.
    assert len(receiver.spans) == 1


def test_it_listens_on_this_machine_only(receiver: Receiver) -> None:
    """The endpoint is 127.0.0.1, and two receivers have two ports."""
    assert receiver.endpoint.startswith("http://127.0.0.1:")
    with Receiver() as other:
        assert other.endpoint != receiver.endpoint


def test_missing_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the decoder cannot be imported, each request is told so, and the receiver remembers why."""
    monkeypatch.setattr(intake, "DECODER", "tracedbridge.no_such_module")
    monkeypatch.delitem(sys.modules, "tracedbridge.no_such_module", raising=False)
    with Receiver() as receiver:
        reply = send(receiver, "POST", "/v1/traces", span_bytes(), content_type=PROTOBUF)
    assert (reply.status, receiver.spans) == (500, ())
    assert b"tracedbridge.no_such_module" in reply.body
    assert "ModuleNotFoundError" in receiver.refusals[0]
