"""The memory of the viewer puts traces together, however they come, and never grows beyond its bounds."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations

import pytest

from tests.support import bounded
from tracedbridge.serving.viewer.store import NO_SERVICE, Store, Trace, service_of

TRACE = "0af7651916cd43dd8448eb211c80319c"
OTHER_TRACE = "b" * 32
# Some moment in 2026, too many nanoseconds for a JavaScript number.
NOON_NS = 1_780_000_000_000_000_001
MS = 1_000_000

# Beyond what one record may have: it counts as ten more.
LONG = "x" * 40_000


@dataclass(frozen=True)
class PlainScope:
    """What the store knows of a scope, without the decoder, which may be deleted."""

    name: str = "shop"
    version: str = "1.2"
    attributes: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class PlainEvent:
    """An event of a span."""

    time_ns: int
    name: str
    attributes: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class PlainLink:
    """A link of a span."""

    trace_id: str
    span_id: str
    attributes: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class PlainSpan:
    """A span."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start_ns: int
    end_ns: int
    kind: str = "internal"
    attributes: Mapping[str, object] = field(default_factory=dict)
    events: Sequence[PlainEvent] = ()
    links: Sequence[PlainLink] = ()
    status: str = "unset"
    status_message: str = ""
    resource: Mapping[str, object] = field(default_factory=lambda: {"service.name": "index"})
    scope: PlainScope = PlainScope()


@dataclass(frozen=True)
class PlainLog:
    """A log record."""

    time_ns: int
    body: object
    trace_id: str = ""
    span_id: str = ""
    severity: str = "INFO"
    attributes: Mapping[str, object] = field(default_factory=dict)
    resource: Mapping[str, object] = field(default_factory=lambda: {"service.name": "index"})
    scope: PlainScope = PlainScope()


