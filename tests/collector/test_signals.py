"""What a real collector passes on of one cold and two warm invocations: every span, metric and log record."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

import tracedbridge
from tests.collector.answering import Answers, run
from tests.collector.conftest import Collector
from tests.collector.shapes import final_points, instance_free, ordered, outline, records, text, tree
from tests.collector.sink import Attributes, ReceivedSpan, Sink, attributes_of, value_of
from tests.support import event

pytestmark = [pytest.mark.collector, pytest.mark.telemetry]

# The scope of what we make ourselves.
OURS = f"tracedbridge {tracedbridge.__version__}"

REMOTE_TRACE = "0af7651916cd43dd8448eb211c80319c"
REMOTE_SPAN = "b7ad6b7169203331"

VERCEL = {
    "VERCEL": "1",
    "VERCEL_ENV": "preview",
    "VERCEL_REGION": "iad1",
    "VERCEL_URL": "shop-git-main.vercel.app",
    "VERCEL_PROJECT_ID": "prj_1",
    "VERCEL_DEPLOYMENT_ID": "dpl_1",
    "VERCEL_GIT_REPO_SLUG": "mall",
    "VERCEL_GIT_COMMIT_REF": "main",
    "VERCEL_GIT_COMMIT_SHA": "0123abc",
}

PROTOCOLS = ("http/protobuf", "grpc")


def asked(number: int, path: str, **headers: str) -> dict[str, str]:
    """Build the event of an invocation that tells as much about itself as on Vercel."""
    known = {
        "host": "shop.test",
        "user-agent": "probe/1.0",
        "x-forwarded-proto": "https",
        "x-real-ip": "203.0.113.7",
        "x-vercel-id": f"fra1::iad1::request-{number}",
        # Never seen anywhere: no header value is, unless it is asked for.
        "authorization": "Bearer SECRET",
    }
    return event("GET", path, headers=known | headers)


# One cold and two warm invocations; of the warm ones the first continues a trace, and the second fails.
EVENTS = [
    asked(0, "/items/7?a=1&sig=SECRET"),
    asked(1, "/items/8", traceparent=f"00-{REMOTE_TRACE}-{REMOTE_SPAN}-01", tracestate="mall=1"),
    asked(2, "/items/0"),
]


class Shop(NamedTuple):
    """A run of `EVENTS`, and all that the collector passed on of it."""

    app: str
    route: str | None
    answers: Answers
    untraced: Answers
    sink: Sink

    @property
    def function(self) -> str:
        """Its name on Vercel."""
        return f"mall/{self.app}"


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((protocol, app, route), id=f"{app}-{protocol}", marks=marks)
        for protocol in PROTOCOLS
        for app, route, marks in (
            ("plain_shop", None, ()),
            ("starlette_shop", "/items/{item:int}", pytest.mark.frameworks),
        )
    ],
)
def shop(
    request: pytest.FixtureRequest,
    collector_in: Callable[[Path], AbstractContextManager[Collector]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Shop]:
    """Run the events once, with telemetry into a collector and without any, for all tests that look at it."""
    protocol, app, route = request.param
    folder = tmp_path_factory.mktemp(app)
    with collector_in(folder) as collector:
        answers = _traced(app, EVENTS, collector, protocol, folder)
        untraced = run(app, EVENTS, folder, {"TRACEDBRIDGE_TELEMETRY": "off"})
        yield Shop(app, route, answers, untraced, collector.drained())


def test_answers(shop: Shop) -> None:
    """The answers are those without telemetry, and nothing is said on stderr."""
    assert [result["statusCode"] for result in shop.answers.results] == [200, 200, 500]
    assert shop.answers.results == shop.untraced.results
    assert shop.answers.stderr == ""


def test_spans(shop: Shop) -> None:
    """The whole span tree arrives."""
    assert text(tree(shop.sink.spans)) == text(_spans(shop.route))


def test_metrics(shop: Shop) -> None:
    """Every metric point arrives."""
    found = final_points(shop.sink.metrics)
    for name in ("tracedbridge.export.items", "tracedbridge.export.produced"):
        kind, unit, _ = found.pop(name)
        assert (kind, unit) == ("counter", "{item}")
    assert text(found) == text(_metrics(shop.function, shop.route))


def test_logs(shop: Shop) -> None:
    """Every log record arrives, with the ids of the span that it is from."""
    assert text(records(shop.sink)) == text(_records(shop.function, shop.route))


def test_resource(shop: Shop) -> None:
    """All three signals have one and the same resource."""
    first, *others = (each.resource for each in shop.sink.everything())
    assert all(each == first for each in others)
    assert text(instance_free(first)) == text(_resource(shop.function))


def test_stdout(shop: Shop) -> None:
    """The lines on stdout are the log records, with the same ids."""
    assert [(line["event"], line["trace_id"], line["span_id"]) for line in shop.answers.lines()] == [
        (value_of(log.item.body), log.item.trace_id.hex(), log.item.span_id.hex()) for log in shop.sink.logs
    ]


def test_secrets(shop: Shop) -> None:
    """A credential in a header or a signature in the query leaves the function by no way."""
    assert "SECRET" not in shop.answers.stdout + shop.answers.stderr
    assert not [str(each.item) for each in shop.sink.everything() if "SECRET" in str(each.item)]


def test_export_items(shop: Shop) -> None:
    """What the function says it has sent before its last flush is what came before that."""
    last = [each.item for each in shop.sink.metrics if each.item.name == "tracedbridge.export.items"][-1]
    told = {tuple(sorted(attributes_of(point.attributes).items())): point.as_int for point in last.sum.data_points}
    final = sum(len(points) for *_, points in final_points(shop.sink.metrics).values())
    points = sum(len(each.item.sum.data_points) + len(each.item.histogram.data_points) for each in shop.sink.metrics)
    # In the last flush there was one span, that of the shutdown, and no record.
    sent = {"traces": len(shop.sink.spans) - 1, "logs": len(shop.sink.logs), "metrics": points - final}
    assert told == {
        (("faas.name", shop.function), ("outcome", "sent"), ("signal", signal)): items for signal, items in sent.items()
    }


def test_durations(shop: Shop) -> None:
    """Spans, histograms and log lines tell the same times."""
    took_s: dict[str, float] = {}
    for span in (each.item for each in shop.sink.spans):
        key = "warm" if attributes_of(span.attributes).get("faas.coldstart") is False else span.name
        took_s[key] = took_s.get(key, 0.0) + (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9
    sums = {
        (each.item.name, attributes_of(point.attributes).get("faas.coldstart")): point.sum
        for each in shop.sink.metrics
        for point in each.item.histogram.data_points
    }
    assert sums["faas.init_duration", None] == pytest.approx(took_s["cold start"], abs=1e-6)
    assert sums["faas.invoke_duration", False] == pytest.approx(took_s["warm"], abs=1e-6)
    lines = [line for line in shop.answers.lines() if line["event"] == "invocation"]
    assert sum(line["duration_ms"] for line in lines[1:]) / 1e3 == pytest.approx(took_s["warm"], abs=1e-5)
    assert lines[0]["cold_start_ms"] / 1e3 == pytest.approx(took_s["cold start"], abs=1e-5)


def test_exemplars(shop: Shop) -> None:
    """Every exemplar points to a span that came, and those of the duration to every invocation."""
    spans = {(each.item.trace_id, each.item.span_id): each.item for each in shop.sink.spans}
    pointed: dict[str, set[bytes]] = {}
    for metric in (each.item for each in shop.sink.metrics):
        for exemplar in (
            *(each for point in metric.histogram.data_points for each in point.exemplars),
            *(each for point in metric.sum.data_points for each in point.exemplars),
        ):
            span = spans[exemplar.trace_id, exemplar.span_id]
            pointed.setdefault(metric.name, set()).add(span.span_id)
    servers = {span.span_id for span in spans.values() if span.kind == Span.SPAN_KIND_SERVER}
    assert pointed["faas.invoke_duration"] == servers


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_cold_start_with_remote_parent(protocol: str, collector: Collector, tmp_path: Path) -> None:
    """A cold start that continues a trace goes into it; the app's early spans stay in the boot trace, linked."""
    events = [asked(0, "/items/7", traceparent=f"00-{REMOTE_TRACE}-{REMOTE_SPAN}-01")]
    _traced("plain_shop", events, collector, protocol, tmp_path)
    assert outline(tree(collector.drained().spans)) == [
        "startup",
        "  open the shop",
        f"GET < {REMOTE_TRACE} {REMOTE_SPAN} ~ startup",
        "  cold start",
        "    import app",
        "    lifespan startup",
        "  look up",
        "lifespan shutdown",
    ]


