"""Jaeger's query API answers in Jaeger's shapes, for every trace that may come."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.serving.viewer.test_answers import cold_invocation
from tests.serving.viewer.test_store import (
    MS,
    NOON_NS,
    OTHER_TRACE,
    TRACE,
    PlainEvent,
    PlainLink,
    PlainLog,
    PlainScope,
    PlainSpan,
    span,
    span_id,
)
from tracedbridge.serving.viewer import jaeger
from tracedbridge.serving.viewer.store import Store

# The whole time, as a search needs one.
EVER = {"query.startTimeMin": "1970-01-01T00:00:00Z", "query.startTimeMax": "2200-01-01T00:00:00.5+02:00"}

ATTRIBUTES: dict[str, object] = {
    "text": "é <script>", "empty": "", "yes": True, "int": -7, "long": 2**62, "float": 0.5, "whole": 3.0,
    "bytes": b"\xff", "list": ("a", 2**62), "map": {"k": (1, None)},
}  # fmt: skip

TRACES: dict[str, list[PlainSpan]] = {
    "cold start": cold_invocation(),
    "error": [
        span(1, 0, 0, 9, status="error", status_message="boom", attributes={"error": "mine"}, kind="server",
             events=(PlainEvent(NOON_NS + 5 * MS, "exception", {"exception.message": "boom", "n": math.nan}),)),
        span(2, 1, 1, 2, status="ok", kind="unspecified", scope=PlainScope("", "")),
    ],
    "links": [span(1, 99, links=(PlainLink(OTHER_TRACE, span_id(5), {"why": "retry"}), PlainLink(TRACE, span_id(7))))],
    "values": [span(1, attributes=ATTRIBUTES, resource={"service.name": "web", **ATTRIBUTES})],
    "services": [span(1, kind="client"), span(2, 1, resource={"service.name": "shop", "host.name": "h"}), span(3, 1)],
    "missing parents": [span(1, 98, 5, 2), span(2, 99), span(3, 1)],
    "circle": [span(1, 2), span(2, 1)],
    "3,000 spans": [span(number, number // 2, number, number + 9) for number in range(1, 3_001)],
}  # fmt: skip

HEX_32, HEX_16, DIGITS = re.compile("[0-9a-f]{32}"), re.compile("[0-9a-f]{16}"), re.compile("[0-9]+")


def holding(spans: Sequence[PlainSpan], logs: Sequence[PlainLog] = ()) -> Store:
    """Return a store with these."""
    store = Store()
    store.add("traces", spans)
    store.add("logs", logs)
    return store


def asked(store: Store, path: str, **arguments: str) -> Any:
    """Return what is answered with status 200, after its journey through JSON as browsers read it."""
    status, value = answered(store, path, arguments)
    assert status == 200, value
    return value


def answered(store: Store, path: str, arguments: Mapping[str, str]) -> tuple[int, Any]:
    """Return status and value of an answer, after its journey through JSON."""
    answer = jaeger.answer(store, path, arguments)
    assert answer is not None
    return answer[0], json.loads(json.dumps(answer[1], allow_nan=False))


@pytest.mark.parametrize("spans", TRACES.values(), ids=TRACES)
def test_jaeger_json_has_its_shape(spans: list[PlainSpan]) -> None:
    """Every trace is told as Jaeger's UI model wants it: the facts' keys, microseconds, typed tags, known processes."""
    answer = asked(holding(spans, [PlainLog(NOON_NS, "line", TRACE, span_id(1))]), f"/api/traces/{TRACE}")
    assert set(answer) == {"data", "total", "limit", "offset", "errors"}
    (trace,) = answer["data"]
    assert set(trace) == {"traceID", "spans", "processes", "warnings"}
    assert trace["traceID"] == TRACE
    assert len(trace["spans"]) == len(spans)
    for each in trace["spans"]:
        assert set(each) == {"traceID", "spanID", "operationName", "references", "startTime", "duration", "tags",
                             "logs", "processID", "warnings"}  # fmt: skip
        assert each["traceID"] == TRACE
        assert HEX_16.fullmatch(each["spanID"])
        assert each["processID"] in trace["processes"]
        assert abs(each["startTime"] - NOON_NS // 1_000) < 10**7
        assert isinstance(each["duration"], int)
        assert each["duration"] >= 0
        for reference in each["references"]:
            assert set(reference) == {"refType", "traceID", "spanID"}
            assert reference["refType"] in ("CHILD_OF", "FOLLOWS_FROM")
            assert HEX_32.fullmatch(reference["traceID"])
            assert HEX_16.fullmatch(reference["spanID"])
        for log in each["logs"]:
            assert set(log) == {"timestamp", "fields"}
            assert abs(log["timestamp"] - NOON_NS // 1_000) < 10**7
            _check_tags(log["fields"])
        _check_tags(each["tags"])
    for process in trace["processes"].values():
        assert set(process) == {"serviceName", "tags"}
        _check_tags(process["tags"])


def _check_tags(tags: list[dict[str, Any]]) -> None:
    types: dict[str, tuple[type, ...]] = {
        "string": (str,), "bool": (bool,), "int64": (int, str), "float64": (int, float), "binary": (str,),
    }  # fmt: skip
    for tag in tags:
        assert set(tag) == {"key", "type", "value"}
        assert isinstance(tag["value"], types[tag["type"]])


@pytest.mark.parametrize("spans", TRACES.values(), ids=TRACES)
def test_otlp_json_has_its_shape(spans: list[PlainSpan]) -> None:
    """Every trace is told as Jaeger's UI checks OTLP/JSON: hex ids, long numbers as text, one field to a value."""
    answer = asked(holding(spans), f"/api/v3/traces/{TRACE}")
    assert set(answer) == {"result"}
    count = 0
    for of_resource in answer["result"]["resourceSpans"]:
        _check_values(of_resource["resource"]["attributes"])
        for of_scope in of_resource["scopeSpans"]:
            assert isinstance(of_scope["scope"]["name"], str)
            for each in of_scope["spans"]:
                count += 1
                assert each["traceId"] == TRACE
                assert HEX_16.fullmatch(each["spanId"])
                assert "parentSpanId" not in each or HEX_16.fullmatch(each["parentSpanId"])
                assert DIGITS.fullmatch(each["startTimeUnixNano"])
                assert DIGITS.fullmatch(each["endTimeUnixNano"])
                assert each["kind"] in range(6)
                assert each["status"]["code"] in range(3)
                for link in each["links"]:
                    assert HEX_32.fullmatch(link["traceId"])
                    assert HEX_16.fullmatch(link["spanId"])
                for happened in each["events"]:
                    assert DIGITS.fullmatch(happened["timeUnixNano"])
                for having in (each, *each["links"], *each["events"]):
                    _check_values(having["attributes"])
    assert count == len(spans)