@dataclass(frozen=True)
class PlainPoint:
    """A point of any kind of metric; what a kind does not have is not asked for."""

    time_ns: int
    value: float | None = None
    attributes: Mapping[str, object] = field(default_factory=dict)
    start_ns: int = NOON_NS
    count: int = 0
    sum: float | None = None
    bounds: Sequence[float] = ()
    bucket_counts: Sequence[int] = ()
    quantiles: Mapping[float, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PlainMetric:
    """A metric."""

    points: Sequence[object]
    name: str = "sold"
    kind: str = "sum"
    unit: str = "{item}"
    description: str = "Items sold"
    temporality: str = "cumulative"
    resource: Mapping[str, object] = field(default_factory=lambda: {"service.name": "index"})
    scope: PlainScope = PlainScope()


def span_id(number: int) -> str:
    """Return the id of the span with that number, empty for 0."""
    return f"{number:016x}" if number else ""


def span(
    number: int, parent: int = 0, begin_ms: float = 0, end_ms: float = 1, *, trace_id: str = TRACE, **more: object
) -> PlainSpan:
    """Return a span: numbers for ids, milliseconds since noon; it is named after its number if nobody says."""
    made = PlainSpan(
        name=f"span {number}",
        trace_id=trace_id,
        span_id=span_id(number),
        parent_id=span_id(parent),
        start_ns=NOON_NS + int(begin_ms * MS),
        end_ns=NOON_NS + int(end_ms * MS),
    )
    return replace(made, **more)  # type: ignore[arg-type]  # whatever fields a test wants


def trace_of(*spans: PlainSpan) -> Trace:
    """Return the trace that a store makes of spans."""
    store = Store()
    store.add("traces", spans)
    (trace,) = store.traces()
    return trace


def numbers(spans: Iterable[object]) -> list[int]:
    """Return the numbers of spans, in their order."""
    return [int(each.span_id, 16) for each in spans if isinstance(each, PlainSpan)]


def kept_spans(store: Store) -> int:
    """Return how many spans a store has."""
    return sum(len(trace.spans) for trace in store.traces())


FAMILY = [span(1, 0, 0, 10), span(2, 1, 1, 4), span(3, 2, 2, 3), span(4, 1, 5, 9)]


@pytest.mark.parametrize("order", list(permutations(range(4))), ids=lambda order: "".join(map(str, order)))
def test_spans_come_in_any_order_and_number_of_requests(order: tuple[int, ...]) -> None:
    """The trace is the same whether its spans come together or one by one, parents first or last."""
    store = Store()
    store.add("traces", [FAMILY[order[0]]])
    store.add("traces", [FAMILY[order[1]], span(1, trace_id=OTHER_TRACE), FAMILY[order[2]]])
    store.add("traces", [FAMILY[order[3]]])
    trace = store.trace(TRACE)
    assert trace is not None
    assert numbers(trace.spans) == [1, 2, 3, 4]
    assert (trace.root, trace.start_ns, trace.end_ns) == (FAMILY[0], FAMILY[0].start_ns, FAMILY[0].end_ns)
    assert {int(parent, 16): numbers(children) for parent, children in trace.children.items()} == {1: [2, 4], 2: [3]}


def test_late_spans_make_a_new_trace_of_the_same_id() -> None:
    """Who has asked for a trace keeps what it was; who asks again sees the spans that came since."""
    store = Store()
    store.add("traces", [span(2, 1)])
    before = store.trace(TRACE)
    assert before is not None
    assert store.trace(TRACE) is before
    assert (before.missing_parents, numbers(before.tops)) == (1, [2])
    store.add("traces", [span(1)])
    after = store.trace(TRACE)
    assert after is not None
    assert (after.missing_parents, numbers(after.tops), numbers(after.spans)) == (0, [1], [1, 2])
    assert numbers(before.spans) == [2]


def test_a_span_that_comes_twice_is_replaced() -> None:
    """Of two spans with the same ids the later one counts; the same id in another trace is another span."""
    store = Store()
    store.add("traces", [span(1), span(2, 1), span(1, trace_id=OTHER_TRACE)])
    store.add("traces", [span(1, status="error", name="again")])
    trace = store.trace(TRACE)
    assert trace is not None
    assert [each.name for each in trace.spans] == ["again", "span 2"]
    assert (trace.errors, kept_spans(store)) == (1, 3)


def test_what_comes_twice_takes_no_room() -> None:
    """A client that sends the same again and again pushes nothing out."""
    store = Store(max_spans=40, max_series=2)
    store.add("metrics", [PlainMetric([PlainPoint(1, 1)], name="other")])
    for _ in range(200):
        store.add("traces", [*FAMILY, span(1, trace_id=OTHER_TRACE)])
        store.add("metrics", [PlainMetric([PlainPoint(1, 1)])])
    assert (kept_spans(store), len(store.series())) == (5, 2)
    assert store.dropped == {"traces": 0, "logs": 0, "metrics": 0}


def test_a_child_never_comes_before_its_parent() -> None:
    """A child whose clock is ahead of its parent's comes after it, and only as late as that makes it."""
    assert numbers(trace_of(span(1, 0, 5, 9), span(2, 1, 0, 1), span(3, 2, 1, 2), span(4, 0, 2, 3)).spans) == [
        4, 1, 2, 3,
    ]  # fmt: skip


CIRCLES = {
    "its own parent": ([span(1, 1)], [1], 0),
    "two": ([span(1, 2, 1), span(2, 1, 0)], [2, 1], 0),
    "three and what hangs below": ([span(1, 3, 2), span(2, 1, 3), span(3, 2, 4), span(4, 3, 0), span(5, 4, 9)],
                                   [1, 2, 3, 4, 5], 0),
    "beside a tree": ([span(1), span(2, 1), span(8, 9, 1), span(9, 8, 2)], [1, 2, 8, 9], 0),
    "two circles, one parent missing": ([span(1, 1), span(2, 2, 1), span(3, 77, 2)], [3, 1, 2], 1),
}  # fmt: skip


@pytest.mark.parametrize(("spans", "order", "missing"), CIRCLES.values(), ids=CIRCLES)
def test_circles_are_cut(spans: list[PlainSpan], order: list[int], missing: int) -> None:
    """Spans that are their own ancestors are all told, once; who walks up or down comes to an end."""
    trace = trace_of(*spans)
    assert numbers(trace.spans) == order
    assert trace.missing_parents == missing
    for each in trace.spans:
        ancestors = {each.span_id}
        parent = trace.parent_ids[each.span_id]
        while parent in trace.by_id:
            assert parent not in ancestors
            ancestors.add(parent)
            parent = trace.parent_ids[parent]
    below = list(trace.tops)
    for each in below:
        below += trace.children.get(each.span_id, ())
    assert sorted(numbers(below)) == sorted(order)


def test_a_trace_is_named_by_its_first_true_root() -> None:
    """A span without any parent names the trace, even if one whose parent is missing began before."""
    assert trace_of(span(1, 99, 0), span(2, 0, 5), span(3, 0, 4)).root.name == "span 3"
    assert trace_of(span(1, 99, 1), span(2, 98, 0)).root.name == "span 2"


def many_traces(count: int, *, first: int = 0) -> list[PlainSpan]:
    """Return the spans of that many traces, three each, one after the other."""
    return [
        span(number, number - 1, index * 10, index * 10 + 5, trace_id=f"{index + 1:032x}")
        for index in range(first, first + count)
        for number in (1, 2, 3)
    ]


def test_oldest_traces_make_room_whole() -> None:
    """Of many traces the newest stay, each with all its spans; the others are counted."""
    store = Store(max_spans=100)
    store.add("traces", many_traces(1_000))
    traces = store.traces()
    assert [trace.trace_id for trace in traces] == [f"{index:032x}" for index in range(1_000, 967, -1)]
    # A span that comes late may make its trace an older one.
    store.add("traces", [span(3, 2, -1, trace_id=f"{1_000:032x}")])
    assert store.traces()[-1].trace_id == f"{1_000:032x}"
    assert {len(trace.spans) for trace in traces} == {3}
    assert store.dropped == {"traces": 967, "logs": 0, "metrics": 0}


def test_a_trace_that_still_grows_is_not_the_oldest() -> None:
    """What makes room is the trace that got its last span longest ago."""
    store = Store(max_spans=12)
    store.add("traces", many_traces(4))
    store.add("traces", [span(3, 2, trace_id=f"{1:032x}")])
    store.add("traces", many_traces(1, first=4))
    assert sorted(trace.trace_id[-1] for trace in store.traces()) == ["1", "3", "4", "5"]


def test_one_endless_trace_leaves_room_for_others() -> None:
    """A trace that never ends keeps its newest spans, a quarter of the memory; it is counted as one cut trace."""
    store = Store(max_spans=100)
    store.add("traces", many_traces(10))
    for number in range(1, 5_000):
        store.add("traces", [span(number, number - 1, number, number + 1, trace_id=OTHER_TRACE)])
    endless = store.trace(OTHER_TRACE)
    assert endless is not None
    assert numbers(endless.spans) == list(range(4_975, 5_000))
    assert (len(store.traces()), store.dropped["traces"]) == (11, 1)
    # It is the eleventh that goes, and counts no more.
    store.add("traces", many_traces(33, first=10))
    assert store.trace(OTHER_TRACE) is None
    assert (len(store.traces()), store.dropped["traces"]) == (33, 11)


LONG_SPANS: dict[str, dict[str, object]] = {
    "name": {"name": LONG},
    "attribute": {"attributes": {"text": LONG}},
    "attribute's name": {"attributes": {LONG: 1}},
    "bytes in a list": {"attributes": {"list": (1, {"deep": (LONG.encode(),)})}},
    "many empty lists": {"attributes": {"list": ((),) * 5_000}},
    "event": {"events": (PlainEvent(0, "exception", {"exception.stacktrace": LONG}),)},
    "events": {"events": tuple(PlainEvent(0, "e", {"n": 1}) for _ in range(3_000))},
    "links": {"links": tuple(PlainLink(TRACE, span_id(1)) for _ in range(1_000))},
    "status": {"status_message": LONG},
    "resource": {"resource": {"text": LONG}},
}  # fmt: skip


@pytest.mark.parametrize("fields", LONG_SPANS.values(), ids=LONG_SPANS)
def test_long_spans_count_as_several(fields: dict[str, object]) -> None:
    """It is memory that is bounded: of spans with ten times the text a tenth is kept."""
    store = Store(max_spans=100)
    for number in range(1, 101):
        store.add("traces", [replace(span(number, trace_id=f"{number:032x}"), **fields)])  # type: ignore[arg-type]  # see span()
    assert 4 <= kept_spans(store) <= 20


def test_a_span_longer_than_the_memory_leaves_nothing() -> None:
    """A span that cannot be kept is dropped and counted, and makes no empty trace."""
    store = Store(max_spans=20)
    store.add("traces", [span(1, attributes={"text": LONG * 3})])
    assert (store.trace(TRACE), store.traces(), store.dropped["traces"]) == (None, [], 1)
    store.add("traces", [span(1)])
    assert numbers(store.traces()[0].spans) == [1]


def test_logs_join_their_trace_whenever_they_come() -> None:
    """A log record is told with its trace, in order of time, whether it came before or after the spans."""
    store = Store()
    late, early = PlainLog(5, "late", TRACE, span_id(1)), PlainLog(3, "early", TRACE)
    store.add("logs", [late, PlainLog(4, "outside")])
    assert store.trace(TRACE) is None
    store.add("traces", [span(1)])
    before = store.trace(TRACE)
    store.add("logs", [early])
    after = store.trace(TRACE)
    assert before is not None
    assert after is not None
    assert (before.logs, after.logs) == ((late,), (early, late))


def test_oldest_logs_make_room() -> None:
    """The newest log records stay, newest first; the others are counted and leave their traces, too."""
    store = Store(max_logs=10)
    store.add("traces", [span(1)])
    store.add("logs", [PlainLog(number, f"line {number}", TRACE) for number in range(25)])
    assert [log.body for log in store.logs()] == [f"line {number}" for number in range(24, 14, -1)]
    assert [log.body for log in store.logs(2)] == ["line 24", "line 23"]
    assert [log.time_ns for log in store.traces()[0].logs] == list(range(15, 25))
    assert store.dropped["logs"] == 15
    store.add("logs", [PlainLog(99, LONG)])
    assert store.logs() == []
    assert store.traces()[0].logs == ()
    store.add("logs", [PlainLog(7, "first"), PlainLog(7, "second")])
    assert [log.body for log in store.logs()] == ["second", "first"]


def test_points_are_told_by_attributes_and_instance() -> None:
    """Points of two instances, of other attributes or another library's are series of their own."""
    store = Store()
    point = PlainPoint(1, 1, {"kind": "a"})
    one, two = ({"service.name": "index", "service.instance.id": instance} for instance in "12")
    store.add("metrics", [PlainMetric([point, PlainPoint(1, 1, {"kind": "b"})], resource=one)])
    store.add("metrics", [PlainMetric([point], resource=two), PlainMetric([point], scope=PlainScope("other"))])
    store.add("metrics", [PlainMetric([PlainPoint(2, 5, {"kind": "a"})], resource=one)])
    told = [
        (each.instance, each.attributes["kind"], each.metric.scope.name, [point.value for point in each.points])
        for each in store.series()
    ]
    assert sorted(told) == [("", "a", "other", [1]), ("1", "a", "shop", [1, 5]), ("1", "b", "shop", [1]),
                            ("2", "a", "shop", [1])]  # fmt: skip


def test_a_point_that_is_sent_again_counts_once() -> None:
    """A client that did not get our answer sends the same points again: they replace themselves."""
    store = Store()
    for value in (1, 1, 2):
        store.add("metrics", [PlainMetric([PlainPoint(1, value)])])
    (series,) = store.series()
    assert [point.value for point in series.points] == [2]
    assert store.dropped["metrics"] == 0


def test_oldest_points_make_room() -> None:
    """A series keeps its newest points, and of many series those stay that got points last; the rest is counted."""
    store = Store(max_series=20)
    for number in range(1_000):
        store.add("metrics", [PlainMetric([PlainPoint(number, number)])])
    (series,) = store.series()
    assert [point.value for point in series.points] == list(range(700, 1_000))
    assert store.dropped["metrics"] == 700
    for number in range(100):
        store.add("metrics", [PlainMetric([PlainPoint(1, 1, {"n": number})])])
    assert {each.attributes.get("n") for each in store.series()} == set(range(80, 100))
    assert store.dropped["metrics"] == 1_000 + 80
    store.add("metrics", [PlainMetric([PlainPoint(2, 1, {"n": number})]) for number in (80, 200)])
    assert {each.attributes.get("n") for each in store.series()} == {80, *range(82, 100), 200}


def test_points_with_many_buckets_count_as_several() -> None:
    """A histogram with a thousand buckets takes the room of fifty points."""
    store = Store(max_series=4)
    store.add("metrics", [PlainMetric([PlainPoint(1, 1)], name="older")])
    for number in range(100):
        store.add("metrics", [PlainMetric([PlainPoint(number, bucket_counts=(1,) * 1_000)], kind="histogram")])
    (series,) = store.series()
    assert 2 <= len(series.points) <= 4
    store.add("metrics", [PlainMetric([PlainPoint(1, 1)], name=LONG)])
    assert store.series() == []


def test_seq_grows_with_what_arrives() -> None:
    """The number tells the page that there is something new, and nothing else."""
    store = Store()
    seen = [store.seq]
    store.add("traces", [])
    assert store.seq == seen[0]
    store.add("traces", [span(1)])
    seen.append(store.seq)
    store.add("logs", [PlainLog(1, "line")])
    seen.append(store.seq)
    store.add("metrics", [PlainMetric([PlainPoint(1, 1)])])
    seen.append(store.seq)
    store.traces(), store.logs(), store.series()
    assert seen == sorted(set(seen))
    assert store.seq == seen[-1]


def spans_without_end(store: Store, first: int) -> None:
    """Send a hundred short traces, and as many spans of one that never ends."""
    store.add("traces", many_traces(100, first=first))
    store.add("traces", [span(first + number + 1, 1, trace_id=OTHER_TRACE) for number in range(100)])


def logs_without_end(store: Store, first: int) -> None:
    """Send five hundred log records, of as many traces."""
    store.add("logs", [PlainLog(number, "line", f"{number + 1:032x}") for number in range(first, first + 500)])


def points_without_end(store: Store, first: int) -> None:
    """Send a point for each of two hundred new series, and for one old one."""
    store.add("metrics", [PlainMetric([PlainPoint(first, 1)])])
    store.add("metrics", [PlainMetric([PlainPoint(1, 1, {"n": number})]) for number in range(first, first + 200)])


@pytest.mark.parametrize("send", [spans_without_end, logs_without_end, points_without_end])
def test_memory_is_bounded(send: Callable[[Store, int], None]) -> None:
    """Ten times as much as fits takes no more memory than what fits, even if it is read all the time."""
    store = Store(max_spans=1_000, max_logs=1_000, max_series=200)
    sizes = []
    tracemalloc.start()
    try:
        for times in (10, 100):
            for number in range(times):
                send(store, number * 1_000)
                for trace in store.traces():
                    assert trace.spans
                assert len(store.logs()) <= 1_000
                assert len(store.series()) <= 200
            sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert sum(store.dropped.values()) > 1_000
    assert sizes[1] < 1.3 * sizes[0]


def test_threads_share_it() -> None:
    """What several threads send at once is all there, and each who reads meanwhile sees whole records."""
    store = Store(max_logs=1_000)
    count = 50

    def send(number: int) -> None:
        for index in range(count):
            store.add("traces", [span(number * count + index + 1, trace_id=f"{index + 1:032x}")])
            store.add("logs", [PlainLog(index, "line", f"{index + 1:032x}")])
            store.add("metrics", [PlainMetric([PlainPoint(index, index, {"n": number})])])
            assert all(trace.spans for trace in store.traces())
            assert store.series()

    threads = [threading.Thread(target=send, args=(number,)) for number in range(4)]

    def run() -> None:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    bounded(run)
    assert store.seq == 4 * count * 3
    assert {len(trace.spans) for trace in store.traces()} == {4}
    assert {len(trace.logs) for trace in store.traces()} == {4}
    assert [len(each.points) for each in store.series()] == [count] * 4


def test_a_span_without_a_service_has_the_name_that_sdks_give() -> None:
    """Who did not name the service is told so by the conventions' own word."""
    assert service_of({}) == service_of({"service.name": ""}) == NO_SERVICE
    assert service_of({"service.name": "index"}) == "index"
