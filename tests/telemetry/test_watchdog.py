"""The watchdog looks from outside, whatever blocks inside: one alarm an invocation, none after its end."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from tests.support import HANG_S, bounded, run_python
from tracedbridge.telemetry import watchdog
from tracedbridge.telemetry.stacks import WATCHDOG, Stack
from tracedbridge.telemetry.stalls import Pulse, Stall, pulse_of
from tracedbridge.telemetry.watchdog import Watchdog

pytestmark = pytest.mark.telemetry

MS = 1_000_000


class Invocation:
    """A guarded invocation that keeps what it is told."""

    def __init__(self, alarm_in_ms: float | None = None, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.alarm_ns = None if alarm_in_ms is None else time.monotonic_ns() + int(alarm_in_ms * MS)
        self.loop = loop
        self.pulse: Pulse | None = None
        self.alarms: list[list[Stack]] = []
        self.alarmed = threading.Event()
        self.alarmed_on = ""
        self.slow_since: list[int] = []

    def slow(self, since_ns: int) -> None:
        self.slow_since.append(since_ns)

    def alarm(self, stacks: list[Stack]) -> None:
        self.alarms.append(stacks)
        self.alarmed_on = threading.current_thread().name
        self.alarmed.set()


@pytest.fixture
def dog() -> Iterator[Watchdog]:
    """A watchdog, closed at the end."""
    dog = Watchdog(50 * MS)
    yield dog
    dog.close()
    assert not watchers()


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that does not run."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def watchers() -> list[threading.Thread]:
    """Return the watchdogs' threads."""
    return [thread for thread in threading.enumerate() if thread.name == WATCHDOG]


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The watchdogs' threads that were started."""
    started: list[str] = []
    start = threading.Thread.start

    def noted(thread: threading.Thread) -> None:
        if thread.name == WATCHDOG:
            started.append(thread.name)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", noted)
    return started


async def sleeping(alarmed: threading.Event) -> None:
    """Block the loop in `time.sleep`."""
    while not alarmed.is_set():
        time.sleep(0.05)  # noqa: ASYNC251 - what is to be found


async def blocking(alarmed: threading.Event) -> None:
    """Block the loop in a lock."""
    assert alarmed.wait(HANG_S)


async def spinning(alarmed: threading.Event) -> None:
    """Keep the loop and the interpreter at work."""
    while not alarmed.is_set():
        sum(range(1000))


async def hanging(alarmed: threading.Event) -> None:
    """Wait for what never comes; the loop is free."""
    await asyncio.get_running_loop().create_future()


async def turning(alarmed: threading.Event) -> None:
    """Keep the loop turning."""
    while not alarmed.is_set():  # noqa: ASYNC110 - a loop that never waits
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    "work", [sleeping, blocking, spinning, hanging, turning], ids=lambda each: str(getattr(each, "__name__", ""))
)
def test_an_alarm(
    dog: Watchdog, loop: asyncio.AbstractEventLoop, work: Callable[[threading.Event], Awaitable[None]]
) -> None:
    """Whatever the app does at its time, the alarm comes once, with the stack of its task, and the app goes on."""
    invocation = Invocation(60, loop)
    went_on = []

    async def app() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None) as guard:
                task = asyncio.ensure_future(asyncio.to_thread(invocation.alarmed.wait, HANG_S))
                task.add_done_callback(lambda _: guard.reschedule(0))
                await work(invocation.alarmed)
        went_on.append(len(invocation.alarms))
        await task

    async def run() -> None:
        await asyncio.create_task(app(), name="the app")
        await asyncio.get_running_loop().shutdown_default_executor()

    dog.begin(invocation)
    bounded(lambda: loop.run_until_complete(run()))
    dog.end(invocation)
    assert went_on == [1]
    assert invocation.alarmed_on == WATCHDOG
    (stacks,) = invocation.alarms
    (stack,) = [stack for stack in stacks if stack.kind == "task" and stack.name == "the app"]
    assert f", in {work.__name__}\n" in stack.text
    assert WATCHDOG not in {stack.name for stack in stacks}


