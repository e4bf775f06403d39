"""Nothing of the SDK is loaded before the first response, unless it was asked for; what waited comes, once."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
from opentelemetry import trace

from tests.support import HANG_S, answer, event
from tests.telemetry.apps import KINDS, Pairs, app_around, asgi_around
from tests.telemetry.backends import Backend, answering
from tests.telemetry.functions import json_lines, run_program
from tests.telemetry.received import Received
from tracedbridge import Bridge, create_bridge
from tracedbridge.messages import Kind
from tracedbridge.settings import Settings
from tracedbridge.telemetry import desk, middleware, outbox
from tracedbridge.telemetry.environment import is_eager
from tracedbridge.telemetry.middleware import Middleware

pytestmark = pytest.mark.telemetry

APPS: dict[str, str] = {
    "asgi": """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
""",
    "wsgi": """
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"ok"]
""",
    "http_server": """
from http.server import BaseHTTPRequestHandler

class handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ok")
""",
    "large": """
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"x" * 4_400_000]
""",
    "logging": """
import logging

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError
    logging.getLogger("shop").warning("sold out")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
""",
    "fastapi": """
from fastapi import FastAPI

app = FastAPI()

@app.get("/")
async def root():
    return "ok"
""",
}

# Of which nothing may be loaded before the first response.
LATE = frozenset(("google", "opentelemetry", "requests", "structlog", "urllib3", "werkzeug"))

# In the background nothing happens before the process is told to go on, so that it cannot come in between.
_DRIVER = """
import json, os, sys
with open("asked.json") as file:
    asked = json.load(file)
if os.environ.get("TRACEDBRIDGE_TELEMETRY") != "off":
    from tracedbridge.telemetry import middleware
    middleware.QUIET_S = 3600.0
from tracedbridge import vc_handler

result = vc_handler(asked["event"], None)
returned = set(sys.modules)
assert result["statusCode"] == 200, result
at_answer = getattr(vc_handler._telemetry, "modules_at_answer", None)
with open("told.json", "w") as file:
    json.dump({"at_answer": sorted(at_answer or ()), "returned": sorted(returned)}, file)
if asked["then"] == "event":
    vc_handler(asked["event"], None)
elif asked["then"]:
    getattr(vc_handler, asked["then"])()
if asked["then"] not in ("", "exit"):
    # Whatever waits now is never sent.
    sys.stdout.flush()
    os._exit(0)
