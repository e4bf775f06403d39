"""The page's API tells what came: lists, whole traces, cold starts, metrics and logs, in the shapes agreed on."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.serving.viewer.test_store import (
    MS,
    NOON_NS,
    OTHER_TRACE,
    TRACE,
    PlainEvent,
    PlainLink,
    PlainLog,
    PlainMetric,
    PlainPoint,
    PlainSpan,
    span,
    span_id,
)
from tests.support import event
from tracedbridge.serving.viewer import answers
from tracedbridge.serving.viewer.store import Store

KIND = "tracedbridge.coldstart.kind"


def asked(store: Store, *parts: str) -> Any:
    """Return an answer of the API after its journey through JSON as browsers read it."""
    return json.loads(json.dumps(answers.answer(store, parts), allow_nan=False))


def told(records: Sequence[PlainSpan], *parts: str, logs: Sequence[PlainLog] = ()) -> Any:
    """Return an answer about these spans and log records."""
    store = Store()
    store.add("traces", records)
    store.add("logs", logs)
    return asked(store, *parts)


def row(*spans: PlainSpan) -> dict[str, Any]:
    """Return the one row of the list of traces."""
    (found,) = told(spans, "traces")["traces"]
    assert isinstance(found, dict)
    return found


def whole(*spans: PlainSpan, logs: Sequence[PlainLog] = ()) -> dict[str, dict[str, Any]]:
    """Return the spans of a trace by their names."""
    return {each["name"]: each for each in told(spans, "traces", spans[0].trace_id, logs=logs)["spans"]}


def cold_invocation(kind: str = "on_demand") -> list[PlainSpan]:
    """Return the spans of a first invocation as our bridge draws them, children first."""

    def imported(number: int, parent: int, name: str, begin_ms: float, end_ms: float, self_ms: float) -> PlainSpan:
        attributes = {"tracedbridge.import.self_ms": self_ms}
        return span(number, parent, begin_ms, end_ms, name=f"import {name}", attributes=attributes)

    cold = {
        "faas.coldstart": True, KIND: kind, "tracedbridge.coldstart.begins_with": "process",
        "tracedbridge.coldstart.interpreter_ms": 20.5, "tracedbridge.coldstart.bridge_ms": 19.5,
        "tracedbridge.coldstart.app_import_ms": 60.0, "tracedbridge.coldstart.app_resolve_ms": 1.0,
        "tracedbridge.coldstart.lifespan_ms": 29.001,
    }  # fmt: skip
    return [
        span(9, 1, 131, 149, name="import colorsys", attributes={"tracedbridge.import.self_ms": 17.0}),
        imported(6, 5, "json", 50, 60, 10.0),
        # A module that is called app.
        imported(5, 3, "app", 40, 100, 50.0),
        span(3, 2, 40, 100, name="import app", attributes={"tracedbridge.imports.modules": 3}),
        imported(7, 2, "typing", 100, 101, 0.5),
        span(8, 4, 110, 120, name="SELECT 1"),
        span(4, 2, 101, 130, name="lifespan startup", attributes={"tracedbridge.imports.modules": 1}),
        span(10, 2, 90, 95, name="read settings"),
        span(2, 1, 0, 130, name="cold start", attributes=cold, resource=VERSIONED),
        span(1, 0, 0, 150, name="GET /items/{id}", kind="server", attributes={
            "http.request.method": "GET", "url.path": "/items/7", "http.route": "/items/{id}",
            "http.response.status_code": 200, "faas.coldstart": True, KIND: kind,
        }),
    ]  # fmt: skip


VERSIONED = {"service.name": "index", "service.version": "1.4", "service.instance.id": "i1"}


def test_a_row_sums_a_trace_up() -> None:
    """The list shows of a trace what it was, how long it took, how it ended and that it was cold."""
    logs = [PlainLog(5, "a", TRACE, span_id(1)), PlainLog(6, "b", TRACE), PlainLog(7, "c")]
    failed = span(11, 1, 140, 151, status="error")
    answer = told([*cold_invocation(), failed], "traces", logs=logs)
    assert answer == {
        "seq": 2,
        "traces": [
            {
                "traceId": TRACE, "name": "GET /items/{id}", "service": "index", "startNs": str(NOON_NS),
                "durationNs": str(151 * MS), "status": "unset", "httpStatus": 200, "method": "GET",
                "path": "/items/7", "route": "/items/{id}", "cold": "on_demand", "coldNs": str(130 * MS),
                "spanCount": 11, "errorCount": 1, "logCount": 2, "hasMissingParents": False,
            }
        ],
    }  # fmt: skip


SERVER = {"http.request.method": "PUT", "url.path": "/p", "http.response.status_code": 503}
ROWS: dict[str, tuple[list[PlainSpan], dict[str, object]]] = {
    "remote parent": ([span(1, 9, kind="server", name="PUT", attributes=SERVER)],
                      {"name": "PUT", "httpStatus": 503, "method": "PUT", "hasMissingParents": True}),
    "client on top": ([span(1, name="click"), span(2, 1, kind="server", attributes=SERVER)],
                      {"name": "click", "httpStatus": 503, "path": "/p", "route": None}),
    "old conventions": ([span(1, attributes={"http.method": "GET", "http.target": "/o", "http.status_code": 404})],
                        {"method": "GET", "path": "/o", "httpStatus": 404}),
    "odd values": ([span(1, attributes={"http.request.method": 7, "http.response.status_code": "200", "url.path": ""})],
                   {"method": "7", "httpStatus": None, "path": None}),
    "no request": ([span(1, resource={}, status="ok")],
                   {"service": "unknown_service", "status": "ok", "method": None, "cold": None, "coldNs": None}),
    "ends before it begins": ([span(1, 0, 5, 2)], {"durationNs": "0"}),
    "cold elsewhere": ([span(1, attributes={"faas.coldstart": True})], {"cold": "on_demand", "coldNs": None}),
    "warm elsewhere": ([span(1, attributes={"faas.coldstart": False, KIND: "proactive"})], {"cold": None}),
    "first after a proactive start": ([span(1, attributes={"faas.coldstart": True, KIND: "proactive"})],
                                      {"cold": "proactive", "coldNs": None}),
    "of no known kind": ([span(1, name="cold start", attributes={"faas.coldstart": True, KIND: ["x"]})],
                         {"cold": "on_demand", "coldNs": None}),
    "somebody else's cold start": ([span(1, name="cold start")], {"cold": None}),
}  # fmt: skip


@pytest.mark.parametrize(("spans", "expected"), ROWS.values(), ids=ROWS)
def test_rows_of_other_traces(spans: list[PlainSpan], expected: dict[str, object]) -> None:
    """A trace of any tool has a row; what it does not tell is left open."""
    found = row(*spans)
    assert {name: found[name] for name in expected} == expected


def test_newest_traces_come_first_and_not_all() -> None:
    """The list has the 500 traces that began last."""
    spans = [span(1, 0, number, number + 1, trace_id=f"{number:032x}") for number in range(1, 601)]
    ids = [each["traceId"] for each in told(spans, "traces")["traces"]]
    assert ids == [f"{number:032x}" for number in range(600, 100, -1)]


def test_a_trace_is_told_whole() -> None:
    """Everything that a span and a log record carry reaches the page, with resources told once."""
    full = span(
        2, 77, 1, 3, name="GET /", kind="client", status="error", status_message="boom",
        attributes={"n": 1, "list": ("a", 2)}, events=(PlainEvent(NOON_NS, "exception", {"exception.type": "E"}),),
        links=(PlainLink(OTHER_TRACE, span_id(5), {"why": "retry"}),), resource={"service.name": "web", "cpus": 2},
    )  # fmt: skip
    logs = [PlainLog(NOON_NS, {"sold": 7}, TRACE, span_id(2), attributes={"k": True}), PlainLog(5, "early", TRACE)]
    answer = told([full, span(1), span(3, 1, 4, 4)], "traces", TRACE, logs=logs)
    assert answer["spans"][1] == {
        "spanId": span_id(2), "parentId": span_id(77), "name": "GET /", "kind": "client", "service": "web",
        "resource": 1, "scope": "shop 1.2", "startNs": str(NOON_NS + MS), "durationNs": str(2 * MS),
        "status": "error", "statusMessage": "boom", "attributes": [["n", 1], ["list", ["a", 2]]],
        "events": [{"timeNs": str(NOON_NS), "name": "exception", "attributes": [["exception.type", "E"]]}],
        "links": [{"traceId": OTHER_TRACE, "spanId": span_id(5), "attributes": [["why", "retry"]]}],
        "phase": None, "isImport": False, "isCritical": True,
    }  # fmt: skip
    assert [each["resource"] for each in answer["spans"]] == [0, 1, 0]
    assert answer["resources"] == [[["service.name", "index"]], [["service.name", "web"], ["cpus", 2]]]
    assert answer["traceId"] == TRACE
    assert answer["logs"] == [
        {"timeNs": "5", "severity": "INFO", "body": "early", "attributes": [], "spanId": "", "scope": "shop 1.2",
         "service": "index"},
        {"timeNs": str(NOON_NS), "severity": "INFO", "body": '{"sold": 7}', "attributes": [["k", True]],
         "spanId": span_id(2), "scope": "shop 1.2", "service": "index"},
    ]  # fmt: skip


def test_phases_are_told_span_by_span() -> None:
    """Spans below the cold start belong to its phases, the app's own too; imports of the first request to that."""
    spans = whole(*cold_invocation())
    assert {name: (each["phase"], each["isImport"]) for name, each in spans.items() if name != "import app"} == {
        "GET /items/{id}": (None, False),
        "cold start": (None, False),
        "read settings": ("app_import", False),
        "import json": ("app_import", True),
        "import typing": ("app_resolve", True),
        "lifespan startup": ("lifespan", False),
        "SELECT 1": ("lifespan", False),
        "import colorsys": ("first_byte", True),
    }
    # The phase, and in it the module that is called app.
    both = [each for each in told(cold_invocation(), "traces", TRACE)["spans"] if each["name"] == "import app"]
    assert [(each["phase"], each["isImport"]) for each in both] == [("app_import", False), ("app_import", True)]
    # Without the span `cold start` nobody can say what is a phase.
    assert {each["phase"] for each in whole(span(1), span(2, 1, name="lifespan startup")).values()} == {None}


