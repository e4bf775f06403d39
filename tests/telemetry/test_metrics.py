"""Every instrument is recorded as it is declared, and each invocation counts once, as one thing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from opentelemetry import metrics

from tests.support import HANG_S, Receive, Scope, Send, answer, event, no_lifespan, respond
from tests.telemetry.apps import KINDS, Pairs, app_around, asgi_around, lifespan_around
from tests.telemetry.functions import run_function
from tests.telemetry.received import Received
from tracedbridge import EventError, create_bridge
from tracedbridge.messages import Kind
from tracedbridge.serving.receiver import Receiver
from tracedbridge.telemetry.metrics import INSTRUMENTS
from tracedbridge.telemetry.otlp import HistogramPoint, NumberPoint

pytestmark = pytest.mark.telemetry

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
MIB = 2**20
MODULES = (50.0, 100.0, 200.0, 300.0, 400.0, 500.0, 750.0, 1000.0, 1500.0, 2000.0, 3000.0, 5000.0)
BYTES = tuple(MIB * size for size in (16, 32, 64, 128, 256, 512, 768, 1024, 2048, 3072, 4096, 6144, 8192))


class Fact(NamedTuple):
    """A metric as the semantic conventions, or the design, want it."""

    unit: str
    bounds: tuple[float, ...] = ()


# By hand, and not from INSTRUMENTS: the table is checked, too.
FACTS = {
    "faas.invoke_duration": Fact("s", SECONDS),
    "faas.init_duration": Fact("s", SECONDS),
    "faas.cpu_usage": Fact("s", SECONDS),
    "faas.mem_usage": Fact("By", BYTES),
    "http.server.request.duration": Fact("s", SECONDS),
    "faas.coldstarts": Fact("{coldstart}"),
    "faas.errors": Fact("{error}"),
    "faas.timeouts": Fact("{timeout}"),
    "faas.invocations": Fact("{invocation}"),
    "tracedbridge.coldstart.phase.duration": Fact("s", SECONDS),
    "tracedbridge.coldstart.modules": Fact("{module}", MODULES),
    "tracedbridge.import.duration": Fact("s", SECONDS),
    "tracedbridge.lifespan.duration": Fact("s", SECONDS),
    "tracedbridge.export.duration": Fact("s", SECONDS),
    "tracedbridge.export.items": Fact("{item}"),
    "tracedbridge.export.produced": Fact("{item}"),
    "tracedbridge.export.pauses": Fact("{pause}"),
    "tracedbridge.loop_stall": Fact("s", SECONDS),
    "tracedbridge.time_left": Fact("s", SECONDS),
}


# In test_timeouts.py and test_export.py: this day has no loop that stands still, and a good backend.
ELSEWHERE = {"tracedbridge.loop_stall", "tracedbridge.export.pauses"}


def ok(headers: Pairs) -> str:
    """Answer anything."""
    return "ok"


async def _shop(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await receive()
        import_module("part_of_the_shop")
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["path"] == "/late":
        await asyncio.Event().wait()
    elif scope["path"] == "/raise":
        raise ConnectionError("no route")
    else:
        await respond(send, status=int(scope["path"][1:]))


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Received:
    """What comes of a function's whole life, with everything in it that is counted."""
    folder = tmp_path_factory.mktemp("day")
    (folder / "part_of_the_shop.py").write_text("")
    with pytest.MonkeyPatch.context() as patch, Receiver() as receiver:
        patch.syspath_prepend(folder)
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        patch.setenv("OTEL_SERVICE_NAME", "shop")
        patch.setenv("TRACEDBRIDGE_FLUSH", "before")
        patch.setenv("TRACEDBRIDGE_FLUSH_TIMEOUT_MS", str(HANG_S * 1000))
        patch.setenv("TRACEDBRIDGE_DEADLINE_MS", "100")
        # The one that is late is told when it ends, and not before.
        patch.setenv("TRACEDBRIDGE_TIMEOUT_MARGIN_MS", "0")
        with create_bridge(_shop) as bridge:
            for path in ("/200", "/200", "/404", "/503", "/raise", "/late", "no-slash"):
                bridge(event(path=path), None)
            bridge(event("BREW", "/200"), None)
            with pytest.raises(EventError):
                bridge({}, None)
    # Closed, it keeps what came.
    return Received(receiver)


