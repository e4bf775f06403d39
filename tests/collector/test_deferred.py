"""
A deferred start loses nothing: what came of the first invocation is what an eager start would have sent.

Each app runs in two fresh processes, once with everything loaded and exported in each call, once deferred; what the
real collector got of both must be the same but for ids and times.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from difflib import unified_diff
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.collector.answering import APPS, run
from tests.collector.conftest import Collector
from tests.collector.shapes import SLACK_NS, instance_free, text
from tests.collector.sink import Attributes, ReceivedSpan, Sink, attributes_of, value_of
from tests.support import event
from tests.telemetry.functions import json_lines

pytestmark = [pytest.mark.collector, pytest.mark.telemetry]

EAGER = {"TRACEDBRIDGE_START": "eager", "TRACEDBRIDGE_FLUSH": "before"}

MODES = [
    pytest.param({"TRACEDBRIDGE_START": start, "TRACEDBRIDGE_FLUSH": flush}, id=f"{start}-{flush}")
    for start in ("deferred", "auto")
    for flush in ("auto", "after")
]
# Where one mode must do: nothing of it is told, and what may run after the response.
UNTOLD = pytest.param({}, id="untold")
AFTER = pytest.param({"TRACEDBRIDGE_START": "deferred", "TRACEDBRIDGE_FLUSH": "after"}, id="deferred-after")

# A cold start and an end on a busy machine; only a test that fails waits for so long.
TIMEOUT_S = 60.0

# Spans that may end after their parents do: FastAPI ends a dependency that yields when the response is there, and the
# context of a lifespan is that of the cold start until its end.
OUTLIVING = {"left open", "fastapi.background_task", "clean", "bench", "shut"}

# The sampler by ratio looks at the last 64 bits of a trace id: the first is below any bound, the second above.
LOW_TRACE, HIGH_TRACE = "0" * 31 + "1", "0" * 15 + "1" + "f" * 16
REMOTE_SPAN = "b7ad6b7169203331"


def asked(number: int, **headers: str) -> dict[str, str]:
    """Build the event of an invocation whose id is known."""
    return event("GET", f"/items/{7 + number}", headers={"x-vercel-id": f"fra1::request-{number}", **headers})


class Came(NamedTuple):
    """What a collector got of one run, as text to compare; ids and times are checked and left out."""

    traces: str
    logs: str
    metrics: str
    resource: str


@pytest.fixture(scope="module")
def came_of(
    collector_in: Callable[[Path], AbstractContextManager[Collector]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Came]:
    """Return what runs an app of `APPS` with events and settings; the same is run once."""
    known: dict[str, Came] = {}

    def came(app: str, events: list[dict[str, str]], settings: dict[str, str]) -> Came:
        key = json.dumps((app, events, settings))
        if key not in known:
            folder = tmp_path_factory.mktemp(app)
            with collector_in(folder) as collector:
                answers = run(app, events, folder, environ_for(collector, **settings))
                assert [answer["statusCode"] for answer in answers.results] == [200] * len(events), answers.stdout
                assert answers.stderr == ""
                known[key] = shown(collector.drained())
        return known[key]

    return came


def environ_for(collector: Collector, **settings: str) -> dict[str, str]:
    """Return the settings of a function that exports to a collector."""
    return {
        "VERCEL": "1",
        "VERCEL_GIT_REPO_SLUG": "mall",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint("http/protobuf"),
        "TRACEDBRIDGE_IMPORTS": "off",
        # A collector on a busy machine is waited for; that the budget holds is another test's.
        "TRACEDBRIDGE_FLUSH_TIMEOUT_MS": "10000",
        **settings,
    }


def assert_same(came: Came, expected: Came) -> None:
    """Compare signal by signal; what differs is shown as a diff, everything of which is long."""
    for name, now, wanted in zip(Came._fields, came, expected, strict=True):
        differing = unified_diff(wanted.splitlines(), now.splitlines(), "eager", "deferred", n=12, lineterm="")
        assert now == wanted, "\n".join((name, *differing))


EVENTS = [asked(0), asked(1)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "app",
    [
        pytest.param("workshop_fastapi", marks=pytest.mark.frameworks),
        pytest.param("workshop_handler"),
        pytest.param("workshop_lazy"),
        pytest.param("scales"),
    ],
)
def test_apps(app: str, mode: dict[str, str], came_of: Callable[..., Came]) -> None:
    """Two invocations leave the same spans, points and records, however they are made."""
    expected = came_of(app, EVENTS, EAGER)
    for name in {"scales": ["weigh"]}.get(app, ["craft with care", "in a thread"]):
        assert expected.traces.count(f" {name}'") == 2, expected.traces
    assert_same(came_of(app, EVENTS, mode), expected)


@pytest.mark.frameworks
@pytest.mark.parametrize("mode", [UNTOLD, AFTER])
@pytest.mark.parametrize("app", ["workshop_flask", "workshop_starlette"])
def test_frameworks(app: str, mode: dict[str, str], came_of: Callable[..., Came]) -> None:
    """So do two of an app of any framework."""
    assert_same(came_of(app, EVENTS, mode), came_of(app, EVENTS, EAGER))


@pytest.mark.parametrize("mode", [UNTOLD, AFTER])
def test_structlog_of_the_app(mode: dict[str, str], came_of: Callable[..., Came]) -> None:
    """So do two of an app that has configured structlog by itself, and caches its loggers."""
    own = {"SCALES_STRUCTLOG": "1"}
    assert_same(came_of("scales", EVENTS, {**mode, **own}), came_of("scales", EVENTS, {**EAGER, **own}))


def remote(trace: str, flags: str, **headers: str) -> list[dict[str, str]]:
    """Build two events, the first of which continues a trace."""
    return [asked(0, traceparent=f"00-{trace}-{REMOTE_SPAN}-{flags}", **headers), asked(1, traceparent="nonsense")]


@pytest.mark.parametrize("mode", [UNTOLD, AFTER])
@pytest.mark.parametrize(
    ("sampler", "argument", "events", "is_sampled"),
    [
        pytest.param("always_on", "", remote(LOW_TRACE, "00"), True, id="always_on, remote not sampled"),
        pytest.param("always_off", "", remote(LOW_TRACE, "01"), False, id="always_off, remote sampled"),
        # With bounds that no minted id is beyond of in the life of this test.
        pytest.param("traceidratio", "1e-9", remote(LOW_TRACE, "00"), True, id="ratio, low, remote not sampled"),
        pytest.param("traceidratio", "0.999999999", remote(HIGH_TRACE, "01"), False, id="ratio, high, remote sampled"),
        pytest.param("parentbased_always_on", "", remote(LOW_TRACE, "00"), False, id="parent on, remote not sampled"),
        pytest.param("parentbased_always_off", "", remote(LOW_TRACE, "01"), True, id="parent off, remote sampled"),
        pytest.param(
            "parentbased_traceidratio", "0", remote(HIGH_TRACE, "01"), True, id="parent ratio, remote sampled"
        ),
        pytest.param("parentbased_traceidratio", "0", EVENTS, False, id="parent ratio, no remote"),
    ],
)
def test_samplers(
    sampler: str,
    argument: str,
    events: list[dict[str, str]],
    is_sampled: bool,
    mode: dict[str, str],
    came_of: Callable[..., Came],
) -> None:
    """Each sampler of the specification decides cold what it decides warm, for us, the app and the next service."""
    settings = {"OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": argument}
    expected = came_of("workshop_handler", events, {**EAGER, **settings})
    assert ("request-0" in expected.traces) == is_sampled
    assert_same(came_of("workshop_handler", events, {**mode, **settings}), expected)


@pytest.mark.frameworks
@pytest.mark.parametrize("mode", MODES)
def test_remote_parent(mode: dict[str, str], came_of: Callable[..., Came]) -> None:
    """A first invocation that continues a trace hands tracestate and baggage on, and FastAPI's spans join it."""
    events = remote(HIGH_TRACE, "01", tracestate="mall=1,town=2", baggage="tenant=acme,tier=3")
    expected = came_of("workshop_fastapi", events, EAGER)
    assert f"'parent': '{HIGH_TRACE} {REMOTE_SPAN}'" in expected.traces
    assert expected.traces.count("'mall=1,town=2'") > 5
    assert_same(came_of("workshop_fastapi", events, mode), expected)


