"""The viewer listens on one port of this machine, takes what real exporters send, and leaves nothing behind."""

from __future__ import annotations

import errno
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from tests.serving.viewer.test_app import PROTOBUF, TRACE_ID, body
from tests.support import HANG_S, bounded
from tracedbridge.refusal import Refusal
from tracedbridge.serving import listening
from tracedbridge.serving.listening import bound
from tracedbridge.serving.viewer.saved import read
from tracedbridge.serving.viewer.server import Viewer
from tracedbridge.serving.viewer.store import Store

pytestmark = pytest.mark.telemetry


@pytest.fixture(name="viewer")
def running_viewer() -> Iterator[Viewer]:
    """A viewer on a free port."""
    with Viewer(0) as viewer:
        yield viewer


def ask(viewer: Viewer, method: str, path: str, sent: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    """Ask for a path and return status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", viewer.port, timeout=HANG_S)
    try:
        connection.request(method, path, sent, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def told(viewer: Viewer, path: str) -> Any:
    """Return what the page's API says."""
    status, answer = ask(viewer, "GET", f"/api/viewer/{path}")
    assert status == 200
    return json.loads(answer)


@pytest.mark.parametrize("compression", list(Compression))
def test_what_the_official_exporters_send_is_seen(viewer: Viewer, compression: Compression) -> None:
    """Spans, metrics and log records of the official exporters, in each encoding, come out of the page's API."""
    resource = Resource({"service.name": "shop"})
    tracers = TracerProvider(resource=resource)
    tracers.add_span_processor(
        SimpleSpanProcessor(OTLPSpanExporter(f"{viewer.endpoint}/v1/traces", compression=compression))
    )
    with tracers.get_tracer("t").start_as_current_span("GET /items"):
        logs = LoggerProvider(resource)
        exporter = OTLPLogExporter(f"{viewer.endpoint}/v1/logs", compression=compression)
        logs.add_log_record_processor(SimpleLogRecordProcessor(exporter))
        logs.get_logger("shop").emit(body="sold", severity_text="INFO")
        logs.shutdown()
    tracers.shutdown()
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(f"{viewer.endpoint}/v1/metrics", compression=compression))
    meters = MeterProvider([reader], resource)
    meters.get_meter("shop").create_counter("sold").add(2)
    meters.shutdown()

    (trace,) = told(viewer, "traces")["traces"]
    assert (trace["name"], trace["service"], trace["logCount"]) == ("GET /items", "shop", 1)
    (log,) = told(viewer, "logs")["logs"]
    assert (log["body"], log["traceId"]) == ("sold", trace["traceId"])
    (metric,) = (each for each in told(viewer, "metrics")["metrics"] if each["name"] == "sold")
    assert metric["series"][0]["points"][0]["value"] == 2
    assert told(viewer, "state")["endpoint"] == viewer.endpoint
    assert viewer.refusals == ()


def test_the_next_port_if_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken ports are passed over, up to a limit, and what is printed is where it listens: 127.0.0.1."""
    with bound([0]) as taken:
        port = taken.getsockname()[1]
        with Viewer(port) as viewer:
            assert port < viewer.port <= port + 50
            assert (viewer.endpoint, viewer.url) == (
                f"http://127.0.0.1:{viewer.port}",
                f"http://127.0.0.1:{viewer.port}/",
            )
            assert ask(viewer, "GET", "/")[0] == 200
        monkeypatch.setattr(listening, "_MORE_PORTS", 0)
        with pytest.raises(Refusal, match=f"ports {port} to {port} are all taken"):
            Viewer(port)


@pytest.mark.parametrize("port", [-1, 65_536])
def test_no_such_port(port: int) -> None:
    """A number that is no port is refused as what it is."""
    with pytest.raises(Refusal, match="ports end at 65535"):
        Viewer(port)


def test_a_port_that_may_not_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system forbids a port, the reason is the system's, and no other port is tried."""

    def forbidden(ports: object, host: str) -> socket.socket:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(listening, "bound", forbidden)
    with pytest.raises(Refusal, match=r"could not listen on 127\.0\.0\.1:80: Permission denied; choose another"):
        Viewer(80)


