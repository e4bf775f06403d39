"""The caller's context comes in as the settings say, and this invocation's ids go on to the app, in its headers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from opentelemetry import baggage, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagate import inject
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tests.support import HANG_S, Receive, Scope, Send, answer, event, no_lifespan, respond
from tests.telemetry.apps import KINDS, Pairs, app_around, asgi_around
from tests.telemetry.functions import run_function
from tests.telemetry.received import Received, child_of, drawn
from tracedbridge import create_bridge
from tracedbridge.messages import Kind, Request
from tracedbridge.telemetry.propagation import with_ids

pytestmark = pytest.mark.telemetry

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
CALLER = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=1,other=2", "baggage": "tenant=acme,plan=pro"}
FIELDS = ("traceparent", "tracestate", "baggage")


def trace_headers(headers: Pairs) -> str:
    """Answer with the trace headers that the app sees."""
    return json.dumps([pair for pair in headers if pair[0] in FIELDS])


def seen_by(kind: Kind, headers: dict[str, str | list[str]]) -> Pairs:
    """Return the trace headers that an app of that kind sees, in its second invocation."""
    with create_bridge(app_around(kind, trace_headers)) as bridge:
        bridge(event(), None)
        told = json.loads(answer(bridge(event(headers=headers), None)).body)
    return [(name, value) for name, value in told]


@pytest.mark.parametrize("more", [{}, {"x-many": ["1", "2"]}], ids=["each once", "a repeated header beside them"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_apps_headers(kind: Kind, more: dict[str, list[str]], received: Received) -> None:
    """The app sees this invocation's traceparent in place of the caller's, once; state and baggage go on."""
    caller: dict[str, str | list[str]] = {"TraceParent": CALLER["traceparent"], "baggage": "tenant=acme", **more}
    seen = seen_by(kind, {"tracestate": "vendor=1,other=2", **caller})
    _, span = received.servers()
    assert (span.trace_id, span.parent_id) == (TRACE, SPAN)
    told = dict(seen)
    assert len(seen) == len(told) == 3
    assert told["traceparent"].rpartition("-")[0] == f"00-{TRACE}-{span.span_id}"
    assert (told["tracestate"], told["baggage"]) == ("vendor=1,other=2", "tenant=acme")


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_caller(kind: Kind, received: Received) -> None:
    """Without a caller's context the app sees the ids of a new trace."""
    seen = seen_by(kind, {})
    _, span = received.servers()
    ((name, value),) = seen
    assert (name, value.rpartition("-")[0]) == ("traceparent", f"00-{span.trace_id}-{span.span_id}")


@pytest.mark.parametrize("kind", KINDS)
def test_repeated_traceparent(kind: Kind, received: Received) -> None:
    """Several traceparents are none, and the app sees one: ours."""
    seen = seen_by(kind, {"traceparent": [CALLER["traceparent"], CALLER["traceparent"].replace("b7", "c7")]})
    _, span = received.servers()
    assert span.parent_id == ""
    ((_, value),) = seen
    assert value.split("-")[1:3] == [span.trace_id, span.span_id]