@pytest.mark.parametrize("mode", [UNTOLD, AFTER])
@pytest.mark.parametrize("app", ["workshop_handler", "workshop_lazy"])
def test_no_propagators(app: str, mode: dict[str, str], came_of: Callable[..., Came]) -> None:
    """With ``OTEL_PROPAGATORS=none`` nothing is continued and nothing handed on."""
    events = remote(HIGH_TRACE, "01", baggage="tenant=acme")
    settings = {"OTEL_PROPAGATORS": "none"}
    expected = came_of(app, events, {**EAGER, **settings})
    assert "'sent.parent': False" in expected.traces
    assert_same(came_of(app, events, {**mode, **settings}), expected)


class Chosen(NamedTuple):
    """Of an app that exports one signal by itself: what its exporter got, and what ours got of that signal."""

    theirs: list[dict[str, Any]]
    ours: Sink

    def our_names(self, signal: str) -> list[str]:
        """Return the names of spans, points or records that ours got."""
        if signal == "traces":
            return [each.item.name for each in self.ours.spans]
        if signal == "metrics":
            return [each.item.name for each in self.ours.metrics]
        return [value_of(each.item.body) for each in self.ours.logs]


# Of each request, in order: what the app makes before it may choose, what it makes then, and the whole of ours.
CHOICES = ["import", "lifespan", "request 1", "request 2"]


