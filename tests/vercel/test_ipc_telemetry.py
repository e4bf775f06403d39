"""Telemetry in IPC mode: what a request leaves behind, whose trace it is in, and when it is exported."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import quote

import pytest

from tests.collector.sink import ReceivedSpan, attributes_of
from tests.support import HANG_S
from tests.vercel.collecting import Collector, invocation_of, parent_of, server_spans
from tests.vercel.conftest import KINDS
from tests.vercel.conversation import Conversation
from tests.vercel.frames import NOBODY, Frame, Ids
from tests.vercel.platform import Platform, internal_headers, new_ids

pytestmark = pytest.mark.telemetry

Start = Callable[..., Platform]

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
OTHER_TRACE, OTHER_PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Traced:
    """An instance and where it exports to."""

    def __init__(self, platform: Platform, collector: Collector) -> None:
        self.platform = platform
        self.collector = collector

    def span_of(self, ids: Ids) -> ReceivedSpan:
        """Return a request's only SERVER span, once it has ended."""
        self.platform.ended(ids)
        (span,) = [span for span in server_spans(self.collector) if invocation_of(span) == ids.invocation_id]
        return span


@pytest.fixture(scope="module")
def traced_instances() -> Iterator[Callable[[str], Traced]]:
    """Instances that export, by kind; each has answered its first request."""
    with ExitStack() as stack:
        started: dict[str, Traced] = {}

        def instance(kind: str) -> Traced:
            if kind not in started:
                collector = stack.enter_context(Collector())
                # No flush is given up in a test: what is late must be seen to be late.
                platform = Platform(KINDS[kind], endpoint=collector.endpoint, TRACEDBRIDGE_FLUSH_TIMEOUT_MS="20000")
                stack.enter_context(platform)
                platform.ended(platform.ask("/").ids)
                started[kind] = Traced(platform, collector)
            return started[kind]

        yield instance


@pytest.fixture
def traced(traced_instances: Callable[[str], Traced], kind: str) -> Iterator[Traced]:
    """An instance of that kind that exports, which other tests use, too."""
    shared = traced_instances(kind)
    before = len(shared.platform.violations)
    yield shared
    assert not shared.platform.violations[before:]
    assert not shared.collector.faults


# Whose trace.


@pytest.mark.parametrize(
    ("headers", "parent"),
    [
        ({"x-vercel-internal-trace-id": TRACE, "x-vercel-internal-span-id": PARENT}, (TRACE, PARENT)),
        (
            {
                "x-vercel-internal-trace-id": TRACE,
                "x-vercel-internal-span-id": PARENT,
                "traceparent": f"00-{OTHER_TRACE}-{OTHER_PARENT}-01",
            },
            (OTHER_TRACE, OTHER_PARENT),
        ),
    ],
    ids=["the platform's", "the caller's"],
)
def test_the_parent_is_the_callers_or_else_the_platforms(
    traced: Traced, headers: dict[str, str], parent: tuple[str, str]
) -> None:
    """``traceparent`` names the SERVER span's parent; without one, the platform's internal ids do."""
    reply = traced.platform.ask("/", headers=headers)
    span = traced.span_of(reply.ids)
    assert parent_of(span) == parent
    # So that what the app asks of others is in this trace.
    assert dict(reply.told["headers"])["traceparent"] == f"00-{parent[0]}-{span.item.span_id.hex()}-01"


@pytest.mark.parametrize(("trace", "span"), [("", ""), (TRACE, ""), ("", PARENT), ("0" * 32, PARENT), ("spam", "spam")])
def test_half_a_parent_is_none(traced: Traced, trace: str, span: str) -> None:
    """Internal ids that name no span are ignored: the request has a trace of its own."""
    ids = new_ids()
    traced.platform.ask("/", ids=ids, headers=internal_headers(ids, trace_id=trace, span_id=span))
    assert parent_of(traced.span_of(ids))[1] == ""


# When it is exported.


