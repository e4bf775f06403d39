"""Backends that are down for a while: nobody who calls the function notices, and the books are right at every step."""

from __future__ import annotations

import gc
import json
import logging
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace

from tests.collector.backends import refuses
from tests.collector.outages import (
    SIGNALS,
    Book,
    Clock,
    Efforts,
    Ledger,
    Mood,
    Mortal,
    answers,
    closes,
    cuts,
    is_late,
    is_silent,
    is_slow,
    takes_few,
)
from tests.support import HANG_S, Receive, Scope, Send, event, no_lifespan, respond
from tests.telemetry.conftest import nothing_stays_changed, plain_environment  # noqa: F401 - fixtures
from tracedbridge import Bridge, create_bridge
from tracedbridge.telemetry.export import Account
from tracedbridge.telemetry.middleware import Middleware

pytestmark = [pytest.mark.collector, pytest.mark.telemetry]

# Of backends that answer: far more than they need, so that the books depend on what they answer and on nothing else.
BUDGET_MS = 2000.0
# Of backends that do not, each of whose failures takes that long.
SHORT_BUDGET_MS = 300.0

# In an outage: invocations for each probe.
OUTAGE = 8

# One of them fails, one raises.
EVENTS = [event("GET", f"/items/{item}") for item in range(5)]

_logger = logging.getLogger("shop")


async def shop(scope: Scope, receive: Receive, send: Send) -> None:
    """Make a span and a line; item 3 is a 503, and item 4 raises."""
    no_lifespan(scope)
    item = int(scope["path"].rpartition("/")[2])
    with trace.get_tracer("shop").start_as_current_span("look up"):
        _logger.warning("looking up %d", item)
    if item == 4:
        raise ValueError("no such item")
    await respond(send, b"item %d" % item, 503 if item == 3 else 200)