def test_a_cold_start_is_told_with_phases_and_imports() -> None:
    """A cold start has its phases in order, its slowest imports by what they cost themselves, and its version."""
    assert told(cold_invocation(), "coldstarts") == {
        "coldstarts": [
            {
                "traceId": TRACE, "service": "index", "version": "1.4", "kind": "on_demand", "startNs": str(NOON_NS),
                "totalNs": str(130 * MS), "modules": 4,
                "phases": [["interpreter", "20500000"], ["bridge", "19500000"], ["app_import", "60000000"],
                           ["app_resolve", "1000000"], ["lifespan", "29001000"]],
                "imports": [["app", "50000000", "60000000"], ["json", "10000000", "10000000"],
                            ["typing", "500000", "1000000"]],
            }
        ]
    }  # fmt: skip


def test_a_restored_start_is_one_phase() -> None:
    """A start from a snapshot has no imports and no modules, and is the phase restore itself."""
    attributes = {"faas.coldstart": True, KIND: "restored", "tracedbridge.coldstart.restore_ms": 2,
                  "tracedbridge.coldstart.idle_ms": 9, "tracedbridge.coldstart.bridge_ms": math.nan}  # fmt: skip
    restored = span(1, 0, 0, 3, name="cold start", attributes=attributes)
    (found,) = told([restored], "coldstarts")["coldstarts"]
    assert (found["kind"], found["version"], found["modules"], found["imports"]) == ("restored", None, None, [])
    assert found["phases"] == [["restore", "2000000"], ["bridge", "0"]]
    assert whole(restored)["cold start"]["phase"] == "restore"
    assert row(restored)["cold"] == "restored"


