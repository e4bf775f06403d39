"""A loop that stands still is told for as long as it did, within one invocation; one that waits is not."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from tests.support import HANG_S
from tracedbridge.telemetry import stalls
from tracedbridge.telemetry.stalls import Pulse, pulse_of

pytestmark = pytest.mark.telemetry

MS = 1_000_000


class Clock:
    """CLOCK_MONOTONIC, which stands still between two ticks."""

    def __init__(self) -> None:
        self.now_ns = 10**15

    def __call__(self) -> int:
        return self.now_ns

    def tick(self, duration_ms: int) -> None:
        self.now_ns += duration_ms * MS


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the pulses."""
    clock = Clock()
    monkeypatch.setattr(stalls, "monotonic_ns", clock)
    return clock


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that does not run."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def felt(loop: asyncio.AbstractEventLoop) -> Pulse:
    """Return the pulse of a loop that has one."""
    pulse = pulse_of(loop)
    assert pulse is not None
    return pulse


async def waiting(clock: Clock, pulse: Pulse, duration_ms: int) -> None:
    """Wait for another thread while the loop waits in its selector and time goes by."""

    def meanwhile() -> None:
        give_up_s = time.monotonic() + HANG_S
        while pulse.busy_since_ns and time.monotonic() < give_up_s:
            pass
        clock.tick(duration_ms)

    await asyncio.get_running_loop().run_in_executor(None, meanwhile)


async def nothing(clock: Clock, pulse: Pulse) -> None:
    """Do nothing."""


async def blocks(clock: Clock, pulse: Pulse) -> None:
    """Block before, between and after what it awaits."""
    clock.tick(10)
    await asyncio.sleep(0)
    clock.tick(40)
    await asyncio.sleep(0)
    clock.tick(30)


async def blocks_at_its_end(clock: Clock, pulse: Pulse) -> None:
    """Block last."""
    await asyncio.sleep(0)
    clock.tick(40)


async def waits(clock: Clock, pulse: Pulse) -> None:
    """Wait far longer than it blocks."""
    clock.tick(10)
    await waiting(clock, pulse, 5000)
    clock.tick(20)


async def polls(clock: Clock, pulse: Pulse) -> None:
    """Give the others their turn again and again."""
    for _ in range(100):
        await asyncio.sleep(0)
        clock.tick(10)