@pytest.mark.parametrize("mode", [pytest.param(EAGER, id="eager"), UNTOLD, AFTER])
@pytest.mark.parametrize("moment", CHOICES)
@pytest.mark.parametrize("signal", ["traces", "metrics", "logs"])
def test_providers_of_the_app(
    signal: str, moment: str, mode: dict[str, str], collector: Collector, tmp_path: Path
) -> None:
    """An app's own provider gets everything of its signal from then on, ours gets none, and nobody gets it twice."""
    file = tmp_path / "theirs"
    settings = {"CHOOSER_SIGNAL": signal, "CHOOSER_MOMENT": moment, "CHOOSER_FILE": str(file), **mode}
    # A third one, by which a choice in the second is over.
    answers = run("chooser", [asked(0), asked(1), asked(2)], tmp_path, environ_for(collector, **settings))
    assert answers.stderr == ""
    chosen = Chosen(json_lines(file.read_text()), collector.drained())
    theirs, ours = Counter(each["name"] for each in chosen.theirs), Counter(chosen.our_names(signal))
    chosen_in = int(moment[-1]) if moment.startswith("request") else 0
    if signal == "metrics":
        _check_points(chosen, chosen_in)
    else:
        after = [f"late {chosen_in}", *(f"{when} {n}" for n in range(chosen_in + 1, 4) for when in ("early", "late"))]
        for name in after[not chosen_in :]:
            assert (theirs[name], ours[name]) == (1, 0), name
        made = [f"{when} {number}" for number in (1, 2, 3) for when in ("early", "late")]
        # Of each invocation one of ours: its span, its line.
        made += 3 * ["GET" if signal == "traces" else "invocation"]
        both = theirs + ours
        assert {name: both[name] for name in made} == Counter(made)
        assert theirs["GET" if signal == "traces" else "invocation"] >= 3 - chosen_in
        ids = Counter(each["id"] for each in chosen.theirs)
        ids.update(each.item.span_id.hex() for each in chosen.ours.spans)
        if signal == "traces":
            assert max(ids.values()) == 1
        if not chosen_in:
            assert not ours
    # The other signals are ours, and whole.
    if signal != "traces":
        assert Counter(chosen.our_names("traces"))["GET"] == 3
    if signal != "logs":
        assert Counter(chosen.our_names("logs"))["invocation"] == 3


def _check_points(chosen: Chosen, chosen_in: int) -> None:
    """Check that each of six counts is at one place, all from the choice on at theirs."""
    theirs = sum(each["value"] for each in chosen.theirs if each["name"] == "chooser.count")
    last: dict[str, int] = {}
    for each in chosen.ours.metrics:
        if each.item.name == "chooser.count":
            last |= {str(attributes_of(p.attributes)): p.as_int for p in each.item.sum.data_points}
    assert theirs + sum(last.values()) == 6
    assert theirs >= (7 - 2 * chosen_in if chosen_in else 6)
    assert sum(each["value"] for each in chosen.theirs if each["name"] == "faas.invoke_duration") >= 3 - chosen_in


