"""The budget holds and the response stays, whatever the backend does; what is not taken is counted and told once."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry._logs import get_logger

from tests.support import HANG_S, Answer, answer, bounded, event
from tests.telemetry.apps import Pairs, asgi_around
from tests.telemetry.backends import Backend, Behaviour, Exchange, answering, dripping, in_turn, silent
from tests.telemetry.received import Received
from tracedbridge import Bridge, create_bridge
from tracedbridge.telemetry.export import Sink
from tracedbridge.telemetry.otlp import MetricRecord, NumberPoint

pytestmark = pytest.mark.telemetry

BUDGET_S = 0.2

# The budget is a fifth of a second; the rest is for a machine that has other things to do.
GUARD_S = 3 * BUDGET_S + 1


@pytest.fixture(autouse=True)
def budget(plain_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invocations may wait for that long."""
    monkeypatch.setenv("TRACEDBRIDGE_FLUSH_TIMEOUT_MS", str(BUDGET_S * 1000))


def ok(headers: Pairs) -> str:
    """Answer anything."""
    return "201:made"


def timed(bridge: Bridge) -> tuple[Answer, float]:
    """Answer one event and say how long it took."""
    begun_s = time.monotonic()
    told = answer(bridge(event(), None))
    return told, time.monotonic() - begun_s


@contextmanager
def refusing() -> Iterator[str]:
    """Give an endpoint where nobody listens, and where nobody else can begin to."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return our own warnings."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("tracedbridge")]


def assert_unharmed(endpoint: str, monkeypatch: pytest.MonkeyPatch, invocations: int = 3) -> None:
    """Answer some events with that endpoint: responses as ever, each within the guard, and so is ``close()``."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    bridge = create_bridge(asgi_around(ok))
    try:
        for _ in range(invocations):
            told, took_s = bounded(lambda: timed(bridge))
            assert told == Answer(201, {"content-type": ["text/plain"]}, b"made")
            assert took_s < GUARD_S
    finally:
        begun_s = time.monotonic()
        bridge.close()
        took_s = time.monotonic() - begun_s
    assert took_s < GUARD_S
    for thread in threading.enumerate():
        if thread.name.startswith("tracedbridge-"):
            thread.join(GUARD_S)
            assert not thread.is_alive()


FAILING: list[tuple[str, Behaviour, str]] = [
    ("500", answering(500), "http_500"),
    ("503 that asks to wait", answering(503, {"Retry-After": "30"}), "http_503"),
    ("429 that asks to wait", answering(429, {"Retry-After": "30"}), "http_429"),
    ("400", answering(400, {}, b"no"), "http_400"),
    ("302", answering(302, {"Location": "http://127.0.0.1:9/"}), "http_302"),
    ("401", answering(401), "http_401"),
]


