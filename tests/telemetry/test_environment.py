"""The OTEL_* variables mean what the specification says: exporters by name, protocols, limits."""

from __future__ import annotations

import json

import pytest

from tests.support import answer, event
from tests.telemetry.apps import Pairs, asgi_around
from tests.telemetry.received import Received, drawn
from tracedbridge import create_bridge

pytestmark = pytest.mark.telemetry

Capture = pytest.CaptureFixture[str]


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


@pytest.mark.parametrize(
    ("signal", "key"), [("TRACES", "parent_id"), ("METRICS", "resource_metrics"), ("LOGS", "severity_number")]
)
def test_console(signal: str, key: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """The exporter ``console`` writes its signal to stdout, beside the line."""
    monkeypatch.setenv(f"OTEL_{signal}_EXPORTER", "console")
    run()
    told = console(capsys.readouterr().out)
    assert [each for each in told if key in each]
    assert [each for each in told if each.get("event") == "invocation"]


def test_none(received: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter ``none`` switches its signal off, with an endpoint or without."""
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "None")
    run()
    assert len(received.servers()) == 1
    assert (received.metrics, received.logs) == ([], [])


@pytest.mark.parametrize("names", ["otlp,console", " console , otlp ", "console,otlp,console", "otlp,none,console"])
def test_several(names: str, received: Received, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """Several exporters get every span, each once."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", names)
    run()
    spans = [each["name"] for each in console(capsys.readouterr().out) if "parent_id" in each]
    assert spans == ["import app", "cold start", "GET"]
    assert drawn(received.spans) == "GET (server)\n  cold start\n    import app"


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
        ("OTEL_TRACES_SAMPLER_ARG", "often"),
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
    name: str, value: str, received: Received, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A value that means nothing is told, and costs neither the response nor any span, metric or record."""
    monkeypatch.setenv(name, value)
    if name == "OTEL_TRACES_SAMPLER_ARG":
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "traceidratio")
    run(invocations=2)
    assert len(received.servers()) == 2
    assert received.counts("faas.invocations") == {(): 2}
    assert len(received.logs) == 2
    assert [record for record in caplog.records if record.levelno >= 30]


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