def test_a_store_that_is_there() -> None:
    """A viewer can show a store that has something in it, and leaves it as it is when it ends."""
    store = Store()
    with Viewer(0, store=store) as viewer:
        assert ask(viewer, "POST", "/v1/traces", body("traces"), content_type=PROTOBUF)[0] == 200
    with Viewer(0, store=store) as viewer:
        assert [trace["traceId"] for trace in told(viewer, "traces")["traces"]] == [TRACE_ID]
    assert len(store.traces()) == 1


def test_what_came_is_saved(tmp_path: Path) -> None:
    """With a file to save to, what is accepted is in it when it is answered, and what is refused is not."""
    path = tmp_path / "saved.jsonl"
    with Viewer(0, save=path) as viewer:
        for signal in ("traces", "logs"):
            assert ask(viewer, "POST", f"/v1/{signal}", body(signal), content_type=PROTOBUF)[0] == 200
            assert ask(viewer, "POST", f"/v1/{signal}", b"\xff", content_type=PROTOBUF)[0] == 400
        assert [signal for signal, _ in read(path)] == ["traces", "logs"]
        assert told(viewer, "state")["saved"] == str(path)
        assert told(viewer, "state")["refused"] == 2


def test_a_viewer_that_cannot_start_leaves_nothing(tmp_path: Path) -> None:
    """Where a folder or a file is wrong, the port is free again, and no thread runs."""
    before = set(threading.enumerate())
    with bound([0]) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(Refusal, match=r"no index\.html"):
        Viewer(port, ui_dir=tmp_path, save=tmp_path / "saved.jsonl")
    with pytest.raises(Refusal, match="could not save to"):
        Viewer(port, save=tmp_path)
    with bound([port]):
        assert set(threading.enumerate()) == before


def test_close_leaves_nothing(viewer: Viewer) -> None:
    """Soon close() ends all threads and sockets, with silent and half-sent connections open."""
    head = b"POST /v1/traces HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-protobuf\r\n"
    with (
        socket.create_connection(("127.0.0.1", viewer.port), timeout=HANG_S),
        socket.create_connection(("127.0.0.1", viewer.port), timeout=HANG_S) as half,
    ):
        half.sendall(head + b"Content-Length: 99\r\n\r\nhalf")
        assert ask(viewer, "POST", "/v1/traces", body("traces"), content_type=PROTOBUF)[0] == 200
        begun_s = time.monotonic()
        bounded(viewer.close)
        viewer.close()
        assert time.monotonic() - begun_s < 3
        assert half.recv(12) == b"HTTP/1.1 400"
    assert not [thread for thread in threading.enumerate() if thread.name == "tracedbridge-viewer"]
    with pytest.raises(ConnectionRefusedError):
        ask(viewer, "GET", "/")


def test_many_exporters_and_a_page_at_once(viewer: Viewer) -> None:
    """Requests of many threads are all taken, while the page asks."""

    def send(first: int) -> None:
        for number in range(first, first + 5):
            sent = body("traces").replace(bytes.fromhex(TRACE_ID), number.to_bytes(16, "big"))
            assert ask(viewer, "POST", "/v1/traces", sent, content_type=PROTOBUF)[0] == 200

    threads = [threading.Thread(target=send, args=(first,)) for first in range(1, 41, 5)]
    for thread in threads:
        thread.start()
    seen = [told(viewer, "state")["seq"] for _ in range(5)]
    for thread in threads:
        thread.join(HANG_S)
    assert seen == sorted(seen)
    assert {int(trace["traceId"], 16) for trace in told(viewer, "traces")["traces"]} == set(range(1, 41))
