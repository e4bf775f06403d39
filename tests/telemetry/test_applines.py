"""Lines of the app's own have the ids and go out by OTLP; what it configured stays as it is."""

from __future__ import annotations

import io
import json
import logging
import re
import threading
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.typing import Processor

from tests.support import HANG_S, answer, event
from tests.telemetry.apps import Pairs, app_around, asgi_around, lifespan_around
from tests.telemetry.functions import json_lines, run_function, run_program
from tests.telemetry.received import Received
from tests.telemetry.unconfigured import CHATTY, unconfigured_logging
from tracedbridge import create_bridge
from tracedbridge.telemetry import applines
from tracedbridge.telemetry.awaiting import FirstLine

pytestmark = pytest.mark.telemetry

Capture = pytest.CaptureFixture[str]


def ok(headers: Pairs) -> str:
    """Answer anything."""
    return "ok"


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
def test_levels_of_stdlib(received: Received, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
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
def test_fields_of_stdlib(received: Received, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
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
        pytest.param(
            lambda: structlog.get_logger().warning("x", odd=object(), file="\udcff"), id="structlog: odd values"
        ),
        pytest.param(lambda: structlog.get_logger().warning("x", value=float("nan")), id="structlog: no number"),
        pytest.param(lambda: structlog.get_logger().warning("x", trace_id="mine"), id="structlog: ids of its own"),
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
def test_basic_config(received: Received, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
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

    def keep(logger: Any, method: str, fields: MutableMapping[str, Any]) -> str:
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
    renderer = structlog.processors.KeyValueRenderer(key_order=["event"])
    processors: list[Processor] = [structlog.contextvars.merge_contextvars, renderer]
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


@pytest.mark.parametrize("settings", [{"OTEL_SDK_DISABLED": "true"}, {}], ids=["disabled", "unconfigured"])
@unconfigured_logging()
def test_without_export(settings: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
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


def test_fields_that_are_named_as_ours(received: Received, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """Extra fields with the names of a line's own parts do not take the place of what was said."""
    fields = {"event": "click", "level": "low", "timestamp": "never", "logger": "mine", "exception": "none"}
    with unconfigured_logging():
        log_in_request(lambda: logging.getLogger("shop").warning("sold", extra=fields), monkeypatch)
    line, _ = json_lines(capsys.readouterr().out)
    assert (line["event"], line["level"], line["logger"]) == ("sold", "warning", "shop")
    record = received.log("sold")
    assert (record.severity_number, record.attributes["event"]) == (13, "click")


def test_structlog_by_way_of_logging(
    structlog_as_it_was: None, received: Received, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An app whose structlog lines go through stdlib logging has each of them once, with the ids."""
    written = io.StringIO()

    def startup() -> None:
        handler = logging.StreamHandler(written)
        handler.setFormatter(structlog.stdlib.ProcessorFormatter(structlog.processors.JSONRenderer()))
        logging.getLogger("shop").addHandler(handler)
        structlog.configure(
            processors=[
                structlog.contextvars.merge_contextvars,
                structlog.stdlib.add_log_level,
                structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
            ],
            logger_factory=structlog.stdlib.LoggerFactory(),
        )

    try:
        log_in_request(lambda: structlog.get_logger("shop").warning("sold", item=3), monkeypatch, startup)
    finally:
        logging.getLogger("shop").handlers.clear()
    span = received.server()
    (line,) = json_lines(written.getvalue())
    assert (line["event"], line["item"], line["trace_id"]) == ("sold", 3, span.trace_id)
    (record,) = [record for record in received.logs if "sold" in str(record.body)]
    assert (record.trace_id, record.span_id) == (span.trace_id, span.span_id)


PATCHED = """
import json, logging, sys
from tracedbridge import create_bridge
from tracedbridge.telemetry import applines
from tracedbridge.telemetry.awaiting import FirstLine

def app(environ, start_response):
    logging.getLogger("shop").warning(environ["PATH_INFO"][1:])
    start_response("200 OK", [])
    return [b"ok"]

def ask(path):
    return {"body": json.dumps({"method": "GET", "path": path, "headers": {}})}

seen = []
with create_bridge(app) as bridge:
    below = logging.Logger.callHandlers
    def call_handlers(logger, record):
        seen.append(record.getMessage())
        below(logger, record)
    logging.Logger.callHandlers = call_handlers
    assert bridge(ask("/first"))["body"] == "ok"
logging.getLogger("shop").warning("between")
with create_bridge(app) as bridge:
    assert bridge(ask("/second"))["body"] == "ok"
assert logging.Logger.callHandlers is call_handlers
print(seen, file=sys.stderr)
"""


def test_a_patch_on_top(tmp_path: Path, received: Received) -> None:
    """
    A library that patches logging itself while a bridge is open, as Sentry's does, stays in place.

    Logging works after that bridge and in the next one, each line once.
    """
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": received.endpoint, "TRACEDBRIDGE_FLUSH_TIMEOUT_MS": str(HANG_S * 1000)}
    done = run_program(tmp_path, PATCHED, **settings)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "['first', 'between', 'second']"
    bodies = sorted(str(record.body) for record in received.logs)
    assert bodies == ["first", "invocation", "invocation", "second"]


def test_patches_that_go_in_any_order() -> None:
    """What waits for a first line, and is below the patch of another bridge when it goes, goes with that one."""
    stock = logging.Logger.callHandlers
    other: Any = object()
    first = FirstLine(lambda notes: None)
    applines.watch(other)
    first.close()
    assert logging.Logger.callHandlers is not stock
    applines.unwatch(other)
    assert logging.Logger.callHandlers is stock


def test_two_bridges_in_one_process(tmp_path: Path) -> None:
    """One that waits for structlog, and one that loads it for its own lines, do not stand in each other's way."""
    ran = run_program(
        tmp_path,
        "import os\n"
        "from tracedbridge import create_bridge\n"
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return [b'ok']\n"
        "for start in ('deferred', 'eager'):\n"
        "    os.environ['TRACEDBRIDGE_START'] = start\n"
        "    create_bridge(app)\n",
    )
    assert ran.returncode == 0, ran.stderr
    assert "telemetry failed" not in ran.stderr
