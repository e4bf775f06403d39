"""Nothing gets lost unseen: what was produced is exported, dropped for a reason, or still there, at every step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from tests.support import HANG_S, event
from tests.telemetry.apps import Pairs, asgi_around
from tests.telemetry.backends import Backend, Behaviour, Exchange, answering, hanging_up, in_turn
from tests.telemetry.functions import json_lines
from tracedbridge import Bridge, create_bridge
from tracedbridge.telemetry import export
from tracedbridge.telemetry.export import Account
from tracedbridge.telemetry.middleware import Middleware
from tracedbridge.telemetry.otlp import SpanRecord

pytestmark = pytest.mark.telemetry


def ok(headers: Pairs) -> str:
    """Answer anything."""
    return "ok"


@pytest.fixture(autouse=True)
def no_pauses(plain_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that failed is tried again by the next flush, unless a test wants pauses."""
    monkeypatch.setenv("TRACEDBRIDGE_FLUSH_TIMEOUT_MS", str(HANG_S * 1000))
    monkeypatch.setattr(export, "_FIRST_PAUSE_S", 0.0)


def accounts(bridge: Bridge) -> dict[str, Account]:
    """Return the accounts by signal, each checked."""
    telemetry = bridge._telemetry
    assert isinstance(telemetry, Middleware)
    assert telemetry.pipeline is not None
    found: dict[str, Account] = {account.signal: account for account in telemetry.pipeline.accounts()}
    for account in found.values():
        assert account.produced == account.exported + sum(account.dropped.values()) + account.pending
    return found


@contextmanager
def traced_to(backend: Backend, monkeypatch: pytest.MonkeyPatch, work: Any = ok) -> Iterator[Bridge]:
    """Run a bridge whose spans go to ``backend``, and nothing else anywhere."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{backend.endpoint}/v1/traces")
    with create_bridge(asgi_around(work)) as bridge:
        yield bridge


def span_ids(backend: Backend) -> list[str]:
    """Return the ids of all spans that came, in order."""
    return [record.span_id for seen in backend.seen for record in seen.records() if isinstance(record, SpanRecord)]


@pytest.mark.parametrize(
    ("behave", "kept"),
    [
        pytest.param(answering(503), True, id="503"),
        pytest.param(answering(429), True, id="429"),
        pytest.param(answering(502), True, id="502"),
        pytest.param(answering(504), True, id="504"),
        pytest.param(lambda exchange: exchange.connection.close(), True, id="closed before the answer"),
        pytest.param(answering(500), False, id="500"),
        pytest.param(answering(400), False, id="400"),
        pytest.param(answering(401), False, id="401"),
        pytest.param(answering(302, {"Location": "http://127.0.0.1:9/"}), False, id="302"),
    ],
)
def test_what_may_be_sent_again(behave: Behaviour, kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a backend did not take waits for the next flush, if OTLP lets it be sent again; else it is lost."""
    with Backend(in_turn(behave, answering(200))) as backend, traced_to(backend, monkeypatch) as bridge:
        bridge(event(), None)
        first = accounts(bridge)["traces"]
        assert (first.produced, first.exported, first.pending) == (3, 0, 3 if kept else 0)
        bridge(event(), None)
        second = accounts(bridge)["traces"]
        assert (second.exported, second.pending) == (4 if kept else 1, 0)
        assert sum(second.dropped.values()) == (0 if kept else 3)
        assert len(set(span_ids(backend))) == 4


def test_flapping(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that works every third time gets every span, each once, in the order in which they were made."""
    answers = cycle([503, 503, 200])
    taken: list[str] = []

    def behave(exchange: Exchange) -> None:
        status = next(answers)
        if status == 200:
            last = backend.seen[-1].records()
            taken.extend(record.span_id for record in last if isinstance(record, SpanRecord))
        exchange.answer(status)

    with Backend(behave) as backend, traced_to(backend, monkeypatch) as bridge:
        for _ in range(30):
            bridge(event(), None)
            accounts(bridge)
        account = accounts(bridge)["traces"]
    assert (account.produced, account.exported, account.pending) == (32, 32, 0)
    assert len(taken) == len(set(taken)) == 32


def test_a_dead_backend_and_a_full_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits is bounded; what finds no room is dropped and counted, and the oldest is sent when it can be."""
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "5")
    with Backend(in_turn(*[answering(503)] * 10, answering(200))) as backend, traced_to(backend, monkeypatch) as bridge:
        for _ in range(10):
            bridge(event(), None)
        account = accounts(bridge)["traces"]
        assert (account.produced, account.pending, account.dropped) == (12, 5, {"queue_full": 7})
        bridge(event(), None)
        account = accounts(bridge)["traces"]
        assert (account.exported, account.pending, account.dropped) == (5, 0, {"queue_full": 8})


