"""One line for each invocation, the ids on every line of the app, and the same records by OTLP."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog

from tests.support import answer, event
from tests.telemetry.apps import KINDS, Pairs, app_around, asgi_around, lifespan_around
from tests.telemetry.functions import json_lines, run_function, run_on_terminal
from tests.telemetry.received import Received, steady
from tracedbridge import EventError, create_bridge
from tracedbridge.messages import Kind

pytestmark = pytest.mark.telemetry

Capture = pytest.CaptureFixture[str]

SEVERITIES = {"info": ("INFO", 9), "warning": ("WARNING", 13), "error": ("ERROR", 17)}


def ok(headers: Pairs) -> str:
    """Answer anything."""
    return "ok"


@contextmanager
def unconfigured_logging() -> Iterator[None]:
    """Take pytest's handlers off the root logger: logging as in a process that nobody configured."""
    # Around the test itself: pytest puts its handlers there between fixtures and test.
    handlers, logging.root.handlers = logging.root.handlers, []
    try:
        yield
    finally:
        logging.root.handlers = handlers


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
    assert steady(line, "function") == {
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
    fields = {key: value for key, value in line.items() if key not in ("event", "level", "timestamp", "trace_id", "span_id")}
    assert {key: list(value) if isinstance(value, tuple) else value for key, value in record.attributes.items()} == fields


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
    ["/a\nb", "/a\r\n{\"event\": \"invocation\"}", "/\x1b[31m", "/\u2028"],
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


CHATTY = """
import logging
import sys
import structlog

log = structlog.get_logger()

async def app(scope, receive, send):
    assert scope["type"] == "http"
    if scope["path"] == "/crash":
        raise ValueError("first\\nsecond \\x1b[31mred")
    log.info("sold", item="a b")
    logging.getLogger("shop").warning("%s left", 3)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
"""


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


def test_unconfigured_app(tmp_path: Path, received: Received) -> None:
    """An app that configured neither structlog nor logging has JSON lines of both, with the ids, on stdout."""
    ran = run_function(tmp_path, CHATTY, [event()], OTEL_EXPORTER_OTLP_ENDPOINT=received.endpoint)
    assert ran.stderr == ""
    sold, left, line = ran.lines
    assert (sold["event"], sold["item"], sold["level"]) == ("sold", "a b", "info")
    assert (left["event"], left["logger"], left["level"]) == ("3 left", "shop", "warning")
    for each in (sold, left):
        assert [each[key] for key in ("trace_id", "span_id", "invocation_id")] == [
            line[key] for key in ("trace_id", "span_id", "invocation_id")
        ]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", each["timestamp"])


def log_in_request(
    say: Callable[[], object], monkeypatch: pytest.MonkeyPatch, startup: Callable[[], object] = lambda: None
) -> None:
    """Say something in a request, as an app would."""

    def work(headers: Pairs) -> str:
        say()
        return "ok"

    with create_bridge(lifespan_around(work, startup)) as bridge:
        bridge(event(), None)


@unconfigured_logging()
def test_levels_of_stdlib(
    received: Received, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Unconfigured, stdlib logging keeps its threshold, from WARNING on; the app's own thresholds count."""

    def say() -> None:
        logging.getLogger("shop").info("too low")
        monkeypatch.setattr(logging.getLogger("shop.verbose"), "level", logging.INFO)
        logging.getLogger("shop.verbose").info("by its own level")
        logging.getLogger("shop").warning("one")
        logging.getLogger("shop").critical("two")

    log_in_request(say, monkeypatch)
    events = [line["event"] for line in json_lines(capsys.readouterr().out)]
    assert events == ["one", "two", "invocation"]
    severities = {str(record.body): record.severity_number for record in received.logs}
    assert severities == {"by its own level": 9, "one": 13, "two": 21, "invocation": 9}


@unconfigured_logging()
def test_fields_of_stdlib(
    received: Received, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Extra fields of a stdlib line are fields of the JSON, whatever they are, and attributes of the record."""
    odd = object()
    log_in_request(
        lambda: logging.getLogger("shop").warning("sold\n%s", "x", extra={"item": 3, "odd": odd, "lines": "a\nb"}),
        monkeypatch,
    )
    text = capsys.readouterr().out
    assert text.count("\n") == 2
    line = json_lines(text)[0]
    assert (line["event"], line["item"], line["odd"], line["lines"]) == ("sold\nx", 3, repr(odd), "a\nb")
    record = received.log("sold\nx")
    assert (record.attributes["item"], record.attributes["odd"]) == (3, str(odd))
    assert record.attributes["logger"] == "shop"


@pytest.mark.parametrize("library", ["structlog", "logging"])
@unconfigured_logging()
def test_exceptions_in_lines(
    library: str, received: Received, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """A line with an exception has its traceback inside the one line, and so has its record."""

    def say() -> None:
        try:
            raise ValueError("no stock")
        except ValueError:
            if library == "structlog":
                structlog.get_logger().exception("could not sell")
            else:
                logging.getLogger("shop").exception("could not sell")

    log_in_request(say, monkeypatch)
    line, _ = json_lines(capsys.readouterr().out)
    assert (line["event"], line["level"]) == ("could not sell", "error")
    assert line["exception"].splitlines()[-1] == "ValueError: no stock"
    record = received.log("could not sell")
    assert record.severity_number == 17
    assert record.attributes["exception.stacktrace"] == line["exception"]
    if library == "logging":
        assert record.attributes["exception.type"] == "ValueError"
        assert record.attributes["exception.message"] == "no stock"


@pytest.mark.parametrize(
    "say",
    [
        pytest.param(lambda: logging.getLogger("shop").warning("%d", "no number"), id="arguments that do not fit"),
        pytest.param(lambda: logging.getLogger("shop").warning("x", extra={"file": "\udcff"}), id="lone surrogate"),
        pytest.param(lambda: logging.getLogger("shop").warning({"a": object()}), id="message that is no text"),
        pytest.param(lambda: logging.getLogger("shop").log(1000, "x"), id="level of its own"),
        pytest.param(lambda: structlog.get_logger().warning("x", odd=object(), file="\udcff"), id="structlog: odd values"),
        pytest.param(lambda: structlog.get_logger().warning("x", value=float("nan")), id="structlog: no number"),
        pytest.param(lambda: structlog.get_logger().warning("x", **{"trace_id": "mine"}), id="structlog: ids of its own"),
        pytest.param(lambda: structlog.get_logger().warning(None), id="structlog: no event"),
    ],
)
@unconfigured_logging()
def test_odd_lines(
    say: Callable[[], object],
    received: Received,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    """Whatever an app logs, its response stays, and the line of the invocation comes, by OTLP, too."""
    # What logging does with arguments that do not fit: it prints to stderr.
    monkeypatch.setattr(logging, "raiseExceptions", False)

    def work(headers: Pairs) -> str:
        say()
        return "ok"

    with create_bridge(asgi_around(work)) as bridge:
        assert answer(bridge(event(), None)).body == b"ok"
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["event"] == "invocation"
    assert received.log("invocation").attributes["status"] == 200


@unconfigured_logging()
def test_basic_config(
    received: Received, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """An app that configured logging keeps its handlers and format, in which it can name the ids."""
    written = io.StringIO()

    def startup() -> None:
        logging.basicConfig(
            stream=written, level=logging.INFO, format="%(levelname)s %(message)s %(trace_id)s %(span_id)s"
        )

    try:
        log_in_request(lambda: logging.getLogger("shop").info("sold"), monkeypatch, startup)
    finally:
        logging.root.setLevel(logging.WARNING)
    span = received.server()
    assert written.getvalue() == f"INFO sold {span.trace_id} {span.span_id}\n"
    (line,) = json_lines(capsys.readouterr().out)
    assert line["event"] == "invocation"
    assert received.log("sold").span_id == span.span_id


def test_records_have_the_ids(received: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler of the app's sees the ids on the record, the invocation's, too; ids of its own stay."""
    seen: list[logging.LogRecord] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record)

    handler = Handler()
    logger = logging.getLogger("shop")
    logger.addHandler(handler)

    def say() -> None:
        logger.warning("one")
        logger.warning("two", extra={"trace_id": "mine"})

    try:
        log_in_request(say, monkeypatch)
    finally:
        logger.removeHandler(handler)
    span = received.server()
    one, two = (vars(record) for record in seen)
    assert (one["trace_id"], one["span_id"]) == (span.trace_id, span.span_id)
    assert one["invocation_id"] == span.attributes["faas.invocation_id"]
    assert two["trace_id"] == "mine"


def test_dict_config(received: Received, tmp_path: Path) -> None:
    """An app that configures logging with dictConfig, before or after, has what it asked for."""
    source = """
import logging.config
logging.config.dictConfig({
    "version": 1,
    "formatters": {"f": {"format": "%(message)s|%(trace_id)s"}},
    "handlers": {"h": {"class": "logging.StreamHandler", "formatter": "f", "stream": "ext://sys.stderr"}},
    "root": {"handlers": ["h"], "level": "INFO"},
})
logging.info("at import")
async def app(scope, receive, send):
    assert scope["type"] == "http"
    logging.info("in a request")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
"""
    ran = run_function(tmp_path, source, [event()], OTEL_EXPORTER_OTLP_ENDPOINT=received.endpoint)
    trace_id = received.server().trace_id
    assert ran.stderr.splitlines() == [f"at import|{trace_id}", f"in a request|{trace_id}"]


@pytest.fixture
def structlog_as_it_was() -> Any:
    """Undo what an app's own configuration of structlog does."""
    yield
    structlog.reset_defaults()


def test_structlog_of_the_app(
    structlog_as_it_was: None, received: Received, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """An app that configured structlog itself keeps that, with the ids by structlog's own context variables."""
    written: list[dict[str, Any]] = []

    def keep(logger: object, method: str, fields: dict[str, Any]) -> str:
        written.append(dict(fields))
        raise structlog.DropEvent

    def startup() -> None:
        structlog.configure(processors=[structlog.contextvars.merge_contextvars, keep])
        structlog.get_logger().info("starting")

    log_in_request(lambda: structlog.get_logger().info("sold", item=3), monkeypatch, startup)
    span = received.server()
    starting, sold = written
    ids = {"trace_id": span.trace_id, "span_id": span.span_id}
    assert sold == {"event": "sold", "item": 3, "invocation_id": span.attributes["faas.invocation_id"], **ids}
    # Before the first event the boot's trace is that of the first event, here.
    assert starting.get("trace_id") == span.trace_id
    (line,) = json_lines(capsys.readouterr().out)
    assert line["event"] == "invocation"
    # It is not ours to put back.
    assert keep in structlog.get_config()["processors"]


def test_structlog_configured_before(structlog_as_it_was: None, received: Received, capsys: Capture) -> None:
    """A configuration from before the bridge is kept as well."""
    processors = [structlog.contextvars.merge_contextvars, structlog.processors.KeyValueRenderer(["event"])]
    structlog.configure(processors=processors)

    def work(headers: Pairs) -> str:
        structlog.get_logger().info("sold")
        return "ok"

    with create_bridge(asgi_around(work)) as bridge:
        bridge(event(), None)
    assert structlog.get_config()["processors"] == processors
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("event='sold'")
    assert received.server().trace_id in first
    assert json.loads(second)["event"] == "invocation"
    structlog.reset_defaults()


def test_ids_do_not_stay(received: Received, capsys: Capture) -> None:
    """After an invocation a line has no ids of it; in the next one it has the next one's."""

    def work(headers: Pairs) -> str:
        structlog.get_logger().info("in")
        return "ok"

    with create_bridge(asgi_around(work)) as bridge:
        for _ in range(2):
            bridge(event(), None)
            structlog.get_logger().info("out")
    lines = json_lines(capsys.readouterr().out)
    first, second = received.servers()
    assert [line["trace_id"] for line in lines if line["event"] == "in"] == [first.trace_id, second.trace_id]
    for line in lines:
        if line["event"] == "out":
            assert not {"trace_id", "span_id", "invocation_id"} & set(line)


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
def test_broken_stdout(
    stdout: Callable[[], Any], received: Received, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_many_threads(received: Received, capsys: Capture) -> None:
    """Lines that threads write at once are never mixed, and each has the ids of its own invocation."""

    def work(headers: Pairs) -> str:
        number = dict(headers)["x-number"]
        for _ in range(5):
            structlog.get_logger().info("x" * 2000, number=number)
        return "ok"

    with create_bridge(app_around("wsgi", work)) as bridge:
        threads = [
            threading.Thread(target=bridge, args=(event(path=f"/{number}", headers={"x-number": str(number)}), None))
            for number in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lines = json_lines(capsys.readouterr().out)
    assert len(lines) == 6 * 6
    ids = {span.attributes["url.path"]: span.trace_id for span in received.servers()}
    for line in lines:
        if "number" in line:
            assert line["trace_id"] == ids[f"/{line['number']}"]


@unconfigured_logging()
def test_the_exporters_own_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """What an exporter that fails logs does not become a record that it has to export."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    with create_bridge(asgi_around(ok)) as bridge:
        for _ in range(4):
            bridge(event(), None)
    told = capsys.readouterr()
    warnings = [line for line in json_lines(told.out) if line["event"] != "invocation"]
    assert len(warnings) == 3, "one for each signal"
    assert {line["level"] for line in warnings} == {"warning"}


@pytest.mark.parametrize("settings", [{"OTEL_SDK_DISABLED": "true"}, {}], ids=["disabled", "unconfigured"])
@unconfigured_logging()
def test_without_export(
    settings: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Where nothing is exported the app's lines and the invocation's are written all the same, with its id."""
    for name, value in settings.items():
        monkeypatch.setenv(name, value)

    def say() -> None:
        structlog.get_logger().info("by structlog")
        logging.getLogger("shop").warning("by logging")

    log_in_request(say, monkeypatch)
    lines = json_lines(capsys.readouterr().out)
    assert [line["event"] for line in lines] == ["by structlog", "by logging", "invocation"]
    assert len({line["invocation_id"] for line in lines}) == 1
    assert [("trace_id" in line) for line in lines] == [not settings] * 3
