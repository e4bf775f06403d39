"""One line for each invocation, on stdout and by OTLP, which nobody outside can forge or break."""

from __future__ import annotations

import io
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog

from tests.support import answer, event
from tests.telemetry.apps import KINDS, Pairs, app_around, asgi_around
from tests.telemetry.functions import json_lines, run_on_terminal
from tests.telemetry.received import Received, steady
from tests.telemetry.unconfigured import CHATTY, unconfigured_logging
from tracedbridge import EventError, create_bridge
from tracedbridge.messages import Kind

pytestmark = pytest.mark.telemetry

Capture = pytest.CaptureFixture[str]


def ok(headers: Pairs) -> str:
    """Answer anything."""
    return "ok"


@pytest.mark.parametrize("kind", KINDS)
def test_the_line(kind: Kind, received: Received, capsys: Capture) -> None:
    """An invocation is one line of JSON with all that it was; nothing else is written."""
    with create_bridge(app_around(kind, ok)) as bridge:
        bridge(event(), None)
        capsys.readouterr()
        bridge(event("GET", "/a%20b?c=d", body="four"), None)
    told = capsys.readouterr()
    (line,) = json_lines(told.out)
    assert told.err == ""
    _, span = received.servers()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", line.pop("timestamp"))
    handler_log = line.pop("handler_log", None)
    assert bool(handler_log) is (kind == "http_server")
    assert steady(line, "function", "memory_mb") == {
        "event": "invocation",
        "level": "info",
        "function": "…",
        "invocation_id": span.attributes["faas.invocation_id"],
        "trace_id": span.trace_id,
        "span_id": span.span_id,
        "method": "GET",
        "path": "/a%20b",
        "status": 200,
        "bytes_in": 4,
        "bytes_out": 2,
        "duration_ms": "…",
        "cpu_ms": "…",
        "memory_mb": "…",
        "cold_start": False,
    }
    assert line["duration_ms"] == pytest.approx((span.end_ns - span.start_ns) / 1e6, abs=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_the_record(kind: Kind, received: Received, capsys: Capture) -> None:
    """The same goes out by OTLP: body, level, ids, and every other field as an attribute."""
    with create_bridge(app_around(kind, ok)) as bridge:
        bridge(event(), None)
    (line,) = json_lines(capsys.readouterr().out)
    record = received.log("invocation")
    assert (record.severity.lower(), record.severity_number) == ("info", 9)
    assert (record.trace_id, record.span_id) == (line["trace_id"], line["span_id"])
    assert record.scope.name == "tracedbridge"
    fields = {
        key: value for key, value in line.items() if key not in ("event", "level", "timestamp", "trace_id", "span_id")
    }
    assert {
        key: list(value) if isinstance(value, tuple) else value for key, value in record.attributes.items()
    } == fields


@pytest.mark.parametrize(
    ("text", "level", "error", "message"),
    [
        pytest.param("404:", "info", None, None, id="4xx"),
        pytest.param("503:", "error", "503", None, id="5xx"),
        pytest.param("raise", "error", "ConnectionError", "no route", id="exception"),
    ],
)
def test_the_line_of_an_error(
    text: str, level: str, error: str | None, message: str | None, received: Received, capsys: Capture
) -> None:
    """A failure is at level error, with the class of the exception or the status."""

    def work(headers: Pairs) -> str:
        if text == "raise":
            raise ConnectionError("no route")
        return text

    with create_bridge(asgi_around(work)) as bridge:
        status = answer(bridge(event(), None)).status
    (line,) = json_lines(capsys.readouterr().out)
    assert (line["level"], line["status"]) == (level, status)
    assert (line.get("error"), line.get("error_message")) == (error, message)
    assert received.log("invocation").severity_number == {"info": 9, "error": 17}[level]


def test_the_line_of_a_bad_request(received: Received, capsys: Capture) -> None:
    """A broken request is a warning with its reason and the ids of its span."""
    with create_bridge(asgi_around(ok)) as bridge:
        bridge(event(path="no-slash"), None)
    (line,) = json_lines(capsys.readouterr().out)
    assert (line["level"], line["status"], line["error"]) == ("warning", 400, "BadRequestError")
    assert "no-slash" in line["error_message"]
    assert line["trace_id"] == received.server().trace_id


def test_the_line_of_an_event_error(received: Received, capsys: Capture) -> None:
    """So is an event that is none, at level error and without a request's fields."""
    with create_bridge(asgi_around(ok)) as bridge, pytest.raises(EventError):
        bridge({}, None)
    (line,) = json_lines(capsys.readouterr().out)
    assert (line["level"], line["error"]) == ("error", "EventError")
    assert not {"status", "method", "path"} & set(line)


def test_handler_log(received: Received, capsys: Capture) -> None:
    """A handler class' access log is in the line, with secrets in its query redacted."""
    with create_bridge(app_around("http_server", ok)) as bridge:
        bridge(event(path="/a?sig=SECRET&b=c"), None)
    told = capsys.readouterr()
    assert told.err == ""
    assert "SECRET" not in told.out
    (line,) = json_lines(told.out)
    assert '"GET /a' in str(line["handler_log"])
    assert "SECRET" not in str(received.log("invocation").attributes)


@pytest.mark.parametrize(
    "path",
    ["/a\nb", '/a\r\n{"event": "invocation"}', "/\x1b[31m", "/\u2028"],
    ids=["line feed", "a line of its own", "escape sequence", "line separator"],
)
def test_no_injection_by_path(path: str, received: Received, capsys: Capture) -> None:
    """What a client puts into its request stays inside the one line of it."""
    with create_bridge(asgi_around(ok)) as bridge:
        assert answer(bridge(event(path=path), None)).status == 400
    text = capsys.readouterr().out
    assert text.count("\n") == 1
    assert text.isascii()
    assert "\x1b" not in text
    assert json_lines(text)[0]["error"] == "BadRequestError"


@pytest.mark.parametrize("message", ["a\nb", 'a\r\n{"event": "invocation"}', "\x1b[31m\x00", "\u2028\u0085", "\udcff"])
def test_no_injection_by_error(message: str, received: Received, capsys: Capture) -> None:
    """What an exception says stays inside the one line, too, and can be read back from it."""

    def work(headers: Pairs) -> str:
        raise ValueError(message)

    with create_bridge(asgi_around(work)) as bridge:
        bridge(event(), None)
    text = capsys.readouterr().out
    assert text.count("\n") == 1
    assert "\x1b" not in text
    assert text.isascii()
    (line,) = json_lines(text)
    assert line["error_message"] in (message, message.encode("utf-8", "replace").decode())


def test_on_a_terminal(tmp_path: Path) -> None:
    """On a terminal the lines are for people: no JSON, in colour, one line each, a traceback below its own."""
    screen = run_on_terminal(tmp_path, CHATTY, [event(path="/x"), event(path="/crash")])
    lines = [line for line in screen.splitlines() if "trace_id" in line]
    assert len(lines) == 4
    assert "ValueError: first" in screen.partition(lines[3])[2]
    assert not any(line.startswith("{") for line in screen.splitlines())
    assert "\x1b[" in lines[0]
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]
    for line, *parts in (
        (plain[0], "sold", "item", "a b", "trace_id", "invocation_id"),
        (plain[1], "3 left", "trace_id", "invocation_id"),
        (plain[2], "invocation", "path", "/x", "status", "200", "trace_id"),
        (plain[3], "invocation", "ValueError", "500", "second"),
    ):
        assert [part for part in parts if part not in line] == []
    assert "\x1b[31mred" not in screen, "an escape sequence of an error message went through"


