"""One SERVER span for each invocation: its attributes, what is below it, and what an error makes of it."""

from __future__ import annotations

import asyncio
import contextvars
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.propagate import inject

from tests.support import HANG_S, Receive, Scope, Send, answer, bounded, event, no_lifespan, respond
from tests.telemetry.apps import KINDS, Pairs, app_around, asgi_around
from tests.telemetry.received import Received, child_of, drawn, steady
from tracedbridge import Bridge, EventError, create_bridge
from tracedbridge.messages import Kind

pytestmark = pytest.mark.telemetry

tracer = trace.get_tracer("shop")

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def ok(headers: Pairs) -> str:
    """Answer anything."""
    return "ok"


@pytest.mark.parametrize("kind", KINDS)
def test_attributes(kind: Kind, received: Received) -> None:
    """In every kind the SERVER span says the same, in full: of the function, the request, the client, the response."""
    headers = {"host": "shop.example:8443", "user-agent": "curl/8", "x-forwarded-for": "192.0.2.7, 10.0.0.1"}
    with create_bridge(app_around(kind, ok)) as bridge:
        bridge(event("GET", "/caf%C3%A9/1?sort=up&sig=abc", headers=headers), None)
        bridge(event("GET", "/caf%C3%A9/1?sort=up&sig=abc", headers=headers), None)
    cold, warm = received.servers()
    told = {
        "faas.trigger": "http",
        "faas.invocation_id": "…",
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "url.scheme": "https",
        "url.path": "/caf%C3%A9/1",
        "url.query": "sort=up&sig=REDACTED",
        "server.address": "shop.example",
        "server.port": 8443,
        "client.address": "192.0.2.7",
        "network.protocol.version": "1.1",
        "user_agent.original": "curl/8",
    }
    assert steady(cold.attributes, "faas.invocation_id") == {
        **told,
        "faas.coldstart": True,
        "tracedbridge.coldstart.kind": "on_demand",
    }
    assert steady(warm.attributes, "faas.invocation_id") == {**told, "faas.coldstart": False}
    assert (warm.name, warm.kind, warm.status, warm.parent_id) == ("GET", "server", "unset", "")
    assert (warm.scope.name, warm.events, warm.links) == ("tracedbridge", (), ())
    assert cold.trace_id != warm.trace_id


def test_invocation_ids(received: Received) -> None:
    """Where the platform has no id for an invocation each gets one of its own."""
    with create_bridge(asgi_around(ok)) as bridge:
        for _ in range(3):
            bridge(event(), None)
    ids = [span.attributes["faas.invocation_id"] for span in received.servers()]
    assert all(isinstance(each, str) and len(each) == 32 for each in ids)
    assert len(set(ids)) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_the_apps_spans_are_children(kind: Kind, received: Received) -> None:
    """Spans that the app makes are below the SERVER span, in every kind, also in threads with a copied context."""

    def work(headers: Pairs) -> str:
        with tracer.start_as_current_span("outer"):
            with tracer.start_as_current_span("inner"):
                pass
            with ThreadPoolExecutor(1) as pool:
                pool.submit(contextvars.copy_context().run, thread_work).result(HANG_S)
        return "ok"

    def thread_work() -> None:
        with tracer.start_as_current_span("in a thread"):
            pass

    with create_bridge(app_around(kind, work)) as bridge:
        bridge(event(), None)
        bridge(event(), None)
    assert drawn(received.spans) == (
        "GET (server)\n"
        "  cold start\n"
        "    import app\n"
        "  outer\n"
        "    inner\n"
        "    in a thread\n"
        "GET (server)\n"
        "  outer\n"
        "    inner\n"
        "    in a thread"
    )


