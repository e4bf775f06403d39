"""A bridge is watched from its load to its end: failures are told before they are raised, and nothing stays behind."""

from __future__ import annotations

import logging
import signal
import socket
from pathlib import Path

import pytest
import structlog
from opentelemetry import _logs, metrics, trace

from tests.support import HANG_S, Receive, Scope, Send, answer, bounded, event, no_lifespan, respond
from tests.telemetry.apps import KINDS, Pairs, app_around, asgi_around, lifespan_around
from tests.telemetry.functions import json_lines, run_function, run_program
from tests.telemetry.received import Received, drawn
from tracedbridge import AppKindError, ShutdownError, StartupError, create_bridge
from tracedbridge.messages import Kind

pytestmark = pytest.mark.telemetry

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def ok(headers: Pairs) -> str:
    """Answer anything."""
    return "ok"


def headers_of(headers: Pairs) -> str:
    """Answer with the trace headers that the app sees."""
    return repr([pair for pair in headers if pair[0] in ("traceparent", "tracestate", "baggage")])


BROKEN_IMPORT = "import structlog\nstructlog.get_logger().warning('so far')\nraise ZeroDivisionError('in the app')"
BROKEN_STARTUP = """
async def app(scope, receive, send):
    assert scope["type"] == "lifespan"
    await receive()
    raise ConnectionError("no database")
"""


@pytest.mark.parametrize(
    ("source", "raised", "error_type", "tree"),
    [
        pytest.param(
            BROKEN_IMPORT, "AppImportError", "ZeroDivisionError",
            "cold start ! ZeroDivisionError [exception]\n"
            "  import app ! ZeroDivisionError [exception]\n"
            "    import index ! ZeroDivisionError",
            id="the import raises",
        ),
        pytest.param(
            BROKEN_STARTUP, "StartupError", "ConnectionError",
            "cold start ! ConnectionError [exception]\n"
            "  import app\n"
            "    import index\n"
            "  lifespan startup ! ConnectionError [exception]",
            id="the startup raises",
        ),
        pytest.param(
            "", "AppNotFoundError", "AppNotFoundError",
            "cold start ! AppNotFoundError [exception]\n  import app ! AppNotFoundError [exception]",
            id="there is no file",
        ),
        pytest.param(
            "def handler(event, context): ...", "AppKindError", "AppKindError",
            "cold start ! AppKindError [exception]\n  import app\n    import index",
            id="somebody else's handler",
        ),
    ],
)  # fmt: skip
def test_failed_load(source: str, raised: str, error_type: str, tree: str, tmp_path: Path, received: Received) -> None:
    """A load that fails is exported before its error is raised: the boot trace, a line, and the error counted."""
    # With the SDK from the start, so that what the app shares with it is not among the app's imports.
    ran = run_function(tmp_path, source, OTEL_EXPORTER_OTLP_ENDPOINT=received.endpoint, TRACEDBRIDGE_START="eager")
    assert ran.code == 1
    assert f"tracedbridge.errors.{raised}" in ran.stderr.splitlines()[-1]
    assert drawn(received.spans) == tree
    line = ran.lines[-1]
    cold = received.span("cold start")
    assert (line["event"], line["level"], line["error"]) == ("cold start failed", "error", error_type)
    assert (line["trace_id"], line["span_id"]) == (cold.trace_id, cold.span_id)
    assert all(each["trace_id"] == cold.trace_id for each in ran.lines)
    assert received.log("cold start failed").trace_id == cold.trace_id
    assert received.counts("faas.errors", "error.type") == {(error_type,): 1}
    assert received.counts("faas.invocations") == {}


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=["SystemExit", "KeyboardInterrupt"])
def test_a_load_that_is_ended(error: BaseException, received: Received) -> None:
    """SystemExit and KeyboardInterrupt in the startup go through, exported before."""

    def startup() -> None:
        raise error

    with pytest.raises(type(error)):
        create_bridge(lifespan_around(ok, startup))
    assert f"lifespan startup ! {type(error).__name__} [exception]" in drawn(received.spans)


def test_failed_startup_in_process(received: Received) -> None:
    """A startup that fails under ``create_bridge`` is exported before the error is raised."""

    def startup() -> None:
        raise ConnectionError("no database")

    with pytest.raises(StartupError):
        create_bridge(lifespan_around(ok, startup))
    assert drawn(received.spans) == (
        "cold start ! ConnectionError [exception]\n  import app\n  lifespan startup ! ConnectionError [exception]"
    )
    for span in received.spans:
        for each in span.events:
            assert span.start_ns <= each.time_ns <= span.end_ns