def test_once(dog: Watchdog) -> None:
    """An invocation that goes on after its alarm has no second one, while others have theirs."""
    first, begun_ns = Invocation(0), time.monotonic_ns()
    dog.begin(first)
    for _ in range(5):
        other = Invocation(20)
        dog.begin(other)
        assert other.alarmed.wait(HANG_S)
        dog.end(other)
        assert len(other.alarms) == 1
        assert time.monotonic_ns() >= (other.alarm_ns or 0) > begun_ns
    dog.end(first)
    assert len(first.alarms) == 1


@pytest.mark.parametrize("alarm_in_ms", [0, HANG_S * 1e3], ids=["alarmed", "in time"])
def test_nothing_is_kept_alive(dog: Watchdog, loop: asyncio.AbstractEventLoop, alarm_in_ms: float) -> None:
    """An invocation that has ended is forgotten, though the thread goes on, or sleeps."""
    invocation = Invocation(alarm_in_ms, loop)
    invocation.pulse = pulse_of(loop)
    dog.begin(invocation)
    if not alarm_in_ms:
        assert invocation.alarmed.wait(HANG_S)
    dog.end(invocation)
    kept = weakref.ref(invocation)
    del invocation
    give_up_s = time.monotonic() + HANG_S
    # The thread may just be looking at it.
    while kept() is not None and time.monotonic() < give_up_s:
        time.sleep(0.01)
    assert kept() is None


def test_an_alarm_that_is_known_late(dog: Watchdog) -> None:
    """An invocation may begin again once its alarm is known, also when the thread would not look so soon."""
    far, late = Invocation(HANG_S * 1e6), Invocation()
    dog.begin(far)
    dog.begin(late)
    late.alarm_ns = time.monotonic_ns()
    dog.begin(late)
    assert late.alarmed.wait(HANG_S)
    dog.end(late)
    dog.end(far)
    assert (len(late.alarms), far.alarms) == (1, [])


def test_no_alarm(dog: Watchdog, starts: list[str]) -> None:
    """Nobody is alarmed who has no time set or has ended before; with nothing to watch there is no thread."""
    nothing = Invocation()
    dog.begin(nothing)
    dog.end(nothing)
    assert starts == []
    ended, after = Invocation(500), Invocation(550)
    dog.begin(ended)
    dog.begin(after)
    dog.begin(nothing)
    dog.end(ended)
    assert after.alarmed.wait(HANG_S)
    dog.end(after)
    dog.end(nothing)
    assert (ended.alarms, nothing.alarms, len(after.alarms)) == ([], [], 1)


class Slow(Invocation):
    """Whose alarm takes until it is let go."""

    def __init__(self) -> None:
        super().__init__(0)
        self.go = threading.Event()
        self.told: list[str] = []

    def alarm(self, stacks: list[Stack]) -> None:
        super().alarm(stacks)
        assert self.go.wait(HANG_S)
        self.told.append("alarm")


def test_the_end_waits_for_an_alarm(dog: Watchdog) -> None:
    """An invocation that ends while its alarm is under way ends after it; others do not wait."""
    slow, other = Slow(), Invocation(HANG_S * 1e3)
    dog.begin(slow)
    dog.begin(other)
    assert slow.alarmed.wait(HANG_S)
    dog.end(other)
    timer = threading.Timer(0.1, slow.go.set)
    timer.start()
    bounded(lambda: dog.end(slow))
    slow.told.append("end")
    timer.join(HANG_S)
    assert slow.told == ["alarm", "end"]


def test_the_end_does_not_wait_for_ever(dog: Watchdog) -> None:
    """An alarm that hangs holds its invocation for a second, not longer."""
    slow = Slow()
    dog.begin(slow)
    assert slow.alarmed.wait(HANG_S)
    bounded(lambda: dog.end(slow))
    assert slow.told == []
    slow.go.set()