def test_tasks_and_threads_of_asyncio(received: Received) -> None:
    """In an ASGI app tasks and ``asyncio.to_thread`` carry the SERVER span on."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        no_lifespan(scope)

        async def task() -> None:
            with tracer.start_as_current_span("task"):
                await asyncio.to_thread(thread)

        def thread() -> None:
            with tracer.start_as_current_span("thread"):
                pass

        await asyncio.create_task(task())
        await respond(send)

    with create_bridge(app) as bridge:
        bridge(event(), None)
    assert drawn(received.spans) == "GET (server)\n  cold start\n    import app\n  task\n    thread"


def test_inside_a_running_loop(received: Received) -> None:
    """A bridge that is called where a loop runs already answers on another thread, and its trace is whole."""

    def work(headers: Pairs) -> str:
        with tracer.start_as_current_span("work"):
            return "ok"

    async def call(bridge: Bridge) -> None:
        bridge(event(), None)

    with create_bridge(asgi_around(work)) as bridge:
        asyncio.run(call(bridge))
    assert drawn(received.spans) == "GET (server)\n  cold start\n    import app\n  work"


def test_no_span_is_left_current(received: Received) -> None:
    """After an invocation, failed or not, its span is not current any more."""

    def work(headers: Pairs) -> str:
        raise ValueError("boom")

    for app in (asgi_around(ok), asgi_around(work)):
        with create_bridge(app) as bridge:
            bridge(event(), None)
            assert not trace.get_current_span().get_span_context().is_valid


@pytest.mark.parametrize("kind", KINDS)
def test_exception(kind: Kind, received: Received) -> None:
    """An app's exception is an event of its span, its class the error type, its text the status; never twice."""

    def work(headers: Pairs) -> str:
        raise ConnectionError("no route to the shop")

    with create_bridge(app_around(kind, work)) as bridge:
        assert answer(bridge(event(), None)).status == 500
    span = received.server()
    assert (span.status, span.status_message) == ("error", "no route to the shop")
    assert span.attributes["error.type"] == "ConnectionError"
    assert span.attributes["http.response.status_code"] == 500
    (shown,) = span.events
    assert shown.name == "exception"
    assert shown.attributes["exception.type"] == "ConnectionError"
    assert shown.attributes["exception.message"] == "no route to the shop"
    assert "in work" in str(shown.attributes["exception.stacktrace"])
    assert span.start_ns <= shown.time_ns <= span.end_ns