def _check_values(attributes: list[dict[str, Any]]) -> None:
    todo = [each["value"] for each in attributes]
    for value in todo:
        ((name, inner),) = value.items()
        if name == "kvlistValue":
            todo += [each["value"] for each in inner["values"]]
        elif name == "arrayValue":
            todo += inner["values"]
        elif name == "intValue":
            assert -(2**63) <= int(inner) < 2**63
        else:
            assert name in ("stringValue", "boolValue", "doubleValue", "bytesValue")


@pytest.mark.telemetry
@pytest.mark.parametrize("name", TRACES)
def test_otlp_json_is_the_trace_that_came(name: str) -> None:
    """Our own decoder reads the spans back out of the answer, each as it was."""
    from tracedbridge.telemetry import otlp

    answer = asked(holding(TRACES[name]), f"/api/v3/traces/{TRACE}")
    records = otlp.decode("traces", json.dumps(answer["result"]).encode(), content_type=otlp.JSON)
    assert len(records) == len(TRACES[name])
    for sent, read in zip(sorted(TRACES[name], key=_id), sorted(records, key=_id), strict=True):
        assert isinstance(read, otlp.SpanRecord)
        for attribute in ("trace_id", "span_id", "parent_id", "name", "kind", "start_ns", "end_ns", "status",
                          "status_message"):  # fmt: skip
            assert getattr(read, attribute) == getattr(sent, attribute)
        # By text: NaN is not equal to itself. In a list nothing has become an empty text, as the UI wants it.
        assert repr(read.attributes) == repr(sent.attributes).replace("None", "''")
        assert repr(read.resource) == repr(sent.resource).replace("None", "''")
        assert (read.scope.name, read.scope.version) == (sent.scope.name, sent.scope.version)
        assert [(each.time_ns, each.name, repr(each.attributes)) for each in read.events] == [
            (each.time_ns, each.name, repr(each.attributes)) for each in sent.events
        ]
        assert [(each.trace_id, each.span_id, each.attributes) for each in read.links] == [
            (each.trace_id, each.span_id, each.attributes) for each in sent.links
        ]


