"""The cold start is told once: below the first SERVER span, or beside it, in the boot trace from its first moment."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import structlog
from opentelemetry import trace

from tests.support import HANG_S, Receive, Scope, Send, answer, event, no_lifespan, respond
from tests.telemetry.apps import Pairs, asgi_around, lifespan_around
from tests.telemetry.functions import Ran, json_lines, run_function
from tests.telemetry.received import Received, child_of, drawn
from tracedbridge import StartupError, create_bridge

pytestmark = pytest.mark.telemetry

tracer = trace.get_tracer("shop")

REMOTE_TRACE = "0af7651916cd43dd8448eb211c80319c"
REMOTE_SPAN = "b7ad6b7169203331"
REMOTE = {"traceparent": f"00-{REMOTE_TRACE}-{REMOTE_SPAN}-01"}

COLD = "GET (server)\n  cold start\n    import app\n    lifespan startup"

# Speaks everywhere that comes before the first event.
EARLY = """
import logging
import structlog
from opentelemetry import trace

tracer = trace.get_tracer("shop")
log = structlog.get_logger()

with tracer.start_as_current_span("read config"):
    log.warning("by structlog")
    logging.getLogger("shop").warning("by logging")

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        with tracer.start_as_current_span("open pool"):
            log.warning("in lifespan")
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    with tracer.start_as_current_span("query"):
        log.warning("in a request")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
"""


def ok(headers: Pairs) -> str:
    """Answer anything."""
    return "ok"


def started(startup: Callable[[], object] = lambda: None) -> Any:
    """Return an app with a lifespan."""
    return lifespan_around(ok, startup)


def run_early(folder: Path, received: Received, *events: object, **environ: str) -> Ran:
    """Run the app that speaks early, sending to ``received``."""
    ran = run_function(
        folder,
        EARLY,
        events,
        OTEL_EXPORTER_OTLP_ENDPOINT=received.endpoint,
        TRACEDBRIDGE_FLUSH="before",
        TRACEDBRIDGE_FLUSH_TIMEOUT_MS=str(HANG_S * 1000),
        **environ,
    )
    assert (ran.code, ran.stderr) == (0, "")
    return ran


def test_first_and_second(received: Received) -> None:
    """The first invocation has the cold start below it, the second one none."""
    with create_bridge(started()) as bridge:
        bridge(event(), None)
        bridge(event(), None)
    assert drawn(received.spans) == f"{COLD}\nGET (server)\nlifespan shutdown"
    first, second = received.servers()
    assert [span.attributes["faas.coldstart"] for span in (first, second)] == [True, False]
    assert received.span("cold start").attributes["faas.coldstart"] is True


def test_an_app_without_lifespan(received: Received) -> None:
    """An app that has no lifespan has neither a startup nor a shutdown in its traces."""
    with create_bridge(asgi_around(ok)) as bridge:
        bridge(event(), None)
    assert drawn(received.spans) == "GET (server)\n  cold start\n    import app"


def test_times(received: Received) -> None:
    """The SERVER span begins with the cold start and holds all of it; phases follow each other within it."""
    with create_bridge(started(lambda: threading.Event().wait(0.02))) as bridge:
        bridge(event(), None)
    server, cold = received.server(), received.span("cold start")
    assert server.start_ns == cold.start_ns
    imported, lifespan = received.span("import app"), received.span("lifespan startup")
    assert cold.start_ns <= imported.start_ns <= imported.end_ns <= lifespan.start_ns
    assert lifespan.end_ns - lifespan.start_ns >= 20_000_000
    assert lifespan.end_ns <= cold.end_ns <= server.end_ns


def test_a_whole_process(tmp_path: Path, received: Received) -> None:
    """Through ``vc_handler`` there is one root, which begins with the process, and the app's early spans are in it."""
    ran = run_early(tmp_path, received, event(), event())
    assert drawn(received.spans) == (
        "GET (server)\n"
        "  cold start\n"
        "    import app\n"
        "      import index\n"
        "    read config\n"
        "    lifespan startup\n"
        "    open pool\n"
        "  query\n"
        "GET (server)\n"
        "  query\n"
        "lifespan shutdown"
    )
    first, _ = received.servers()
    # The kernel rounds the start of a process down to its tick of 10 ms.
    assert ran.spawned_ns - 20_000_000 <= first.start_ns <= ran.begun_ns
    config, imported = received.span("read config"), received.span("import app")
    assert imported.start_ns <= config.start_ns <= config.end_ns <= imported.end_ns
    pool, lifespan = received.span("open pool"), received.span("lifespan startup")
    assert lifespan.start_ns <= pool.start_ns <= pool.end_ns <= lifespan.end_ns
    phases = [key for key in received.span("cold start").attributes if key.endswith("_ms")]
    assert phases == [
        f"tracedbridge.coldstart.{phase}_ms"
        for phase in ("interpreter", "bridge", "telemetry", "app_import", "app_resolve", "lifespan")
    ]
    # Its lines: written at once, with the ids that its trace has later.
    lines = {line["event"]: line for line in ran.lines[:4]}
    assert list(lines) == ["by structlog", "by logging", "in lifespan", "in a request"]
    within = [("by structlog", "read config"), ("by logging", "read config"), ("in lifespan", "open pool")]
    for said, name in within:
        assert (lines[said]["trace_id"], lines[said]["span_id"]) == (first.trace_id, received.span(name).span_id)
        record = received.log(said)
        assert (record.trace_id, record.span_id) == (first.trace_id, received.span(name).span_id)
    assert "invocation_id" not in lines["in lifespan"]
    assert lines["in a request"]["invocation_id"] == first.attributes["faas.invocation_id"]