def test_an_alarm_that_ends_its_invocation(dog: Watchdog) -> None:
    """An alarm may end its own invocation, and need not wait for itself."""

    class Ending(Invocation):
        def alarm(self, stacks: list[Stack]) -> None:
            dog.end(self)
            super().alarm(stacks)

    ending = Ending(0)
    dog.begin(ending)
    assert ending.alarmed.wait(HANG_S)
    dog.end(ending)
    assert len(ending.alarms) == 1


class FailingError(Exception):
    """Whose text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (KeyError("a"), "tracedbridge: telemetry failed in an alarm: KeyError: 'a'\n"),
        (SystemExit(3), "tracedbridge: telemetry failed in an alarm: SystemExit: 3\n"),
        (FailingError(), ""),
    ],
    ids=["KeyError", "SystemExit", "without a text"],
)
def test_an_alarm_that_fails(
    dog: Watchdog, error: BaseException, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What an alarm raises is told once, and the next alarm comes all the same."""

    class Failing(Invocation):
        def alarm(self, stacks: list[Stack]) -> None:
            super().alarm(stacks)
            raise error

    for kind in (Failing, Failing, Invocation):
        invocation = kind(0)
        dog.begin(invocation)
        assert invocation.alarmed.wait(HANG_S)
        dog.end(invocation)
    assert capsys.readouterr().err == told


def test_alarm_against_end(dog: Watchdog) -> None:
    """However an alarm and an end race, there is one alarm at most, and none after the end has returned."""
    until_s = time.monotonic() + 1
    late: list[Invocation] = []
    counts = {0: 0, 1: 0}

    class Racing(Invocation):
        ended = False

        def alarm(self, stacks: list[Stack]) -> None:
            self.alarms.append(stacks)
            if self.ended:
                late.append(self)

    def race(seed: int) -> None:
        chance = random.Random(seed)
        while time.monotonic() < until_s:
            invocation = Racing(chance.choice((0, 0.2, 1, 3)))
            dog.begin(invocation)
            spin_until_ns = (invocation.alarm_ns or 0) + int(chance.uniform(-0.2, 0.6) * MS)
            while time.monotonic_ns() < spin_until_ns:
                time.sleep(0)
            dog.end(invocation)
            invocation.ended = True
            counts[len(invocation.alarms)] += 1

    threads = [threading.Thread(target=race, args=(seed,), daemon=True) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_S)
    assert not any(thread.is_alive() for thread in threads)
    assert late == []
    assert counts[0]
    assert counts[1]