@pytest.fixture(autouse=True)
def settings(plain_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811 - the fixture
    """Everything is exported in each call."""
    monkeypatch.setenv("TRACEDBRIDGE_FLUSH", "before")
    monkeypatch.setenv("TRACEDBRIDGE_FLUSH_TIMEOUT_MS", str(BUDGET_MS))


@contextmanager
def shop_exporting_to(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bridge]:
    """Run the shop."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    with create_bridge(shop) as bridge:
        yield bridge


@pytest.fixture
def healthy(settings: None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the shop answers to `EVENTS` while its backend is well, as it leaves the function."""
    with Book() as book, shop_exporting_to(book.endpoint, monkeypatch) as bridge:
        return [json.dumps(bridge(each)) for each in EVENTS]


def accounts(bridge: Bridge) -> dict[str, Account]:
    """Return the accounts by signal."""
    telemetry = bridge._telemetry
    assert isinstance(telemetry, Middleware)
    assert telemetry.pipeline is not None
    return {account.signal: account for account in telemetry.pipeline.accounts()}


class Caller:
    """Calls a bridge, and checks after each call the answer and the books on both sides."""

    def __init__(self, bridge: Bridge, ledger: Callable[[], Ledger | None], healthy: list[str]) -> None:
        """
        Args:
            bridge: To call.
            ledger: Reads the backend's, if it has one.
            healthy: What the answers are to be.
        """
        self._bridge = bridge
        self._ledger = ledger
        self._asked = cycle(zip(EVENTS, healthy, strict=True))

    def call(self, times: int = 1) -> float:
        """Answer events and return how long the longest invocation took, in seconds."""
        longest_s = 0.0
        for _ in range(times):
            asked, expected = next(self._asked)
            begun_s = time.perf_counter()
            result = self._bridge(asked)
            longest_s = max(longest_s, time.perf_counter() - begun_s)
            assert json.dumps(result) == expected
            self.check()
        return longest_s

    def come_to_rest(self) -> None:
        """Wait until no exporter is still at what it was left with: how that ended begins a pause of its own."""
        telemetry = self._bridge._telemetry
        assert isinstance(telemetry, Middleware)
        pipeline = telemetry.pipeline
        sinks = [] if pipeline is None else [sink for signal in SIGNALS for sink in pipeline.export.sinks(signal)]
        until_s = time.perf_counter() + HANG_S
        while any(sink._is_late for sink in sinks):
            assert time.perf_counter() < until_s, "an exporter does not come to rest"
            time.sleep(0.001)

    def check(self) -> dict[str, Account]:
        """Check that nothing is lost unseen and that all that we call exported is what the backend has taken."""
        found = accounts(self._bridge)
        assert set(found) == set(SIGNALS)
        for signal, account in found.items():
            assert account.produced == account.exported + sum(account.dropped.values()) + account.pending, signal
            ledger = self._ledger()
            assert account.exported == (0 if ledger is None else ledger.acknowledged(signal)), signal
        return found


def suffer(caller: Caller, clock: Clock, efforts: Efforts, budget_ms: float, *, probes: int) -> None:
    """Let an outage begin and last for some probes; in between, nothing is to be tried."""
    for _ in range(probes):
        caller.come_to_rest()
        clock.pass_any_pause()
        efforts.taken()
        tried: set[str] = set()
        until_s = time.perf_counter() + HANG_S
        # Nearly always one invocation: an exporter that gave up just now may not have come to rest.
        while not tried.issuperset(SIGNALS):
            assert caller.call() < 3 * budget_ms / 1000 + 1
            assert time.perf_counter() < until_s, f"only these are tried: {tried}"
            tried.update(efforts.taken())
        caller.come_to_rest()
        efforts.taken()
        caller.call(OUTAGE)
        assert not efforts.taken()


# What was lost of spans and records that were sent, by its reason; what is not lost comes when the backend is well.
@pytest.mark.parametrize(
    ("mood", "reason", "budget_ms"),
    [
        pytest.param(is_silent, None, SHORT_BUDGET_MS, id="silent"),
        pytest.param(is_late, None, SHORT_BUDGET_MS, id="late"),
        pytest.param(cuts, None, BUDGET_MS, id="closing mid-answer"),
        pytest.param(closes, None, BUDGET_MS, id="closing before the answer"),
        pytest.param(answers(400), "http_400", BUDGET_MS, id="400"),
        pytest.param(answers(413), "http_413", BUDGET_MS, id="413"),
        pytest.param(answers(429, retry_after="30"), None, BUDGET_MS, id="429 with Retry-After"),
        pytest.param(answers(500), "http_500", BUDGET_MS, id="500"),
    ],
)
def test_an_outage(
    mood: Mood, reason: str | None, budget_ms: float, healthy: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A backend that is bad from the start, then well, then bad on kept connections, then well until the end.

    No answer changes, a failure costs the budget, an open breaker costs nothing, and what OTLP lets us keep arrives.
    """
    monkeypatch.setenv("TRACEDBRIDGE_FLUSH_TIMEOUT_MS", str(budget_ms))
    clock = Clock(monkeypatch)
    with Book() as book, shop_exporting_to(book.endpoint, monkeypatch) as bridge:
        caller = Caller(bridge, lambda: book.ledger, healthy)
        for probes in (2, 3):
            book.mood = mood
            with monkeypatch.context() as patch:
                suffer(caller, clock, Efforts(patch), budget_ms, probes=probes)
            book.mood = answers(200)
            _recover(caller, clock)
        bridge.close()
        account = caller.check()
    assert [account[signal].pending for signal in SIGNALS] == [0, 0, 0]
    for signal in ("traces", "logs"):
        assert set(account[signal].dropped) == ({reason} if reason else set())
        assert len(set(book.ledger.kept(signal))) == account[signal].exported
    assert set(account["metrics"].dropped) == {reason or "superseded"}
    assert book.ledger.sent_too_often() == []


def _recover(caller: Caller, clock: Clock) -> None:
    """Call until all that waited has gone out, and some more."""
    until_s = time.perf_counter() + HANG_S
    while True:
        clock.pass_any_pause()
        caller.call()
        if not any(account.pending for account in caller.check().values()):
            break
        assert time.perf_counter() < until_s, "what waits does not go out"
    caller.call(len(EVENTS))


def test_refusing(healthy: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody listens, a probe is a refused connection for each signal, and everything is kept."""
    clock = Clock(monkeypatch)
    with refuses() as backend, shop_exporting_to(backend.endpoint, monkeypatch) as bridge:
        caller = Caller(bridge, lambda: None, healthy)
        with monkeypatch.context() as patch:
            efforts = Efforts(patch)
            suffer(caller, clock, efforts, BUDGET_MS, probes=4)
            clock.pass_any_pause()
            caller.call()
            assert efforts.taken()["connect"] == len(SIGNALS)
        account = caller.check()
    assert account["traces"].pending == account["traces"].produced
    assert account["logs"].pending == account["logs"].produced


def test_slow(healthy: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that is slow and within the budget is waited for, and gets everything once."""
    with Book() as book, shop_exporting_to(book.endpoint, monkeypatch) as bridge:
        book.mood = is_slow
        caller = Caller(bridge, lambda: book.ledger, healthy)
        caller.call(20)
        account = caller.check()
    assert [account[signal].exported for signal in SIGNALS] == [account[signal].produced for signal in SIGNALS]
    assert book.ledger.sent_too_often() == []


def test_few_at_once(healthy: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that finds most batches too large gets spans and records in smaller ones, none twice."""
    clock = Clock(monkeypatch)
    with Book() as book, shop_exporting_to(book.endpoint, monkeypatch) as bridge:
        caller = Caller(bridge, lambda: book.ledger, healthy)
        book.mood = answers(503)
        caller.call(40)
        book.mood = takes_few
        _recover(caller, clock)
        account = caller.check()
        for signal in ("traces", "logs"):
            assert account[signal].exported == account[signal].produced > 80
    assert book.ledger.sent_too_often() == []


def test_flapping(healthy: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that changes with each request gets every span and record that it does not refuse, each once."""
    clock = Clock(monkeypatch)
    moods = cycle([answers(200), answers(503), cuts, answers(200), answers(500), closes, answers(429), answers(200)])

    def flaps(book: Book, *asked: Any) -> None:
        next(moods)(book, *asked)

    with Book() as book, shop_exporting_to(book.endpoint, monkeypatch) as bridge:
        book.mood = flaps
        caller = Caller(bridge, lambda: book.ledger, healthy)
        for _ in range(200):
            clock.pass_any_pause()
            caller.call()
        book.mood = answers(200)
        _recover(caller, clock)
        account = caller.check()
    for signal in ("traces", "logs"):
        assert set(account[signal].dropped) == {"http_500"}
        assert account[signal].exported > 100
        assert len(set(book.ledger.kept(signal))) == account[signal].exported
    assert book.ledger.sent_too_often() == []


def test_killed_and_restarted(healthy: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Through 2,000 invocations a backend is killed and restarted, between requests and in the middle of them.

    It gets every span and record, and none twice but those of the requests that killed it.
    """
    clock = Clock(monkeypatch)
    with Mortal(tmp_path) as mortal, shop_exporting_to(mortal.endpoint, monkeypatch) as bridge:
        caller = Caller(bridge, mortal.read, healthy)
        for life in range(5):
            # Every other life ends with a request; three come with each invocation.
            mortal.start(die_at=60 if life % 2 else 0)
            _recover(caller, clock)
            caller.call(30)
            mortal.kill()
            with monkeypatch.context() as patch:
                efforts = Efforts(patch)
                caller.call()
                efforts.taken()
                caller.call(356 - len(EVENTS))
                assert not efforts.taken()
        mortal.start()
        _recover(caller, clock)
        bridge.close()
        account = caller.check()
        for signal in ("traces", "logs"):
            assert account[signal].dropped == {}
            assert account[signal].exported == account[signal].produced > 2000
        ledger = mortal.read()
        for signal in ("traces", "logs"):
            kept = ledger.kept(signal)
            assert len(set(kept)) == len(kept) == account[signal].exported
        assert ledger.sent_too_often() == []


def test_memory(healthy: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """2,000 invocations without a backend: the queues fill up to their bounds, and after that memory stays as it is."""
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "100")
    monkeypatch.setenv("OTEL_BLRP_MAX_QUEUE_SIZE", "100")
    # The runner's own keeps every record.
    monkeypatch.setattr(logging.root, "handlers", [])
    clock = Clock(monkeypatch)
    used: list[int] = []
    with refuses() as backend, shop_exporting_to(backend.endpoint, monkeypatch) as bridge:
        caller = Caller(bridge, lambda: None, healthy)
        tracemalloc.start()
        try:
            for _ in range(8):
                for _ in range(5):
                    clock.pass_any_pause()
                    caller.call(50)
                    account = caller.check()
                    assert max(account["traces"].pending, account["logs"].pending) <= 100
                gc.collect()
                used.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
    # Full after the first quarter; what follows is noise, an item would be a kilobyte.
    assert max(used[2:]) - min(used[2:]) < 100_000, used