async def calls_back(clock: Clock, pulse: Pulse) -> None:
    """Block in a callback."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def called() -> None:
        clock.tick(40)
        done.set_result(None)

    loop.call_later(0.001, called)
    await done


async def leaves_work(clock: Clock, pulse: Pulse) -> None:
    """Return at once, with a callback that blocks in the very last turn of the loop."""
    asyncio.get_running_loop().call_soon(clock.tick, 40)


async def fails(clock: Clock, pulse: Pulse) -> None:
    """Block, then raise."""
    clock.tick(40)
    raise KeyError


async def exits(clock: Clock, pulse: Pulse) -> None:
    """Block, then end the loop at once, whatever it has to do."""
    clock.tick(40)
    raise SystemExit


@pytest.mark.parametrize(
    ("work", "longest_ms"),
    [
        (blocks, 40),
        (blocks_at_its_end, 40),
        (waits, 20),
        (polls, 10),
        (calls_back, 40),
        (leaves_work, 40),
        (fails, 40),
        (exits, 40),
        (nothing, 0),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_the_longest_turn(
    loop: asyncio.AbstractEventLoop,
    clock: Clock,
    work: Callable[[Clock, Pulse], Awaitable[None]],
    longest_ms: int,
) -> None:
    """The longest time between two waits of the loop is told; neither waits nor what is outside of the loop count."""
    pulse = felt(loop)

    async def run() -> None:
        await work(clock, pulse)

    # As an invocation does, and again: nothing is left of the first.
    for _ in range(2):
        pulse.begin()
        clock.tick(7000)
        with contextlib.suppress(KeyError, SystemExit):
            loop.run_until_complete(run())
        assert pulse.busy_since_ns == 0
        clock.tick(8000)
        assert pulse.longest_ns == longest_ms * MS
        stall = pulse.end()
        assert (stall.took_ns if stall else 0) == longest_ms * MS


def test_without_a_turn(loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
    """An invocation that did not use the loop has no stall, whatever was before."""
    pulse = felt(loop)
    pulse.begin()
    loop.run_until_complete(blocks(clock, pulse))
    assert pulse.end() is not None
    pulse.begin()
    clock.tick(500)
    assert pulse.end() is None


def test_a_stall_that_goes_on(loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
    """A turn that began before the invocation and is not over at its end counts from the one to the other."""
    pulse = felt(loop)
    seen: list[int] = []

    async def blocking() -> None:
        clock.tick(1000)
        pulse.begin()
        clock.tick(30)
        seen.append((clock.now_ns - pulse.stalled_since_ns()) // MS)
        stall = pulse.end()
        assert stall is not None
        seen.append(stall.took_ns // MS)
        clock.tick(2000)

    loop.run_until_complete(blocking())
    assert seen == [30, 30]


def test_while_it_is_blocked(loop: asyncio.AbstractEventLoop) -> None:
    """From another thread one sees which thread runs the loop, that it is busy, and since when."""
    pulse = felt(loop)
    entered, enough = threading.Event(), threading.Event()

    async def blocking() -> None:
        entered.set()
        assert enough.wait(HANG_S)

    assert pulse.thread_id == 0
    pulse.begin()
    thread = threading.Thread(target=lambda: loop.run_until_complete(blocking()))
    begun_ns = time.monotonic_ns()
    thread.start()
    assert entered.wait(HANG_S)
    assert pulse.thread_id == thread.ident
    assert begun_ns <= pulse.busy_since_ns <= time.monotonic_ns()
    assert pulse.stalled_since_ns() == pulse.busy_since_ns
    stall = pulse.end()
    assert stall is not None
    assert 0 < stall.took_ns <= time.monotonic_ns() - begun_ns
    enough.set()
    thread.join(HANG_S)
    assert (pulse.thread_id, pulse.busy_since_ns, pulse.stalled_since_ns()) == (0, 0, 0)


def test_samples(loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
    """The stall has the last stack that was taken of it, not one of a shorter or an earlier turn."""
    pulse = felt(loop)

    async def turns(*durations_ms: int) -> None:
        for duration_ms in durations_ms:
            await asyncio.sleep(0)
            clock.tick(duration_ms)
            for number in range(2):
                pulse.sampled(pulse.busy_since_ns, f"{duration_ms} ms, {number}")

    def stack_of(*durations_ms: int) -> str:
        pulse.begin()
        loop.run_until_complete(turns(*durations_ms))
        stall = pulse.end()
        assert stall is not None
        return stall.stack

    assert stack_of(10, 50, 30, 20) == "50 ms, 1"
    # An app that stalls for ever and ever does not fill the memory.
    assert len(pulse._samples) == 2
    assert stack_of(40) == "40 ms, 1"
    assert stack_of(60, 70, 80) == "80 ms, 1"
    pulse.begin()
    loop.run_until_complete(blocks(clock, pulse))
    stall = pulse.end()
    assert stall is not None
    assert stall.stack == ""


def test_an_interrupted_wait(loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """What interrupts the selector ends the loop as ever, and the next run is as any other."""
    select = loop._selector.select  # type: ignore[attr-defined]  # what an interrupt comes out of

    def interrupted(timeout: float | None) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(loop._selector, "select", interrupted)  # type: ignore[attr-defined]  # as above
    pulse = felt(loop)
    task = loop.create_task(asyncio.sleep(0))
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(task)
    assert pulse.busy_since_ns == 0
    monkeypatch.setattr(loop._selector, "select", select)  # type: ignore[attr-defined]  # as above
    loop.run_until_complete(task)


def test_once_a_loop(loop: asyncio.AbstractEventLoop) -> None:
    """A loop has one pulse, however often it is asked for and whoever else wraps its selector."""
    pulse = felt(loop)
    selector = loop._selector  # type: ignore[attr-defined]  # what it is felt at
    ours = selector.select
    assert felt(loop) is pulse
    assert selector.select is ours
    selector.select = lambda timeout=None: ours(timeout)
    assert felt(loop) is pulse
    other = asyncio.new_event_loop()
    assert felt(other) is not pulse
    other.close()


class Bare:
    """A loop that is none of Python's own."""


class Foreign(Bare):
    """A loop whose selector is of its own making."""

    _selector = object()


@pytest.mark.parametrize("foreign", [Bare(), Foreign()], ids=["no selector", "another's selector"])
def test_loops_of_others(foreign: Any) -> None:
    """A loop without a selector of Python's has no pulse and is left as it is."""
    before = dict(vars(foreign))
    assert pulse_of(foreign) is None
    assert vars(foreign) == before


def test_a_closed_loop() -> None:
    """A loop that is closed has no pulse any more, and is collected with what was felt of it."""
    loop = asyncio.new_event_loop()
    pulse = felt(loop)
    pulse.begin()
    loop.run_until_complete(asyncio.sleep(0))
    pulse.end()
    refs: list[weakref.ref[Any]] = [weakref.ref(each) for each in (loop, loop._selector, pulse)]  # type: ignore[attr-defined]  # what it is felt at
    loop.close()
    assert pulse_of(loop) is None
    assert pulse.thread_id == 0
    kept = pulse
    del loop, pulse
    gc.collect()
    assert [each() for each in refs] == [None, None, kept]
    assert kept.thread_id == 0
    del kept
    assert refs[2]() is None
