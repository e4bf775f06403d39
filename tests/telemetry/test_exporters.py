"""Exporters that other packages offer are found by their names, and cannot harm more than the official ones."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from tests.support import answer, event
from tests.telemetry.apps import Pairs, asgi_around
from tests.telemetry.received import Received
from tracedbridge import create_bridge

pytestmark = pytest.mark.telemetry

# In a module of its own, as an installed package has it; what it keeps is looked at by `seen`.
VENDOR = """
import threading
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult

seen, enabled, threads, release = [], [], [], threading.Event()

class Good(SpanExporter):
    def export(self, spans):
        seen.extend(span.name for span in spans)
        enabled.append(is_instrumentation_enabled())
        threads.append(threading.current_thread().name)
        return SpanExportResult.SUCCESS

class Failing(Good):
    def export(self, spans):
        super().export(spans)
        return SpanExportResult.FAILURE

class Raising(Good):
    def export(self, spans):
        super().export(spans)
        raise OSError("the vendor is down")

class Hanging(Good):
    def export(self, spans):
        super().export(spans)
        release.wait(20)
        return SpanExportResult.SUCCESS

class Unmakeable(Good):
    def __init__(self):
        raise KeyError("VENDOR_API_KEY")

readers = []

def reader():
    readers.append(InMemoryMetricReader())
    return readers[-1]

class Never(Sampler):
    def should_sample(self, parent_context, trace_id, name, *args, **kwargs):
        return SamplingResult(Decision.DROP)
    def get_description(self):
        return "never"

def never(argument):
    assert argument == "argument"
    return Never()
"""

ENTRY_POINTS = """
[opentelemetry_traces_exporter]
good = {module}:Good
failing = {module}:Failing
raising = {module}:Raising
hanging = {module}:Hanging
unmakeable = {module}:Unmakeable
broken = {module}_that_is_absent:Good

[opentelemetry_metrics_exporter]
pulled = {module}:reader

[opentelemetry_traces_sampler]
never = {module}:never
"""


class Vendor:
    """The vendor's module, as it was imported."""

    def __init__(self, name: str) -> None:
        """Import it."""
        module = __import__(name)
        self.seen: list[str] = module.seen
        self.enabled: list[bool] = module.enabled
        self.threads: list[str] = module.threads
        self.release: threading.Event = module.release
        self.readers = module.readers


@pytest.fixture
def vendor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Vendor:
    """A package of somebody else's, installed for this test."""
    # A name for each test: imported modules stay.
    name = f"vendor_{abs(hash(request.node.nodeid))}"
    (tmp_path / f"{name}.py").write_text(VENDOR)
    info = tmp_path / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS.format(module=name))
    monkeypatch.syspath_prepend(str(tmp_path))
    return Vendor(name)


def ok(headers: Pairs) -> str:
    """Answer anything."""
    return "ok"


def run(invocations: int = 2) -> float:
    """Answer some events and return how long the slowest took, in seconds."""
    slowest = 0.0
    with create_bridge(asgi_around(ok)) as bridge:
        for _ in range(invocations):
            begun_s = time.monotonic()
            assert answer(bridge(event(), None)).body == b"ok"
            slowest = max(slowest, time.monotonic() - begun_s)
    return slowest


def test_an_exporter_of_others(vendor: Vendor, received: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed exporter gets the spans, on no thread of the app's, and is not instrumented itself."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "good,otlp")
    run()
    assert vendor.seen == ["import app", "cold start", "GET", "GET"]
    assert set(vendor.enabled) == {False}
    assert all(name.startswith("tracedbridge-") for name in vendor.threads)
    assert len(received.servers()) == 2


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("failing", "fail"),
        ("raising", "OSError"),
        ("unmakeable", "VENDOR_API_KEY"),
        ("broken", "ModuleNotFoundError"),
    ],
)
def test_bad_exporters(
    name: str,
    word: str,
    vendor: Vendor,
    received: Received,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One that fails, raises or cannot be made is one warning; the exporter beside it gets everything."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", f"{name},otlp")
    run(invocations=3)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert word in warning
    assert len(received.servers()) == 3
    if vendor.seen:
        counted = received.counts("tracedbridge.export.items", "signal", "outcome")
        assert {signal for signal, outcome in counted if outcome not in ("sent", None)} == {"traces"}


def test_an_exporter_that_hangs(vendor: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that hangs for ever, where nobody can end it, costs the budget once; then it is not waited for."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "hanging")
    monkeypatch.setenv("TRACEDBRIDGE_FLUSH_TIMEOUT_MS", "200")
    begun_s = time.monotonic()
    try:
        assert run(invocations=10) < 3 * 0.2 + 1
        assert time.monotonic() - begun_s < 2 * (3 * 0.2 + 1)
    finally:
        vendor.release.set()


def test_a_reader_that_is_pulled_from(vendor: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A metrics exporter that is a reader, as Prometheus', has our metrics when it looks."""
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "pulled")
    with create_bridge(asgi_around(ok)) as bridge:
        for _ in range(2):
            bridge(event(), None)
        (reader,) = vendor.readers
        data = reader.get_metrics_data()
    values = {
        metric.name: [getattr(point, "value", None) for point in metric.data.data_points]
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    assert values["faas.invocations"] == [2]
    assert "http.server.request.duration" in values


def test_a_sampler_of_others(vendor: Vendor, received: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed sampler decides, with its argument."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "never")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "argument")
    run()
    assert received.spans == []
    assert len(received.logs) == 2