def test_a_request_is_exported_before_its_end(traced: Traced) -> None:
    """When the platform hears of a request's end, and may freeze the process, its spans have arrived."""
    ids = new_ids()
    there: list[bool] = []

    def note(frame: Frame) -> None:
        if frame.kind == "end" and frame.ids == ids:
            there.append(ids.invocation_id in [invocation_of(span) for span in server_spans(traced.collector)])

    traced.platform.on_frame = note
    try:
        traced.platform.ask("/", ids=ids)
        # Behind it on the socket, so that it has been noted.
        traced.platform.ended(traced.platform.ask("/").ids)
    finally:
        traced.platform.on_frame = None
    assert there == [True]


def test_the_response_does_not_wait_for_the_export(traced: Traced) -> None:
    """With a backend that holds the export, the client has its last byte, and the end is not told before it lets go."""
    platform, collector = traced.platform, traced.collector
    collector.hold()
    try:
        ids = platform.ask("/").ids
        assert collector.is_asked.wait(HANG_S), "nothing was exported"
        # Other requests are taken meanwhile; and what is told of the first one was told before this.
        later = new_ids()
        assert platform.ask("/", ids=later).status == 200
        platform.wait_for("handler-started", later)
        assert platform.frames_of(ids, "end") == []
    finally:
        collector.let_go()
    assert "error" not in platform.ended(ids).payload
    assert invocation_of(traced.span_of(ids)) == ids.invocation_id
    platform.ended(later)


def test_a_backend_that_says_nothing_delays_no_end_for_long(start: Start) -> None:
    """The export of a request is given up after its budget, and its end is told."""
    with Collector() as collector:
        collector.hold()
        platform = start(KINDS["wsgi"], endpoint=collector.endpoint, TRACEDBRIDGE_FLUSH_TIMEOUT_MS="200")
        reply = platform.ask("/")
        waited_ms = (platform.ended(reply.ids).came_ns - reply.read_ns) / 1e6
        collector.let_go()
    # The first one loads the SDK, too.
    assert waited_ms < 5_000


def test_a_failed_request_is_exported_as_one(traced: Traced) -> None:
    """The SERVER span of an app that raised has the exception; its log line, and the ``end``, say what it raised."""
    reply = traced.platform.ask("/fails?when=before")
    span = traced.span_of(reply.ids).item
    assert "broken before" in json.dumps(traced.platform.ended(reply.ids).payload["error"])
    assert "BrokenError: broken before" in traced.platform.logs(reply.ids)
    assert traced.platform.frames_of(reply.ids)[-1].kind == "end"
    assert span.status.code == 2
    assert [event.name for event in span.events if event.name == "exception"] == ["exception"]
    assert attributes_of(span.attributes)["http.response.status_code"] == 500


# A request's time.


def test_a_deadline_is_told_before_it_comes(traced: Traced) -> None:
    """A request that runs into its deadline is exported as timed out while it runs, before the platform ends it."""
    platform, collector = traced.platform, traced.collector
    ids, deadline = new_ids(), datetime.now(UTC) + timedelta(seconds=4)
    told = internal_headers(ids, deadline=deadline.isoformat().replace("+00:00", "Z"))
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(platform.ask, "/waits?name=late", ids=ids, headers=told, is_pooled=False)
        meeting = platform.met("late")
        try:
            collector.wait_until(lambda: ids.invocation_id in map(invocation_of, server_spans(collector)))
            came = datetime.now(UTC)
            assert platform.frames_of(ids, "end") == []
        finally:
            meeting.release()
        reply.result()
    span = traced.span_of(ids)
    assert attributes_of(span.item.attributes)["error.type"] == "DeadlineError"
    assert came < deadline


# What it asks of others.