@pytest.mark.parametrize(
    ("status", "line"),
    [
        pytest.param(503, "GET (server) ! 503", id="5xx that the app returns is an error by its status"),
        pytest.param(500, "GET (server) ! 500", id="500 that the app returns"),
        pytest.param(404, "GET (server)", id="4xx is the client's error"),
        pytest.param(302, "GET (server)", id="redirect"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_status(kind: Kind, status: int, line: str, received: Received) -> None:
    """Of the statuses that an app returns only 5xx make the span an error."""
    with create_bridge(app_around(kind, lambda headers: f"{status}:")) as bridge:
        bridge(event(), None)
    assert drawn(received.spans).splitlines()[0] == line
    assert received.server().attributes["http.response.status_code"] == status


def test_bad_request(received: Received) -> None:
    """A broken request in a good event is the client's error: an event on the span, but no error of ours."""
    with create_bridge(asgi_around(ok)) as bridge:
        assert answer(bridge(event(path="no-slash"), None)).status == 400
    span = received.server()
    assert (span.name, span.status) == ("HTTP", "unset")
    assert "error.type" not in span.attributes
    assert span.attributes["http.response.status_code"] == 400
    assert [each.attributes["exception.type"] for each in span.events] == ["tracedbridge.errors.BadRequestError"]


def test_event_error(received: Received) -> None:
    """An event that is none is raised, and is an error span all the same."""
    with create_bridge(asgi_around(ok)) as bridge:
        with pytest.raises(EventError):
            bridge({"nothing": "known"}, None)
    span = received.server()
    assert drawn([span]) == "HTTP (server) ! EventError [exception]"
    assert steady(span.attributes, "faas.invocation_id") == {
        "faas.trigger": "http",
        "faas.coldstart": True,
        "faas.invocation_id": "…",
        "tracedbridge.coldstart.kind": "on_demand",
        "error.type": "EventError",
    }


def test_deadline(received: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    """An app that misses its deadline is a span in error with the status 504, if nobody has told it before."""
    monkeypatch.setenv("TRACEDBRIDGE_DEADLINE_MS", "50")
    monkeypatch.setenv("TRACEDBRIDGE_TIMEOUT_MARGIN_MS", "0")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        no_lifespan(scope)
        await asyncio.Event().wait()

    with create_bridge(app) as bridge:
        assert answer(bridge(event(), None)).status == 504
    span = received.server()
    assert drawn([span]) == "GET (server) ! DeadlineError [exception]"
    assert span.attributes["http.response.status_code"] == 504


async def _no_response(scope: Scope, receive: Receive, send: Send) -> None:
    no_lifespan(scope)


async def _half_a_response(scope: Scope, receive: Receive, send: Send) -> None:
    no_lifespan(scope)
    await send({"type": "http.response.start", "status": 200, "headers": []})


@pytest.mark.parametrize("app", [_no_response, _half_a_response], ids=["none", "half"])
def test_protocol_error(app: Any, received: Received) -> None:
    """An app that breaks its protocol is a span in error, by the error's name."""
    with create_bridge(app) as bridge:
        assert answer(bridge(event(), None)).status == 500
    assert drawn([received.server()]) == "GET (server) ! AppProtocolError [exception]"


def test_raised_errors(received: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    """With TRACEDBRIDGE_RAISE_ERRORS the exception goes to the caller and, without a status, to the span."""
    monkeypatch.setenv("TRACEDBRIDGE_RAISE_ERRORS", "1")

    def work(headers: Pairs) -> str:
        raise KeyError("shoes")

    with create_bridge(asgi_around(work)) as bridge:
        with pytest.raises(KeyError):
            bridge(event(), None)
    span = received.server()
    assert drawn([span]) == "GET (server) ! KeyError [exception]"
    assert "http.response.status_code" not in span.attributes


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=["SystemExit", "KeyboardInterrupt"])
@pytest.mark.parametrize("kind", KINDS)
def test_errors_that_go_through(kind: Kind, error: BaseException, received: Received) -> None:
    """SystemExit and KeyboardInterrupt leave the bridge, and their span is exported before."""

    def work(headers: Pairs) -> str:
        raise error

    with create_bridge(app_around(kind, work)) as bridge:
        with pytest.raises(type(error)):
            bridge(event(), None)
        assert drawn([received.server()]) == f"GET (server) ! {type(error).__name__} [exception]"


def test_background_error(received: Received) -> None:
    """What fails after the response has been given is on the span; the response stays."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        no_lifespan(scope)
        await respond(send, b"given")
        raise ValueError("mail server is down")

    with create_bridge(app) as bridge:
        given = answer(bridge(event(), None))
    assert (given.status, given.body) == (200, b"given")
    span = received.server()
    assert [each.attributes["exception.message"] for each in span.events] == ["mail server is down"]
    assert span.attributes["http.response.status_code"] == 200


@pytest.mark.frameworks
def test_an_error_that_the_framework_answers(received: Received) -> None:
    """An exception that FastAPI answers with its own 500, and raises then, is on our span, once."""
    from fastapi import FastAPI

    app = FastAPI()

    @app.get("/crash")
    async def crash() -> None:
        raise ConnectionError("no route")

    with create_bridge(app) as bridge:
        assert answer(bridge(event(path="/crash"), None)).status == 500
    span = received.server()
    assert (span.name, span.attributes["error.type"]) == ("GET /crash", "ConnectionError")
    assert [each.attributes["exception.message"] for each in span.events] == ["no route"]
    assert received.counts("faas.errors", "error.type") == {("ConnectionError",): 1}


class UnprintableError(Exception):
    """Whose text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(UnprintableError(), id="an exception that has no text"),
        pytest.param(ValueError("file \udcff"), id="a text with a lone surrogate, as of an undecodable file name"),
        pytest.param(ValueError("x" * 300_000), id="a long text"),
        pytest.param(ValueError("a\nb\x00c\x1b[31m"), id="a text with control characters"),
        pytest.param(ExceptionGroup("several", [ValueError("one"), KeyError("two")]), id="a group"),
    ],
)
def test_odd_exceptions(error: Exception, received: Received, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever an exception is like, its span and its line come, and the spans around it, too."""

    def work(headers: Pairs) -> str:
        with tracer.start_as_current_span("around"):
            pass
        raise error

    with create_bridge(asgi_around(work)) as bridge:
        assert answer(bridge(event(), None)).status == 500
    assert received.server().attributes["error.type"] == type(error).__name__
    assert child_of(received.server(), received.span("around"))
    (line,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert line["error"] == type(error).__name__


@pytest.mark.parametrize("kind", KINDS)
def test_many_threads(kind: Kind, received: Received) -> None:
    """Invocations in parallel get a span each, with their own children; one of them has the cold start."""
    begun = threading.Barrier(8)

    def work(headers: Pairs) -> str:
        with tracer.start_as_current_span(f"work {dict(headers)['x-number']}"):
            begun.wait(HANG_S)
        return "ok"

    with create_bridge(app_around(kind, work)) as bridge:

        def call(number: int) -> int:
            return answer(bridge(event(path=f"/{number}", headers={"x-number": str(number)}), None)).status

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(call, range(8))) == [200] * 8
    servers = received.servers()
    assert {span.attributes["url.path"] for span in servers} == {f"/{number}" for number in range(8)}
    for server in servers:
        number = str(server.attributes["url.path"])[1:]
        assert child_of(server, received.span(f"work {number}"))
    assert [span.attributes["faas.coldstart"] for span in servers].count(True) == 1
    assert child_of(next(span for span in servers if span.attributes["faas.coldstart"]), received.span("cold start"))


@pytest.mark.parametrize("kind", KINDS)
def test_an_app_that_calls_its_own_bridge(kind: Kind, received: Received) -> None:
    """An app that calls itself gets a second SERVER span, below the first one when it hands its context on."""
    bridges: list[Bridge] = []

    def work(headers: Pairs) -> str:
        if ("x-again", "1") not in headers:
            return "inner"
        carrier: dict[str, str] = {}
        inject(carrier)
        return str(bridges[0](event(path="/inner", headers=carrier), None)["body"])

    with create_bridge(app_around(kind, work)) as bridge:
        bridges.append(bridge)
        bridge(event(path="/warm"), None)
        told = bounded(lambda: bridge(event(path="/outer", headers={"x-again": "1"}), None))
    assert told["body"] == "inner"
    _, outer, inner = received.servers()
    assert (outer.attributes["url.path"], inner.attributes["url.path"]) == ("/outer", "/inner")
    assert child_of(outer, inner)


def traceparent_of(headers: Pairs) -> str:
    """Answer with the traceparent that the app sees."""
    return dict(headers).get("traceparent", "")


@pytest.mark.parametrize(
    ("sampler", "argument", "caller", "is_sampled"),
    [
        pytest.param("always_on", "", "", True, id="always_on"),
        pytest.param("always_off", "", "", False, id="always_off"),
        pytest.param("traceidratio", "0", "", False, id="none of the traces"),
        pytest.param("traceidratio", "1", "", True, id="all of the traces"),
        pytest.param("parentbased_always_on", "", CALLER, True, id="sampled parent"),
        pytest.param("parentbased_always_on", "", CALLER[:-1] + "0", False, id="unsampled parent"),
        pytest.param("parentbased_always_off", "", "", False, id="no parent, and parents only"),
        pytest.param("parentbased_always_off", "", CALLER, True, id="sampled parent, and parents only"),
        pytest.param("always_on", "", CALLER[:-1] + "0", True, id="unsampled parent that does not count"),
    ],
)
def test_sampling(
    sampler: str, argument: str, caller: str, is_sampled: bool, received: Received, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The standard sampler decides what is exported, and the app's traceparent says what it decided."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", argument)
    with create_bridge(asgi_around(traceparent_of)) as bridge:
        told = answer(bridge(event(headers={"traceparent": caller} if caller else {}), None))
    _, trace_id, span_id, flags = told.body.decode().split("-")
    assert bool(int(flags, 16) & 1) is is_sampled
    if caller:
        assert trace_id == caller.split("-")[1]
    assert [(span.trace_id, span.span_id) for span in received.servers()] == ([(trace_id, span_id)] * is_sampled)
    if not is_sampled and sampler != "parentbased_always_on":
        assert received.spans == []
    # What is not traced is counted and logged all the same.
    assert received.counts("faas.invocations") == {(): 1}
    assert [record.trace_id for record in received.logs] == [trace_id]


def test_the_boot_trace_is_sampled_as_the_invocation(received: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a ratio the app's spans from before the first event and that event's spans are all there, or none."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    early: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            carrier: dict[str, str] = {}
            inject(carrier)
            early.append(carrier["traceparent"])
        no_lifespan(scope)
        await respond(send, dict(scope["headers"])[b"traceparent"])

    decisions = set()
    for number in range(12):
        with create_bridge(app) as bridge:
            told = answer(bridge(event(), None)).body.decode()
        assert told.split("-")[1] == early[number].split("-")[1]
        is_sampled = int(told.split("-")[3], 16) & 1
        assert int(early[number].split("-")[3], 16) & 1 == is_sampled
        decisions.add(is_sampled)
        assert len({span.trace_id for span in received.spans if span.trace_id == told.split("-")[1]}) == is_sampled
    # 1 in 2048 that this fails by chance; the assertions above say nothing if all decisions were one.
    assert decisions == {0, 1}


@pytest.mark.parametrize("hook", ["begin", "_end_span", "_measure", "_write_line"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_hook_that_fails(
    kind: Kind, hook: str, received: Received, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Telemetry that fails inside never changes a response, and is told on stderr once."""

    def broken(*args: object, **kwargs: object) -> None:
        raise LookupError("a bug of ours")

    place, where = ("serverspan.begin", "Watch._open") if hook == "begin" else (f"telling.Teller.{hook}", "Teller.tell")
    monkeypatch.setattr(f"tracedbridge.telemetry.{place}", broken)
    with create_bridge(app_around(kind, lambda headers: "201:made")) as bridge:
        for _ in range(3):
            told = answer(bridge(event(), None))
            assert (told.status, told.body) == (201, b"made")
    heard = [line for line in capsys.readouterr().err.splitlines() if "a bug of ours" in line]
    assert heard == [f"tracedbridge: telemetry failed in {where}: LookupError: a bug of ours"]


class BrokenTracer(trace.NoOpTracer):
    """Of an app's own provider that cannot start a span."""

    def start_span(self, *args: Any, **kwargs: Any) -> trace.Span:
        raise OSError("the vendor's tracer is broken")


class BrokenProvider(trace.NoOpTracerProvider):
    """An app's own."""

    def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
        return BrokenTracer()


@pytest.mark.parametrize("kind", KINDS)
def test_a_provider_that_fails(
    kind: Kind, own_providers: Callable[..., None], received: Received, capsys: pytest.CaptureFixture[str]
) -> None:
    """A provider of the app's own that raises cannot change a response either."""
    own_providers(traces=BrokenProvider())
    with create_bridge(app_around(kind, ok)) as bridge:
        for _ in range(2):
            assert answer(bridge(event(), None)).body == b"ok"
    heard = capsys.readouterr().err.splitlines()
    assert any("the vendor's tracer is broken" in line for line in heard)
    assert len(heard) == len(set(heard))