def test_many_invocations(dog: Watchdog, starts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of invocations on several threads start one thread, and wake it once each time that it sleeps."""
    wakes: list[None] = []
    wake = dog._wake

    def noted() -> None:
        wakes.append(None)
        wake()

    monkeypatch.setattr(dog, "_wake", noted)

    def many() -> None:
        for _ in range(2000):
            invocation = Invocation(HANG_S * 1e3)
            dog.begin(invocation)
            dog.end(invocation)

    threads = [threading.Thread(target=many, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_S)
    assert len(starts) == len(watchers()) == 1
    # As long as the thread looks by itself, nobody calls it.
    assert len(wakes) <= 3


def test_it_sleeps(dog: Watchdog, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process without invocations is not looked at, and the next one has its alarm in time."""
    looks: list[None] = []

    def noted() -> int:
        looks.append(None)
        return time.monotonic_ns()

    monkeypatch.setattr(watchdog, "monotonic_ns", noted)
    monkeypatch.setattr(watchdog, "_QUIET_NS", 100 * MS)
    for _ in range(2):
        invocation = Invocation(0)
        dog.begin(invocation)
        assert invocation.alarmed.wait(HANG_S)
        dog.end(invocation)
        give_up_s, seen = time.monotonic() + HANG_S, 0
        # Six times as long as between two looks.
        while seen != len(looks) and time.monotonic() < give_up_s:
            seen = len(looks)
            time.sleep(0.3)
        assert seen == len(looks)


def test_no_thread_to_be_had(dog: Watchdog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be started, invocations begin and end without; it is tried once."""
    tried: list[None] = []

    def start(thread: threading.Thread) -> None:
        tried.append(None)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    for _ in range(100):
        invocation = Invocation(0)
        dog.begin(invocation)
        dog.end(invocation)
        assert invocation.alarms == []
    dog.close()
    assert len(tried) == 1


def test_close(dog: Watchdog, starts: list[str]) -> None:
    """The thread ends at close, but not before what it watches; who begins after that has a new one."""
    running, slow = Invocation(50), Slow()
    dog.close()
    dog.begin(running)
    dog.close()
    assert running.alarmed.wait(HANG_S)
    (thread,) = watchers()
    dog.end(running)
    thread.join(HANG_S)
    assert not thread.is_alive()
    dog.close()
    dog.begin(slow)
    assert slow.alarmed.wait(HANG_S)
    slow.go.set()
    dog.end(slow)
    dog.close()
    assert watchers() == []
    assert len(starts) == 2


def stall_of(
    dog: Watchdog, loop: asyncio.AbstractEventLoop, turn: Callable[[Pulse], None], alarm_in_ms: float | None = None
) -> Stall | None:
    """Return the stall of an invocation that calls ``turn`` on the loop."""
    pulse = pulse_of(loop)
    assert pulse is not None
    invocation = Invocation(alarm_in_ms, loop)
    invocation.pulse = pulse

    async def app() -> None:
        await asyncio.sleep(0)
        turn(pulse)

    dog.begin(invocation)
    pulse.begin()
    loop.run_until_complete(app())
    stall = pulse.end()
    dog.end(invocation)
    return stall


@pytest.fixture
def samples(monkeypatch: pytest.MonkeyPatch) -> dict[Pulse, threading.Semaphore]:
    """What is released at each sample, by pulse."""
    taken: dict[Pulse, threading.Semaphore] = {}
    sampled = Pulse.sampled

    def noted(pulse: Pulse, since_ns: int, stack: str) -> None:
        sampled(pulse, since_ns, stack)
        taken.setdefault(pulse, threading.Semaphore(0)).release()

    monkeypatch.setattr(Pulse, "sampled", noted)
    return taken


Samples = dict[Pulse, threading.Semaphore]


def early(pulse: Pulse, samples: Samples) -> None:
    """Block until a stack was taken."""
    taken = samples.setdefault(pulse, threading.Semaphore(0))
    while taken.acquire(blocking=False):
        # Of a turn before that ended late: the machine was slow.
        continue
    assert taken.acquire(timeout=HANG_S)


def late(pulse: Pulse, samples: Samples) -> None:
    """Block until another one was."""
    assert samples[pulse].acquire(timeout=HANG_S)


def early_and_late(pulse: Pulse, samples: Samples) -> None:
    """Block here and there."""
    early(pulse, samples)
    late(pulse, samples)


def test_a_stall(dog: Watchdog, loop: asyncio.AbstractEventLoop, samples: Samples) -> None:
    """A turn that takes too long has its stack taken, and once more if it goes on; the last one is kept."""
    for _ in range(2):
        stall = stall_of(dog, loop, lambda pulse: early(pulse, samples))
        assert stall is not None
        assert ", in early\n" in stall.stack
        assert stall.took_ns >= 50 * MS
        stall = stall_of(dog, loop, lambda pulse: early_and_late(pulse, samples))
        assert stall is not None
        assert ", in late\n" in stall.stack
        assert ", in early\n" not in stall.stack
        assert stall.took_ns >= 100 * MS


def test_two_samples_at_most(dog: Watchdog, loop: asyncio.AbstractEventLoop, samples: Samples) -> None:
    """However long a turn takes, its stack is taken twice."""

    def long(pulse: Pulse) -> None:
        early_and_late(pulse, samples)
        # Six times as long as until the next sample would come.
        assert not samples[pulse].acquire(timeout=0.3)

    assert stall_of(dog, loop, long) is not None


def test_no_stall(loop: asyncio.AbstractEventLoop, samples: Samples) -> None:
    """A turn that does not take too long has no stack, though the time that it took is told."""
    dog = Watchdog(int(HANG_S * 1e9))
    stall = stall_of(dog, loop, lambda pulse: time.sleep(0.1))
    dog.close()
    assert stall is not None
    assert stall.took_ns >= 100 * MS
    assert (stall.stack, samples) == ("", {})


def test_stalls_side_by_side(dog: Watchdog, samples: Samples, starts: list[str]) -> None:
    """Loops that stall at once, each on a thread of its own, have each their own stack, and alarms between."""

    def one(pulse: Pulse) -> None:
        early(pulse, samples)

    def two(pulse: Pulse) -> None:
        early(pulse, samples)
        late(pulse, samples)

    stalls: dict[str, Stall | None] = {}

    def run(name: str, turn: Callable[[Pulse], None]) -> None:
        loop = asyncio.new_event_loop()
        stalls[name] = stall_of(dog, loop, turn, alarm_in_ms=10)
        loop.close()

    threads = [threading.Thread(target=run, args=(each.__name__, each), daemon=True) for each in (one, two)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_S)
    assert {name: f", in {name}\n" in stall.stack for name, stall in stalls.items() if stall} == {
        "one": True,
        "two": True,
    }
    assert len(starts) == 1


_FORKING = """
import os, sys, threading, time
from tracedbridge.telemetry.watchdog import Watchdog

class Invocation:
    pulse = loop = None
    def __init__(self, alarm_in_s):
        self.alarm_ns = time.monotonic_ns() + int(alarm_in_s * 1e9)
        self.alarmed = threading.Event()
    def alarm(self, stacks):
        self.alarmed.set()

dog = Watchdog(50_000_000)
parents = Invocation(0.7)
dog.begin(parents)
pid = os.fork()
if pid == 0:
    own = Invocation(0.9)
    dog.begin(own)
    came = own.alarmed.wait(10)
    print("child", came, parents.alarmed.is_set(), threading.active_count(), flush=True)
    dog.end(own)
    dog.end(parents)
    dog.close()
    os._exit(threading.active_count())
_, status = os.waitpid(pid, 0)
print("parent", parents.alarmed.wait(10), os.waitstatus_to_exitcode(status), threading.active_count(), flush=True)
dog.end(parents)
dog.close()
print(threading.active_count())
"""


def test_fork(tmp_path: Path) -> None:
    """A child starts its own thread and alarms its own invocations only; the parent goes on."""
    # 3.12 on warns of forks where there are threads.
    done = run_python("-W", "ignore::DeprecationWarning", "-c", _FORKING, cwd=tmp_path)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["child True False 2", "parent True 1 2", "1"]


_ENDING = """
import atexit, threading, time
from tracedbridge.telemetry.watchdog import Watchdog

class Invocation:
    pulse = loop = None
    alarm_ns = time.monotonic_ns() + 10**13
    def alarm(self, stacks):
        print("alarm")

dog = Watchdog(50_000_000)

def last():
    invocation = Invocation()
    dog.begin(invocation)
    dog.end(invocation)
    print("ended")
atexit.register(last)
{}
"""


@pytest.mark.parametrize("first", ["", "dog.begin(Invocation())"], ids=["not begun", "running"])
def test_the_end_of_the_process(tmp_path: Path, first: str) -> None:
    """A process ends without waiting for the thread, and an invocation at its very end is none of its business."""
    done = run_python("-c", _ENDING.format(first), cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ended\n", "")