@pytest.mark.frameworks
def test_framework_that_traces_itself(collector: Collector, tmp_path: Path) -> None:
    """FastAPI's own spans join the invocation's trace, and its requests are not measured a second time."""
    _traced("fastapi_shop", EVENTS, collector, "http/protobuf", tmp_path)
    sink = collector.drained()
    spans = {each.item.span_id: each for each in sink.spans}
    theirs = [
        each for each in sink.spans if each.scope.startswith("fastapi") and each.item.kind == Span.SPAN_KIND_SERVER
    ]
    assert [each.item.name for each in theirs] == ["GET /items/{item}"] * len(EVENTS)
    assert [spans[each.item.parent_span_id].scope for each in theirs] == [OURS] * len(EVENTS)
    looked_up = [each for each in sink.spans if each.item.name == "look up"]
    assert len(looked_up) == len(EVENTS)
    for each in looked_up:
        assert OURS in {ancestor.scope for ancestor in _ancestors(each, spans)}
    http = [each for each in sink.metrics if each.item.name.startswith("http.server.")]
    assert {(each.scope, each.item.name) for each in http} == {(OURS, "http.server.request.duration")}
    assert sum(point.count for point in http[-1].item.histogram.data_points) == len(EVENTS)


def _ancestors(each: ReceivedSpan, spans: dict[bytes, ReceivedSpan]) -> Iterable[ReceivedSpan]:
    while parent := spans.get(each.item.parent_span_id):
        yield parent
        each = parent