"""


class Started(NamedTuple):
    """A process that has answered, and ended."""

    at_answer: set[str]
    """The modules that the bridge saw when it returned the first response."""
    returned: set[str]
    """Those that were there when it had been returned."""
    lines: list[dict[str, Any]]
    stderr: str


def start(folder: Path, app: str, then: str = "", **environ: str) -> Started:
    """
    Answer an event in a process of its own.

    Args:
        folder: An empty one.
        app: Of APPS.
        then: What is done after it: ``"event"`` is another one, ``"settle"``, ``"close"``; nothing is the exit.
        environ: Its settings.
    """
    (folder / "index.py").write_text(APPS[app])
    (folder / "asked.json").write_text(json.dumps({"event": event(), "then": then}))
    done = run_program(folder, _DRIVER, **environ)
    assert done.returncode == 0, done.stderr
    told = json.loads((folder / "told.json").read_text())
    return Started(set(told["at_answer"]), set(told["returned"]), json_lines(done.stdout), done.stderr)


def late_of(modules: set[str]) -> set[str]:
    """Return those that are not to be there before the first response."""
    return {name for name in modules if name.partition(".")[0] in LATE}


def environ_for(received: Received, **settings: str) -> dict[str, str]:
    """Return the settings of a function that exports everything to a receiver."""
    named = {f"TRACEDBRIDGE_{name}": value for name, value in settings.items() if value}
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": received.endpoint,
        "TRACEDBRIDGE_FLUSH_TIMEOUT_MS": str(HANG_S * 1000),
        **named,
    }


MODES = [
    pytest.param({"FLUSH": flush, "START": mode}, id=f"{flush or 'unset'}-{mode or 'unset'}")
    for flush in ("", "auto", "after")
    for mode in ("", "deferred")
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("app", [*KINDS, "large", "logging"])
def test_the_first_response(app: str, mode: dict[str, str], received: Received, tmp_path: Path) -> None:
    """The first response waits for nothing of the SDK, and all that there is to tell of it comes by the exit."""
    started = start(tmp_path, app, **environ_for(received, **mode))
    assert started.at_answer == started.returned
    assert "tracedbridge.telemetry.middleware" in started.at_answer
    assert late_of(started.at_answer) == set()
    check_told(started, received, 1)
    if app == "logging":
        # Its line has waited, too, and knows where it belongs.
        assert received.log("sold out").span_id == received.server().span_id


@pytest.mark.frameworks
@pytest.mark.parametrize("mode", [MODES[0], MODES[-1]])
def test_fastapi(mode: dict[str, str], received: Received, tmp_path: Path) -> None:
    """With FastAPI there is nothing of it but what FastAPI itself loads."""
    folders = [tmp_path / name for name in ("off", "on")]
    for folder in folders:
        folder.mkdir()
    off = start(folders[0], "fastapi", TRACEDBRIDGE_TELEMETRY="off")
    on = start(folders[1], "fastapi", **environ_for(received, **mode))
    assert on.at_answer == on.returned
    assert late_of(on.at_answer) <= late_of(off.returned)
    check_told(on, received, 1)


@pytest.mark.parametrize(
    ("flush", "then"),
    [("auto", "event"), ("auto", "settle"), ("auto", "close"), ("after", "settle"), ("after", "close")],
)
@pytest.mark.parametrize("app", KINDS)
def test_when_it_comes(app: str, flush: str, then: str, received: Received, tmp_path: Path) -> None:
    """All of the first invocation has come after the next one, ``settle()`` or ``close()``, before the exit."""
    check_told(start(tmp_path, app, then, **environ_for(received, FLUSH=flush)), received, 1 + (then == "event"))


def check_told(started: Started, received: Received, invocations: int) -> None:
    """Check that everything of so many invocations has come, once, in order."""
    assert started.stderr == ""
    servers = received.servers()
    assert [span.attributes["faas.coldstart"] for span in servers] == [True, False][:invocations]
    ids = [(span.trace_id, span.span_id) for span in received.spans]
    assert len(set(ids)) == len(ids)
    lines = [line for line in started.lines if line["event"] == "invocation"]
    assert [line["invocation_id"] for line in lines] == [span.attributes["faas.invocation_id"] for span in servers]
    assert [line["cold_start"] for line in lines] == [True, False][:invocations]
    records = [record for record in received.logs if record.body == "invocation"]
    assert [record.span_id for record in records] == [span.span_id for span in servers]
    assert received.counts("faas.invocations", "faas.trigger") == {("http",): invocations}
    assert received.counts("faas.coldstarts", "tracedbridge.coldstart.kind") == {("on_demand",): 1}
    (cold,) = [span for span in received.spans if span.name == "cold start"]
    assert cold.parent_id == servers[0].span_id


@pytest.mark.parametrize(
    "asked", [{"FLUSH": "before"}, {"START": "eager"}, {"START": "eager", "FLUSH": "after"}], ids=str
)
@pytest.mark.parametrize("app", KINDS)
def test_eager(app: str, asked: dict[str, str], received: Received, tmp_path: Path) -> None:
    """Who wants it has the SDK loaded before the app, and sees in the cold start how long that took."""
    started = start(tmp_path, app, **environ_for(received, **asked))
    assert {"opentelemetry.sdk.trace", "structlog"} <= started.at_answer
    check_told(started, received, 1)
    cold = received.span("cold start")
    telemetry_ms = cold.attributes["tracedbridge.coldstart.telemetry_ms"]
    assert isinstance(telemetry_ms, float)
    # Hundreds of modules; without them it is some milliseconds.
    assert telemetry_ms > 30
    assert started.lines[0]["telemetry_ms"] == telemetry_ms
    points = received.histogram("tracedbridge.coldstart.phase.duration")
    (point,) = [point for point in points if point.attributes["phase"] == "telemetry"]
    assert point.sum is not None
    assert point.sum * 1e3 == pytest.approx(telemetry_ms, abs=0.001)


# What is set, and how the warning names it; an empty name needs no SDK.
CONFIGURED: list[tuple[dict[str, str], str]] = [
    ({}, ""),
    ({"OTEL_TRACES_SAMPLER": "parentbased_always_on"}, ""),
    ({"OTEL_TRACES_SAMPLER": " AlwaysOff "}, "OTEL_TRACES_SAMPLER=alwaysoff"),
    ({"OTEL_TRACES_SAMPLER": " Always_Off "}, ""),
    ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"}, ""),
    ({"OTEL_TRACES_SAMPLER": "jaeger_remote"}, "OTEL_TRACES_SAMPLER=jaeger_remote"),
    ({"OTEL_TRACES_SAMPLER": "xray"}, "OTEL_TRACES_SAMPLER=xray"),
    ({"OTEL_PROPAGATORS": "tracecontext,baggage"}, ""),
    ({"OTEL_PROPAGATORS": "none"}, ""),
    ({"OTEL_PROPAGATORS": "b3"}, "OTEL_PROPAGATORS=b3"),
    ({"OTEL_PROPAGATORS": "tracecontext,xray,b3multi"}, "OTEL_PROPAGATORS=b3multi,xray"),
    ({"OTEL_PYTHON_ID_GENERATOR": "xray"}, "OTEL_PYTHON_ID_GENERATOR=xray"),
    ({"OTEL_PYTHON_CONTEXT": "contextvars_context"}, "OTEL_PYTHON_CONTEXT=contextvars_context"),
    ({"OTEL_PYTHON_TRACER_PROVIDER": "sdk"}, "OTEL_PYTHON_TRACER_PROVIDER=sdk"),
    ({"OTEL_PYTHON_METER_PROVIDER": "sdk"}, "OTEL_PYTHON_METER_PROVIDER=sdk"),
    ({"OTEL_PYTHON_LOGGER_PROVIDER": "sdk"}, "OTEL_PYTHON_LOGGER_PROVIDER=sdk"),
    ({"OTEL_PYTHON_TRACER_CONFIGURATOR": "mine"}, "OTEL_PYTHON_TRACER_CONFIGURATOR=mine"),
    ({"OTEL_PYTHON_ID_GENERATOR": "  "}, ""),
    ({"OTEL_TRACES_EXPORTER": "otlp,console"}, ""),
    ({"OTEL_TRACES_EXPORTER": "none"}, ""),
    ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER=zipkin"),
    ({"OTEL_METRICS_EXPORTER": "prometheus"}, "OTEL_METRICS_EXPORTER=prometheus"),
    ({"OTEL_METRICS_EXPORTER": "otlp,prometheus"}, "OTEL_METRICS_EXPORTER=prometheus"),
    ({"OTEL_LOGS_EXPORTER": "mine"}, "OTEL_LOGS_EXPORTER=mine"),
    ({"TRACEDBRIDGE_ASGI_DETAIL": "on"}, "TRACEDBRIDGE_ASGI_DETAIL"),
    ({"TRACEDBRIDGE_ASGI_DETAIL": "off"}, ""),
]


@pytest.mark.parametrize(("variables", "name"), CONFIGURED, ids=[str(variables) for variables, _ in CONFIGURED])
@pytest.mark.parametrize("mode", ["auto", "eager", "deferred"])
def test_is_eager(
    mode: str, variables: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What only the SDK knows has it loaded at once; who asked for a deferred start is told by one warning, why."""
    for variable, value in {**variables, "TRACEDBRIDGE_START": mode, "TRACEDBRIDGE_FLUSH": "auto"}.items():
        monkeypatch.setenv(variable, value)
    with caplog.at_level(logging.WARNING):
        assert is_eager(Settings()) is (mode == "eager" or bool(name))
    expected = [f"TRACEDBRIDGE_START=deferred is ignored: {name} needs the SDK from the start"]
    assert [record.getMessage() for record in caplog.records] == (expected if name and mode == "deferred" else [])


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"FLUSH": "auto"}, False),
        ({"FLUSH": "after"}, False),
        ({"FLUSH": "before"}, True),
        ({"FLUSH": "before", "START": "deferred"}, True),
        ({"FLUSH": "auto", "START": "eager"}, True),
        ({"FLUSH": "auto", "ASGI_DETAIL": "on"}, True),
    ],
    ids=str,
)
def test_what_is_there_before_the_first_event(
    variables: dict[str, str], expected: bool, received: Received, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bridge has what exports from its start on, or not before there is something to tell."""
    for name, value in variables.items():
        monkeypatch.setenv(f"TRACEDBRIDGE_{name}", value)
    with create_bridge(asgi_around(ok)) as bridge:
        assert (telemetry_of(bridge).pipeline is not None) is expected


def ok(headers: Pairs) -> str:
    """Answer anything."""
    return "ok"


def telemetry_of(bridge: Bridge) -> Middleware:
    """Return what watches a bridge."""
    assert isinstance(bridge._telemetry, Middleware)
    return bridge._telemetry


def call(bridge: Bridge) -> None:
    """Have an event answered."""
    assert answer(bridge(event(), None)).body == b"ok"


def to_the_next_event(bridge: Bridge) -> None:
    """Answer another event."""
    call(bridge)


@pytest.mark.parametrize("then", [to_the_next_event, Bridge.settle, Bridge.close], ids=["next", "settle", "close"])
@pytest.mark.parametrize("kind", KINDS)
def test_pending(
    kind: Kind, then: Callable[[Bridge], None], received: Received, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In ``auto`` the first invocation is told and sent when the next has been, or is settled, and not before."""
    monkeypatch.setenv("TRACEDBRIDGE_FLUSH", "auto")
    with create_bridge(app_around(kind, ok)) as bridge:
        call(bridge)
        assert telemetry_of(bridge).pipeline is None
        assert not any(thread.name == "tracedbridge-outbox" for thread in threading.enumerate())
        assert received.spans == []
        then(bridge)
        assert [span.attributes["faas.coldstart"] for span in received.servers()][:1] == [True]
    assert len(received.servers()) == 1 + (then is to_the_next_event)


@pytest.mark.parametrize("kind", KINDS)
def test_by_themselves(kind: Kind, received: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    """In ``after`` what there is to tell comes without anybody asking, of the first invocation and of later ones."""
    monkeypatch.setenv("TRACEDBRIDGE_FLUSH", "after")
    with create_bridge(app_around(kind, ok)) as bridge:
        for count in (1, 2):
            call(bridge)
            give_up_s = time.monotonic() + HANG_S
            while len(received.servers()) < count and time.monotonic() < give_up_s:
                time.sleep(0.01)
            assert len(received.servers()) == count


def test_the_response_does_not_wait(received: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    """In ``after`` nothing is told on the thread that answers."""
    monkeypatch.setenv("TRACEDBRIDGE_FLUSH", "after")
    monkeypatch.setattr(middleware, "QUIET_S", 3600.0)
    with create_bridge(asgi_around(ok)) as bridge:
        for _ in range(10):
            call(bridge)
        assert telemetry_of(bridge).pipeline is None
        assert received.spans == []
    assert len(received.servers()) == 10


class Uncopyable:
    """No attribute's value, and nothing that can be copied."""

    def __deepcopy__(self, memo: object) -> object:
        raise TypeError("cannot be copied")


def test_odd_spans(received: Received, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """What the SDK would refuse, or take without a word, neither raises in the app nor costs another span."""
    monkeypatch.setenv("TRACEDBRIDGE_FLUSH", "auto")

    def work(headers: Pairs) -> str:
        tracer, no_value = trace.get_tracer("shop"), cast("Any", Uncopyable())
        with tracer.start_as_current_span("odd", attributes={"lock": no_value, "kept": 1}) as span:
            span.set_attributes({})
            span.set_attribute("list", [1, no_value])
            span.add_event("nothing", {})
            span.set_attribute("last", 2)
        tracer.start_span("even").end()
        return "ok"

    with caplog.at_level(logging.CRITICAL), create_bridge(asgi_around(work)) as bridge:
        call(bridge)
    odd = received.span("odd")
    assert {"kept": 1, "last": 2}.items() <= odd.attributes.items()
    assert [each.name for each in odd.events][:1] == ["nothing"]
    assert received.span("even").name == "even"


# Adaptive flush.


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    """Takes the spans of bridges that flush as traffic asks for; nothing else is exported."""
    monkeypatch.setenv("TRACEDBRIDGE_FLUSH", "auto")
    monkeypatch.setenv("TRACEDBRIDGE_FLUSH_TIMEOUT_MS", str(HANG_S * 1000))
    with Backend(answering(200)) as backend:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{backend.endpoint}/v1/traces")
        yield backend


def set_traffic(monkeypatch: pytest.MonkeyPatch, *, gap_s: float, most: int, longest_s: float) -> None:
    """Say what is close, and how many, and for how long, may wait; machines are too noisy for the true ones."""
    monkeypatch.setattr(desk, "_STEADY_GAP_NS", int(gap_s * 1e9))
    monkeypatch.setattr(desk, "_STEADY_MOST", most)
    monkeypatch.setattr(desk, "_STEADY_LONGEST_NS", int(longest_s * 1e9))


def grown(bridge: Bridge, backend: Backend, calls: int) -> list[int]:
    """Return how many exports there had been after each of so many calls."""
    counts = []
    for _ in range(calls):
        call(bridge)
        counts.append(len(backend.seen))
    return counts


# Longer than any process has run.
ALWAYS_S = 1e9


def test_steady_traffic(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Responses that follow each other closely are flushed in batches of so many, and at the end; each span once."""
    set_traffic(monkeypatch, gap_s=ALWAYS_S, most=10, longest_s=ALWAYS_S)
    with create_bridge(asgi_around(ok)) as bridge:
        # The first waits; the others each have their flush until it is clear that there are many.
        assert grown(bridge, backend, 5) == [0, 1, 2, 3, 4]
        counts = grown(bridge, backend, 50)
        batches = counts[-1] - counts[2]
        assert batches in (4, 5)
        waiting = [sum(1 for each in counts if each == count) for count in set(counts[3:])]
        assert max(waiting) <= 10
    assert backend.names().count("GET") == 55


def test_old_traffic(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """However steady it is, what has waited for so long is flushed."""
    set_traffic(monkeypatch, gap_s=ALWAYS_S, most=1000, longest_s=0.0)
    with create_bridge(asgi_around(ok)) as bridge:
        assert grown(bridge, backend, 12) == list(range(12))
    assert backend.names().count("GET") == 12


def test_sparse_traffic(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Responses that are far from each other are each flushed before they return."""
    set_traffic(monkeypatch, gap_s=-1.0, most=1000, longest_s=ALWAYS_S)
    with create_bridge(asgi_around(ok)) as bridge:
        assert grown(bridge, backend, 12) == list(range(12))


def test_a_pause(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """A response that comes after a pause has all flushed that waited, and is not steady traffic any more."""
    set_traffic(monkeypatch, gap_s=ALWAYS_S, most=1000, longest_s=ALWAYS_S)
    with create_bridge(asgi_around(ok)) as bridge:
        counts = grown(bridge, backend, 20)
        assert counts[-1] == counts[-10]
        monkeypatch.setattr(desk, "_STEADY_GAP_NS", -1)
        call(bridge)
        assert backend.names().count("GET") == 21
        assert len(backend.seen) == counts[-1] + 1


def test_settle_and_close_in_steady_traffic(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits in steady traffic goes out at once when it may."""
    set_traffic(monkeypatch, gap_s=ALWAYS_S, most=1000, longest_s=ALWAYS_S)
    with create_bridge(asgi_around(ok)) as bridge:
        grown(bridge, backend, 20)
        assert backend.names().count("GET") < 20
        bridge.settle()
        assert backend.names().count("GET") == 20
        call(bridge)
        assert backend.names().count("GET") == 20
    assert backend.names().count("GET") == 21


@pytest.mark.parametrize("flush", ["auto", "after", "before"])
def test_every_span_once(flush: str, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under true steady traffic every line comes in order and every span once, whichever way they go."""
    monkeypatch.setenv("TRACEDBRIDGE_FLUSH", flush)
    paths = [f"/{number}" for number in range(150)]
    with create_bridge(asgi_around(ok)) as bridge:
        for path in paths:
            assert answer(bridge(event("GET", path), None)).status == 200
    told = [
        record.attributes["url.path"]  # type: ignore[union-attr]  # only spans are sent there
        for seen in backend.seen
        for record in seen.records()
        if getattr(record, "name", "") == "GET"
    ]
    assert told == paths


@pytest.mark.parametrize("flush", ["auto", "after"])
def test_many_spans(flush: str, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few invocations it took, what fills a batch is flushed before a queue is full."""
    set_traffic(monkeypatch, gap_s=ALWAYS_S, most=1_000_000, longest_s=ALWAYS_S)
    # The thread of "after" would come too late by itself.
    monkeypatch.setattr(outbox, "QUIET_S", 2.0)
    monkeypatch.setenv("TRACEDBRIDGE_FLUSH", flush)
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "64")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "256")

    def work(headers: Pairs) -> str:
        with trace.get_tracer("shop").start_as_current_span("work"):
            for _ in range(30):
                trace.get_tracer("shop").start_span("step").end()
        # As much as a caller does with an answer.
        time.sleep(0.002)
        return "ok"

    with create_bridge(asgi_around(work)) as bridge:
        call(bridge)
        bridge.settle()
        for _ in range(40):
            call(bridge)
        account = telemetry_of(bridge).pipeline.accounts()[0]  # type: ignore[union-attr]  # it was settled
        assert account.dropped == {}
    names = backend.names()
    assert (names.count("GET"), names.count("step")) == (41, 41 * 30)


def test_limits() -> None:
    """A freeze loses at most a hundred invocations of steady traffic, of the last second."""
    assert desk._STEADY == 5
    assert desk._STEADY_MOST <= 100
    assert desk._STEADY_LONGEST_NS <= 1_000_000_000