def _id(record: Any) -> str:
    return str(record.span_id)


def test_an_error_is_one_in_jaeger() -> None:
    """Status, scope and kind become tags, events and log lines become logs in order of time."""
    log = PlainLog(NOON_NS + 4 * MS, {"sold": 1}, TRACE, span_id(1), "WARN", {"logger": "shop", "message": "mine"})
    answer = asked(holding(TRACES["error"], [log, PlainLog(NOON_NS, "of no span", TRACE)]), f"/api/traces/{TRACE}")
    failed, fine = answer["data"][0]["spans"]
    assert [(tag["key"], tag["type"], tag["value"]) for tag in failed["tags"]] == [
        ("otel.scope.name", "string", "shop"), ("otel.scope.version", "string", "1.2"),
        ("span.kind", "string", "server"), ("error", "bool", True), ("otel.status_code", "string", "ERROR"),
        ("otel.status_description", "string", "boom"),
    ]  # fmt: skip
    assert [(tag["key"], tag["value"]) for tag in fine["tags"]] == [("otel.status_code", "OK")]
    assert [
        (each["timestamp"], [(field["key"], field["value"]) for field in each["fields"]]) for each in failed["logs"]
    ] == [
        ((NOON_NS + 4 * MS) // 1_000, [("level", "WARN"), ("message", "mine"), ("logger", "shop")]),
        ((NOON_NS + 5 * MS) // 1_000, [("event", "exception"), ("exception.message", "boom"), ("n", "NaN")]),
    ]
    assert (failed["startTime"], failed["duration"]) == (NOON_NS // 1_000, 9_000)


def test_parents_and_links_are_references() -> None:
    """The parent comes first, missing or not; links follow; who is its own ancestor has no parent."""
    (span_1,) = asked(holding(TRACES["links"]), f"/api/traces/{TRACE}")["data"][0]["spans"]
    assert [(each["refType"], each["traceID"], each["spanID"]) for each in span_1["references"]] == [
        ("CHILD_OF", TRACE, span_id(99)), ("FOLLOWS_FROM", OTHER_TRACE, span_id(5)),
        ("FOLLOWS_FROM", TRACE, span_id(7)),
    ]  # fmt: skip
    circle = asked(holding(TRACES["circle"]), f"/api/traces/{TRACE}")["data"][0]["spans"]
    assert [[each["spanID"] for each in told["references"]] for told in circle] == [[], [span_id(1)]]


def test_processes_are_resources_told_once() -> None:
    """Spans with equal resources share a process; its tags are the other attributes of the resource."""
    (trace,) = asked(holding(TRACES["services"]), f"/api/traces/{TRACE}")["data"]
    assert [each["processID"] for each in trace["spans"]] == ["p1", "p2", "p1"]
    assert trace["processes"] == {
        "p1": {"serviceName": "index", "tags": []},
        "p2": {"serviceName": "shop", "tags": [{"key": "host.name", "type": "string", "value": "h"}]},
    }


def test_tags_have_jaegers_types() -> None:
    """Numbers stay numbers, unless JavaScript could not hold them; what Jaeger does not know becomes JSON text."""
    (trace,) = asked(holding(TRACES["values"]), f"/api/traces/{TRACE}")["data"]
    tags = {tag["key"]: (tag["type"], tag["value"]) for tag in trace["processes"]["p1"]["tags"]}
    assert tags == {
        "text": ("string", "é <script>"), "empty": ("string", ""), "yes": ("bool", True), "int": ("int64", -7),
        "long": ("int64", str(2**62)), "float": ("float64", 0.5), "whole": ("float64", 3.0),
        "bytes": ("binary", "/w=="), "list": ("string", f'["a", "{2**62}"]'), "map": ("string", '{"k": [1, null]}'),
    }  # fmt: skip


def test_an_exported_trace_is_what_the_ui_opens() -> None:
    """The download has the shape of the answer, so that Jaeger's UI can open the file; no trace, no file."""
    store = holding(TRACES["cold start"])
    assert jaeger.trace(store, TRACE.upper()) == asked(store, f"/api/traces/{TRACE}")
    assert jaeger.trace(store, OTHER_TRACE) is None


def test_services_and_operations() -> None:
    """Each service is told once, each name of its spans once for each kind, both sorted."""
    store = holding([*TRACES["services"], span(4, trace_id=OTHER_TRACE, resource={}), span(1, trace_id=OTHER_TRACE)])
    assert asked(store, "/api/v3/services") == {"services": ["index", "shop", "unknown_service"]}
    assert asked(store, "/api/v3/operations", service="index") == {
        "operations": [{"name": "span 1", "spanKind": "client"}, {"name": "span 1", "spanKind": "internal"},
                       {"name": "span 3", "spanKind": "internal"}]
    }  # fmt: skip
    for kind in ("spanKind", "span_kind"):
        assert asked(store, "/api/v3/operations", service="index", **{kind: "CLIENT"}) == {
            "operations": [{"name": "span 1", "spanKind": "client"}]
        }
    assert asked(store, "/api/v3/operations", service="none") == {"operations": []}
    assert asked(Store(), "/api/v3/services") == {"services": []}


def test_a_summary_counts_as_jaeger_does() -> None:
    """A summary has the first true root, the whole time, and spans, errors and orphans, by service too."""
    shop = {"service.name": "shop"}
    spans = [span(1, 99, 0, 3, status="error"), span(2, 0, 5, 9, name="GET /", resource=shop), span(3, 2, 6, 8),
             span(4, 2, 6, 20, status="error", resource=shop)]  # fmt: skip
    assert asked(holding(spans), "/api/v3/trace-summaries", **EVER) == {
        "summaries": [
            {
                "traceId": TRACE, "rootServiceName": "shop", "rootOperationName": "GET /",
                "minStartTimeUnixNano": str(NOON_NS), "maxEndTimeUnixNano": str(NOON_NS + 20 * MS), "spanCount": 4,
                "errorSpanCount": 2, "orphanSpanCount": 1,
                "services": [{"name": "index", "spanCount": 2, "errorSpanCount": 1},
                             {"name": "shop", "spanCount": 2, "errorSpanCount": 1}],
            }
        ]
    }  # fmt: skip
    (orphans,) = asked(holding(TRACES["missing parents"]), "/api/v3/trace-summaries", **EVER)["summaries"]
    assert (orphans["rootServiceName"], orphans["rootOperationName"], orphans["orphanSpanCount"]) == ("", "", 2)
    (large,) = asked(holding(TRACES["3,000 spans"]), "/api/v3/trace-summaries", **EVER)["summaries"]
    assert (large["spanCount"], large["orphanSpanCount"]) == (3_000, 0)


# Three traces, a minute apart; the names are the ids.
SEARCHED = [
    span(1, 0, 0, 10, trace_id=f"{1:032x}", name="GET /", kind="server",
         attributes={"http.status_code": 200, "a": True}),
    span(2, 1, 2, 5, trace_id=f"{1:032x}", name="SELECT", kind="client", resource={"service.name": "db", "zone": "x"}),
    span(1, 0, 60_000, 61_500, trace_id=f"{2:032x}", name="GET /", status="error", attributes={"a": 0.5}),
    span(1, 99, 120_000, 120_001, trace_id=f"{3:032x}", name="PUT /", attributes={"error": "mine", "a": ("x",)}),
]  # fmt: skip


def at(ms: float, more_ns: int = 0) -> str:
    """Return a time since noon as RFC 3339 with nanoseconds."""
    seconds, ns = divmod(NOON_NS + int(ms * MS) + more_ns, 10**9)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{ns:09}Z"


SEARCHES: dict[str, tuple[dict[str, str], list[int]]] = {
    "everything": ({}, [3, 2, 1]),
    "depth": ({"query.searchDepth": "2"}, [3, 2]),
    "no depth": ({"query.searchDepth": "0"}, [3, 2, 1]),
    "old depth": ({"query.num_traces": "1"}, [3]),
    "service": ({"query.serviceName": "db"}, [1]),
    "service, old": ({"query.service_name": "db"}, [1]),
    "operation": ({"query.operationName": "GET /"}, [2, 1]),
    "both on one span": ({"query.operationName": "GET /", "query.serviceName": "db"}, []),
    "from, inclusive": ({"query.startTimeMin": at(60_000)}, [3, 2]),
    "from, a nanosecond later": ({"query.start_time_min": at(60_000, 1), "query.startTimeMin": ""}, [3]),
    "until, exclusive": ({"query.startTimeMax": at(60_000)}, [1]),
    "until, a nanosecond later": ({"query.startTimeMax": at(60_000, 1)}, [2, 1]),
    "longer": ({"query.durationMin": "1.5s"}, [2]),
    "longer, in parts": ({"query.durationMin": "1s500ms"}, [2]),
    "longer than any": ({"query.duration_min": "1s501ms"}, []),
    "shorter": ({"query.durationMax": "3000us"}, [3, 1]),
    "nothing is shorter": ({"query.durationMax": "-1h"}, []),
    "attribute": ({"query.attributes": '{"http.status_code": "200", "a": "true"}'}, [1]),
    "attributes of two spans": ({"query.attributes": '{"http.status_code": "200", "zone": "x"}'}, []),
    "attribute of the resource": ({"query.attributes": '{"zone": "x"}'}, [1]),
    "attribute as text": ({"query.attributes": '{"a": "0.5"}'}, [2]),
    "attribute as JSON": ({"query.attributes": '{"a": "[\\"x\\"]"}'}, [3]),
    "error": ({"query.attributes": '{"error": "true"}'}, [2]),
    "an error of its own": ({"query.attributes": '{"error": "mine"}'}, [3]),
    "kind": ({"query.attributes": '{"span.kind": "client"}', "query.rawTraces": "true"}, [1]),
}


@pytest.mark.parametrize(("arguments", "found"), SEARCHES.values(), ids=SEARCHES)
def test_search(arguments: dict[str, str], found: list[int]) -> None:
    """A trace is found if one of its spans is all that is asked for; the newest come first."""
    store = holding(SEARCHED)
    arguments = {**EVER, **arguments}
    summaries = asked(store, "/api/v3/trace-summaries", **arguments)["summaries"]
    assert [int(each["traceId"], 16) for each in summaries] == found
    status, whole = answered(store, "/api/v3/traces", arguments)
    assert status == (200 if found else 404)
    told = [
        int(each["traceId"], 16)
        for of_resource in (whole["result"]["resourceSpans"] if found else ())
        for of_scope in of_resource["scopeSpans"]
        for each in of_scope["spans"]
    ]
    assert sorted(set(told)) == sorted(found)


def test_a_search_tells_twenty_unless_asked_for_more() -> None:
    """Who does not say how many gets as many as Jaeger's UI asks for."""
    store = holding([span(1, 0, number, trace_id=f"{number:032x}") for number in range(1, 101)])
    assert len(asked(store, "/api/v3/trace-summaries", **EVER)["summaries"]) == 20
    assert len(asked(store, "/api/v3/trace-summaries", **EVER, **{"query.searchDepth": "99"})["summaries"]) == 99


BAD: dict[str, tuple[str, dict[str, str], str]] = {
    "no time": ("trace-summaries", {"query.startTimeMin": ""}, "startTimeMin and query.startTimeMax are required"),
    "no end": ("traces", {"query.startTimeMax": ""}, "are required"),
    "no such day": ("trace-summaries", {"query.startTimeMin": "2026-02-30T00:00:00Z"}, "query.startTimeMin"),
    "no zone": ("trace-summaries", {"query.startTimeMin": "2026-02-03T00:00:00"}, "RFC 3339"),
    "no such year": ("trace-summaries", {"query.startTimeMin": "0001-01-01T00:00:00+23:00"}, "query.startTimeMin"),
    "other digits": ("trace-summaries", {"query.startTimeMin": "\u0662\u066026-02-03T00:00:00Z"}, "query.startTimeMin"),
    "end before start": ("trace-summaries", {"query.startTimeMin": at(1), "query.startTimeMax": at(0)}, "before"),
    "duration": ("trace-summaries", {"query.durationMin": "5"}, "malformed parameter query.durationMin: '5'"),
    "duration, endless": ("trace-summaries", {"query.durationMax": "1" * 100_000}, "query.durationMax"),
    "depth": ("trace-summaries", {"query.searchDepth": "-1"}, "query.searchDepth"),
    "depth, endless": ("trace-summaries", {"query.searchDepth": "9" * 5_000}, "query.searchDepth"),
    "attributes": ("trace-summaries", {"query.attributes": "a=b"}, "query.attributes"),
    "attributes, numbers": ("trace-summaries", {"query.attributes": '{"a": 1}'}, "no JSON object of texts"),
    "attributes, deep": ("trace-summaries", {"query.attributes": "[" * 100_000}, "query.attributes"),
    "raw": ("traces", {"query.raw_traces": "maybe"}, "query.rawTraces"),
    "filter": ("trace-summaries", {"query.filter": "{}"}, "cannot search by query.filter"),
    "pages": ("traces", {"query.pagination.pageSize": "5"}, "cannot search by query.pagination.pageSize"),
    "trace id": ("traces/xyz", {}, "malformed parameter trace_id: 'xyz'"),
    "trace id, long": (f"traces/{'a' * 33}", {}, "trace_id"),
    "trace's time": (f"traces/{TRACE}", {"startTime": "noon"}, "startTime"),
    "trace raw": (f"traces/{TRACE}", {"rawTraces": "2"}, "rawTraces"),
    "no service": ("operations", {}, "service"),
}  # fmt: skip


@pytest.mark.parametrize(("path", "arguments", "message"), BAD.values(), ids=BAD)
def test_bad_arguments_are_refused_in_jaegers_way(path: str, arguments: dict[str, str], message: str) -> None:
    """What cannot be read is refused with 400, the parameter named, in one short line."""
    status, value = answered(holding(SEARCHED), f"/api/v3/{path}", {**EVER, **arguments})
    assert status == 400
    assert set(value) == {"error"}
    assert value["error"]["httpCode"] == 400
    assert message in value["error"]["message"]
    assert len(value["error"]["message"]) < 300


def test_traces_that_are_not_here() -> None:
    """An unknown trace is 404 in the shape of each of the two APIs; short ids begin with zeros."""
    store = holding(SEARCHED)
    assert answered(store, f"/api/v3/traces/{OTHER_TRACE}", {}) == (
        404, {"error": {"httpCode": 404, "message": "No traces found"}}
    )  # fmt: skip
    assert answered(store, f"/api/traces/{OTHER_TRACE}", {}) == (
        404, {"data": None, "total": 0, "limit": 0, "offset": 0, "errors": [{"code": 404, "msg": "trace not found"}]}
    )  # fmt: skip
    status, refused = answered(store, "/api/traces/0x1", {})
    assert (status, refused["errors"][0]["code"]) == (400, 400)
    assert asked(store, "/api/traces/0003")["data"][0]["traceID"] == f"{3:032x}"
    assert asked(store, "/api/v3/traces/3", startTime=at(0), rawTraces="T")["result"]["resourceSpans"]


def test_grafana_asks_in_the_old_way() -> None:
    """What Grafana's data source asks for, and Jaeger has no more, is answered in the old shapes."""
    store = holding([*SEARCHED, span(4, trace_id=f"{4:032x}", name="ping", resource={"service.name": "a/b c"})])
    assert asked(store, "/api/services") == {
        "data": ["a/b c", "db", "index"], "total": 3, "limit": 0, "offset": 0, "errors": None,
    }  # fmt: skip
    assert asked(store, "/api/services/a/b c/operations")["data"] == ["ping"]
    assert asked(store, "/api/services/index/operations")["data"] == ["GET /", "PUT /"]

    def found(**arguments: str) -> list[int]:
        return [int(each["traceID"], 16) for each in asked(store, "/api/traces", **arguments)["data"]]

    assert found(service="index") == [3, 2, 1]
    assert found(service="index", limit="1", operation="GET /") == [2]
    assert found(service="index", tags='{"error": "true"}', minDuration="1s", maxDuration="2s") == [2]
    noon_us = NOON_NS // 1_000
    assert found(service="index", start=str(noon_us + 1_000_000), end=str(noon_us + 100_000_000)) == [2]
    status, refused = answered(store, "/api/traces", {"service": "index", "end": "now"})
    assert (status, refused["errors"][0]["code"]) == (400, 400)
    assert answered(store, "/api/traces", {})[0] == 400


@pytest.mark.parametrize(
    "path",
    ["/", "/api", "/api/v3", "/api/v3/services/", "/api/v3/traces/a/b", "/api/viewer/traces", "/api/v3/servicesx"],
)
def test_other_paths_are_not_jaegers(path: str) -> None:
    """What is no path of the API is left to others."""
    assert jaeger.answer(Store(), path, {}) is None