def test_cold_starts_come_newest_first_whatever_else_came() -> None:
    """Each trace with a cold start is told, and only these; a trace of two functions tells two."""
    spans = [span(number, 0, number, trace_id=f"{number:032x}") for number in range(1, 700)]
    attributes = {KIND: "proactive"}
    spans += [
        span(id_, 0, number, name="cold start", trace_id=f"{number:032x}", attributes=attributes)
        for id_, number in ((800, 3), (800, 400), (800, 2), (801, 2))
    ]
    found = told(spans, "coldstarts")["coldstarts"]
    assert [int(each["traceId"], 16) for each in found] == [400, 3, 2, 2]


# By name: parent, begin, end, kind; and who is on the critical path.
PATHS: dict[str, tuple[dict[str, tuple[str, float, float, str]], set[str]]] = {
    "one after the other": ({"r": ("", 0, 10, ""), "a": ("r", 1, 4, ""), "b": ("r", 5, 9, "")}, {"r", "a", "b"}),
    "one touches the next": ({"r": ("", 0, 9, ""), "a": ("r", 0, 4, ""), "b": ("r", 4, 9, "")}, {"r", "a", "b"}),
    "of two at once the last": ({"r": ("", 0, 10, ""), "a": ("r", 1, 8, ""), "b": ("r", 2, 9, "")}, {"r", "b"}),
    "of two that end together the longer": (
        {"r": ("", 0, 10, ""), "a": ("r", 3, 9, ""), "b": ("r", 1, 9, ""), "c": ("r", 2, 9, "")}, {"r", "b"},
    ),
    "who ended before the last began": (
        {"r": ("", 0, 10, ""), "a": ("r", 1, 3, ""), "b": ("r", 2, 6, ""), "c": ("r", 4, 9, ""), "d": ("b", 3, 5, "")},
        {"r", "a", "c"},
    ),
    "below the last": (
        {"r": ("", 0, 10, ""), "a": ("r", 1, 9, ""), "b": ("a", 2, 5, ""), "c": ("a", 3, 8, ""), "d": ("c", 4, 6, "")},
        {"r", "a", "c", "d"},
    ),
    "clipped to the parent": (
        {"r": ("", 2, 10, ""), "a": ("r", 0, 4, ""), "b": ("r", 6, 20, ""), "c": ("b", 12, 15, ""),
         "d": ("b", 7, 11, "")},
        {"r", "a", "b", "d"},
    ),
    "outside of the parent": (
        {"r": ("", 2, 8, ""), "a": ("r", 0, 2, ""), "b": ("r", 8, 9, ""), "c": ("b", 8, 9, "")}, {"r"},
    ),
    "queues": ({"r": ("", 0, 10, ""), "a": ("r", 1, 9, "consumer"), "b": ("a", 2, 8, ""), "c": ("r", 1, 7, "producer"),
                "d": ("r", 1, 5, "client")}, {"r", "d"}),
    "no time at all": ({"r": ("", 0, 10, ""), "a": ("r", 5, 5, ""), "b": ("r", 7, 6, "")}, {"r"}),
    "two roots": ({"r": ("", 0, 4, ""), "s": ("gone", 5, 9, ""), "a": ("s", 6, 8, "")}, {"r", "s", "a"}),
}  # fmt: skip