@pytest.mark.parametrize(("behave", "reason"), [row[1:] for row in FAILING], ids=[row[0] for row in FAILING])
def test_failing(
    behave: Behaviour, reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A backend that says no is asked once more, at the end, and is one warning for each signal."""
    with Backend(behave) as backend:
        assert_unharmed(backend.endpoint, monkeypatch)
        assert len([seen for seen in backend.seen if seen.path == "/v1/traces"]) == 2
    heard = warnings_of(caplog)
    assert len(heard) == 3
    for signal in ("traces", "metrics", "logs"):
        (one,) = [text for text in heard if signal in text]
        assert reason in one


@pytest.mark.parametrize("good", [0, 1], ids=["always", "after one good answer"])
@pytest.mark.parametrize("behave", [silent, dripping], ids=["silent", "dripping"])
def test_slow(behave: Behaviour, good: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """
    A backend that never ends its answer costs the budget, all signals together, and one warning each.

    Also on connections that it has kept open until then.
    """
    with Backend(in_turn(*[answering(200)] * good * 3, behave)) as backend:
        assert_unharmed(backend.endpoint, monkeypatch)
    assert len(warnings_of(caplog)) == 3


def test_refusing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Where nobody listens nothing is waited for."""
    with refusing() as endpoint:
        assert_unharmed(endpoint, monkeypatch)
    heard = warnings_of(caplog)
    assert len(heard) == 3
    assert all("ConnectionRefusedError" in text for text in heard)


def test_a_backlog_that_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is never accepted costs the budget, too."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        address = listening.getsockname()
        with socket.create_connection(address):
            assert_unharmed(f"http://127.0.0.1:{address[1]}", monkeypatch, invocations=2)


def test_no_http(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that is no HTTP harms nobody."""

    def babble(exchange: Exchange) -> None:
        exchange.wfile.write(b"\x00\x01 what?\r\n\r\n")

    with Backend(babble) as backend:
        assert_unharmed(backend.endpoint, monkeypatch)


@pytest.mark.parametrize(
    "endpoint",
    [
        pytest.param("ftp://127.0.0.1", id="another scheme"),
        pytest.param("127.0.0.1:4318", id="no scheme"),
        pytest.param("http://", id="no host"),
        pytest.param("http://127.0.0.1:notaport", id="no port"),
        pytest.param("http://[::1", id="half an address"),
        pytest.param("http://no-such-host.invalid:4318", id="unknown host"),
    ],
)
def test_wrong_endpoints(endpoint: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """An endpoint that is none is told, and harms nobody."""
    assert_unharmed(endpoint, monkeypatch)
    assert warnings_of(caplog)


@pytest.mark.parametrize("status", [404, 405])
def test_a_signal_that_is_not_taken(
    status: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A backend that takes traces only, as Jaeger, is one warning a signal, and then no request any more."""

    def traces_only(exchange: Exchange) -> None:
        exchange.answer(200 if exchange.path == "/v1/traces" else status)

    with Backend(traces_only) as backend:
        assert_unharmed(backend.endpoint, monkeypatch, invocations=5)
        asked = [seen.path for seen in backend.seen]
    assert (asked.count("/v1/traces"), asked.count("/v1/metrics"), asked.count("/v1/logs")) == (5, 1, 1)
    heard = warnings_of(caplog)
    assert len(heard) == 2
    assert {word for text in heard for word in ("metrics", "logs") if word in text} == {"metrics", "logs"}


def test_recovery(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A backend that fails, works, and fails again gets what there is while it works, and is told of twice."""
    monkeypatch.setattr("tracedbridge.telemetry.export._FIRST_PAUSE_S", 0.0)
    with Backend(in_turn(answering(500), answering(200), answering(500), answering(500), answering(200))) as backend:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{backend.endpoint}/v1/traces")
        with create_bridge(asgi_around(ok)) as bridge:
            for _ in range(5):
                bridge(event(), None)
        assert len(backend.seen) == 5
    assert len(warnings_of(caplog)) == 2


@pytest.mark.parametrize("good", [0, 1, 2], ids="after {} good answers".format)
def test_one_signal_that_hangs(good: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A backend that hangs for one signal costs the others nothing: they are sent, counted so, and not warned of."""
    traces = in_turn(*[answering(200)] * good, silent)

    def behave(exchange: Exchange) -> None:
        if exchange.path == "/v1/traces":
            traces(exchange)
        else:
            exchange.answer(200)

    with Backend(behave) as backend:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", backend.endpoint)
        with create_bridge(asgi_around(ok)) as bridge:
            for _ in range(5):
                assert timed(bridge)[1] < GUARD_S
        counted = items_of(backend)
        logs = [record for seen in backend.seen if seen.path == "/v1/logs" for record in seen.records()]
    assert len(logs) == 5
    assert {outcome for _, outcome in counted} == {"sent"}
    assert counted["logs", "sent"] == 5
    (warning,) = warnings_of(caplog)
    assert "traces" in warning


def items_of(backend: Backend) -> dict[tuple[object, object], float | int | None]:
    """Return the last values of ``tracedbridge.export.items`` that came, by signal and outcome."""
    records = [record for seen in backend.seen if seen.path == "/v1/metrics" for record in seen.records()]
    last = [record for record in records if isinstance(record, MetricRecord) and "export.items" in record.name][-1]
    points = [point for point in last.points if isinstance(point, NumberPoint)]
    return {(point.attributes["signal"], point.attributes["outcome"]): point.value for point in points}


def test_what_is_dropped_is_counted(monkeypatch: pytest.MonkeyPatch, received: Received) -> None:
    """Items that a backend refused are counted by the reason, beside those that were sent."""
    monkeypatch.setenv("TRACEDBRIDGE_FLUSH_TIMEOUT_MS", "20000")
    monkeypatch.setattr("tracedbridge.telemetry.export._FIRST_PAUSE_S", 0.0)
    with Backend(in_turn(answering(500), answering(503), answering(200))) as backend:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{backend.endpoint}/v1/traces")
        with create_bridge(asgi_around(ok)) as bridge:
            for _ in range(4):
                bridge(event(), None)
    counted = received.counts("tracedbridge.export.items", "signal", "outcome")
    traces = {outcome: count for (signal, outcome), count in counted.items() if signal == "traces"}
    # With the cold start's spans in the first; what met the 503 was sent with the next one.
    assert traces == {"http_500": 3, "sent": 3}
    paused = received.counts("tracedbridge.export.pauses", "signal", "outcome")
    assert paused == {("traces", "http_500"): 1, ("traces", "http_503"): 1}
    # Nor do the warnings about it become records.
    assert {record.body for record in received.logs} == {"invocation"}


def test_a_full_queue(monkeypatch: pytest.MonkeyPatch, received: Received) -> None:
    """What does not fit into the queue is dropped and counted: produced is sent and dropped together."""
    monkeypatch.setenv("TRACEDBRIDGE_FLUSH_TIMEOUT_MS", "20000")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "10")
    monkeypatch.setenv("OTEL_BLRP_MAX_QUEUE_SIZE", "5")

    def work(headers: Pairs) -> str:
        for _ in range(25):
            trace.get_tracer("shop").start_span("work").end()
            get_logger("shop").emit(body="said")
        return "ok"

    with create_bridge(asgi_around(work)) as bridge:
        bridge(event(), None)
        bridge(event(), None)
        sent = len(received.spans), len(received.logs)
    counted = received.counts("tracedbridge.export.items", "signal", "outcome")
    assert sent == (20, 10)
    # 25 and the SERVER span each time, the cold start's two once; 25 lines and our own each time.
    assert (counted["traces", "sent"], counted["traces", "queue_full"]) == (20, 2 * 26 + 2 - 20)
    assert (counted["logs", "sent"], counted["logs", "queue_full"]) == (10, 2 * 26 - 10)


def test_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is more than one batch goes in several, all of it in one flush."""
    monkeypatch.setenv("TRACEDBRIDGE_FLUSH_TIMEOUT_MS", "20000")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10")

    def work(headers: Pairs) -> str:
        for _ in range(25):
            trace.get_tracer("shop").start_span("work").end()
        return "ok"

    with Backend(answering(200)) as backend:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{backend.endpoint}/v1/traces")
        with create_bridge(asgi_around(work)) as bridge:
            bridge(event(), None)
            sizes = [len(seen.records()) for seen in backend.seen]
    assert sizes == [10, 10, 8]


def test_no_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """TRACEDBRIDGE_FLUSH_TIMEOUT_MS=0: no invocation exports; ``close()`` does."""
    monkeypatch.setenv("TRACEDBRIDGE_FLUSH_TIMEOUT_MS", "0")
    with Backend(answering(200)) as backend:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", backend.endpoint)
        with create_bridge(asgi_around(ok)) as bridge:
            for _ in range(3):
                bridge(event(), None)
            assert (backend.accepted, backend.seen) == (0, [])
        assert backend.names() == ["import app", "cold start", "GET", "GET", "GET"]


def test_no_budget_and_a_silent_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then ``close()`` is bounded all the same, by the default of half a second."""
    monkeypatch.setenv("TRACEDBRIDGE_FLUSH_TIMEOUT_MS", "0")
    with Backend(silent) as backend:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", backend.endpoint)
        bridge = create_bridge(asgi_around(ok))
        for _ in range(20):
            bridge(event(), None)
        begun_s = time.monotonic()
        bridge.close()
        assert time.monotonic() - begun_s < 3 * 0.5 + 1
        assert backend.seen


def test_no_budget_and_many_invocations(monkeypatch: pytest.MonkeyPatch, received: Received) -> None:
    """What waits for ``close()`` is bounded, and what does not fit is dropped, newest first."""
    monkeypatch.setenv("TRACEDBRIDGE_FLUSH_TIMEOUT_MS", "0")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "4")
    monkeypatch.setenv("OTEL_BLRP_MAX_QUEUE_SIZE", "3")
    with create_bridge(asgi_around(ok)) as bridge:
        for _ in range(20):
            bridge(event(), None)
    assert (len(received.spans), len(received.logs)) == (4, 3)
    assert received.counts("faas.invocations") == {(): 20}


@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP_TIMEOUT", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT"])
def test_the_exporters_timeout(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The standard timeout, in milliseconds as the specification says, bounds an export within the budget."""
    monkeypatch.setenv("TRACEDBRIDGE_FLUSH_TIMEOUT_MS", "20000")
    monkeypatch.setenv(variable, "100")
    with Backend(silent) as backend:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{backend.endpoint}/v1/traces")
        with create_bridge(asgi_around(ok)) as bridge:
            _, took_s = timed(bridge)
    assert 0.1 <= took_s < 3 * 0.1 + 1


def test_parallel_invocations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Invocations that end at once, before a backend that is silent, each keep the budget."""
    with Backend(silent) as backend:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", backend.endpoint)
        took: list[float] = []
        with create_bridge(asgi_around(ok)) as bridge:
            threads = [threading.Thread(target=lambda: took.append(timed(bridge)[1])) for _ in range(5)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    assert len(took) == 5
    assert max(took) < GUARD_S


def test_parallel_invocations_lose_nothing(monkeypatch: pytest.MonkeyPatch, received: Received) -> None:
    """Many at once, with a backend that works: every span and line arrives, once."""
    monkeypatch.setenv("TRACEDBRIDGE_FLUSH_TIMEOUT_MS", "20000")

    def work(bridge: Bridge) -> None:
        for _ in range(10):
            bridge(event(), None)

    with create_bridge(asgi_around(ok)) as bridge:
        threads = [threading.Thread(target=work, args=(bridge,)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len({span.span_id for span in received.spans}) == len(received.spans) == 60 + 2
    assert len(received.logs) == 60
    assert received.counts("faas.invocations") == {(): 60}


class Done:
    """A wire whose batches are sent as soon as they come."""

    exporter = None
    sends_at_once = is_stale = may_send_again = False
    retry_after_s = 0.0
    rejected = 0

    def send(self, batch: list[Any], deadline_ns: int) -> None:
        """Send it."""

    def outcome(self) -> str:
        """Return that it was."""
        return ""

    def abort(self) -> None:
        """End nothing: nothing is under way."""

    def close(self) -> None:
        """Do nothing."""


def test_done_at_the_last_moment() -> None:
    """A sink that is done just when it is left is not late: it takes part in the next flush."""
    sink = Sink("traces", "wire", Done())
    for _ in range(2):
        sink.put("span")
        assert sink.has_work()
        done: SimpleQueue[Sink] = SimpleQueue()
        sink.start(time.monotonic_ns() + int(HANG_S * 1e9), done, may_collect=True)
        assert done.get(timeout=HANG_S) is sink
        # Whose word came after the flush had stopped to wait for it.
        sink.leave()
    sink.end()
    account = sink.account()
    assert (account.produced, account.exported) == (2, 2)


def test_quiet_at_debug(monkeypatch: pytest.MonkeyPatch, received: Received, caplog: pytest.LogCaptureFixture) -> None:
    """An app that logs everything does not get lines of our export into its records."""
    monkeypatch.setenv("TRACEDBRIDGE_FLUSH_TIMEOUT_MS", "20000")
    caplog.set_level(logging.DEBUG)
    with create_bridge(asgi_around(ok)) as bridge:
        for _ in range(3):
            bridge(event(), None)
    bodies = {str(record.body) for record in received.logs}
    assert not [body for body in bodies if "POST" in body or "4318" in body or "/v1/" in body]


@contextmanager
def grpc_server() -> Iterator[str]:
    """Give the endpoint of a gRPC server that takes nothing: every call is UNIMPLEMENTED."""
    from concurrent.futures import ThreadPoolExecutor

    import grpc

    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.stop(None).wait()


def test_grpc_unimplemented(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Over gRPC, too, a signal that the backend does not take is one warning, and then silence."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    monkeypatch.setenv("TRACEDBRIDGE_FLUSH_TIMEOUT_MS", "10000")
    with grpc_server() as endpoint:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        with create_bridge(asgi_around(ok)) as bridge:
            for _ in range(4):
                assert answer(bridge(event(), None)).status == 201
    heard = warnings_of(caplog)
    assert len(heard) == 3
    assert all("takes no" in text for text in heard)
    assert {record.name for record in caplog.records if record.levelno >= logging.WARNING} == {"tracedbridge.telemetry"}


def test_grpc_refusing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Over gRPC, too, nobody who listens costs the budget at most, and one warning a signal."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with refusing() as endpoint:
        assert_unharmed(endpoint, monkeypatch, invocations=2)
    assert len(warnings_of(caplog)) == 3
