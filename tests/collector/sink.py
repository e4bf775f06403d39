"""
An OTLP/HTTP backend for tests that keeps every message as it came.

Decodes with opentelemetry-proto and nothing of ours, so that a fault in our decoder cannot hide one in what we send.
"""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple, Self

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

__all__ = ("Attributes", "ReceivedLog", "ReceivedMetric", "ReceivedSpan", "Sink", "attributes_of", "value_of")

Attributes = dict[str, Any]
"""Plain values by key."""

# Longer than any test lets a connection rest.
_SILENCE_TIMEOUT_S = 30.0


class ReceivedSpan(NamedTuple):
    """A span and what it came with; the scope is its name and version."""

    resource: Attributes
    scope: str
    item: Span


class ReceivedMetric(NamedTuple):
    """A metric and what it came with; the scope is its name and version."""

    resource: Attributes
    scope: str
    item: Metric


class ReceivedLog(NamedTuple):
    """A log record and what it came with; the scope is its name and version."""

    resource: Attributes
    scope: str
    item: LogRecord


class Sink:
    """Listens on a free port of 127.0.0.1 from its construction to ``close()``."""

    def __init__(self) -> None:
        self.spans: list[ReceivedSpan] = []
        self.metrics: list[ReceivedMetric] = []
        self.logs: list[ReceivedLog] = []
        # What a sender did wrong; a test that reads the lists must find this one empty.
        self.faults: list[str] = []
        self._lock = threading.Lock()
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        """The base URL, as ``OTEL_EXPORTER_OTLP_ENDPOINT`` wants it."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def everything(self) -> list[ReceivedSpan | ReceivedMetric | ReceivedLog]:
        """Return what came, of all three signals."""
        return [*self.spans, *self.metrics, *self.logs]

    def sort(self) -> None:
        """Put what came into the order of its own times; on the way through a collector one may overtake another."""
        self.spans.sort(key=lambda each: each.item.start_time_unix_nano)
        self.metrics.sort(key=lambda each: _collected_ns(each.item))
        self.logs.sort(key=lambda each: each.item.time_unix_nano)

    def take(self, path: str, body: bytes) -> bytes:
        """
        Keep what was sent to ``path`` and return the answer's body.

        Raises:
            LookupError: Nothing is at that path.
            google.protobuf.message.DecodeError: The body is no such message.
        """
        keep, answer = {
            "/v1/traces": (self._take_spans, ExportTraceServiceResponse()),
            "/v1/metrics": (self._take_metrics, ExportMetricsServiceResponse()),
            "/v1/logs": (self._take_logs, ExportLogsServiceResponse()),
        }[path]
        with self._lock:
            keep(body)
        return answer.SerializeToString()

    def close(self) -> None:
        """Listen no more, and end all threads; what came stays."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _take_spans(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            known = attributes_of(resource.resource.attributes)
            for scope in resource.scope_spans:
                self.spans += (ReceivedSpan(known, _named(scope.scope), span) for span in scope.spans)

    def _take_metrics(self, body: bytes) -> None:
        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            known = attributes_of(resource.resource.attributes)
            for scope in resource.scope_metrics:
                self.metrics += (ReceivedMetric(known, _named(scope.scope), metric) for metric in scope.metrics)

    def _take_logs(self, body: bytes) -> None:
        for resource in ExportLogsServiceRequest.FromString(body).resource_logs:
            known = attributes_of(resource.resource.attributes)
            for scope in resource.scope_logs:
                self.logs += (ReceivedLog(known, _named(scope.scope), record) for record in scope.log_records)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # Not waited for: an exporter may keep its connection open for longer than the test.
    block_on_close = False

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a sender that is killed breaks its connection."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _SILENCE_TIMEOUT_S
    server: _Server

    def do_POST(self) -> None:
        sink = self.server.sink
        body = self._body()
        try:
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            if self.headers.get("Content-Type") != "application/x-protobuf":
                raise ValueError(f"the content type is {self.headers.get('Content-Type')!r}")
            answer = sink.take(self.path, body)
        except Exception as error:
            sink.faults.append(f"{self.path}: {type(error).__name__}: {error}")
            self.send_error(400)
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name that it has in http.server
        """Say nothing."""

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        return b"".join(self._chunks())

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()


def _collected_ns(metric: Metric) -> int:
    times = [point.time_unix_nano for point in metric.sum.data_points]
    times += [point.time_unix_nano for point in metric.histogram.data_points]
    return max(times, default=0)


def _named(scope: InstrumentationScope) -> str:
    return f"{scope.name} {scope.version}".strip()


def attributes_of(pairs: Any) -> Attributes:
    """Return the values of protobuf's key-value pairs; a key that comes twice is an error of the sender's."""
    values: Attributes = {}
    for pair in pairs:
        assert isinstance(pair, KeyValue)
        assert pair.key not in values, f"the attribute {pair.key!r} comes twice"
        values[pair.key] = value_of(pair.value)
    return values


def value_of(value: AnyValue) -> Any:
    """Return one value as plain Python."""
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [value_of(each) for each in value.array_value.values]
    if kind == "kvlist_value":
        return attributes_of(value.kvlist_value.values)
    return getattr(value, kind)