@pytest.mark.parametrize(("drawn", "expected"), PATHS.values(), ids=PATHS)
def test_the_critical_path(drawn: dict[str, tuple[str, float, float, str]], expected: set[str]) -> None:
    """From the end of a root backwards, time belongs to the child that finished last."""
    numbers = {name: number for number, name in enumerate(drawn, 1)}
    spans = [
        span(numbers[name], numbers.get(parent, 99 if parent else 0), begin, end, name=name, kind=kind or "internal")
        for name, (parent, begin, end, kind) in drawn.items()
    ]
    assert {name for name, each in whole(*spans).items() if each["isCritical"]} == expected


def test_three_thousand_spans_are_told_in_order() -> None:
    """A trace of 3,000 spans, wide or as deep, is told whole, parents first."""
    wide = [span(number, 1 if number > 1 else 0, number, number + 1) for number in range(1, 3_001)]
    deep = [span(number, number - 1, number, 3_001) for number in range(1, 3_001)]
    for spans in (wide, deep):
        found = told(list(reversed(spans)), "traces", TRACE)["spans"]
        assert [int(each["spanId"], 16) for each in found] == list(range(1, 3_001))
    assert all(each["isCritical"] for each in found)


def test_newest_logs_come_first_and_not_all() -> None:
    """The page of logs has the newest thousand, each with its trace."""
    logs = [PlainLog(number, f"line {number}", TRACE) for number in range(1_200)]
    found = told([], "logs", logs=logs)["logs"]
    assert [each["timeNs"] for each in found] == [str(number) for number in range(1_199, 199, -1)]
    assert (found[0]["body"], found[0]["traceId"], found[0]["spanId"]) == ("line 1199", TRACE, "")