def _traced(app: str, events: list[dict[str, str]], collector: Collector, protocol: str, folder: Path) -> Answers:
    return run(
        app,
        events,
        folder,
        {
            **VERCEL,
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint(protocol),
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "TRACEDBRIDGE_FLUSH": "before",
            "TRACEDBRIDGE_DEADLINE_MS": "20000",
            # What a framework imports is its own affair; test_cold_starts.py has imports.
            "TRACEDBRIDGE_IMPORTS": "off",
            # A collector on a busy machine is waited for; that the budget holds is another test's.
            "TRACEDBRIDGE_FLUSH_TIMEOUT_MS": "10000",
        },
    )


def _resource(function: str) -> Attributes:
    return {
        "service.name": function,
        "service.version": "dpl_1",
        "service.instance.id": "<instance>",
        "faas.name": function,
        "faas.version": "dpl_1",
        "faas.instance": "<instance>",
        "host.name": socket.gethostname(),
        "cloud.provider": "vercel",
        "cloud.region": "iad1",
        "deployment.environment.name": "preview",
        "vcs.ref.head.name": "main",
        "vcs.ref.head.revision": "0123abc",
        "vercel.project_id": "prj_1",
        "vercel.deployment_id": "dpl_1",
        "vercel.host": "shop-git-main.vercel.app",
        "telemetry.sdk.language": "python",
        "telemetry.sdk.name": "opentelemetry",
        "telemetry.sdk.version": version("opentelemetry-sdk"),
    }


def _server(number: int, item: int, route: str | None, status: int, **more: Any) -> Attributes:
    found = {"http.route": route} if route else {}
    return {
        "faas.trigger": "http",
        "faas.coldstart": number == 0,
        "faas.invocation_id": f"fra1::iad1::request-{number}",
        "cloud.resource_id": "dpl_1",
        "vercel.request_id": f"request-{number}",
        "http.request.method": "GET",
        "http.response.status_code": status,
        "url.scheme": "https",
        "url.path": f"/items/{item}",
        "server.address": "shop.test",
        "server.port": 443,
        "client.address": "203.0.113.7",
        "user_agent.original": "probe/1.0",
        "network.protocol.version": "1.1",
        **found,
        **more,
    }


def _look_up(item: int, **more: Any) -> dict[str, Any]:
    return {
        "span": "INTERNAL look up",
        "scope": "shop",
        "attributes": {"shop.item": item},
        "events": [("found", {"shop.shelf": "A"})],
        **more,
    }


def _spans(route: str | None) -> list[dict[str, Any]]:
    name = f"SERVER GET {route}" if route else "SERVER GET"
    error = {
        "exception.type": "ValueError",
        "exception.message": "no such item",
        "exception.stacktrace": "<stack>",
    }
    return [
        {
            "span": name,
            "scope": OURS,
            "attributes": _server(
                0, 7, route, 200, **{"url.query": "a=1&sig=REDACTED", "tracedbridge.coldstart.kind": "on_demand"}
            ),
            "children": [
                {
                    "span": "INTERNAL cold start",
                    "scope": OURS,
                    "attributes": {
                        "faas.coldstart": True,
                        "tracedbridge.coldstart.kind": "on_demand",
                        "tracedbridge.coldstart.begins_with": "process",
                        "tracedbridge.coldstart.interpreter_ms": "<ms>",
                        "tracedbridge.coldstart.bridge_ms": "<ms>",
                        "tracedbridge.coldstart.telemetry_ms": "<ms>",
                        "tracedbridge.coldstart.app_import_ms": "<ms>",
                        "tracedbridge.coldstart.app_resolve_ms": "<ms>",
                        "tracedbridge.coldstart.lifespan_ms": "<ms>",
                    },
                    "children": [
                        {"span": "INTERNAL import app", "scope": OURS},
                        {
                            "span": "INTERNAL lifespan startup",
                            "scope": OURS,
                            "attributes": {"tracedbridge.lifespan.background_tasks": 0},
                        },
                        {"span": "INTERNAL open the shop", "scope": "shop"},
                    ],
                },
                _look_up(7),
            ],
        },
        {
            "span": name,
            "scope": OURS,
            "parent": f"{REMOTE_TRACE} {REMOTE_SPAN}",
            "tracestate": "mall=1",
            "attributes": _server(1, 8, route, 200),
            "children": [_look_up(8, tracestate="mall=1")],
        },
        {
            "span": name,
            "scope": OURS,
            "attributes": _server(2, 0, route, 500, **{"error.type": "ValueError"}),
            "status": ("ERROR", "no such item"),
            "events": [("exception", error)],
            "children": [_look_up(0)],
        },
        {"span": "INTERNAL lifespan shutdown", "scope": OURS},
    ]