def test_every_instrument_is_known() -> None:
    """The table of instruments holds what the facts name, and nothing else."""
    assert {each.name for each in INSTRUMENTS} == set(FACTS)
    assert len(INSTRUMENTS) == len(FACTS)


@pytest.mark.parametrize("name", sorted(set(FACTS) - ELSEWHERE))
def test_instrument(name: str, day: Received) -> None:
    """Each instrument comes with its unit, its kind and its buckets, cumulative, from our scope."""
    metric = day.metric(name)
    fact = FACTS[name]
    declared = next(each for each in INSTRUMENTS if each.name == name)
    assert (metric.unit, metric.description, metric.scope.name) == (fact.unit, declared.description, "tracedbridge")
    assert metric.temporality == "cumulative"
    assert metric.kind == ("histogram" if fact.bounds else "sum")
    assert metric.description.endswith(".")
    for point in metric.points:
        assert point.start_ns <= point.time_ns
        if isinstance(point, HistogramPoint):
            assert point.bounds == fact.bounds
            assert sum(point.bucket_counts) == point.count > 0
        else:
            assert metric.monotonic
            assert isinstance(point, NumberPoint)
            assert point.value


@pytest.mark.parametrize("name", sorted(set(FACTS) - ELSEWHERE))
def test_attributes(name: str, day: Received) -> None:
    """Each point says which function it is of, and nothing that is not declared: no ids, no paths."""
    declared = next(each for each in INSTRUMENTS if each.name == name)
    for point in day.metric(name).points:
        assert point.attributes["faas.name"] == "shop"
        assert set(point.attributes) <= {"faas.name", *declared.attributes}


def test_one_record_a_name(day: Received) -> None:
    """No export holds one metric twice: a backend would take the second for a conflict."""
    ends = [metric.points[0].time_ns for metric in day.metrics if metric.name == "faas.invoke_duration"]
    assert len(ends) == len(set(ends))


def test_outcomes(day: Received) -> None:
    """Every invocation counts as a success, an error or a timeout, and as one of them only."""
    assert day.counts("faas.invocations", "faas.trigger") == {("http",): 5}
    assert day.counts("faas.errors", "error.type") == {("503",): 1, ("ConnectionError",): 1, ("EventError",): 1}
    assert day.counts("faas.timeouts", "faas.trigger") == {("http",): 1}
    assert day.counts("faas.coldstarts", "tracedbridge.coldstart.kind") == {("on_demand",): 1}
    invoked = {point.attributes["faas.coldstart"]: point.count for point in day.histogram("faas.invoke_duration")}
    assert invoked == {True: 1, False: 8}
    for name in ("faas.cpu_usage", "faas.mem_usage"):
        assert sum(point.count for point in day.histogram(name)) == 9


def test_http(day: Received) -> None:
    """The HTTP histogram has a point for each answer, errors by their type, and no series of a client's making."""
    keys = ("http.request.method", "http.response.status_code", "error.type")
    points = day.histogram("http.server.request.duration")
    assert {tuple(point.attributes.get(key) for key in keys): point.count for point in points} == {
        ("GET", 200, None): 2,
        ("GET", 404, None): 1,
        ("GET", 503, "503"): 1,
        ("GET", 500, "ConnectionError"): 1,
        ("GET", 504, "DeadlineError"): 1,
        ("_OTHER", 200, None): 1,
    }
    assert {point.attributes["url.scheme"] for point in points} == {"https"}
    assert {point.attributes["network.protocol.version"] for point in points} == {"1.1"}


def test_cold_start(day: Received) -> None:
    """The phases of the cold start come once each, and its duration is that of the phases until ready."""
    phases = {point.attributes["phase"]: point for point in day.histogram("tracedbridge.coldstart.phase.duration")}
    assert {"telemetry", "app_import", "app_resolve", "lifespan", "wait", "first_byte"} <= set(phases)
    assert {point.count for point in phases.values()} == {1}
    (begun,) = day.histogram("faas.init_duration")
    parts = sum(point.sum or 0 for name, point in phases.items() if name not in ("wait", "first_byte"))
    assert parts == pytest.approx(begun.sum, abs=0.005)
    lifespan = {point.attributes["phase"]: point.count for point in day.histogram("tracedbridge.lifespan.duration")}
    assert lifespan == {"startup": 1, "shutdown": 1}


def test_time_left(day: Received) -> None:
    """What was left before the deadline is what the deadline gave, and nothing for who missed it."""
    (point,) = day.histogram("tracedbridge.time_left")
    # One less: a broken event comes to no deadline.
    assert point.count == 8
    assert point.min == 0
    assert point.max is not None
    assert 0.05 < point.max <= 0.1


