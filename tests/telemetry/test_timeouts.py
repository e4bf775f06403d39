"""An invocation whose time is nearly over is told while it still runs; each one tells what it took of the process."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan

from tests.support import HANG_S, Answer, Receive, Scope, Send, answer, event, no_lifespan, respond
from tests.telemetry.apps import KINDS, Pairs, app_around, asgi_around
from tests.telemetry.functions import json_lines, run_function, run_program
from tests.telemetry.received import Received, child_of
from tracedbridge import Bridge, create_bridge
from tracedbridge.messages import Kind
from tracedbridge.telemetry import middleware, queues
from tracedbridge.telemetry.otlp import SpanRecord
from tracedbridge.telemetry.stalls import Pulse
from tracedbridge.telemetry.watch import Watch

pytestmark = pytest.mark.telemetry

tracer = trace.get_tracer("shop")

# An alarm comes so long after its invocation has begun, and its deadline long after any test has ended.
ALARM_MS = 200
DEADLINE_MS = 100_000


class Context:
    """As AWS Lambda's: it knows how much time is left."""

    def __init__(self, left_ms: int) -> None:
        self._ends_s = time.monotonic() + left_ms / 1e3

    def get_remaining_time_in_millis(self) -> int:
        return max(0, int((self._ends_s - time.monotonic()) * 1e3))


# Without an alarm in the life of a test.
CALM = 100 * DEADLINE_MS