def test_early_lines_without_a_span(received: Received, capsys: pytest.CaptureFixture[str]) -> None:
    """Outside of any span of the app early lines belong to the cold start, also in threads of the app's own."""

    def startup() -> None:
        structlog.get_logger().info("in lifespan")
        thread = threading.Thread(target=structlog.get_logger().info, args=("in a thread",))
        thread.start()
        thread.join()

    with create_bridge(started(startup)) as bridge:
        structlog.get_logger().info("before the first event")
        bridge(event(), None)
        structlog.get_logger().info("between invocations")
    cold = received.span("cold start")
    *early, _, late = json_lines(capsys.readouterr().out)
    assert [line["event"] for line in early] == ["in lifespan", "in a thread", "before the first event"]
    for line in early:
        assert (line["trace_id"], line["span_id"]) == (cold.trace_id, cold.span_id)
        record = received.log(line["event"])
        assert (record.trace_id, record.span_id) == (cold.trace_id, cold.span_id)
    assert "trace_id" not in late


def test_remote_parent(tmp_path: Path, received: Received) -> None:
    """
    With a remote parent the cold start goes into its trace.

    The app's early spans stay where they were, below a root ``startup`` that the SERVER span links.
    """
    ran = run_early(tmp_path, received, event(headers=REMOTE))
    assert drawn(received.spans) == (
        "… GET (server) -> startup\n"
        "  cold start\n"
        "    import app\n"
        "      import index\n"
        "    lifespan startup\n"
        "  query\n"
        "startup\n"
        "  read config\n"
        "  open pool\n"
        "lifespan shutdown"
    )
    server, startup = received.server(), received.span("startup")
    assert (server.trace_id, server.parent_id) == (REMOTE_TRACE, REMOTE_SPAN)
    assert startup.trace_id != REMOTE_TRACE
    assert {line["trace_id"] for line in ran.lines[:3]} == {startup.trace_id}
    assert {line["trace_id"] for line in ran.lines[3:]} == {REMOTE_TRACE}


def test_the_platforms_boot_time(tmp_path: Path, received: Received) -> None:
    """Where the platform says when it began to boot the function, the cold start begins there."""
    booted_ms = time.monotonic() * 1e3 - 300
    run_early(tmp_path, received, event(), __VC_PY_BOOT_START_MS=str(booted_ms))
    offset_ms = (time.time() - time.monotonic()) * 1e3
    assert received.server().start_ns / 1e6 == pytest.approx(booted_ms + offset_ms, abs=20)