VALUES: dict[str, tuple[object, object, str]] = {
    "text": ("é <b>\x1b[31m", "é <b>\x1b[31m", "é <b>\x1b[31m"),
    "nothing": (None, None, ""),
    "yes": (True, True, "true"),
    "small": (-7, -7, "-7"),
    "largest": (2**53 - 1, 2**53 - 1, str(2**53 - 1)),
    "too large": (-(2**53), str(-(2**53)), str(-(2**53))),
    "fraction": (0.5, 0.5, "0.5"),
    "nan": (math.nan, "NaN", "NaN"),
    "infinite": (-math.inf, "-Infinity", "-Infinity"),
    "bytes": (b"\xff\x00", "/wA=", "/wA="),
    "nested": ({"a": (1, {"b": math.inf}), "é": b""}, {"a": [1, {"b": "Infinity"}], "é": ""},
               '{"a": [1, {"b": "Infinity"}], "é": ""}'),
}  # fmt: skip


@pytest.mark.parametrize(("value", "expected", "text"), VALUES.values(), ids=VALUES)
def test_values_survive_the_way_to_a_browser(value: object, expected: object, text: str) -> None:
    """What JSON or JavaScript cannot hold becomes text; a log's body always is."""
    found = told([span(1, attributes={"v": value})], "traces", TRACE, logs=[PlainLog(1, value, TRACE)])
    assert found["spans"][0]["attributes"] == [["v", expected]]
    assert found["logs"][0]["body"] == text


@pytest.mark.parametrize("path", ["", "state", "traces/", f"traces/{OTHER_TRACE}", f"traces/{TRACE}/jaeger.json", "x"])
def test_there_is_no_other_answer(path: str) -> None:
    """A path or a trace that is not known has no answer."""
    store = Store()
    store.add("traces", [span(1)])
    assert answers.answer(store, path.split("/")) is None
    assert answers.answer(store, ["traces", TRACE.upper()]) is not None


# Metrics.


def metrics(*records: PlainMetric) -> list[dict[str, Any]]:
    """Return the metrics that are told of these."""
    store = Store()
    for each in records:
        store.add("metrics", [each])
    found = asked(store, "metrics")["metrics"]
    assert isinstance(found, list)
    return found


def points(*records: PlainMetric) -> list[dict[str, Any]]:
    """Return the points of the only series that is told of these."""
    ((series,),) = (each["series"] for each in metrics(*records))
    assert isinstance(series["points"], list)
    return series["points"]


def exponential(time_ns: int, scale: int, positive: Mapping[int, int], negative: Mapping[int, int], zeros: int) -> Any:
    """Return a point of an exponential histogram."""
    count = sum(positive.values()) + sum(negative.values()) + zeros
    return SimpleNamespace(
        attributes={}, start_ns=0, time_ns=time_ns, count=count, sum=float(count), scale=scale, zero_count=zeros,
        positive=positive, negative=negative,
    )  # fmt: skip