def test_memory(day: Received) -> None:
    """Peak memory is in bytes, and that of a Python process."""
    (point,) = day.histogram("faas.mem_usage")
    assert point.min is not None
    assert point.max is not None
    assert 10 * MIB < point.min <= point.max < 8192 * MIB


def test_export_items(day: Received) -> None:
    """What was sent is counted by signal, as much as the receiver got until the count was taken."""
    counted = day.counts("tracedbridge.export.items", "signal", "outcome")
    assert set(counted) == {("traces", "sent"), ("metrics", "sent"), ("logs", "sent")}
    # The last flush sends the count of those before it.
    assert counted["traces", "sent"] == len(day.spans) - 1
    assert counted["logs", "sent"] == len(day.logs) == 9
    (took,) = day.histogram("tracedbridge.export.duration")
    assert took.count == 9


def test_export_items_over_flushes(received: Received) -> None:
    """The counts of one flush go out with the next one, and add up."""
    with create_bridge(asgi_around(ok)) as bridge:
        sent = []
        for _ in range(3):
            before = len(received.spans)
            bridge(event(), None)
            sent.append(len(received.spans) - before)
            counts = received.counts("tracedbridge.export.items", "signal", "outcome")
            assert counts.get(("traces", "sent"), 0) == sum(sent[:-1])