def test_no_app(received: Received) -> None:
    """An object that is no app is a failed cold start, too."""
    with pytest.raises(AppKindError):
        create_bridge(lambda event, context: None)
    assert drawn(received.spans) == "cold start ! AppKindError [exception]\n  import app"
    assert received.counts("faas.errors", "error.type") == {("AppKindError",): 1}
    assert received.counts("faas.coldstarts", "tracedbridge.coldstart.kind") == {("on_demand",): 1}


def test_lifespan_shutdown(received: Received) -> None:
    """The shutdown is a trace of its own, exported by ``close()``."""
    with create_bridge(lifespan_around(ok, lambda: None)) as bridge:
        bridge(event(), None)
        assert "lifespan shutdown" not in drawn(received.spans)
    assert drawn([received.span("lifespan shutdown")]) == "lifespan shutdown"
    (point,) = [
        each for each in received.histogram("tracedbridge.lifespan.duration") if each.attributes["phase"] == "shutdown"
    ]
    assert point.count == 1


def test_failed_shutdown(received: Received) -> None:
    """A shutdown that fails is a span in error, and the error is raised when all is sent."""

    def shutdown() -> None:
        raise OSError("the disk is full")

    bridge = create_bridge(lifespan_around(ok, lambda: None, shutdown))
    with pytest.raises(ShutdownError):
        bridge.close()
    assert drawn([received.span("lifespan shutdown")]) == "lifespan shutdown ! OSError [exception]"
    (point,) = [
        each for each in received.histogram("tracedbridge.lifespan.duration") if each.attributes["phase"] == "shutdown"
    ]
    assert point.attributes["error.type"] == "OSError"


def test_a_bridge_changes_the_process_while_it_is_open(received: Received) -> None:
    """The guard of all tests here would see what a bridge changes: it does change it, until ``close()``."""
    before = (trace.get_tracer_provider(), metrics.get_meter_provider(), _logs.get_logger_provider())
    with create_bridge(asgi_around(ok)):
        during = (trace.get_tracer_provider(), metrics.get_meter_provider(), _logs.get_logger_provider())
        assert not set(map(id, before)) & set(map(id, during))
        assert logging.Logger.callHandlers.__module__ == "tracedbridge.telemetry.applines"
        assert structlog.is_configured()
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["in order", "in reverse"])
def test_two_bridges(order: tuple[int, int], received: Received) -> None:
    """Two bridges in one process are traced apart, and closed in any order leave nothing behind."""
    bridges = [create_bridge(asgi_around(ok)), create_bridge(asgi_around(ok))]
    for bridge in bridges:
        bridge(event(), None)
    bridges[order[0]].close()
    assert answer(bridges[order[1]](event(), None)).status == 200
    bridges[order[1]].close()
    tree = "GET (server)\n  cold start\n    import app"
    assert drawn(received.spans) == f"{tree}\n{tree}\nGET (server)"


def test_a_bridge_of_another_thread(received: Received) -> None:
    """A bridge that is made, used and closed on another thread than the main one leaves nothing behind either."""

    def life() -> None:
        with create_bridge(lifespan_around(ok, lambda: None)) as bridge:
            assert answer(bridge(event(), None)).status == 200

    bounded(life)
    assert len(received.servers()) == 1


def test_close_twice(received: Received) -> None:
    """Closing again does nothing."""
    bridge = create_bridge(asgi_around(ok))
    bridge(event(), None)
    bridge.close()
    spans = received.spans
    bridge.close()
    assert received.spans == spans


def _no_connections(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    tried: list[object] = []

    def connect(self: socket.socket, address: object) -> None:
        tried.append(address)
        raise ConnectionRefusedError(address)

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket.socket, "connect_ex", connect)
    return tried