# Answers events, and ends in the way that its first argument names.
_DRIVER = """
import faulthandler, json, os, signal, sys, threading, time
# Whoever hangs says where, and ends, before he is killed.
faulthandler.dump_traceback_later(float(os.environ["HANGS_AFTER_S"]), exit=True)
events = json.load(sys.stdin)
from tracedbridge import vc_handler

def answer(event):
    result = vc_handler(event, None)
    assert result["statusCode"] == 200, result

def at_once():
    barrier = threading.Barrier(len(events))
    def work(event):
        barrier.wait(30)
        answer(event)
    threads = [threading.Thread(target=work, args=(event,)) for event in events]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    vc_handler.close()

def forking():
    answer(events[0])
    child = os.fork()
    if not child:
        # A child that hangs is no orphan for long.
        signal.alarm(30)
        answer(events[1])
        vc_handler.close()
        sys.stdout.flush()
        os._exit(0)
    answer(events[2])
    _, status = os.waitpid(child, 0)
    vc_handler.close()
    assert status == 0, f"the child ended with {status}"

def exiting():
    answer(events[0])

def raising():
    answer(events[0])
    raise SystemExit(3)

def terminated():
    answer(events[0])
    os.kill(os.getpid(), signal.SIGTERM)
    # Not signal.pause(): a thread of ours may be the one to get it, and the main thread hears of it at its next step.
    while True:
        time.sleep(0.01)

globals()[sys.argv[1]]()
"""


def drive(way: str, app: str, events: list[dict[str, str]], collector: Collector, mode: dict[str, str]) -> int:
    """Have the driver answer events and end in its way; return its exit code."""
    foreign = ("TRACEDBRIDGE_", "OTEL_", "VERCEL", "AWS_", "__VC_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    done = subprocess.run(
        [sys.executable, "-c", _DRIVER, way],
        cwd=APPS,
        env={
            **kept,
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [kept.get("PYTHONPATH")])]),
            "TRACEDBRIDGE_APP": f"{app}.py",
            "HANGS_AFTER_S": str(TIMEOUT_S - 10.0),
            **environ_for(collector, **mode),
        },
        input=json.dumps(events),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    print(done.stdout, done.stderr, sep="\n")
    # Python warns of forks.
    assert not [word for word in ("Traceback", "telemetry failed") if word in done.stderr], done.stderr
    assert "telemetry was lost" not in done.stdout
    return done.returncode


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("way", "code"), [("exiting", 0), ("raising", 3), ("terminated", -signal.SIGTERM)], ids=["exit", "raise", "SIGTERM"]
)
def test_ends_that_nobody_told(
    way: str, code: int, mode: dict[str, str], collector: Collector, came_of: Callable[..., Came]
) -> None:
    """A process that ends right after its first response, without ``close()``, has sent all the same."""
    assert drive(way, "scales", EVENTS[:1], collector, mode) == code
    assert_same(shown(collector.drained()), came_of("scales", EVENTS[:1], EAGER))


@pytest.mark.parametrize("mode", MODES)
def test_fork(mode: dict[str, str], collector: Collector) -> None:
    """A child that is forked after the first response sends what is its own, and its parent the rest; none twice."""
    assert drive("forking", "workshop_handler", [asked(0), asked(1), asked(2)], collector, mode) == 0
    sink = collector.drained()
    spans = _by_id(sink)
    servers = [each for each in sink.spans if each.item.kind == Span.SPAN_KIND_SERVER]
    ids = [attributes_of(each.item.attributes)["faas.invocation_id"] for each in servers]
    assert sorted(ids) == ["fra1::request-0", "fra1::request-1", "fra1::request-2"]
    for number, server in zip(ids, servers, strict=True):
        names = Counter(each.item.name for each in _below(server, spans))
        assert names["craft with care"] == names["in a thread"] == names["linked"] == 1, number
    by_id = dict(zip(ids, servers, strict=True))
    instances = [by_id[f"fra1::request-{number}"].resource["faas.instance"] for number in range(3)]
    assert instances[0] == instances[2] != instances[1]
    lines = Counter(attributes_of(each.item.attributes).get("invocation_id") for each in sink.logs)
    # Three of the app and one of ours.
    assert [lines[each] for each in ids] == [4, 4, 4], lines