def test_proactive(received: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    """An app that was ready long before its first event has a cold start of its own, which the first one links."""
    monkeypatch.setenv("TRACEDBRIDGE_PROACTIVE_AFTER_MS", "0")

    def startup() -> None:
        with tracer.start_as_current_span("open pool"):
            pass

    with create_bridge(started(startup)) as bridge:
        bridge(event(), None)
        bridge(event(), None)
    assert drawn(received.spans) == (
        "cold start\n"
        "  import app\n"
        "  lifespan startup\n"
        "  open pool\n"
        "GET (server) -> cold start\n"
        "GET (server)\n"
        "lifespan shutdown"
    )
    first, second = received.servers()
    cold = received.span("cold start")
    assert first.start_ns >= cold.end_ns
    assert cold.trace_id not in (first.trace_id, second.trace_id)
    assert first.attributes["tracedbridge.coldstart.kind"] == "proactive"
    assert first.attributes["faas.coldstart"] is True
    phases = {point.attributes["phase"] for point in received.histogram("tracedbridge.coldstart.phase.duration")}
    assert "wait" not in phases, "the idle gap is nobody's waiting"


def test_proactive_with_a_remote_parent(received: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proactive start stays out of the caller's trace."""
    monkeypatch.setenv("TRACEDBRIDGE_PROACTIVE_AFTER_MS", "0")
    with create_bridge(started()) as bridge:
        bridge(event(headers=REMOTE), None)
    assert drawn(received.spans) == (
        "cold start\n  import app\n  lifespan startup\n… GET (server) -> cold start\nlifespan shutdown"
    )


@pytest.mark.parametrize("worth", ["link", "ignore"])
def test_a_parent_that_is_none(worth: str, received: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    """A remote parent that is worth a link, or nothing, leaves the cold start in one root with the boot trace."""
    monkeypatch.setenv("TRACEDBRIDGE_PARENT", worth)
    with create_bridge(started()) as bridge:
        bridge(event(headers=REMOTE), None)
    assert (
        drawn(received.spans)
        == COLD.replace("(server)", "(server) -> elsewhere" if worth == "link" else "(server)") + "\nlifespan shutdown"
    )


def test_a_first_event_that_is_none(received: Received) -> None:
    """The cold start belongs to the first event, whatever that is."""
    with create_bridge(started()) as bridge:
        bridge(event(path="no-slash"), None)
        bridge(event(), None)
    assert drawn(received.spans) == (
        "HTTP (server) [exception]\n  cold start\n    import app\n    lifespan startup\nGET (server)\nlifespan shutdown"
    )


def test_handler_time(received: Received) -> None:
    """Histograms take the handler's own time, though the first span is as long as the cold start."""
    with create_bridge(started(lambda: threading.Event().wait(0.1))) as bridge:
        bridge(event(), None)
    server = received.server()
    (invoked,) = received.histogram("faas.invoke_duration")
    (begun,) = received.histogram("faas.init_duration")
    assert begun.sum is not None
    assert invoked.sum is not None
    assert begun.sum >= 0.1
    assert invoked.sum < 0.1
    assert begun.sum + invoked.sum <= (server.end_ns - server.start_ns) / 1e9
    assert invoked.attributes["faas.coldstart"] is True


def test_the_line_tells_the_parts(received: Received, capsys: pytest.CaptureFixture[str]) -> None:
    """The first line tells the cold start and its phases, which add up; the second says that there was none."""
    with create_bridge(started(lambda: threading.Event().wait(0.02))) as bridge:
        bridge(event(), None)
        bridge(event(), None)
    first, second = json_lines(capsys.readouterr().out)
    assert (first["cold_start"], first["cold_start_kind"]) == (True, "on_demand")
    parts = [first[f"{phase}_ms"] for phase in ("app_import", "telemetry", "app_resolve", "lifespan")]
    assert sum(parts) == pytest.approx(first["cold_start_ms"], abs=1)
    assert first["lifespan_ms"] >= 20
    assert second["cold_start"] is False
    assert not [key for key in second if key.startswith("cold_start_")]


def test_spans_of_shutdown(received: Received) -> None:
    """What the app traces in its shutdown has a parent that is there."""

    def shutdown() -> None:
        with tracer.start_as_current_span("close pool"):
            pass

    with create_bridge(lifespan_around(ok, lambda: None, shutdown)) as bridge:
        bridge(event(), None)
    closed = received.span("close pool")
    assert not closed.parent_id or [span for span in received.spans if child_of(span, closed)]


def test_a_function_that_is_never_called(received: Received) -> None:
    """A bridge that is closed without an event leaves the app's early spans below a root all the same."""

    def startup() -> None:
        with tracer.start_as_current_span("open pool"):
            pass

    with create_bridge(started(startup)):
        pass
    assert not [line for line in drawn(received.spans).splitlines() if line.startswith("…")]


async def _slow(scope: Scope, receive: Receive, send: Send) -> None:
    no_lifespan(scope)
    await respond(send)


def test_one_bridge_after_the_other(received: Received) -> None:
    """Each bridge has a cold start of its own, in a trace of its own."""
    for _ in range(2):
        with create_bridge(_slow) as bridge:
            assert json.loads(json.dumps(answer(bridge(event(), None)).status)) == 200
    assert drawn(received.spans) == "\n".join(["GET (server)\n  cold start\n    import app"] * 2)


@pytest.mark.parametrize("clock", ["time_ns", "monotonic_ns"])
def test_a_clock_that_stood_still(clock: str, received: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a frozen process one clock may stop: the idle gap is what the other one says, and is no cold-start time."""
    hour_ms = 3_600_000
    with create_bridge(started()) as bridge:
        real = getattr(time, clock)
        with monkeypatch.context() as patch:
            patch.setattr(time, clock, lambda: real() + hour_ms * 1_000_000)
            bridge(event(), None)
    cold = received.span("cold start")
    assert cold.attributes["tracedbridge.coldstart.kind"] == "proactive"
    idle_ms = cold.attributes["tracedbridge.coldstart.idle_ms"]
    assert isinstance(idle_ms, float)
    assert hour_ms <= idle_ms < hour_ms + 60_000
    (init,) = received.histogram("faas.init_duration")
    assert init.sum is not None
    assert init.sum < 60
    assert received.log("invocation").attributes["idle_ms"] == idle_ms


@pytest.mark.parametrize(
    ("told", "kind"),
    [("provisioned-concurrency", "proactive"), ("on-demand", "on_demand"), ("snap-start", "on_demand")],
)
def test_the_platforms_word(told: str, kind: str, received: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    """A platform that provisions says so, however soon the first event comes."""
    monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", told)
    with create_bridge(started()) as bridge:
        bridge(event(), None)
    assert received.span("cold start").attributes["tracedbridge.coldstart.kind"] == kind


def test_concurrent_first_events(received: Received) -> None:
    """Of invocations that come at once exactly one has the cold start."""
    together = threading.Barrier(8, timeout=HANG_S)
    with create_bridge(asgi_around(ok)) as bridge:

        def call() -> None:
            together.wait()
            bridge(event(), None)

        threads = [threading.Thread(target=call) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(HANG_S)
    assert sorted(bool(span.attributes["faas.coldstart"]) for span in received.servers()) == [False] * 7 + [True]
    assert received.counts("faas.coldstarts", "tracedbridge.coldstart.kind") == {("on_demand",): 1}
    assert received.span("cold start")


def test_restored(received: Received, capsys: pytest.CaptureFixture[str]) -> None:
    """After a snapshot there is a new instance with a cold start of its own: the restore, and nothing before it."""

    def handle(headers: Pairs) -> str:
        with tracer.start_as_current_span("query"):
            return "ok"

    with create_bridge(asgi_around(handle)) as bridge:
        bridge(event(), None)
        bridge.restored()
        for _ in range(2):
            bridge(event(), None)
    assert drawn(received.spans) == (
        "GET (server)\n  cold start\n    import app\n  query\n"
        "cold start\n"
        "GET (server) -> cold start\n  query\n"
        "GET (server)\n  query"
    )
    before, restored, warm = received.servers()
    assert restored.attributes["faas.coldstart"] is True
    assert restored.attributes["tracedbridge.coldstart.kind"] == "restored"
    assert warm.attributes["faas.coldstart"] is False
    instances = [span.resource["service.instance.id"] for span in (before, restored, warm)]
    assert instances[0] != instances[1] == instances[2]
    assert len({span.trace_id for span in received.spans}) == 4
    line = json_lines(capsys.readouterr().out)[1]
    assert (line["cold_start"], line["cold_start_kind"]) == (True, "restored")
    assert line["restore_ms"] == line["cold_start_ms"]
    assert "app_import_ms" not in line
    assert received.counts("faas.coldstarts", "tracedbridge.coldstart.kind") == {("restored",): 1}


def test_restored_by_the_platform(received: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Lambda takes snapshots, its hooks before one and after the restore are ours."""
    hooks: list[Callable[[], None]] = []
    library = ModuleType("snapshot_restore_py")
    for name in ("register_before_snapshot", "register_after_restore"):
        monkeypatch.setattr(library, name, hooks.append, raising=False)
    monkeypatch.setitem(sys.modules, "snapshot_restore_py", library)
    monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", "snap-start")
    with create_bridge(asgi_around(ok)) as bridge:
        before, after = hooks
        before()
        after()
        bridge(event(), None)
    # The cold start before the snapshot is told before it: every process that is restored from it would tell it.
    assert drawn(received.spans) == "cold start\n  import app\ncold start\nGET (server) -> cold start"
    first, restored = (span.attributes for span in received.spans if span.name == "cold start")
    assert first["tracedbridge.coldstart.kind"] == "proactive"
    assert restored["tracedbridge.coldstart.begins_with"] == "restore"


def test_background_tasks(received: Received, capsys: pytest.CaptureFixture[str]) -> None:
    """Tasks that startup leaves running are counted, on its span and in the line."""
    tasks: list[asyncio.Task[object]] = []

    def startup() -> None:
        tasks.extend(asyncio.ensure_future(asyncio.Event().wait()) for _ in range(3))

    with create_bridge(started(startup)) as bridge:
        bridge(event(), None)
    assert received.span("lifespan startup").attributes["tracedbridge.lifespan.background_tasks"] == 3
    assert json_lines(capsys.readouterr().out)[0]["background_tasks"] == 3


def test_a_startup_that_fails_is_measured(received: Received) -> None:
    """The histogram of lifespan startup holds those that failed, with their error."""

    def startup() -> None:
        raise ConnectionError("no database")

    with pytest.raises(StartupError):
        create_bridge(started(startup))
    (point,) = received.histogram("tracedbridge.lifespan.duration")
    assert (point.attributes["phase"], point.attributes["error.type"]) == ("startup", "ConnectionError")
    phases = {point.attributes["phase"] for point in received.histogram("tracedbridge.coldstart.phase.duration")}
    assert "lifespan" in phases