def test_metrics_are_told_by_service_with_series_by_instance() -> None:
    """A metric has its name, unit and description once, and a series for each instance and set of attributes."""
    point = PlainPoint(5, 1, {"kind": "a", "n": 2})
    resources = [{"service.name": "index", "service.instance.id": each} for each in "12"]
    found = metrics(*(PlainMetric([point], resource=each) for each in resources))
    series = [
        {"attributes": [["kind", "a"], ["n", 2], ["service.instance.id", each]],
         "points": [{"timeNs": "5", "value": 1}]}
        for each in "12"
    ]  # fmt: skip
    assert found == [
        {"name": "sold", "unit": "{item}", "description": "Items sold", "type": "sum", "service": "index",
         "scope": "shop", "series": series}
    ]  # fmt: skip


NUMBERS: dict[str, tuple[str, str, list[float | None], list[object]]] = {
    "cumulative": ("sum", "cumulative", [1, 5, 7], [1, 5, 7]),
    "delta": ("sum", "delta", [1, 5, -2], [1, 6, 4]),
    "gauge": ("gauge", "unspecified", [3.5, 1, 2], [3.5, 1, 2]),
    "not recorded": ("gauge", "unspecified", [None, math.nan, 2], [2]),
    "large": ("sum", "cumulative", [2**60], [float(2**60)]),
}


@pytest.mark.parametrize(("kind", "temporality", "values", "expected"), NUMBERS.values(), ids=NUMBERS)
def test_numbers(kind: str, temporality: str, values: list[float | None], expected: list[object]) -> None:
    """A sum is told as a running total, however it was sent; points without a number are left out."""
    # Sent in the wrong order: they are told in order of time.
    records = [
        PlainMetric([PlainPoint(number, value)], kind=kind, temporality=temporality)
        for number, value in reversed(list(enumerate(values)))
    ]
    assert [point["value"] for point in points(*records)] == expected


def histogram(time_ns: int, counts: Sequence[int], bounds: Sequence[float] = (1, 2), total: float | None = 1.5) -> Any:
    """Return a point of an explicit histogram."""
    return PlainPoint(time_ns, count=sum(counts), sum=total, bounds=bounds, bucket_counts=counts)


HISTOGRAMS: dict[str, tuple[str, list[Any], list[tuple[int, float | None, list[float], list[int]]]]] = {
    "cumulative": ("cumulative", [histogram(1, (1, 0, 2)), histogram(2, (1, 1, 2))],
                   [(3, 1.5, [1, 2], [1, 0, 2]), (4, 1.5, [1, 2], [1, 1, 2])]),
    "delta": ("delta", [histogram(1, (1, 0, 2)), histogram(2, (1, 1, 2))],
              [(3, 1.5, [1, 2], [1, 0, 2]), (7, 3.0, [1, 2], [2, 1, 4])]),
    "delta with other bounds": ("delta", [histogram(1, (1, 0, 2)), histogram(2, (1, 1), (5,))],
                                [(3, 1.5, [1, 2], [1, 0, 2]), (2, 1.5, [5], [1, 1])]),
    "no sum": ("delta", [histogram(1, (1, 1, 1)), histogram(2, (1, 1, 1), total=None)],
               [(3, 1.5, [1, 2], [1, 1, 1]), (6, None, [1, 2], [2, 2, 2])]),
    "no buckets": ("cumulative", [PlainPoint(1, count=4, sum=2.0, bounds=(1,))], [(4, 2.0, [], [4])]),
    "exponential": ("cumulative", [exponential(1, 0, {-1: 1, 2: 3}, {1: 2}, 5)],
                    [(11, 11.0, [-4, -2, 0, 0.5, 1, 4, 8], [0, 2, 5, 0, 1, 0, 3, 0])]),
    "exponential delta, then coarser": (
        "delta", [exponential(1, 1, {0: 1, 1: 2, 2: 4}, {}, 1), exponential(2, 0, {0: 1, 1: 1}, {}, 0)],
        [(8, 8.0, [0, 1, math.sqrt(2), 2, math.sqrt(2) ** 3], [1, 0, 1, 2, 4, 0]),
         (10, 10.0, [0, 1, 2, 4], [1, 0, 4, 5, 0])],
    ),
    "exponential beyond floats": ("cumulative", [exponential(1, -10, {0: 1, 1: 2}, {0: 4, 3: 3}, 0)],
                                  [(10, 10.0, [-1, 0, 1], [7, 0, 0, 3])]),
}  # fmt: skip