@pytest.mark.parametrize("mode", MODES)
def test_eight_at_once(mode: dict[str, str], collector: Collector) -> None:
    """Of eight first invocations at the same time each has its own spans and line, and one has the cold start."""
    events = [asked(number) for number in range(8)]
    assert drive("at_once", "scales", events, collector, mode) == 0
    sink = collector.drained()
    spans = _by_id(sink)
    servers = [each for each in sink.spans if each.item.kind == Span.SPAN_KIND_SERVER]
    assert sorted(attributes_of(each.item.attributes)["url.path"] for each in servers) == sorted(
        f"/items/{7 + number}" for number in range(8)
    )
    assert [attributes_of(each.item.attributes)["faas.coldstart"] for each in servers].count(True) == 1
    names = Counter(each.item.name for each in sink.spans)
    assert (names["weigh"], names["cold start"]) == (8, 1)
    for server in servers:
        assert Counter(each.item.name for each in _below(server, spans))["weigh"] == 1
    bodies = Counter(str(value_of(each.item.body)) for each in sink.logs)
    assert bodies["invocation"] == bodies["weighed"] == bodies["from a thread"] == bodies["failed"] == 8
    points = _points(sink)
    assert points["scales.late"]["points"] == [({}, 16)]


def _by_id(sink: Sink) -> dict[bytes, ReceivedSpan]:
    spans = {each.item.span_id: each for each in sink.spans}
    assert len(spans) == len(sink.spans), "a span came twice"
    return spans


def _below(root: ReceivedSpan, spans: dict[bytes, ReceivedSpan]) -> Iterator[ReceivedSpan]:
    for each in spans.values():
        parent: ReceivedSpan | None = each
        while parent is not None and parent is not root:
            parent = spans.get(parent.item.parent_span_id)
        if parent is root and each is not root:
            yield each


def shown(sink: Sink) -> Came:
    """Return what came as text, in an order that depends on nothing but its content."""
    spans = _by_id(sink)
    first, *others = (each.resource for each in sink.everything())
    assert all(each == first for each in others)
    return Came(_forest(spans), _records(sink, spans), text(_points(sink)), text(instance_free(first)))


def _forest(spans: dict[bytes, ReceivedSpan]) -> str:
    children: dict[bytes, list[ReceivedSpan]] = {}
    traces: dict[bytes, list[ReceivedSpan]] = {}
    for each in spans.values():
        parent = spans.get(each.item.parent_span_id)
        if parent is None:
            traces.setdefault(each.item.trace_id, []).append(each)
            continue
        children.setdefault(each.item.parent_span_id, []).append(each)
        assert each.item.trace_id == parent.item.trace_id
        assert each.item.start_time_unix_nano >= parent.item.start_time_unix_nano - SLACK_NS, each.item.name
        if each.item.name not in OUTLIVING:
            assert each.item.end_time_unix_nano <= parent.item.end_time_unix_nano + SLACK_NS, each.item.name
    return text(_sorted(_sorted(_node(root, children, spans) for root in roots) for roots in traces.values()))


def _node(
    each: ReceivedSpan, children: dict[bytes, list[ReceivedSpan]], spans: dict[bytes, ReceivedSpan]
) -> dict[str, Any]:
    span = each.item
    assert span.start_time_unix_nano <= span.end_time_unix_nano, span.name
    node: dict[str, Any] = {
        "span": f"{Span.SpanKind.Name(span.kind).removeprefix('SPAN_KIND_')} {span.name}",
        "scope": each.scope,
        "flags": f"{span.flags:#x}",
        "attributes": _plain(span.attributes),
        "events": [],
        "links": [],
        "status": (Status.StatusCode.Name(span.status.code), span.status.message),
        "dropped": (span.dropped_attributes_count, span.dropped_events_count, span.dropped_links_count),
        "below": _sorted(_node(child, children, spans) for child in children.get(span.span_id, ())),
    }
    if span.parent_span_id and span.parent_span_id not in spans:
        node["parent"] = f"{span.trace_id.hex()} {span.parent_span_id.hex()}"
    if span.trace_state:
        node["tracestate"] = span.trace_state
    for occurred in span.events:
        within = span.start_time_unix_nano - SLACK_NS, span.end_time_unix_nano + SLACK_NS
        assert within[0] <= occurred.time_unix_nano <= within[1], f"{occurred.name!r} is not within {span.name!r}"
        node["events"].append((occurred.name, _plain(occurred.attributes)))
    for link in span.links:
        linked = spans.get(link.span_id)
        assert linked is None or linked.item.trace_id == link.trace_id
        told = linked.item.name if linked else f"{link.trace_id.hex()} {link.span_id.hex()}"
        # The boot trace, where it is not sampled, has an id of the day.
        to = told if linked or link.trace_id[:8] == bytes(8) else "what did not come"
        node["links"].append((to, f"{link.flags:#x}", link.trace_state, _plain(link.attributes)))
    return {key: value for key, value in node.items() if value not in ([], {})}