def exemplars_of(received: Received, name: str) -> list[tuple[str, str]]:
    """Return trace and span id of all exemplars of a metric; each is sent once, with the first export after it."""
    points = [point for record in received.metrics if record.name == name for point in record.points]
    return [
        (each.trace_id, each.span_id)
        for point in points
        if isinstance(point, (HistogramPoint, NumberPoint))
        for each in point.exemplars
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_exemplars(kind: Kind, received: Received) -> None:
    """In every kind the points of an invocation have an exemplar that leads to its span."""
    with create_bridge(app_around(kind, ok)) as bridge:
        bridge(event(), None)
    within = {"faas.invoke_duration": "server", "faas.invocations": "server", "http.server.request.duration": "server"}
    for name, span in {**within, "faas.init_duration": "cold start", "faas.coldstarts": "cold start"}.items():
        of = received.server() if span == "server" else received.span(span)
        assert exemplars_of(received, name) == [(of.trace_id, of.span_id)], name


def test_exemplars_of_unsampled_spans(received: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    """A span that nobody will find is no exemplar."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    with create_bridge(asgi_around(ok)) as bridge:
        bridge(event(), None)
    (point,) = received.histogram("faas.invoke_duration")
    assert point.count == 1
    assert exemplars_of(received, "faas.invoke_duration") == []


@pytest.mark.parametrize(("choice", "expected"), [("always_on", 1), ("always_off", 0), ("trace_based", 1)])
def test_exemplar_filter(choice: str, expected: int, received: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    """The standard variable says whether there are exemplars."""
    monkeypatch.setenv("OTEL_METRICS_EXEMPLAR_FILTER", choice)
    with create_bridge(asgi_around(ok)) as bridge:
        bridge(event(), None)
    assert len(exemplars_of(received, "faas.invoke_duration")) == expected


@pytest.mark.parametrize(
    ("preference", "expected"),
    [
        pytest.param("delta", ("delta", [1, 1, 1]), id="delta"),
        pytest.param("lowmemory", ("delta", [1, 1, 1]), id="low memory"),
        pytest.param("cumulative", ("cumulative", [1, 2, 3]), id="cumulative"),
    ],
)
def test_temporality(
    preference: str, expected: tuple[str, Sequence[int]], received: Received, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The standard variable chooses delta: then a point says what is new, also for the app's own instruments."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", preference)

    def startup() -> None:
        made.append(metrics.get_meter("shop").create_counter("shop.sold"))

    made: list[metrics.Counter] = []

    def work(headers: Pairs) -> str:
        made[0].add(1)
        return "ok"

    with create_bridge(lifespan_around(work, startup)) as bridge:
        for _ in range(3):
            bridge(event(), None)
    temporality, counts = expected
    for name in ("faas.invocations", "shop.sold"):
        records = [record for record in received.metrics if record.name == name]
        assert {record.temporality for record in records} == {temporality}
        values = [point.value for record in records for point in record.points if isinstance(point, NumberPoint)]
        # With `cumulative`, close() sends the last value once more.
        assert values[:3] == counts
        assert sum(value or 0 for value in values[3:]) == (0 if temporality == "delta" else 3)
    invoked = [record for record in received.metrics if record.name == "http.server.request.duration"]
    assert {record.temporality for record in invoked} == {temporality}
    points = [point for record in invoked for point in record.points if isinstance(point, HistogramPoint)]
    assert [point.count for point in points][:3] == counts
    if temporality == "delta":
        for earlier, later in pairwise(points):
            assert earlier.time_ns <= later.start_ns
    else:
        assert len({point.start_ns for point in points}) == 1


def test_exponential_histograms(received: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    """The standard variable chooses exponential histograms, which have no buckets of ours."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", "base2_exponential_bucket_histogram")
    with create_bridge(asgi_around(ok)) as bridge:
        bridge(event(), None)
    assert received.metric("faas.invoke_duration").kind == "exponential_histogram"


def test_the_metrics_of_others(received: Received) -> None:
    """``http.server.*`` of other libraries is dropped, since ours counts the request; their other metrics are kept."""

    def startup() -> None:
        meter = metrics.get_meter("opentelemetry.instrumentation.other")
        made.append(meter.create_histogram("http.server.request.duration", "s"))
        made.append(meter.create_histogram("http.server.duration", "ms"))
        made.append(meter.create_histogram("http.client.request.duration", "s"))

    made: list[metrics.Histogram] = []

    def work(headers: Pairs) -> str:
        for histogram in made:
            histogram.record(1)
        return "ok"

    with create_bridge(lifespan_around(work, startup)) as bridge:
        bridge(event(), None)
    http = {(metric.name, metric.scope.name) for metric in received.metrics if metric.name.startswith("http.")}
    assert http == {
        ("http.server.request.duration", "tracedbridge"),
        ("http.client.request.duration", "opentelemetry.instrumentation.other"),
    }
    (point,) = received.histogram("http.server.request.duration")
    assert point.count == 1


def test_background_work_is_not_the_request(received: Received) -> None:
    """The HTTP duration ends with the last byte of the app; what it does after that is the invocation's only."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        no_lifespan(scope)
        await respond(send)
        await asyncio.sleep(0.05)

    with create_bridge(app) as bridge:
        bridge(event(), None)
    (http,) = received.histogram("http.server.request.duration")
    (invoked,) = received.histogram("faas.invoke_duration")
    assert http.sum is not None
    assert invoked.sum is not None
    assert http.sum < 0.05 <= invoked.sum


def test_cpu_is_not_the_duration(received: Received) -> None:
    """An app that waits uses time, but no CPU."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        no_lifespan(scope)
        await asyncio.sleep(0.1)
        await respond(send)

    with create_bridge(app) as bridge:
        bridge(event(), None)
    (cpu,) = received.histogram("faas.cpu_usage")
    assert cpu.sum is not None
    assert 0 <= cpu.sum < 0.1


MEMORY = """
def app(environ, start_response):
    if environ["PATH_INFO"] == "/much":
        len(bytearray(300 * 2**20))
    start_response("200 OK", [])
    return [b"ok"]
"""


def test_peak_memory_is_the_peak_so_far(tmp_path: Path, received: Received) -> None:
    """The peak is the process's up to the end of the invocation: to reset it would cost a third of an invocation."""
    run_function(
        tmp_path, MEMORY, [event(path="/much"), event(path="/little")],
        OTEL_EXPORTER_OTLP_ENDPOINT=received.endpoint,
        OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="delta",
        TRACEDBRIDGE_FLUSH_TIMEOUT_MS=str(HANG_S * 1000),
        TRACEDBRIDGE_FLUSH="before",
    )  # fmt: skip
    points: list[Any] = [each.points[0] for each in received.metrics if each.name == "faas.mem_usage"]
    much, little = (point.sum for point in points if point.count)
    assert little >= much > 300 * MIB


def test_two_bridges_are_two_functions(received: Received) -> None:
    """Two bridges in one process count apart."""
    for _ in range(2):
        with create_bridge(asgi_around(ok)) as bridge:
            assert answer(bridge(event(), None)).status == 200
    counts = [record for record in received.metrics if record.name == "faas.invocations"]
    assert {point.value for record in counts for point in record.points if isinstance(point, NumberPoint)} == {1}
    assert len({record.resource["service.instance.id"] for record in counts}) == 2