def test_the_breaker(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    While a backend that failed is left alone, nothing is tried; pauses grow until it works, and begin anew then.

    Each is counted once, however many invocations fall into it.
    """
    clock = [0.0]
    real_ns = time.monotonic_ns
    monkeypatch.setattr(time, "monotonic_ns", lambda: real_ns() + int(clock[0] * 1e9))
    monkeypatch.setattr(export, "_FIRST_PAUSE_S", 60.0)
    monkeypatch.setattr(export, "_LONGEST_PAUSE_S", 180.0)
    script = [503, 503, 503, 200, 503]
    with (
        Backend(in_turn(*[answering(status) for status in script])) as backend,
        traced_to(backend, monkeypatch) as bridge,
    ):
        bridge(event(), None)
        tried = [len(backend.seen)]
        # Seconds after the one before; 60 and 120 have to pass, then 180, the longest.
        for step in (30, 31, 60, 61, 170, 11, 1, 59, 2):
            clock[0] += step
            bridge(event(), None)
            tried.append(len(backend.seen))
            accounts(bridge)
        # Of the six that were tried, one succeeded.
        assert accounts(bridge)["traces"].paused == {"http_503": 5}
    assert tried == [1, 1, 2, 2, 3, 3, 4, 5, 5, 6]


@pytest.mark.parametrize(
    ("behave", "paused"),
    [
        pytest.param(answering(503), {"http_503": 3}, id="503, sent again"),
        pytest.param(answering(400), {"http_400": 3}, id="400, lost"),
        pytest.param(in_turn(answering(503), answering(400)), {"http_503": 1, "http_400": 2}, id="one, then the other"),
        pytest.param(answering(200), {}, id="200"),
        pytest.param(hanging_up, {}, id="200, and closed"),
        pytest.param(answering(404), {}, id="404, takes no traces"),
    ],
)
def test_what_a_pause_is(behave: Behaviour, paused: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend is left alone where it failed, by the reason; not where it works, nor where it is never asked again."""
    with Backend(behave) as backend, traced_to(backend, monkeypatch) as bridge:
        for _ in range(3):
            bridge(event(), None)
        assert accounts(bridge)["traces"].paused == paused


def test_retry_after(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that asks for a longer pause gets it."""
    clock = [0.0]
    real_ns = time.monotonic_ns
    monkeypatch.setattr(time, "monotonic_ns", lambda: real_ns() + int(clock[0] * 1e9))
    with (
        Backend(in_turn(answering(429, {"Retry-After": "40"}), answering(200))) as backend,
        traced_to(backend, monkeypatch) as bridge,
    ):
        for step, requests in ((0, 1), (30, 1), (11, 2)):
            clock[0] += step
            bridge(event(), None)
            assert len(backend.seen) == requests


def test_an_open_breaker_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then no connection is made, nothing is encoded and no thread is started, but the spans are kept for later."""
    monkeypatch.setattr(export, "_FIRST_PAUSE_S", 3600.0)
    started: list[str] = []
    with Backend(answering(503)) as backend, traced_to(backend, monkeypatch) as bridge:
        bridge(event(), None)
        accepted = backend.accepted
        for name in ("send_at_once", "start", "_send_all"):
            monkeypatch.setattr(export.Sink, name, lambda *_, name=name, **__: started.append(name))
        for _ in range(50):
            bridge(event(), None)
        assert (started, backend.accepted, len(backend.seen)) == ([], accepted, 1)
        assert accounts(bridge)["traces"].pending == 53
        monkeypatch.undo()


def test_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cumulative point that was not taken is superseded by the next collection; nothing is counted twice."""
    with Backend(in_turn(answering(503), answering(503), answering(200))) as backend:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", f"{backend.endpoint}/v1/metrics")
        with create_bridge(asgi_around(ok)) as bridge:
            sizes = []
            for _ in range(3):
                bridge(event(), None)
                account = accounts(bridge)["metrics"]
                sizes.append(account.pending)
            assert account.dropped == {"superseded": sizes[0] + sizes[1]}
            assert sizes[0] > 0
            assert sizes[2] == 0
            assert account.exported > sizes[1]


def test_delta_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """A delta point that was not taken is sent later: no newer one says what it says."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta")
    with Backend(in_turn(answering(503), answering(503), answering(200))) as backend:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", f"{backend.endpoint}/v1/metrics")
        with create_bridge(asgi_around(ok)) as bridge:
            for _ in range(3):
                bridge(event(), None)
            account = accounts(bridge)["metrics"]
        # The first two were refused; then all three came.
        delivered = [record for seen in backend.seen[2:] for record in seen.records()]
    assert (account.dropped, account.pending) == ({}, 0)
    counted = [point.value for record in delivered if record.name == "faas.invocations" for point in record.points]  # type: ignore[union-attr]  # metrics only
    assert counted == [1, 1, 1]


def test_partial_success(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """What a backend rejects of a batch that it took is counted as dropped, and told once."""
    answer = ExportTraceServiceResponse()
    answer.partial_success.rejected_spans = 2
    answer.partial_success.error_message = "too old"
    body = answer.SerializeToString()
    with (
        Backend(in_turn(answering(200, {}, body), answering(200))) as backend,
        traced_to(backend, monkeypatch) as bridge,
    ):
        bridge(event(), None)
        account = accounts(bridge)["traces"]
        assert (account.exported, account.dropped, account.pending) == (1, {"rejected": 2}, 0)
        bridge(event(), None)
        assert accounts(bridge)["traces"].exported == 2
    assert [record.getMessage() for record in caplog.records] == [
        "could not export traces by otlp: the backend rejected 2 of 3"
    ]


def test_a_batch_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that a backend finds too large is sent in smaller ones."""

    def behave(exchange: Exchange) -> None:
        exchange.answer(413 if len(backend.seen[-1].records()) > 4 else 200)

    def work(headers: Pairs) -> str:
        for _ in range(17):
            trace.get_tracer("shop").start_span("work").end()
        return "ok"

    with Backend(behave) as backend, traced_to(backend, monkeypatch, work) as bridge:
        bridge(event(), None)
        account = accounts(bridge)["traces"]
    assert (account.produced, account.exported, account.dropped) == (20, 20, {})
    assert len(set(span_ids(backend))) == 20


def test_a_span_that_cannot_be_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A span of the app that no encoder takes is lost alone, and not with its batch."""

    def work(headers: Pairs) -> str:
        trace.get_tracer("shop").start_span("lone surrogate \ud800").end()
        return "ok"

    with Backend(answering(200)) as backend, traced_to(backend, monkeypatch, work) as bridge:
        for _ in range(2):
            bridge(event(), None)
        account = accounts(bridge)["traces"]
    assert (account.produced, account.exported, account.pending) == (6, 4, 0)
    assert account.dropped == {"not_sent": 2}
    # The backend is well, and is left alone for no moment.
    assert account.paused == {}


def test_a_connection_that_is_closed_between_flushes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kept connection that the backend has closed is no failure: the batch goes over a new one, once."""
    with Backend(hanging_up) as backend, traced_to(backend, monkeypatch) as bridge:
        for _ in range(5):
            bridge(event(), None)
        account = accounts(bridge)["traces"]
    assert (account.produced, account.exported, account.dropped) == (7, 7, {})
    assert len(span_ids(backend)) == len(set(span_ids(backend))) == 7


def test_the_last_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The last line of a process says what it lost; the last flush has tried even a backend that had failed."""
    monkeypatch.setattr(export, "_FIRST_PAUSE_S", 3600.0)
    with Backend(in_turn(answering(400), answering(503))) as backend:
        with traced_to(backend, monkeypatch) as bridge:
            for _ in range(3):
                bridge(event(), None)
            assert len(backend.seen) == 1
        assert len(backend.seen) == 2
    last = json_lines(capsys.readouterr().out)[-1]
    assert (last["event"], last["level"]) == ("telemetry was lost", "warning")
    assert {key: value for key, value in last.items() if key.startswith("traces")} == {
        "traces_http_400": 3,
        "traces_unsent": 2,
    }


def test_nothing_lost_is_nothing_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Where all was sent in the end there is no such line."""
    with Backend(in_turn(answering(503), answering(200))) as backend, traced_to(backend, monkeypatch) as bridge:
        bridge(event(), None)
    assert "telemetry was lost" not in capsys.readouterr().out
    assert len(backend.seen) == 2
