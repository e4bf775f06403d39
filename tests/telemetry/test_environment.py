"""The OTEL_* variables mean what the specification says: exporters by name, protocols, limits."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from tests.support import HANG_S, answer, event
from tests.telemetry.apps import Pairs, asgi_around
from tests.telemetry.functions import run_function
from tests.telemetry.received import Received, drawn
from tracedbridge import create_bridge

pytestmark = pytest.mark.telemetry


def ok(headers: Pairs) -> str:
    """Answer anything."""
    return "ok"


def run(invocations: int = 1) -> None:
    """Answer some events."""
    with create_bridge(asgi_around(ok)) as bridge:
        for _ in range(invocations):
            assert answer(bridge(event(), None)).body == b"ok"


def console(text: str) -> list[dict[str, object]]:
    """Read what the console exporters wrote: JSON objects, one after the other."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while (at := text.find("{", at)) >= 0:
        value, at = decoder.raw_decode(text, at)
        found.append(value)
    return found


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings."""
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


APP = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
"""


# In a process of its own: the SDK's console exporters write to the stdout that they were imported with.
def test_console_and_several(tmp_path: Path, received: Received) -> None:
    """
    The exporter ``console`` writes its signal to stdout, beside the line.

    Of several exporters each gets everything, once, however the list is written.
    """
    ran = run_function(
        tmp_path, APP, [event(), event()], OTEL_EXPORTER_OTLP_ENDPOINT=received.endpoint,
        OTEL_TRACES_EXPORTER=" console, none ,OTLP,console", OTEL_METRICS_EXPORTER="console",
        OTEL_LOGS_EXPORTER="console", TRACEDBRIDGE_FLUSH_TIMEOUT_MS=str(HANG_S * 1000),
    )  # fmt: skip
    assert ran.stderr == ""
    told = console(ran.stdout)
    spans = [each["name"] for each in told if "parent_id" in each]
    assert spans == ["import index", "import app", "cold start", "GET", "GET"]
    assert len([each for each in told if "resource_metrics" in each]) >= 2
    assert [each["body"] for each in told if "severity_number" in each] == ["invocation"] * 2
    assert len([each for each in told if each.get("event") == "invocation"]) == 2
    assert drawn(received.spans) == "GET (server)\n  cold start\n    import app\n      import index\nGET (server)"
    assert (received.metrics, received.logs) == ([], [])


def test_none(received: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter ``none`` switches its signal off, with an endpoint or without."""
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "None")
    run()
    assert len(received.servers()) == 1
    assert (received.metrics, received.logs) == ([], [])


def test_an_unknown_exporter(
    received: Received, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An exporter that nobody offers is one warning by its name; the others, and the other signals, go on."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "zipkinish,otlp")
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "prometheusish")
    run(invocations=2)
    heard = warnings_of(caplog)
    assert len(heard) == 2
    assert ["zipkinish" in heard[0], "prometheusish" in heard[1]] == [True, True]
    assert len(received.servers()) == 2
    assert received.metrics == []
    assert len(received.logs) == 2


def test_http_json(received: Received, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The protocol ``http/json`` is not ours: one warning a signal, and http/protobuf is sent."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")
    run(invocations=2)
    heard = warnings_of(caplog)
    assert len(heard) == 3
    assert all("http/json" in text and "http/protobuf" in text for text in heard)
    assert len(received.servers()) == 2


def test_the_protocol_of_a_signal(
    received: Received, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A signal's own protocol comes before the common one."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier-pigeon")
    for signal in ("TRACES", "METRICS", "LOGS"):
        monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "http/protobuf")
    run()
    assert warnings_of(caplog) == []
    assert len(received.servers()) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_BSP_MAX_QUEUE_SIZE", "many"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "-1"),
        ("OTEL_BLRP_MAX_QUEUE_SIZE", "1.5"),
        ("OTEL_TRACES_SAMPLER", "dice"),
        ("OTEL_TRACES_SAMPLER_ARG", "2"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "tight"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "no-value"),
        ("OTEL_METRICS_EXEMPLAR_FILTER", "some"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "yesterday"),
        ("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", "round"),
        ("OTEL_RESOURCE_ATTRIBUTES", "no-value"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "few"),
        ("OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST", "(["),
        ("OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SANITIZE_FIELDS", "(["),
    ],
    ids=lambda value: str(value).removeprefix("OTEL_"),
)
def test_bad_values(
    name: str,
    value: str,
    received: Received,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """
    A value that means nothing is told, and costs neither the response nor any span, metric or record.

    Source: OpenTelemetry, "Environment Variable Specification": a warning, and as if it were not set.
    """
    monkeypatch.setenv(name, value)
    if name == "OTEL_TRACES_SAMPLER_ARG":
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "traceidratio")
    with create_bridge(asgi_around(lambda headers: dict(headers).get("traceparent", ""))) as bridge:
        told = [answer(bridge(event(), None)).body.decode() for _ in range(2)]
    assert [each.split("-")[1:3] for each in told] == [[span.trace_id, span.span_id] for span in received.servers()]
    assert len(received.servers()) == 2
    assert received.counts("faas.invocations") == {(): 2}
    assert len(received.logs) == 2
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] or capsys.readouterr().err


def test_span_limits(received: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    """The standard limits of attributes hold for our spans, too."""
    monkeypatch.setenv("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "10")
    with create_bridge(asgi_around(ok)) as bridge:
        bridge(event(path="/" + "a" * 500), None)
    assert received.server().attributes["url.path"] == "/" + "a" * 9


def test_known_methods(received: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    """The standard variable says which methods are known, instead of the conventions' list."""
    monkeypatch.setenv("OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS", "PURGE,GET")
    with create_bridge(asgi_around(ok)) as bridge:
        for method in ("PURGE", "POST"):
            bridge(event(method), None)
    assert [span.name for span in received.servers()] == ["PURGE", "HTTP"]