@pytest.mark.parametrize(("temporality", "sent", "expected"), HISTOGRAMS.values(), ids=HISTOGRAMS)
def test_histograms(
    temporality: str, sent: list[Any], expected: list[tuple[int, float | None, list[float], list[int]]]
) -> None:
    """Histograms are told with explicit buckets and running totals, however they were sent."""
    kind = "histogram" if isinstance(sent[0], PlainPoint) else "exponential_histogram"
    metric = PlainMetric(sent, kind=kind, temporality=temporality)
    found = points(metric)
    assert [point["timeNs"] for point in found] == [str(point.time_ns) for point in sent]
    assert [(point["count"], point["sum"], point["counts"]) for point in found] == [
        (count, total, counts) for count, total, _, counts in expected
    ]
    for point, (_, _, bounds, _) in zip(found, expected, strict=True):
        assert point["bounds"] == pytest.approx(bounds)
    assert metrics(metric)[0]["type"] == "histogram"


@given(
    scale=st.integers(-12, 20),
    positive=st.dictionaries(st.integers(-(2**31), 2**31 - 1), st.integers(1, 9), max_size=200),
    negative=st.dictionaries(st.integers(-400, 400), st.integers(1, 9), max_size=200),
    zeros=st.integers(0, 3),
)
def test_exponential_buckets_lose_nothing(
    scale: int, positive: dict[int, int], negative: dict[int, int], zeros: int
) -> None:
    """Whatever the buckets are, each value is counted once, and bounds ascend and are no more than a chart can show."""
    (point,) = points(PlainMetric([exponential(1, scale, positive, negative, zeros)], kind="exponential_histogram"))
    assert sum(point["counts"]) == point["count"]
    assert len(point["counts"]) == len(point["bounds"]) + 1 <= 4 * 80
    assert point["bounds"] == sorted(set(point["bounds"]))


def test_more_buckets_than_a_chart_can_show_are_joined() -> None:
    """Of 160 buckets, as many as SDKs use, 80 are made, each of two neighbours."""
    fine = exponential(1, 3, dict.fromkeys(range(160), 1), dict.fromkeys(range(-80, 0), 1), 0)
    (point,) = points(PlainMetric([fine], kind="exponential_histogram"))
    above = [2 ** (index / 4) for index in range(81)]
    below = [-(2 ** (-index / 4)) for index in range(41)]
    assert point["bounds"] == pytest.approx([*below, 0, *above])
    assert point["counts"] == [0] + [2] * 40 + [0, 0] + [2] * 80 + [0]


def test_quantiles_are_series() -> None:
    """A summary is told quantile by quantile, as Prometheus has it."""
    point = PlainPoint(1, count=2, sum=3.0, quantiles={0.9: 2.0, 0.5: 1.0, 0.1: math.nan}, attributes={"k": "v"})
    (metric,) = metrics(PlainMetric([point], kind="summary"))
    assert metric["type"] == "summary"
    assert metric["series"] == [
        {"attributes": [["k", "v"], ["quantile", quantile]],
         "points": [{"timeNs": "1", "value": value, "count": 2, "sum": 3.0}]}
        for quantile, value in ((0.5, 1.0), (0.9, 2.0))
    ]  # fmt: skip
    assert metrics(PlainMetric([], kind="none")) == []


# What really comes.

