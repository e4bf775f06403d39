"""Under every real server, the same requests leave the same spans, metrics and log lines as the same events."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import pytest

from tests.instrumented.servers import SERVERS, Case, Reply, events, served, wire
from tests.telemetry.received import Received, child_of, drawn, steady
from tracedbridge.serving.receiver import Receiver
from tracedbridge.telemetry.otlp import SpanRecord

pytestmark = [pytest.mark.telemetry, pytest.mark.frameworks]

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

FIRST = Case("first", "GET", "/items/1")
"""Takes the cold start to itself."""

GROUPS = [
    [FIRST],
    [Case("route", "GET", "/items/7?size=2")],
    [Case("parent", "GET", "/items/8", headers=(("traceparent", PARENT),))],
    [Case("missing", "GET", "/nothing")],
    [Case("raises", "GET", "/crash")],
    [Case("streamed", "GET", "/stream")],
    [Case("head", "HEAD", "/items/9")],
    [Case("posted", "POST", "/echo", b"hello", (("content-type", "text/plain"),))],
]
TOGETHER = [Case("a", "GET", "/meet/a"), Case("b", "GET", "/meet/b")]
CASES = {case.name: case for case in [*(each for group in GROUPS for each in group), *TOGETHER]}

# What is not as for an event, and why; all else is.
DIFFERENCES = {
    "event first byte": "an event's response is whole when it leaves, a served one begins before it ends",
    "attribute client.address": "a server knows its peer, an event only what a proxy has written into its headers",
    "attribute server.port": "the header names no port: an event is https, as its platform, a local server is http",
    "attribute url.scheme": "as above",
    "attribute faas.invocation_id": "minted",
    "line bytes_out": "of an exception's response: the server makes it, and does not say how long it is",
    "vercel.request_id, cloud.provider and the like": "under Vercel's runtime the platform is Vercel, and says more",
    "tracedbridge.loop_stall_ms": "nobody feels a loop on which many requests run; see TracedAsgi.serve",
}


class Told(NamedTuple):
    """What one request left."""

    tree: str
    attributes: dict[str, Any]
    line: dict[str, Any]
    parent_id: str


class Account(NamedTuple):
    """What a run left."""

    told: dict[str, Told]
    counts: dict[str, dict[tuple[Any, ...], float]]
    names: set[str]


_MOVING = (
    "client.address", "server.port", "url.scheme", "faas.invocation_id", "invocation_id", "trace_id", "span_id",
    "memory_mb", "function", "exception", "exception.stacktrace", "modules", "cold_start_kind",
)  # fmt: skip


def _is_only_here(key: str) -> bool:
    return key == "client.address" or key.startswith(("vercel.", "cloud."))


def _told(received: Received) -> dict[str, Told]:
    told: dict[str, Told] = {}
    lines = {record.span_id: record for record in received.logs if record.body == "invocation"}
    for span in received.servers():
        (name,) = cast("tuple[str]", span.attributes["http.request.header.x-case"])
        below = [span, *_descendants(span, received.spans)]
        tree = drawn(each for each in below if not each.name.startswith(("cold start", "import", "lifespan")))
        assert name not in told, f"{name} was told twice"
        told[name] = Told(
            tree.removeprefix("… ").replace("first byte, ", "").replace(" [first byte]", ""),
            {key: value for key, value in steady(span.attributes, *_MOVING).items() if not _is_only_here(key)},
            steady(lines[span.span_id].attributes, *_MOVING),
            span.parent_id,
        )
    return told


def _descendants(span: SpanRecord, spans: list[SpanRecord]) -> Iterator[SpanRecord]:
    for each in spans:
        if child_of(span, each):
            yield each
            yield from _descendants(each, spans)


def _account(received: Received) -> Account:
    assert received.refusals == ()
    durations = {
        tuple(point.attributes.get(key) for key in _COUNTED): float(point.count)
        for point in received.histogram("http.server.request.duration")
    }
    counts = {name: received.counts(name, "error.type") for name in ("faas.invocations", "faas.errors")}
    return Account(
        _told(received),
        {"http.server.request.duration": durations, **counts},  # type: ignore[dict-item]  # numbers, all of them
        {metric.name for metric in received.metrics},
    )


_COUNTED = ("http.request.method", "http.route", "http.response.status_code", "error.type", "network.protocol.version")


@functools.cache
def by_events(kind: str) -> Account:
    """Return what the same requests leave as events."""
    with Receiver() as receiver:
        events(f"shop_{kind}.py:app", receiver.endpoint, [*GROUPS, TOGETHER] if kind == "wsgi" else GROUPS)
    return _account(Received(receiver))


class Run(NamedTuple):
    """A server's run."""

    name: str
    kind: str
    account: Account
    replies: dict[str, Reply | None]
    # From the same app, not instrumented.
    plain: dict[str, Reply | None]
    received: Received