@pytest.mark.parametrize("kind", KINDS)
def test_other_headers(kind: Kind, received: Received) -> None:
    """All other headers reach the app as without telemetry, in the same order."""
    headers = {"accept": "*/*", "x-a": "1", **CALLER, "x-b": "2", "cookie": "a=b"}
    told = []
    for telemetry in (False, True):
        with create_bridge(app_around(kind, lambda pairs: json.dumps(pairs)), telemetry=telemetry) as bridge:
            pairs = json.loads(answer(bridge(event(headers=headers), None)).body)
        told.append([pair for pair in pairs if pair[0] not in FIELDS])
    assert told[0] == told[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("worth", "trace_id", "parent_id", "links", "passed"),
    [
        pytest.param("parent", TRACE, SPAN, [], {"tracestate", "baggage"}, id="parent"),
        pytest.param("link", None, "", [(TRACE, SPAN)], {"baggage"}, id="link"),
        pytest.param("ignore", None, "", [], set(), id="ignore"),
    ],
)
def test_what_a_parent_is_worth(
    kind: Kind,
    worth: str,
    trace_id: str | None,
    parent_id: str,
    links: Sequence[tuple[str, str]],
    passed: set[str],
    received: Received,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """TRACEDBRIDGE_PARENT makes a remote span the parent, a link, or nothing; the app is told the same."""
    monkeypatch.setenv("TRACEDBRIDGE_PARENT", worth)
    told = dict(seen_by(kind, dict(CALLER)))
    _, span = received.servers()
    assert span.parent_id == parent_id
    assert (span.trace_id == TRACE) is (trace_id is not None)
    assert [(link.trace_id, link.span_id) for link in span.links] == links
    assert told.pop("traceparent").split("-")[1:3] == [span.trace_id, span.span_id]
    assert set(told) == passed


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"traceparent": "nonsense"}, id="no traceparent"),
        pytest.param({"traceparent": f"00-{'0' * 32}-{SPAN}-01"}, id="trace id of zeros"),
        pytest.param({"traceparent": f"00-{TRACE}-{'0' * 16}-01"}, id="span id of zeros"),
        pytest.param({"traceparent": f"ff-{TRACE}-{SPAN}-01"}, id="forbidden version"),
        pytest.param({"traceparent": ""}, id="empty"),
        pytest.param({"traceparent": "é" * 55}, id="no ASCII"),
        pytest.param({"tracestate": "vendor=1"}, id="state without parent"),
    ],
)
def test_broken_callers(headers: dict[str, str], received: Received) -> None:
    """A caller's context that is none counts for nothing, and is not handed on."""
    with create_bridge(asgi_around(trace_headers)) as bridge:
        told = dict(json.loads(answer(bridge(event(headers=headers), None)).body))
    span = received.server()
    assert (span.parent_id, span.links) == ("", ())
    assert set(told) == {"traceparent"}
    assert told["traceparent"].split("-")[1:3] == [span.trace_id, span.span_id]


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param("tenant=acme,plan=pro", id="one header"),
        pytest.param(["tenant=acme", "plan=pro"], id="two headers"),
    ],
)
def test_baggage(sent: str | list[str], received: Received) -> None:
    """Baggage is in the app's context, and on what the app sends on; of several headers all of it."""
    seen: list[dict[str, object]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        no_lifespan(scope)
        seen.append(dict(baggage.get_all()))
        await respond(send)

    with create_bridge(app) as bridge:
        bridge(event(headers={"baggage": sent}), None)
    assert seen == [{"tenant": "acme", "plan": "pro"}]


@pytest.mark.parametrize("kind", KINDS)
def test_clients_of_the_app(kind: Kind, received: Received) -> None:
    """What the app injects into its own calls carries the span that is current there."""

    def work(headers: Pairs) -> str:
        with trace.get_tracer("shop").start_as_current_span("call the bank"):
            carrier: dict[str, str] = {}
            inject(carrier)
        return carrier["traceparent"]

    with create_bridge(app_around(kind, work)) as bridge:
        told = answer(bridge(event(headers=dict(CALLER)), None)).body.decode()
    called = received.span("call the bank")
    assert told.split("-")[1:3] == [called.trace_id, called.span_id]
    assert child_of(received.server(), called)
    assert called.trace_id == TRACE


ECHO = """
import json

async def app(scope, receive, send):
    assert scope["type"] == "http"
    fields = {"traceparent", "tracestate", "baggage", "b3"}
    told = {name.decode(): value.decode() for name, value in scope["headers"] if name.decode() in fields}
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(told).encode()})
"""


@pytest.mark.parametrize(
    ("propagators", "is_child", "ours"),
    [
        pytest.param("tracecontext", True, {"traceparent", "tracestate"}, id="tracecontext"),
        pytest.param("baggage", False, set(), id="baggage"),
        pytest.param("none", False, set(), id="none"),
    ],
)
def test_propagators(propagators: str, is_child: bool, ours: set[str], tmp_path: Path, received: Received) -> None:
    """OTEL_PROPAGATORS says which headers are read and replaced; the others stay the caller's."""
    caller = {**CALLER, "b3": f"{TRACE}-{SPAN}-1"}
    ran = run_function(
        tmp_path,
        ECHO,
        [event(headers=caller)],
        OTEL_PROPAGATORS=propagators,
        OTEL_EXPORTER_OTLP_ENDPOINT=received.endpoint,
        TRACEDBRIDGE_FLUSH_TIMEOUT_MS=str(HANG_S * 1000),
    )
    assert ran.stderr == ""
    span = received.server()
    assert (span.trace_id == TRACE) is is_child
    told = json.loads(ran.answers[0]["body"])
    assert set(told) == set(caller)
    assert {name for name in told if told[name] != caller[name]} == ours - {"tracestate"}
    if is_child:
        assert told["traceparent"].split("-")[1:3] == [TRACE, span.span_id]


def test_a_propagator_that_is_absent(tmp_path: Path) -> None:
    """A propagator that is not installed is one warning by its name, and the function answers."""
    ran = run_function(tmp_path, ECHO, [event(headers=CALLER)], OTEL_PROPAGATORS="b3multi,tracecontext")
    assert ran.answers[0]["statusCode"] == 200
    (warning,) = ran.stderr.splitlines()
    assert "b3multi" in warning


FASTAPI = """
from fastapi import FastAPI
from opentelemetry import trace

app = FastAPI()

@app.get("/items/{item_id}")
async def item(item_id: int):
    with trace.get_tracer("shop").start_as_current_span("query"):
        return item_id
"""


@pytest.mark.frameworks
@pytest.mark.parametrize("caller", [{}, CALLER], ids=["root", "with a caller"])
def test_fastapi_joins(caller: dict[str, str], received: Received) -> None:
    """FastAPI's own SERVER span is a child of ours, the app's spans are below it, and requests are counted once."""
    from fastapi import FastAPI

    app = FastAPI()

    @app.get("/items/{item_id}")
    async def item(item_id: int) -> int:
        with trace.get_tracer("shop").start_as_current_span("query"):
            return item_id

    with create_bridge(app) as bridge:
        bridge(event(path="/items/1"), None)
        bridge(event(path="/items/2", headers=caller), None)
    _, ours = received.servers()
    theirs = [span for span in received.spans if span.kind == "server" and span.scope.name == "fastapi"]
    (below,) = [span for span in theirs if child_of(ours, span)]
    assert (ours.name, below.name, len(theirs)) == ("GET /items/{item_id}", "GET /items/{item_id}", 2)
    assert (
        len({span.trace_id for span in received.spans if span.start_ns >= ours.start_ns and span.end_ns <= ours.end_ns})
        == 1
    )
    assert "    query" not in drawn(received.spans).splitlines()[0]
    queries = [span for span in received.spans if span.name == "query" and span.trace_id == ours.trace_id]
    assert len(queries) == 1
    parents = {span.span_id: span for span in received.spans}
    above = parents[queries[0].parent_id]
    while above.scope.name == "fastapi" and above is not below:
        above = parents[above.parent_id]
    assert above is below
    served = [metric for metric in received.metrics if metric.name.startswith("http.server.")]
    assert {(metric.name, metric.scope.name) for metric in served} == {("http.server.request.duration", "tracedbridge")}
    assert sum(point.count for point in received.histogram("http.server.request.duration")) == 2


@pytest.mark.frameworks
def test_fastapi_without_propagation(tmp_path: Path, received: Received) -> None:
    """With OTEL_PROPAGATORS=none FastAPI, which fails then with any provider, answers here."""
    ran = run_function(
        tmp_path, FASTAPI, [event(path="/items/1")], OTEL_PROPAGATORS="none",
        OTEL_EXPORTER_OTLP_ENDPOINT=received.endpoint, TRACEDBRIDGE_FLUSH_TIMEOUT_MS=str(HANG_S * 1000),
    )  # fmt: skip
    assert (ran.answers[0]["statusCode"], ran.answers[0]["body"]) == (200, "1")
    assert len(received.servers()) == 1


def carried(*, flags: int = 1, state: str = "", baggage_of: str = "") -> Context:
    """Return a context with a span, and what may come with it."""
    span_context = trace.SpanContext(
        int(TRACE, 16), int(SPAN, 16), is_remote=False, trace_flags=trace.TraceFlags(flags),
        trace_state=trace.TraceState.from_header([state]) if state else None,
    )  # fmt: skip
    context = trace.set_span_in_context(trace.NonRecordingSpan(span_context), Context())
    return baggage.set_baggage("tenant", baggage_of, context) if baggage_of else context


@pytest.mark.parametrize(
    "context",
    [
        pytest.param(carried(), id="a span"),
        pytest.param(carried(flags=0), id="not sampled"),
        pytest.param(carried(flags=3), id="random ids"),
        pytest.param(carried(state="vendor=1,other=2"), id="tracestate"),
        pytest.param(carried(baggage_of="acme"), id="baggage"),
        pytest.param(trace.set_span_in_context(trace.INVALID_SPAN, Context()), id="no valid span"),
    ],
)
@pytest.mark.parametrize(
    "propagator",
    [
        pytest.param([TraceContextTextMapPropagator(), W3CBaggagePropagator()], id="the default"),
        pytest.param([TraceContextTextMapPropagator()], id="tracecontext"),
        pytest.param([W3CBaggagePropagator()], id="baggage"),
        pytest.param([], id="none"),
    ],
)
def test_as_the_propagators_write(
    propagator: list[TextMapPropagator], context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The app's headers are what the propagators write, whether they are asked or not."""
    monkeypatch.setattr("opentelemetry.propagate.propagators", CompositePropagator(propagator))
    written: dict[str, str] = {}
    inject(written, context)
    request = Request("GET", "/", "", [], b"", "https", "localhost", 443, None)
    assert with_ids(request, context).headers == list(written.items())