@pytest.mark.parametrize("kind", KINDS)
def test_unconfigured(kind: Kind, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A function that nobody configured opens no connection; its line has ids, the ones that the app sees."""
    tried = _no_connections(monkeypatch)
    with create_bridge(app_around(kind, headers_of)) as bridge:
        told = answer(bridge(event(headers={"traceparent": CALLER}), None)).body.decode()
        assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
    assert tried == []
    (line,) = json_lines(capsys.readouterr().out)
    assert line["trace_id"] == CALLER.split("-")[1]
    assert f"-{line['trace_id']}-{line['span_id']}-" in told


@pytest.mark.parametrize("signals", [("TRACES",), ("METRICS",), ("LOGS",), ("TRACES", "METRICS", "LOGS")], ids="+".join)
def test_the_default_endpoint(signals: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """An exporter that is asked for by its name ``otlp`` goes to the specification's default endpoint."""
    for name in signals:
        monkeypatch.setenv(f"OTEL_{name}_EXPORTER", "otlp")
    tried = _no_connections(monkeypatch)
    with create_bridge(asgi_around(ok)) as bridge:
        assert answer(bridge(event(), None)).status == 200
    assert {address[1] for address in tried if isinstance(address, tuple)} == {4318}


@pytest.mark.parametrize("kind", KINDS)
def test_sdk_disabled(
    kind: Kind, received: Received, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """OTEL_SDK_DISABLED: nothing is sent, no provider is set, the app's headers are the caller's; the line comes."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    caller = {"traceparent": CALLER, "tracestate": "a=1", "baggage": "b=2"}
    with create_bridge(app_around(kind, headers_of)) as bridge:
        assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
        told = answer(bridge(event(headers=caller), None)).body.decode()
    assert told == repr(list(caller.items()))
    assert (received.spans, received.metrics, received.logs) == ([], [], [])
    (line,) = json_lines(capsys.readouterr().out)
    assert (line["event"], line["status"], line["cold_start"]) == ("invocation", 200, True)
    assert "trace_id" not in line
    assert len(line["invocation_id"]) == 32


@pytest.mark.parametrize("value", ["1", "yes", "false", ""])
def test_sdk_not_disabled(value: str, received: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only ``true`` disables, as the specification says."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", value)
    with create_bridge(asgi_around(ok)) as bridge:
        bridge(event(), None)
    assert len(received.servers()) == 1


def test_sdk_disabled_in_capitals(received: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    """The value is read without regard to case."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "True")
    with create_bridge(asgi_around(ok)) as bridge:
        bridge(event(), None)
    assert received.spans == []


OFF = """
import os, sys
from tracedbridge import vc_handler
told = vc_handler({"body": '{"method": "GET", "path": "/", "headers": {"traceparent": "caller"}}'}, None)
assert told["body"] == "caller", told
heavy = {"opentelemetry", "structlog", "requests", "google", "tracedbridge.telemetry"}
print(sorted({name for name in sys.modules if name in heavy or name.split(".")[0] in heavy}), file=sys.stderr)
"""

HANDLER = """
from http.server import BaseHTTPRequestHandler
class handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.headers["traceparent"].encode())
"""


def test_telemetry_off(tmp_path: Path, received: Received) -> None:
    """With TRACEDBRIDGE_TELEMETRY=off nothing is sent or written, and what telemetry needs is not even imported."""
    (tmp_path / "index.py").write_text(HANDLER)
    done = run_program(tmp_path, OFF, TRACEDBRIDGE_TELEMETRY="off", OTEL_EXPORTER_OTLP_ENDPOINT=received.endpoint)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "[]\n")
    assert received.spans == []


def test_telemetry_off_by_argument(received: Received, capsys: pytest.CaptureFixture[str]) -> None:
    """``create_bridge(app, telemetry=False)`` says the same, whatever the variable says."""
    with create_bridge(asgi_around(headers_of), telemetry=False) as bridge:
        told = answer(bridge(event(headers={"traceparent": CALLER}), None)).body.decode()
    assert told == repr([("traceparent", CALLER)])
    assert received.spans == []
    assert capsys.readouterr() == ("", "")


def _raise(*args: object, **kwargs: object) -> None:
    raise LookupError("a bug of ours")


@pytest.mark.parametrize(
    "hook",
    [
        "captured.CapturedHeaders.of_request",
        "coldstart.ColdStartStory.draw",
        "coldstart.ColdStartStory.draw_shutdown",
        "coldstart.ColdStartStory.measure",
        "detail.with_detail",
        "export.Export.flush",
        "lines.Lines.write",
        "middleware.Middleware.__init__",
        "middleware.Middleware.bind",
        "middleware.Middleware.open",
        "pipeline.Pipeline.__init__",
        "pipeline.Pipeline.metrics",
        "pipeline.Pipeline.tracer",
        "story.Story.first_event",
        "telling.Teller.tell",
    ],
)
def test_what_fails_inside(hook: str, received: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever part of telemetry fails, the app is loaded, can log, answers, and is shut down."""
    monkeypatch.setenv("TRACEDBRIDGE_ASGI_DETAIL", "1")
    monkeypatch.setattr(f"tracedbridge.telemetry.{hook}", _raise)

    def work(headers: Pairs) -> str:
        structlog.get_logger().warning("by structlog")
        logging.getLogger("shop").warning("by logging")
        return "ok"

    stopped: list[bool] = []
    with create_bridge(lifespan_around(work, lambda: None, lambda: stopped.append(True))) as bridge:
        for _ in range(2):
            told = answer(bridge(event(), None))
            assert (told.status, told.body) == (200, b"ok")
    assert stopped == [True]


@pytest.mark.parametrize(
    ("hook", "where"),
    [
        ("coldstart.ColdStartStory.draw_shutdown", "Desk._stopped"),
        ("export.Export.flush", "Desk._flush"),
        ("middleware.Middleware.bind", "Watch._open"),
        ("lines.Lines.write", "Teller.tell"),
    ],
)
def test_what_fails_inside_is_told(
    hook: str, where: str, received: Received, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A part of telemetry that fails on every invocation is told on stderr once, with its place."""
    monkeypatch.setattr(f"tracedbridge.telemetry.{hook}", _raise)
    with create_bridge(lifespan_around(ok, lambda: None)) as bridge:
        for _ in range(3):
            bridge(event(), None)
    heard = [line for line in capsys.readouterr().err.splitlines() if where in line]
    assert heard == [f"tracedbridge: telemetry failed in {where}: LookupError: a bug of ours"]


def test_a_failed_load_with_broken_telemetry(received: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    """Telemetry that fails while it tells of a failed load does not hide why the load failed."""
    monkeypatch.setattr("tracedbridge.telemetry.coldstart.ColdStartStory.draw_failure", _raise)

    def startup() -> None:
        raise ConnectionError("no database")

    with pytest.raises(StartupError, match="no database"):
        create_bridge(lifespan_around(ok, startup))


def test_sigterm(tmp_path: Path, received: Received) -> None:
    """At SIGTERM what telemetry still holds is sent before the process ends."""
    source = """
import os, signal
async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
"""
    program = f"""
import os, signal
from tracedbridge import vc_handler
vc_handler({event()!r}, None)
os.kill(os.getpid(), signal.SIGTERM)
"""
    (tmp_path / "index.py").write_text(source)
    done = run_program(
        tmp_path, program, TRACEDBRIDGE_FLUSH_TIMEOUT_MS="0", OTEL_EXPORTER_OTLP_ENDPOINT=received.endpoint
    )
    assert done.returncode == -signal.SIGTERM
    assert drawn(received.spans) == "GET (server)\n  cold start\n    import app\n      import index"


def test_sigterm_while_the_sdk_is_loaded(tmp_path: Path, received: Received) -> None:
    """SIGTERM in the middle of the work after a response waits for that, and nothing is lost."""
    program = f"""
import os, signal, threading
from tracedbridge import vc_handler
from tracedbridge.telemetry.desk import Desk
vc_handler({event()!r}, None)
load = Desk.arm_now
def interrupted(self):
    os.kill(os.getpid(), signal.SIGTERM)
    load(self)
Desk.arm_now = interrupted
vc_handler.settle()
threading.Event().wait({HANG_S})
"""
    (tmp_path / "index.py").write_text(
        "def app(environ, start_response):\n    start_response('200 OK', [])\n    return []\n"
    )
    done = run_program(tmp_path, program, OTEL_EXPORTER_OTLP_ENDPOINT=received.endpoint)
    assert done.returncode == -signal.SIGTERM
    assert drawn(received.spans) == "GET (server)\n  cold start\n    import app\n      import index"
    assert len(received.logs) == 1


def test_interpreter_exit(tmp_path: Path, received: Received) -> None:
    """A process that just ends sends what telemetry still holds, the lifespan shutdown included."""
    source = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
"""
    ran = run_function(
        tmp_path, source, [event()], TRACEDBRIDGE_FLUSH_TIMEOUT_MS="0", OTEL_EXPORTER_OTLP_ENDPOINT=received.endpoint
    )
    assert (ran.code, ran.stderr) == (0, "")
    assert drawn(received.spans) == (
        "GET (server)\n  cold start\n    import app\n      import index\n    lifespan startup\nlifespan shutdown"
    )


def test_context_of_the_caller(received: Received) -> None:
    """What the caller's context holds is seen by the app, and the SERVER span does not take its span for a parent."""
    seen: list[bool] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        no_lifespan(scope)
        seen.append(trace.get_current_span().get_span_context().is_valid)
        await respond(send)

    with create_bridge(app) as bridge:
        with trace.get_tracer("outside").start_as_current_span("the caller's"):
            bridge(event(), None)
            bridge(event(), None)
    assert seen == [True, True]
    assert [span.parent_id for span in received.servers()] == ["", ""]