@pytest.fixture(scope="module", params=SERVERS)
def run(request: pytest.FixtureRequest) -> Run:
    """Each server, after all requests and its end by SIGTERM."""
    name = str(request.param)
    server = SERVERS[name]
    cases = [*GROUPS, TOGETHER] if server.is_concurrent else GROUPS
    with Receiver() as receiver:
        with served(name, receiver.endpoint) as running:
            replies = wire(running.port, cases)
    with served(name, None) as running:
        plain = wire(running.port, cases)
    received = Received(receiver)
    return Run(name, server.kind, _account(received), replies, plain, received)


def test_the_answers(run: Run) -> None:
    """All requests are answered; an exception as the server answers it."""
    statuses = {name: None if reply is None else reply.status for name, reply in run.replies.items()}
    # Vercel's runtime closes the connection where a WSGI app raises.
    raised = None if run.name == "vercel-wsgi" else 500
    expected = {"missing": 404, "raises": raised}
    assert statuses == {name: expected.get(name, 200) for name in statuses}


def test_the_answers_are_those_without(run: Run) -> None:
    """Status, headers, their order, and body are what the same app answers that is not instrumented."""
    assert _steady_replies(run.replies) == _steady_replies(run.plain)


# The second one is Vercel's, of its first response.
_CLOCKS = ("date", "x-vercel-internal-timing")


def _steady_replies(replies: dict[str, Reply | None]) -> dict[str, Reply | None]:
    return {
        name: reply
        and reply._replace(
            headers=tuple((key, "…" if key.lower() in _CLOCKS else value) for key, value in reply.headers)
        )
        for name, reply in replies.items()
    }


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("a", "b")])
def test_a_request_is_told_as_its_event(run: Run, name: str) -> None:
    """Its span tree, attributes and log line are those of the event, but for `DIFFERENCES`."""
    served_told, event_told = run.account.told[name], by_events(run.kind).told[name]
    assert served_told.tree == event_told.tree
    assert served_told.attributes == event_told.attributes
    lines = [dict(told.line) for told in (served_told, event_told)]
    for line in lines:
        if name == "raises":
            # A bridge answers for the app, and is asked what; a server does so by itself.
            del line["bytes_out"]
        if name == "first":
            assert {"cold_start_ms", "app_import_ms", "first_byte_ms"} <= set(line)
            # Imports, and what of them was before tracedbridge, are another process's.
            for key in [key for key in line if key.endswith("_ms")]:
                del line[key]
    assert lines[0] == lines[1]


def test_each_request_is_told_once(run: Run) -> None:
    """One SERVER span, one log line, one measurement for each."""
    assert set(run.account.told) == set(run.replies)
    lines = [record for record in run.received.logs if record.body == "invocation"]
    assert len(lines) == len(run.replies)
    assert sum(run.account.counts["http.server.request.duration"].values()) == len(run.replies)


def test_the_metrics(run: Run) -> None:
    """Requests, invocations and errors are counted as those of the events."""
    theirs = by_events(run.kind)
    for name in ("http.server.request.duration", "faas.errors"):
        ours = {key: count for key, count in run.account.counts[name].items() if "meet" not in str(key)}
        expected = {key: count for key, count in theirs.counts[name].items() if "meet" not in str(key)}
        assert ours == expected, name
    (succeeded,) = run.account.counts["faas.invocations"].values()
    assert succeeded == len(run.replies) - 1
    assert theirs.names - run.account.names <= {"tracedbridge.loop_stall"}


def test_the_cold_start(run: Run) -> None:
    """It is below the first request's span, which begins with the process, and has its lifespan in it."""
    (first,) = [span for span in run.received.servers() if span.attributes["faas.coldstart"]]
    assert first.attributes["http.request.header.x-case"] == ("first",)
    cold = run.received.span("cold start")
    assert child_of(first, cold)
    assert cold.start_ns == first.start_ns
    phases = [span.name for span in run.received.spans if child_of(cold, span)]
    assert ("lifespan startup" in phases) == (run.kind == "asgi")


def test_the_lifespan_shutdown(run: Run) -> None:
    """It is told, before the server has ended."""
    shutdowns = [span.name for span in run.received.spans if span.name == "lifespan shutdown"]
    assert len(shutdowns) == (run.kind == "asgi")


def test_a_stream_begins_before_it_ends(run: Run) -> None:
    """Its first byte is an event within its span, and its parts' spans are in it."""
    (span,) = [each for each in run.received.servers() if each.name == "GET /stream"]
    (first,) = [event for event in span.events if event.name == "first byte"]
    parts = [each for each in run.received.spans if child_of(span, each) and each.name == "part"]
    assert len(parts) == 3
    assert span.start_ns < first.time_ns < span.end_ns
    assert max(part.end_ns for part in parts) <= span.end_ns


def test_two_at_once(run: Run) -> None:
    """Requests that run at once keep their spans apart."""
    if not SERVERS[run.name].is_concurrent:
        assert "a" not in run.account.told
        return
    for who in "ab":
        assert [line.strip() for line in run.account.told[who].tree.splitlines()][1:] == [f"wait as {who}"]


def test_the_parent(run: Run) -> None:
    """A request with a traceparent is told in that trace, below that span; its neighbours are roots."""
    assert run.account.told["parent"].parent_id == PARENT.split("-")[2]
    assert {told.parent_id for name, told in run.account.told.items() if name != "parent"} == {""}