APP = """
import colorsys, json, logging

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    logging.getLogger("shop").warning("sold")
    if scope["path"] == "/boom":
        raise ValueError("boom")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
"""


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with what a real function exported: a cold, a warm and a failed invocation."""
    from tests.telemetry.functions import run_function
    from tracedbridge.serving.receiver import Receiver

    with Receiver() as receiver:
        ran = run_function(
            tmp_path_factory.mktemp("function"), APP, [event(path="/"), event(path="/7"), event(path="/boom")],
            TRACEDBRIDGE_APP="index.py", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
            TRACEDBRIDGE_FLUSH_TIMEOUT_MS="5000", OTEL_SERVICE_NAME="shop",
        )  # fmt: skip
    assert (ran.code, receiver.refusals) == (0, ())
    store = Store()
    store.add("traces", receiver.spans)
    store.add("logs", receiver.logs)
    store.add("metrics", receiver.metrics)
    return store


@pytest.mark.telemetry
def test_a_real_cold_start_is_understood(real: Store) -> None:
    """What our own bridge exports is a cold start whose phases fill it, with its imports and log lines."""
    rows = asked(real, "traces")["traces"]
    (cold,) = (each for each in rows if each["cold"])
    assert (cold["cold"], cold["method"], cold["path"], cold["httpStatus"]) == ("on_demand", "GET", "/", 200)
    (start,) = asked(real, "coldstarts")["coldstarts"]
    assert (start["traceId"], start["service"], start["totalNs"]) == (cold["traceId"], "shop", cold["coldNs"])
    phases = dict(start["phases"])
    assert list(phases) == ["interpreter", "bridge", "telemetry", "app_import", "app_resolve", "lifespan"]
    # Each is rounded to a microsecond.
    assert sum(map(int, phases.values())) == pytest.approx(int(start["totalNs"]), abs=len(phases) * 1_000)
    assert {"index", "colorsys"} <= {name for name, _, _ in start["imports"]}
    assert start["modules"] >= 2

    trace = asked(real, "traces", cold["traceId"])
    spans = {each["name"]: each for each in trace["spans"]}
    assert trace["spans"][0]["name"].startswith("GET")
    assert (spans["import app"]["phase"], spans["import colorsys"]["phase"]) == ("app_import", "app_import")
    assert (spans["lifespan startup"]["phase"], spans["import index"]["isImport"]) == ("lifespan", True)
    assert all(spans[name]["isCritical"] for name in ("cold start", "import app", "import index"))
    assert [log["body"] for log in trace["logs"]] == ["sold", "invocation"]
    assert {log["spanId"] for log in trace["logs"]} <= {each["spanId"] for each in trace["spans"]}
    assert len(trace["resources"]) == 1


@pytest.mark.telemetry
def test_a_real_error_and_real_metrics_are_understood(real: Store) -> None:
    """What our own bridge exports of an error and of three invocations is told as such."""
    rows = {each["path"]: each for each in asked(real, "traces")["traces"]}
    assert (rows["/boom"]["status"], rows["/boom"]["httpStatus"], rows["/boom"]["cold"]) == ("error", 500, None)
    assert (rows["/7"]["status"], rows["/7"]["errorCount"]) == ("unset", 0)
    failed = asked(real, "traces", rows["/boom"]["traceId"])["spans"][0]
    assert [each["name"] for each in failed["events"]] == ["exception"]

    told_metrics = {each["name"]: each for each in asked(real, "metrics")["metrics"]}
    (invoked,) = told_metrics["faas.invocations"]["series"]
    assert (invoked["points"][-1]["value"], told_metrics["faas.invocations"]["type"]) == (2, "sum")
    (started,) = told_metrics["faas.init_duration"]["series"]
    last = started["points"][-1]
    assert (last["count"], sum(last["counts"]), len(last["counts"])) == (1, 1, len(last["bounds"]) + 1)
    assert "service.instance.id" in dict(started["attributes"])
    bodies = [log["body"] for log in asked(real, "logs")["logs"]]
    assert (bodies.count("sold"), bodies.count("invocation")) == (3, 3)