def _records(sink: Sink, spans: dict[bytes, ReceivedSpan]) -> str:
    return text(_sorted(_record(each.scope, each.item, spans) for each in sink.logs))


def _record(scope: str, record: LogRecord, spans: dict[bytes, ReceivedSpan]) -> dict[str, Any]:
    body = value_of(record.body)
    place = "nowhere" if not record.trace_id else "in a span that did not come"
    if (each := spans.get(record.span_id)) is not None:
        place = each.item.name
        assert record.trace_id == each.item.trace_id
        if body != "invocation":
            begin_ns, end_ns = each.item.start_time_unix_nano, each.item.end_time_unix_nano
            assert begin_ns - SLACK_NS <= record.time_unix_nano <= end_ns + SLACK_NS, (
                f"{body!r} is not within {place!r}"
            )
    assert record.time_unix_nano <= record.observed_time_unix_nano + SLACK_NS
    return {
        "body": body,
        "severity": (record.severity_number, record.severity_text),
        "place": place,
        "flags": f"{record.flags:#x}",
        "scope": scope,
        "event": record.event_name,
        "attributes": _plain(record.attributes),
    }


def _points(sink: Sink) -> dict[str, dict[str, Any]]:
    latest: dict[str, tuple[tuple[int, int], dict[str, Any]]] = {}
    arrived = count()
    for each in sink.metrics:
        metric = each.item
        # What is told about the export depends on how often there was one.
        if metric.name.startswith("tracedbridge.export."):
            continue
        data = getattr(metric, str(metric.WhichOneof("data")))
        at = max(point.time_unix_nano for point in data.data_points), next(arrived)
        made = {
            "scope": each.scope,
            "kind": metric.WhichOneof("data"),
            "unit": metric.unit,
            "description": metric.description,
            "temporality": getattr(data, "aggregation_temporality", None),
            "monotonic": getattr(data, "is_monotonic", None),
            "points": _sorted(_point(metric, point) for point in data.data_points),
        }
        if metric.name not in latest or latest[metric.name][0] < at:
            latest[metric.name] = at, made
    return {name: latest[name][1] for name in sorted(latest)}


def _point(metric: Metric, point: Any) -> tuple[Any, ...]:
    assert point.start_time_unix_nano <= point.time_unix_nano
    attributes = dict(sorted(attributes_of(point.attributes).items()))
    if metric.WhichOneof("data") != "histogram":
        return attributes, getattr(point, str(point.WhichOneof("value")))
    assert sum(point.bucket_counts) == point.count
    values: tuple[Any, ...] = (point.count, tuple(point.explicit_bounds))
    if metric.name.startswith("scales."):
        # Of the app's own we know what was measured; ours are times and sizes.
        values += (point.sum, point.min, point.max, tuple(point.bucket_counts))
    return attributes, *values


def _sorted(items: Any) -> list[Any]:
    return sorted(items, key=repr)


# An exception's own frames; those of OpenTelemetry's context managers are not the same in a stand-in.
_APP_FRAME = re.compile(r'File "[^"]*/apps/([^"]+)", line (\d+), in (\S+)')


def _plain(pairs: Any) -> Attributes:
    plain = dict(sorted(attributes_of(pairs).items()))
    for key, value in plain.items():
        if key.endswith("_ms"):
            assert isinstance(value, float)
            assert 0 <= value < 60_000
            plain[key] = "<ms>"
        elif key in ("modules", "memory_mb", "code.line.number"):
            assert value > 0
            plain[key] = f"<{key}>"
        elif key == "exception.stacktrace":
            assert value.startswith("Traceback (most recent call last)")
            plain[key] = [*_APP_FRAME.findall(value), value.splitlines()[-1]]
    return plain