@pytest.fixture(autouse=True)
def soon(plain_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alarms come soon although deadlines are far, and each bridge has a watchdog with settings of its own."""
    monkeypatch.setattr(middleware, "_MARGIN_PART", 1)
    monkeypatch.setattr(middleware, "_dog", [])
    monkeypatch.setenv("TRACEDBRIDGE_TIMEOUT_MARGIN_MS", str(DEADLINE_MS - ALARM_MS))


class Invoked:
    """Invocations of an app that does not go on before its alarm has been exported."""

    def __init__(self, received: Received) -> None:
        self.received = received
        # How many invocations had been told when the app went on.
        self.told_at: list[int] = []

    def came(self) -> bool:
        """Say whether an invocation that timed out has come, with its metrics and its line; or it is given up."""
        received = self.received
        return bool(self._timed_out() and received.logs and received.metrics)

    def _timed_out(self) -> list[SpanRecord]:
        return [span for span in self.received.servers() if span.attributes.get("error.type") == "DeadlineError"]

    def goes_on(self) -> str:
        """Note what has been told until now."""
        self.told_at.append(len(self._timed_out()))
        return "went on"


Work = Callable[[Invoked], None]


def give_up() -> Callable[[], bool]:
    """Return what says whether a test has hung."""
    until_s = time.monotonic() + HANG_S
    return lambda: time.monotonic() > until_s


def sleeping(invoked: Invoked) -> None:
    """Sleep."""
    has_hung = give_up()
    while not invoked.came() and not has_hung():
        time.sleep(0.05)


def spinning(invoked: Invoked) -> None:
    """Keep a core and the interpreter at work."""
    has_hung = give_up()
    while not invoked.came() and not has_hung():
        sum(range(10_000))


def locked(invoked: Invoked) -> None:
    """Wait for a lock that somebody else has."""
    lock = threading.Lock()
    lock.acquire()
    released = _when_it_came(invoked, lock.release)
    assert lock.acquire(timeout=HANG_S)
    released.join(HANG_S)


def allocating(invoked: Invoked) -> None:
    """Ask for more and more memory."""
    has_hung, held = give_up(), []
    while not invoked.came() and not has_hung():
        held.append(bytes(100_000))
        if len(held) > 200:
            held.clear()


def _when_it_came(invoked: Invoked, do: Callable[[], object]) -> threading.Thread:
    """Do something on another thread once the invocation has been told."""

    def watch() -> None:
        sleeping(invoked)
        do()

    thread = threading.Thread(target=watch, name="releasing", daemon=True)
    thread.start()
    return thread


def in_a_span(invoked: Invoked, work: Work) -> Callable[[Pairs], str]:
    """Return what an app does that has a span open meanwhile."""

    def handle(headers: Pairs) -> str:
        if ("x-quick", "1") in headers:
            return "quick"
        with tracer.start_as_current_span("query", attributes={"rows": 3}) as span:
            span.add_event("begun")
            work(invoked)
            return invoked.goes_on()

    return handle


def call(bridge: Bridge, context: object = None, **headers: str) -> Answer:
    """Have an event answered."""
    return answer(bridge(event(headers=headers), context))


QUICK = {"x-quick": "1"}


def stacks(span: SpanRecord, *kinds: Literal["thread", "task"]) -> str:
    """Return the stacks on a span, of threads or tasks; of both if neither is asked for."""
    wanted = kinds or ("thread", "task")
    return "\n".join(str(each.attributes["tracedbridge.stack"]) for each in span.events if each.name in wanted)


def invocation_lines(text: str) -> list[dict[str, Any]]:
    """Return our own lines among those on stdout."""
    return [line for line in json_lines(text) if line["event"] == "invocation"]


def assert_told_once(received: Received, lines: list[dict[str, Any]], function: str) -> None:
    """Check what is told of one invocation that timed out in a function, and of another that did not."""
    told, healthy = received.servers()
    assert (told.status, told.attributes["error.type"]) == ("error", "DeadlineError")
    assert "http.response.status_code" not in told.attributes
    assert f", in {function}\n" in stacks(told)
    assert "tracedbridge-watchdog" not in stacks(told)
    query = received.span("query")
    assert child_of(told, query)
    assert (query.status, query.attributes) == ("error", {"rows": 3, "error.type": "DeadlineError"})
    assert [each.name for each in query.events] == ["begun"]
    assert query.end_ns <= told.end_ns + 1_000_000
    line, other = lines
    assert (line["timed_out"], line["error"], line["level"]) == (True, "DeadlineError", "error")
    assert (line["span_id"], line["invocation_id"]) == (told.span_id, told.attributes["faas.invocation_id"])
    assert "status" not in line
    assert 0 < line["time_left_ms"] < DEADLINE_MS - ALARM_MS + 1
    assert received.counts("faas.timeouts", "faas.trigger") == {("http",): 1}
    assert received.counts("faas.errors", "faas.trigger") == {}
    # The healthy one has nothing of all that.
    assert (healthy.status, healthy.events) == ("unset", ())
    assert "error.type" not in healthy.attributes
    assert not {"timed_out", "error", "error_message"} & set(other)
    assert received.counts("faas.invocations", "faas.trigger") == {("http",): 1}
    assert len([record for record in received.logs if record.body == "invocation"]) == 2


@pytest.mark.parametrize(
    ("work", "flush"),
    [
        *(pytest.param(work, "before", id=work.__name__) for work in (sleeping, spinning, locked, allocating)),
        pytest.param(sleeping, "auto", id="sleeping, auto"),
        pytest.param(locked, "after", id="locked, after"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_timeouts(
    kind: Kind,
    work: Work,
    flush: str,
    received: Received,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """
    Whatever an app does, its invocation is exported before the deadline, and the app goes on to its answer.

    Its later end, and that of its spans, is not told any more; a deferred start makes no difference.
    """
    monkeypatch.setenv("TRACEDBRIDGE_FLUSH", flush)
    invoked = Invoked(received)
    with caplog.at_level(logging.DEBUG, "opentelemetry"):
        with create_bridge(app_around(kind, in_a_span(invoked, work))) as bridge:
            slow = call(bridge, Context(DEADLINE_MS))
            assert (slow.status, slow.body) == (200, b"went on")
            # It had come when the app had not gone on yet.
            assert invoked.told_at == [1]
            assert call(bridge, Context(CALM), **QUICK).body == b"quick"
        printed = capsys.readouterr()
    assert printed.err == ""
    assert [record.getMessage() for record in caplog.records if "ended" in record.getMessage().lower()] == []
    assert_told_once(received, invocation_lines(printed.out), work.__name__)


async def hanging(invoked: Invoked) -> None:
    """Await what does not come; the loop is free."""
    loop = asyncio.get_running_loop()
    released = loop.create_future()
    thread = _when_it_came(invoked, lambda: loop.call_soon_threadsafe(released.set_result, None))
    await released
    thread.join(HANG_S)


async def gathering(invoked: Invoked) -> None:
    """Await tasks that hang."""
    other = asyncio.create_task(_dangling(), name="dangling")
    await asyncio.gather(asyncio.create_task(hanging(invoked), name="the hanging one"))
    other.cancel()


async def _dangling() -> None:
    await asyncio.Event().wait()


async def threaded(invoked: Invoked) -> None:
    """Await a thread that hangs."""
    await asyncio.to_thread(sleeping, invoked)


def awaiting(invoked: Invoked, work: Callable[[Invoked], Awaitable[None]]) -> Any:
    """Return an ASGI app that awaits with a span open."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        no_lifespan(scope)
        if (b"x-quick", b"1") in scope["headers"]:
            await respond(send, b"quick")
            return
        with tracer.start_as_current_span("query", attributes={"rows": 3}) as span:
            span.add_event("begun")
            await work(invoked)
            await respond(send, invoked.goes_on().encode())

    return app


@pytest.mark.parametrize("by", ["setting", "context"])
@pytest.mark.parametrize(
    ("work", "kind", "function"),
    [
        pytest.param(hanging, "task", "hanging", id="hanging"),
        pytest.param(gathering, "task", "_dangling", id="gathering"),
        pytest.param(threaded, "thread", "sleeping", id="threaded"),
    ],
)
def test_what_hangs_in_await(
    work: Callable[[Invoked], Awaitable[None]],
    kind: Literal["task", "thread"],
    function: str,
    by: str,
    received: Received,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Where the loop is free the tasks' stacks say what they wait for, whoever set the deadline."""
    if by == "setting":
        monkeypatch.setenv("TRACEDBRIDGE_DEADLINE_MS", str(DEADLINE_MS))
    invoked = Invoked(received)
    with create_bridge(awaiting(invoked, work)) as bridge:
        # Warm.
        assert call(bridge, Context(CALM) if by == "context" else None, **QUICK).body == b"quick"
        slow = call(bridge, Context(DEADLINE_MS) if by == "context" else None)
        assert (slow.status, slow.body) == (200, b"went on")
        assert invoked.told_at == [1]
    _, told = received.servers()
    assert (told.status, told.attributes["error.type"]) == ("error", "DeadlineError")
    assert f", in {function}\n" in stacks(told, kind)
    # The app's own task is among them, and so is the thread that runs the loop.
    assert f", in {work.__name__}\n" in stacks(told, "task")
    assert "run_until_complete" in stacks(told, "thread")
    assert child_of(told, received.span("query"))
    assert received.counts("faas.timeouts", "faas.trigger") == {("http",): 1}
    _, line = invocation_lines(capsys.readouterr().out)
    assert line["timed_out"] is True


@pytest.mark.parametrize(
    "caller",
    [
        pytest.param({}, id="in traces of their own"),
        pytest.param({"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}, id="in one trace"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_of_two_at_once(
    kind: Kind, caller: dict[str, str], received: Received, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of two invocations at once only the one whose time is short is told early; the other has its own end."""
    invoked = Invoked(received)
    both = threading.Barrier(2, timeout=HANG_S)

    def handle(headers: Pairs) -> str:
        if ("x-warm", "1") in headers:
            return "warm"
        both.wait()
        name = dict(headers)["x-name"]
        with tracer.start_as_current_span(f"query of {name}"):
            sleeping(invoked)
        # Neither ends before both have seen it.
        both.wait()
        return name

    with create_bridge(app_around(kind, handle)) as bridge:
        call(bridge, Context(CALM), **{"x-warm": "1"})
        with ThreadPoolExecutor(2) as pool:
            slow = pool.submit(call, bridge, Context(DEADLINE_MS), **{"x-name": "slow", **caller})
            calm = pool.submit(call, bridge, Context(CALM), **{"x-name": "calm", **caller})
            assert (slow.result(HANG_S).body, calm.result(HANG_S).body) == (b"slow", b"calm")
    by_status = {span.status: span for span in received.servers()[1:]}
    assert set(by_status) == {"error", "unset"}
    assert child_of(by_status["error"], received.span("query of slow"))
    assert child_of(by_status["unset"], received.span("query of calm"))
    assert (received.span("query of slow").status, received.span("query of calm").status) == ("error", "unset")
    assert stacks(by_status["unset"]) == ""
    lines = {line["span_id"]: line for line in invocation_lines(capsys.readouterr().out)}
    assert len(lines) == 3
    assert lines[by_status["error"].span_id]["timed_out"] is True
    assert "timed_out" not in lines[by_status["unset"].span_id]
    assert lines[by_status["unset"].span_id]["status"] == 200
    assert received.counts("faas.timeouts", "faas.trigger") == {("http",): 1}
    assert received.counts("faas.invocations", "faas.trigger") == {("http",): 2}


def test_the_deadline_itself(
    received: Received, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An app that goes on until the deadline itself is cancelled as ever, and told once, by the alarm before it."""
    monkeypatch.setattr(middleware, "_MARGIN_PART", 2)
    monkeypatch.setenv("TRACEDBRIDGE_DEADLINE_MS", "1000")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        no_lifespan(scope)
        await asyncio.Event().wait()

    with create_bridge(app) as bridge:
        assert call(bridge).status == 504
    told = received.server()
    assert (told.status, told.attributes["error.type"]) == ("error", "DeadlineError")
    assert ", in app\n" in stacks(told, "task")
    (line,) = invocation_lines(capsys.readouterr().out)
    # A thousand less five hundred: some time was left then.
    assert 0 < line["time_left_ms"] <= 500
    assert received.counts("faas.timeouts", "faas.trigger") == {("http",): 1}
    assert len(received.logs) == 1


@pytest.mark.parametrize("flush", ["before", "auto", "after"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_alarm_against_the_end(
    kind: Kind, flush: str, received: Received, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """However an alarm and the end of its invocation race, it is told once, as one of both."""
    monkeypatch.setenv("TRACEDBRIDGE_FLUSH", flush)
    monkeypatch.setenv("TRACEDBRIDGE_TIMEOUT_MARGIN_MS", str(DEADLINE_MS - 3))
    chance = random.Random(4)

    def handle(headers: Pairs) -> str:
        with tracer.start_as_current_span("query"):
            until_ns = time.monotonic_ns() + int(chance.uniform(1.5e6, 4.5e6))
            while time.monotonic_ns() < until_ns:
                time.sleep(0)
        return "ok"

    with create_bridge(app_around(kind, handle)) as bridge:
        for _ in range(60):
            assert call(bridge, Context(DEADLINE_MS)).body == b"ok"
    printed = capsys.readouterr()
    assert printed.err == ""
    servers = received.servers()
    queries = [span for span in received.spans if span.name == "query"]
    for spans in (servers, queries):
        assert len({span.span_id for span in spans}) == len(spans) == 60
    assert {query.parent_id for query in queries} == {server.span_id for server in servers}
    timed_out = {span.span_id for span in servers if span.status == "error"}
    lines = invocation_lines(printed.out)
    assert sorted(line["span_id"] for line in lines) == sorted(span.span_id for span in servers)
    assert {line["span_id"] for line in lines if "timed_out" in line} == timed_out
    # As the seed has it some are late; on a slow machine it may be all of them.
    assert timed_out
    counts = [received.counts(f"faas.{name}", "faas.trigger") for name in ("timeouts", "invocations")]
    assert counts[0] == {("http",): len(timed_out)}
    assert counts[1].get(("http",), 0) == 60 - len(timed_out)


@pytest.mark.parametrize("kind", KINDS)
def test_spans_that_end_under_an_alarm(kind: Kind, received: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans that end just while the alarm tells them, or is about to, are told once."""
    opened: list[trace.Span] = []

    def made_late(*args: Any, **kwargs: Any) -> ReadableSpan:
        for span in opened:
            span.end()
        return ReadableSpan(*args, **kwargs)

    monkeypatch.setattr(queues, "ReadableSpan", made_late)
    invoked = Invoked(received)

    def handle(headers: Pairs) -> str:
        opened.extend([tracer.start_span("query"), tracer.start_span("query")])
        sleeping(invoked)
        return "ok"

    with create_bridge(app_around(kind, handle)) as bridge:
        assert call(bridge, Context(DEADLINE_MS)).body == b"ok"
    told = [span for span in received.spans if span.name == "query"]
    assert sorted(span.span_id for span in told) == sorted(f"{span.get_span_context().span_id:016x}" for span in opened)
    # One in the alarm's words, the other in its own.
    assert sorted(span.status for span in told) == ["error", "unset"]


@pytest.mark.parametrize("kind", KINDS)
def test_no_margin(kind: Kind, received: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a margin of zero nobody looks, however late it is."""
    monkeypatch.setenv("TRACEDBRIDGE_TIMEOUT_MARGIN_MS", "0")
    context = Context(0)
    watching: list[bool] = []

    def handle(headers: Pairs) -> str:
        # As long as the alarm of another setting would have taken.
        time.sleep(ALARM_MS / 1e3)
        watching.append(any(span.status == "error" for span in received.spans))
        return "ok"

    with create_bridge(app_around(kind, handle)) as bridge:
        assert call(bridge, context).body == b"ok"
    assert watching == [False]
    told = received.server()
    assert (told.status, stacks(told)) == ("unset", "")
    assert received.counts("faas.timeouts", "faas.trigger") == {}


class Noting:
    """A watchdog that only notes what it is to watch."""

    def __init__(self) -> None:
        self.watched: list[Watch] = []

    def begin(self, watch: Watch) -> None:
        self.watched.append(watch)

    def end(self, watch: Watch) -> None:
        """Do nothing."""


@pytest.mark.parametrize(
    ("deadline_ms", "left_ms", "margin_ms", "expected_ms"),
    [
        pytest.param("60000", None, "500", 59_500, id="setting"),
        pytest.param("", 60_000, "500", 59_500, id="context"),
        pytest.param("60000", 90_000, "500", 59_500, id="the earlier one, of the setting"),
        pytest.param("90000", 60_000, "500", 59_500, id="the earlier one, of the context"),
        pytest.param("60000", None, "30000", 54_000, id="at most a tenth"),
        pytest.param("", None, "500", None, id="none"),
        pytest.param("60000", 60_000, "0", None, id="no margin"),
    ],
)
def test_the_margin(
    deadline_ms: str,
    left_ms: int | None,
    margin_ms: str,
    expected_ms: float | None,
    plain_environment: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The alarm comes the margin before the deadline, but not before nine tenths of the time are over."""
    noting = Noting()
    monkeypatch.setattr(middleware, "_watchdog", lambda settings: noting)
    monkeypatch.setattr(middleware, "_MARGIN_PART", 10)
    monkeypatch.setenv("TRACEDBRIDGE_TIMEOUT_MARGIN_MS", margin_ms)
    monkeypatch.setenv("TRACEDBRIDGE_DEADLINE_MS", deadline_ms)
    with create_bridge(app_around("wsgi", lambda headers: "ok")) as bridge:
        call(bridge, None if left_ms is None else Context(left_ms))
    alarms = [(each.alarm_ns - each.begun_ns) / 1e6 for each in noting.watched if each.alarm_ns is not None]
    # Slow machines have begun a little before they ask for the time.
    assert alarms == ([] if expected_ms is None else [pytest.approx(expected_ms, abs=400)])


# Says when it began, and waits until it was told; nothing of OpenTelemetry is loaded for it.
_WAITING = """
import os, time

def app(environ, start_response):
    give_up_s = time.monotonic() + 15
    while not os.path.exists("came") and time.monotonic() < give_up_s:
        time.sleep(0.05)
    start_response("200 OK", [])
    return [str(os.path.exists("came")).encode()]
"""

_SOON = """
import json, sys
from tracedbridge.telemetry import middleware
middleware._MARGIN_PART = 1
from tracedbridge import vc_handler
with open("event.json") as file:
    told = json.load(file)
loaded = "opentelemetry" in sys.modules
result = vc_handler(told, None)
with open("answer.json", "w") as file:
    json.dump({"loaded": loaded, "body": result["body"], "status": result["statusCode"]}, file)
"""


@pytest.mark.parametrize("flush", ["auto", "after"])
def test_the_first_invocation_of_a_process(flush: str, received: Received, tmp_path: Path) -> None:
    """In a process that has loaded nothing of the SDK a first invocation that hangs is told before its deadline."""
    (tmp_path / "index.py").write_text(_WAITING)
    (tmp_path / "event.json").write_text(json.dumps(event()))
    invoked = Invoked(received)
    telling = _when_it_came(invoked, (tmp_path / "came").touch)
    done = run_program(
        tmp_path,
        _SOON,
        OTEL_EXPORTER_OTLP_ENDPOINT=received.endpoint,
        TRACEDBRIDGE_FLUSH=flush,
        TRACEDBRIDGE_FLUSH_TIMEOUT_MS=str(HANG_S * 1000),
        TRACEDBRIDGE_DEADLINE_MS=str(DEADLINE_MS),
        TRACEDBRIDGE_TIMEOUT_MARGIN_MS=str(DEADLINE_MS - ALARM_MS),
    )
    telling.join(HANG_S)
    assert (done.returncode, done.stderr) == (0, "")
    answered = json.loads((tmp_path / "answer.json").read_text())
    assert answered == {"loaded": False, "body": "True", "status": 200}
    told = received.server()
    assert (told.status, told.attributes["error.type"], told.attributes["faas.coldstart"]) == (
        "error",
        "DeadlineError",
        True,
    )
    assert "in app\n    time.sleep(0.05)" in stacks(told, "thread")
    assert child_of(told, received.span("cold start"))
    (line,) = invocation_lines(done.stdout)
    assert (line["timed_out"], line["cold_start"]) == (True, True)
    assert received.counts("faas.timeouts", "faas.trigger") == {("http",): 1}
    assert received.counts("faas.coldstarts", "tracedbridge.coldstart.kind") == {("on_demand",): 1}


# Process health.


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """What is set once the stack of a loop that stands still has been taken."""
    event, take = threading.Event(), Pulse.sampled

    def taken(pulse: Pulse, since_ns: int, stack: str) -> None:
        take(pulse, since_ns, stack)
        event.set()

    monkeypatch.setattr(Pulse, "sampled", taken)
    return event


def blocking(sampled: threading.Event) -> None:
    """Block until somebody has seen it."""
    assert sampled.wait(HANG_S)


def stalling(sampled: threading.Event) -> Any:
    """Return an ASGI app that answers at once, or after it has kept its loop from turning."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        no_lifespan(scope)
        if (b"x-quick", b"1") not in scope["headers"]:
            blocking(sampled)
        await respond(send)

    return app


@pytest.mark.parametrize("is_first", [True, False], ids=["first, with a deadline", "second"])
def test_a_stall(
    is_first: bool, sampled: threading.Event, received: Received, capsys: pytest.CaptureFixture[str]
) -> None:
    """A loop that stood still for too long is told with its duration, and the stack that says why."""
    with create_bridge(stalling(sampled)) as bridge:
        if not is_first:
            call(bridge, **QUICK)
        call(bridge, Context(CALM) if is_first else None)
        call(bridge, **QUICK)
    *quick, stalled, after = received.servers()
    (stall,) = stalled.events
    assert stall.name == "event loop stalled"
    assert ", in blocking\n" in str(stall.attributes["tracedbridge.stack"])
    lines = invocation_lines(capsys.readouterr().out)
    stall_ms = lines[-2]["loop_stall_ms"]
    assert stall_ms == stalled.attributes["tracedbridge.loop_stall_ms"]
    assert 100 <= stall_ms <= lines[-2]["duration_ms"]
    # The first invocation without a deadline does not wait for what would look.
    assert all("loop_stall_ms" not in line for line in lines[: len(quick)])
    for span in (*quick, after):
        assert "event loop stalled" not in [each.name for each in span.events]
    (point,) = received.histogram("tracedbridge.loop_stall")
    assert point.count == 1
    assert (point.sum or 0) * 1e3 == pytest.approx(stall_ms, abs=0.01)


def test_a_stall_after_a_timeout(received: Received, capsys: pytest.CaptureFixture[str]) -> None:
    """A first invocation that was told early was a first one all the same: the next, without a deadline, is felt."""
    invoked = Invoked(received)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        no_lifespan(scope)
        if (b"x-quick", b"1") in scope["headers"]:
            time.sleep(0.25)  # noqa: ASYNC251 - what is to be found
        else:
            await hanging(invoked)
        await respond(send)

    with create_bridge(app) as bridge:
        call(bridge, Context(DEADLINE_MS))
        call(bridge, **QUICK)
    first, second = invocation_lines(capsys.readouterr().out)
    assert first["timed_out"] is True
    # Less what it took until somebody looked.
    assert second["loop_stall_ms"] >= 100


def test_no_stall(received: Received, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """An app that awaits for longer than a stall is no stall."""
    monkeypatch.setenv("TRACEDBRIDGE_STALL_MS", "400")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        no_lifespan(scope)
        await asyncio.sleep(0.6)
        await respond(send)

    with create_bridge(app) as bridge:
        for _ in range(2):
            call(bridge, Context(CALM))
    assert [span.events for span in received.servers()] == [(), ()]
    for line in invocation_lines(capsys.readouterr().out):
        assert line.get("loop_stall_ms", 0) < 400
        assert line["duration_ms"] >= 600


@pytest.mark.parametrize("kind", ["wsgi", "http_server"])
def test_kinds_without_a_loop(kind: Kind, received: Received, capsys: pytest.CaptureFixture[str]) -> None:
    """An app without a loop has none that stands still."""
    with create_bridge(app_around(kind, lambda headers: "ok")) as bridge:
        for _ in range(2):
            call(bridge, Context(CALM))
    assert all("loop_stall_ms" not in line for line in invocation_lines(capsys.readouterr().out))
    assert "tracedbridge.loop_stall" not in {metric.name for metric in received.metrics}


_HEALTH = """
import resource, time

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/spin":
        until_s = time.process_time() + 0.2
        while time.process_time() < until_s:
            pass
    elif path == "/sleep":
        time.sleep(0.3)
    elif path == "/allocate":
        # More than ever; an exec'd process begins with the peak of the one that forked it.
        held = b"x" * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + 50_000_000)
        del held
    start_response("200 OK", [])
    return [b"ok"]
"""


def test_health(received: Received, tmp_path: Path) -> None:
    """Each invocation tells its CPU time, the peak of memory and the time left, in its line and as metrics."""
    paths = ["/", "/", "/spin", "/sleep", "/allocate", "/"]
    ran = run_function(
        tmp_path,
        _HEALTH,
        [event("GET", path) for path in paths],
        OTEL_EXPORTER_OTLP_ENDPOINT=received.endpoint,
        TRACEDBRIDGE_FLUSH_TIMEOUT_MS=str(HANG_S * 1000),
        TRACEDBRIDGE_DEADLINE_MS="60000",
    )
    assert ran.stderr == ""
    _, quiet, spun, slept, allocated, last = lines = ran.lines
    assert [line["path"] for line in lines] == paths
    assert spun["cpu_ms"] >= 200
    assert slept["duration_ms"] >= 300
    assert slept["cpu_ms"] < 150
    assert allocated["memory_mb"] >= quiet["memory_mb"] + 50
    assert slept["memory_mb"] < allocated["memory_mb"] == last["memory_mb"]
    for line in lines:
        assert line["cpu_ms"] >= 0
        assert line["time_left_ms"] == pytest.approx(60_000 - line["duration_ms"], abs=30)
    for name, key, unit in (
        ("faas.cpu_usage", "cpu_ms", 1e-3),
        ("faas.mem_usage", "memory_mb", 1e6),
        ("tracedbridge.time_left", "time_left_ms", 1e-3),
    ):
        (point,) = received.histogram(name)
        assert point.count == len(lines)
        assert point.sum == pytest.approx(sum(line[key] for line in lines) * unit, rel=0.01), name


def test_no_deadline(received: Received, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a deadline nobody says how much time is left."""
    with create_bridge(asgi_around(lambda headers: "ok")) as bridge:
        call(bridge)
    (line,) = invocation_lines(capsys.readouterr().out)
    assert "time_left_ms" not in line
    assert {"cpu_ms", "memory_mb"} <= set(line)
    assert "tracedbridge.time_left" not in {metric.name for metric in received.metrics}