class Broken(io.StringIO):
    """A stdout that fails in its own way."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def write(self, text: str) -> int:
        raise self._error


def _closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize(
    "stdout",
    [
        pytest.param(_closed, id="closed"),
        pytest.param(lambda: None, id="None"),
        pytest.param(lambda: Broken(BrokenPipeError()), id="broken pipe"),
        pytest.param(lambda: Broken(OSError(28, "no space left")), id="full disk"),
        pytest.param(lambda: Broken(UnicodeEncodeError("ascii", "é", 0, 1, "no")), id="cannot encode"),
        pytest.param(lambda: Broken(RuntimeError("reentrant")), id="an error of its own"),
    ],
)
@unconfigured_logging()
def test_broken_stdout(stdout: Callable[[], Any], received: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stdout that is closed or broken changes no response, whether we write or the app does; OTLP goes on."""

    def work(headers: Pairs) -> str:
        structlog.get_logger().info("by structlog")
        logging.getLogger("shop").warning("by logging")
        return "ok"

    with create_bridge(asgi_around(work)) as bridge:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stdout())
            told = answer(bridge(event(), None))
    assert (told.status, told.body) == (200, b"ok")
    assert {str(record.body) for record in received.logs} == {"by structlog", "by logging", "invocation"}


@unconfigured_logging()
def test_the_exporters_own_lines(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """What an exporter that fails logs does not become a record that it has to export."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    with create_bridge(asgi_around(ok)) as bridge:
        for _ in range(4):
            bridge(event(), None)
    told = capsys.readouterr()
    warnings = [line for line in json_lines(told.out) if line["event"].startswith("could not export")]
    assert len(warnings) == 3, "one for each signal"
    assert {line["level"] for line in warnings} == {"warning"}