def _metrics(function: str, route: str | None) -> dict[str, Any]:
    def points(*each: tuple[dict[str, Any], Any]) -> list[tuple[Attributes, Any]]:
        return ordered(({"faas.name": function, **attributes}, value) for attributes, value in each)

    http = {"faas.trigger": "http"}
    kind = {"tracedbridge.coldstart.kind": "on_demand"}
    served = {
        "http.request.method": "GET",
        "url.scheme": "https",
        "network.protocol.version": "1.1",
        **({"http.route": route} if route else {}),
    }
    failed = {"http.response.status_code": 500, "error.type": "ValueError"}
    phases = ("interpreter", "bridge", "telemetry", "app_import", "app_resolve", "lifespan", "wait", "first_byte")
    seconds, memory = ("histogram of seconds", "s"), ("histogram of memory", "By")
    return {
        "faas.invoke_duration": (
            *seconds, points((http | {"faas.coldstart": True}, 1), (http | {"faas.coldstart": False}, 2)),
        ),
        "faas.init_duration": (*seconds, points((http | kind, 1))),
        "faas.coldstarts": ("counter", "{coldstart}", points((http | kind, 1))),
        "faas.invocations": ("counter", "{invocation}", points((http, 2))),
        "faas.errors": ("counter", "{error}", points((http | {"error.type": "ValueError"}, 1))),
        "faas.cpu_usage": (*seconds, points((http, 3))),
        "faas.mem_usage": (*memory, points((http, 3))),
        "http.server.request.duration": (
            *seconds, points((served | {"http.response.status_code": 200}, 2), (served | failed, 1)),
        ),
        "tracedbridge.coldstart.phase.duration": (
            *seconds, points(*(({"phase": phase} | kind, 1) for phase in phases)),
        ),
        "tracedbridge.coldstart.modules": ("histogram of modules", "{module}", points((kind, 1))),
        "tracedbridge.lifespan.duration": (*seconds, points(({"phase": "startup"}, 1), ({"phase": "shutdown"}, 1))),
        "tracedbridge.time_left": (*seconds, points((http, 3))),
        # Of the flushes before the last one.
        "tracedbridge.export.duration": (*seconds, points(({}, 3))),
    }  # fmt: skip


def _records(function: str, route: str | None) -> list[tuple[Any, ...]]:
    def line(number: int, item: int, status: int, **more: Any) -> Attributes:
        return {
            "function": function,
            "invocation_id": f"fra1::iad1::request-{number}",
            "method": "GET",
            "path": f"/items/{item}",
            **({"route": route} if route else {}),
            "status": status,
            "bytes_in": 0,
            "bytes_out": 21 if status == 500 else 10,
            "duration_ms": "<ms>",
            "cpu_ms": "<ms>",
            "memory_mb": "<mb>",
            "time_left_ms": "<ms>",
            "cold_start": number == 0,
            **more,
        }

    def of_app(number: int, item: int) -> list[tuple[Any, ...]]:
        bound = {"invocation_id": f"fra1::iad1::request-{number}"}
        return [
            ("WARNING", 13, f"looking up {item}", (number, "look up"), {"logger": "shop", **bound}),
            ("INFO", 9, "looked up", (number, "look up"), {"item": item, **bound}),
        ]

    name = f"GET {route}" if route else "GET"
    cold = {"cold_start_kind": "on_demand", "cold_start_ms": "<ms>", "modules": "<modules>"} | {
        f"{phase}_ms": "<ms>"
        for phase in (
            "interpreter", "bridge", "telemetry", "app_import", "app_resolve", "lifespan", "wait", "first_byte",
        )
    }  # fmt: skip
    failure = {"error": "ValueError", "error_message": "no such item", "exception.stacktrace": "<stack>"}
    return [
        ("WARNING", 13, "the shop opens", (0, "open the shop"), {"logger": "shop"}),
        *of_app(0, 7),
        ("INFO", 9, "invocation", (0, name), line(0, 7, 200, **cold)),
        *of_app(1, 8),
        ("INFO", 9, "invocation", (1, name), line(1, 8, 200)),
        *of_app(2, 0),
        ("ERROR", 17, "invocation", (2, name), line(2, 0, 500, **failure)),
    ]