class _Shop(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(203)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name that it has in http.server
        """Say nothing."""


@pytest.fixture(scope="module")
def shop() -> Iterator[str]:
    """An HTTP server that apps ask; its base URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Shop) as server:
        thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join(HANG_S)


@pytest.mark.parametrize(
    "way",
    [
        "urllib",
        "http.client",
        # Which the app imports in its first request that needs it.
        pytest.param("httpx", marks=pytest.mark.frameworks),
        pytest.param("httpx, async", marks=pytest.mark.frameworks),
    ],
)
def test_what_an_app_asks_of_others_is_told(traced: Traced, shop: str, way: str) -> None:
    """Each HTTP request that an app makes is one ``fetch-metric`` of its request; exports of telemetry are none."""
    reply = traced.platform.ask(f"/fetches?by={quote(way)}&url={quote(shop + '/items/3?a=1&b=2', safe='')}")
    assert reply.body == b"203"
    # What comes before the end has come when that has.
    end = traced.platform.ended(reply.ids)
    (begun,) = traced.platform.frames_of(reply.ids, "handler-started")
    (metric,) = traced.platform.frames_of(reply.ids, "metric")
    told = metric.payload["payload"]
    named = {name: told[name] for name in ("pathname", "search", "host", "statusCode", "method")}
    assert named == {
        "pathname": "/items/3", "search": "a=1&b=2", "host": "127.0.0.1", "statusCode": 203, "method": "GET",
    }  # fmt: skip
    started_ms = begun.payload["handlerStartedAt"]
    assert started_ms <= told["start"] <= told["start"] + told["duration"]
    assert told["duration"] <= (end.came_ns - begun.came_ns) / 1e6 + 1_000


def test_fetches_are_told_apart(traced: Traced, shop: str) -> None:
    """Each fetch has an id of its own."""
    replies = [traced.platform.ask(f"/fetches?by=urllib&url={quote(shop, safe='')}") for _ in range(3)]
    for reply in replies:
        traced.platform.ended(reply.ids)
    metrics = [frame for reply in replies for frame in traced.platform.frames_of(reply.ids, "metric")]
    assert len({frame.payload["payload"]["id"] for frame in metrics}) == 3


def test_exports_are_no_fetches(traced: Traced) -> None:
    """What telemetry sends is told of nobody: no metric comes that an app did not cause."""
    reply = traced.platform.ask("/")
    traced.platform.ended(reply.ids)
    assert traced.platform.frames_of(reply.ids, "metric") == []
    assert traced.platform.frames_of(NOBODY, "metric") == []


# Log lines.


def test_the_line_of_an_invocation_is_its_own(traced: Traced) -> None:
    """The log line that tracedbridge writes for an invocation is a message of its request, and comes before its end."""
    reply = traced.platform.ask("/")
    span = traced.span_of(reply.ids)
    told = traced.platform.frames_of(reply.ids)
    assert told[-1].kind == "end"
    lines = [json.loads(line) for line in traced.platform.logs(reply.ids).splitlines() if line.startswith("{")]
    (line,) = [line for line in lines if line.get("trace_id") == span.item.trace_id.hex()]
    assert line["span_id"] == span.item.span_id.hex()


def test_lines_of_an_app_have_the_ids_of_the_trace(traced: Traced) -> None:
    """A record of ``logging`` is exported under its request's SERVER span."""
    reply = traced.platform.ask("/says?by=warning&text=look+here")
    span = traced.span_of(reply.ids)
    (record,) = [
        each for each in traced.collector.logs
        if each.item.body.string_value == "look here" and each.item.trace_id == span.item.trace_id
    ]  # fmt: skip
    assert record.item.span_id == span.item.span_id
    assert "look here" in traced.platform.logs(reply.ids)


# Streams, many at once, WebSockets, the end.


def test_a_stream_is_one_span_to_its_last_byte(traced: Traced) -> None:
    """The SERVER span of a stream ends with its last part, and nothing is exported of it while it runs."""
    platform, ids = traced.platform, new_ids()
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(platform.ask, "/stream", ids=ids, is_pooled=False)
        for number in range(3):
            meeting = platform.met(f"part {number}")
            assert ids.invocation_id not in map(invocation_of, server_spans(traced.collector))
            meeting.release()
        assert reply.result().body == b"part 0\npart 1\npart 2\n"
    assert traced.span_of(ids).item.end_time_unix_nano > 0


MANY = 200


def test_many_requests_leave_a_span_each(traced: Traced) -> None:
    """200 requests that are all under way have one SERVER span each, in the trace that each one came with."""
    platform = traced.platform
    calls = {f"m{number}": new_ids() for number in range(MANY)}
    with ThreadPoolExecutor(MANY) as pool:
        replies = [
            pool.submit(
                platform.ask, f"/waits?name={name}", ids=ids, is_pooled=False,
                headers={"traceparent": f"00-{ids.request_id:032x}-{ids.request_id:016x}-01"},
            )
            for name, ids in calls.items()
        ]  # fmt: skip
        for meeting in [platform.met(name) for name in calls]:
            meeting.release()
        for reply in replies:
            assert reply.result().status == 200
    for name, ids in calls.items():
        assert parent_of(traced.span_of(ids)) == (f"{ids.request_id:032x}", f"{ids.request_id:016x}")
        assert f"after {name}\n" in platform.logs(ids)


def test_a_conversation_is_traced(traced_instances: Callable[[str], Traced]) -> None:
    """A WebSocket leaves a SERVER span, with the platform's trace as its parent, by the contrib ASGI middleware."""
    traced, ids = traced_instances("asgi"), new_ids()
    told = internal_headers(ids, trace_id=TRACE, span_id="1" * 16)
    with Conversation(traced.platform.port, "/socket", told) as conversation:
        conversation.send("hello")
        assert conversation.receive() == "hello"
        conversation.close()
    parent = (TRACE, "1" * 16)
    traced.collector.wait_until(lambda: parent in map(parent_of, server_spans(traced.collector)))
    (span,) = [span for span in server_spans(traced.collector) if parent_of(span) == parent]
    assert span.scope.startswith("opentelemetry.instrumentation.asgi")


def test_all_is_exported_at_the_end(start: Start, kind: str) -> None:
    """SIGTERM in a request: it is answered, exported and told; then the process ends with 0."""
    with Collector() as collector:
        platform, ids = start(KINDS[kind], endpoint=collector.endpoint), new_ids()
        with ThreadPoolExecutor(1) as pool:
            reply = pool.submit(platform.ask, "/waits?name=last", ids=ids, is_pooled=False)
            meeting = platform.met("last")
            platform.terminate()
            meeting.release()
            assert reply.result().status == 200
        assert platform.exit_code() == 0
        assert [frame.kind for frame in platform.frames_of(ids) if frame.kind != "log"] == ["handler-started", "end"]
        assert [invocation_of(span) for span in server_spans(collector)] == [ids.invocation_id]
        if kind == "asgi":
            assert "lifespan shutdown" in [span.item.name for span in collector.spans]
        assert not collector.faults


def test_what_cannot_start_is_exported(start: Start) -> None:
    """A start that fails is an error trace, which arrives before the process ends, and one unrecoverable error."""
    with Collector() as collector:
        platform = start("broken.py", files={"broken.py": "import does_not_exist"}, endpoint=collector.endpoint)
        assert platform.exit_code() != 0
        assert [frame.kind for frame in platform.frames] == ["unrecoverable-error"]
        (span,) = [span for span in collector.spans if span.item.name == "cold start"]
        assert span.item.status.code == 2


def test_the_first_request_has_the_cold_start(start: Start) -> None:
    """The first SERVER span has the cold start below it, and the function's resource is that of Vercel."""
    with Collector() as collector:
        platform = start(KINDS["asgi"], endpoint=collector.endpoint)
        platform.ended(platform.ask("/").ids)
        (server,) = server_spans(collector)
        (cold,) = [span for span in collector.spans if span.item.name == "cold start"]
    assert cold.item.parent_span_id == server.item.span_id
    assert server.resource["cloud.provider"] == "vercel"
    assert server.resource["vercel.deployment_id"] == "dpl_7Ks2"
