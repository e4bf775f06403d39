"""What waits to be told is told once, in its order, when it is quiet, or when it is too much or too old."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from tests.support import HANG_S, bounded
from tracedbridge.messages import Request, Response
from tracedbridge.telemetry import outbox
from tracedbridge.telemetry.outbox import Outbox
from tracedbridge.telemetry.watch import Watch

pytestmark = pytest.mark.telemetry

# As if responses never ended: it is not quiet before that.
NEVER_S = 1000.0


def ended(name: str = "", in_s: float = 0.0, body: int = 0, answer: int = 0) -> Watch:
    """Return an invocation that ended now, or will have, whose bodies are of these sizes."""
    watch = Watch(cast("Any", None), None)
    watch.id = name
    watch.ended_ns = time.monotonic_ns() + int(in_s * 1e9)
    watch.asked = Request("POST", "/", "", [], b"x" * body, "http", "localhost", 80, None)
    watch.response = Response(200, [], b"x" * answer)
    return watch


class Worker:
    """Takes what waits, as the middleware does, and notes when."""

    def __init__(self) -> None:
        self.box = Outbox(self.work, deque())
        self.batches: list[list[str]] = []
        self.at_ns: list[int] = []
        self.on: set[str] = set()
        self.worked = threading.Semaphore(0)

    def work(self) -> None:
        self.at_ns.append(time.monotonic_ns())
        self.on.add(threading.current_thread().name)
        self.batches.append([watch.id for watch in self.box.take()])
        self.worked.release()

    def came(self) -> None:
        """Wait until it has worked once more."""
        assert self.worked.acquire(timeout=HANG_S)


@pytest.fixture
def worker() -> Iterator[Worker]:
    """An outbox and its work, closed at the end."""
    worker = Worker()
    yield worker
    bounded(worker.box.close)


def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what waits wait until it is told otherwise, not until it is old."""
    monkeypatch.setattr(outbox, "_LONGEST_S", NEVER_S)


def test_take(worker: Worker) -> None:
    """What was added is taken in its order, once, and without a thread nobody else takes it."""
    for name in "abc":
        worker.box.add(ended(name))
    assert [watch.id for watch in worker.box.take()] == ["a", "b", "c"]
    assert worker.box.take() == []
    assert worker.batches == []


def test_quiet(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread works when no response has followed the last one for 50 ms, for all of them at once, and goes on."""
    patient(monkeypatch)
    for names in ("abc", "d"):
        for name in names:
            watch = ended(name)
            worker.box.add(watch)
            assert worker.box.hand_over()
        worker.came()
        assert worker.at_ns[-1] >= watch.ended_ns + 50_000_000
    assert [name for batch in worker.batches for name in batch] == ["a", "b", "c", "d"]
    assert worker.on == {"tracedbridge-outbox"}


def test_old(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """It never gets quiet: after so long the thread works all the same, and not before."""
    monkeypatch.setattr(outbox, "_LONGEST_S", 0.2)
    begun_ns = time.monotonic_ns()
    worker.box.add(ended("a", in_s=NEVER_S))
    assert worker.box.hand_over()
    worker.came()
    assert worker.at_ns[0] >= begun_ns + 200_000_000
    assert worker.batches == [["a"]]


@pytest.mark.parametrize(
    ("limit", "most", "watches"),
    [
        pytest.param("_MOST", 3, [{}, {}, {}], id="too many"),
        pytest.param("_MOST_BYTES", 100, [{"body": 50}, {"answer": 50}], id="too large"),
        pytest.param("_MOST_BYTES", 100, [{"body": 500, "answer": 500}, {}], id="a large one and another"),
    ],
)
def test_full(
    limit: str, most: int, watches: list[dict[str, int]], worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With too many, or too many bytes of them, waiting it is full, and the thread does not wait; then it is not."""
    patient(monkeypatch)
    monkeypatch.setattr(outbox, limit, most)
    for each in watches:
        assert not worker.box.is_full
        worker.box.add(ended("a", in_s=NEVER_S, **each))
    assert worker.box.is_full
    assert worker.box.hand_over()
    worker.came()
    assert worker.batches == [["a"] * len(watches)]
    assert not worker.box.is_full


def test_a_single_one(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """One alone may be as large as its platform lets it be: the first response is never too much."""
    monkeypatch.setattr(outbox, "_MOST_BYTES", 100)
    worker.box.add(ended(body=500, answer=500))
    assert not worker.box.is_full


def test_limits() -> None:
    """What may wait is at most some megabytes and some hundred invocations, for at most a second."""
    assert outbox._MOST <= 1000
    assert outbox._MOST_BYTES <= 10_000_000
    assert outbox._LONGEST_S <= 1.0


def test_no_thread_to_be_had(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be started nothing is handed over, nor lost; later it may work."""
    worker.box.add(ended("a"))
    with monkeypatch.context() as patch:

        def start(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        patch.setattr(threading.Thread, "start", start)
        assert not worker.box.hand_over()
    worker.box.add(ended("b"))
    assert worker.box.hand_over()
    worker.came()
    assert worker.batches == [["a", "b"]]


def test_one_thread(worker: Worker) -> None:
    """However many hand over at once, there is one thread, and each invocation is taken once, none forgotten."""
    together = threading.Barrier(4, timeout=HANG_S)

    def answer(first: int) -> None:
        together.wait()
        for number in range(first, first + 500):
            worker.box.add(ended(str(number)))
            assert worker.box.hand_over()

    threads = [threading.Thread(target=answer, args=(first,), daemon=True) for first in range(0, 2000, 500)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_S)
    give_up_s = time.monotonic() + HANG_S
    while sum(map(len, worker.batches)) < 2000 and time.monotonic() < give_up_s:
        worker.came()
    assert sorted(int(name) for batch in worker.batches for name in batch) == list(range(2000))
    assert len(threads_of_ours()) == 1


def threads_of_ours() -> list[threading.Thread]:
    """Return the threads of outboxes."""
    return [thread for thread in threading.enumerate() if thread.name == "tracedbridge-outbox"]


def test_what_comes_meanwhile(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is added while the thread works is worked for next, though nobody wakes it."""
    work, nested = worker.work, list[bool]()

    def working() -> None:
        work()
        if not nested:
            nested.append(True)
            worker.box.add(ended("b"))
            assert worker.box.hand_over()

    worker.box._work = working
    worker.box.add(ended("a"))
    assert worker.box.hand_over()
    worker.came()
    worker.came()
    assert worker.batches == [["a"], ["b"]]


def test_close(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Close ends the thread without waiting for quiet; what waited is worked for, or left to whoever closes."""
    monkeypatch.setattr(outbox, "QUIET_S", NEVER_S)
    patient(monkeypatch)
    worker.box.add(ended("a"))
    assert worker.box.hand_over()
    for _ in range(2):
        bounded(worker.box.close)
        assert threads_of_ours() == []
    left = [watch.id for watch in worker.box.take()]
    assert [name for batch in [*worker.batches, left] for name in batch] == ["a"]


@pytest.mark.parametrize("has_thread", [False, True], ids=["without a thread", "with one that rests"])
def test_close_while_idle(has_thread: bool, worker: Worker) -> None:
    """With nothing to do it ends as well."""
    if has_thread:
        worker.box.add(ended())
        assert worker.box.hand_over()
        worker.came()
    bounded(worker.box.close)
    assert threads_of_ours() == []


def test_close_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Close waits for work that is under way, but not for ever."""
    monkeypatch.setattr(outbox, "_LONGEST_S", 0.2)
    done, go, begun = list[bool](), threading.Event(), threading.Event()

    def work() -> None:
        box.take()
        begun.set()
        assert go.wait(HANG_S)
        done.append(True)

    box = Outbox(work, deque())
    box.add(ended())
    assert box.hand_over()
    assert begun.wait(HANG_S)
    bounded(box.close)
    assert done == []
    go.set()
    bounded(box.close)
    assert done == [True]
    for thread in threads_of_ours():
        thread.join(HANG_S)


def test_close_in_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work that closes its own outbox, as a signal handler might, does not wait for itself."""
    patient(monkeypatch)
    closed = threading.Event()

    def work() -> None:
        box.take()
        box.close()
        closed.set()

    box = Outbox(work, deque())
    box.add(ended())
    assert box.hand_over()
    assert closed.wait(HANG_S)
    for thread in threads_of_ours():
        thread.join(HANG_S)
    assert threads_of_ours() == []


def test_forget(worker: Worker) -> None:
    """In a process that was restored what waited is forgotten, and what comes is worked for; one thread is left."""
    worker.box.add(ended("before"))
    assert worker.box.hand_over()
    worker.came()
    worker.box.add(ended("untold", in_s=NEVER_S))
    worker.box.forget()
    assert worker.box.take() == []
    assert not worker.box.is_full
    worker.box.add(ended("after"))
    assert worker.box.hand_over()
    worker.came()
    assert worker.batches == [["before"], ["after"]]
    bounded(worker.box.close)
    assert threads_of_ours() == []


def test_forget_what_was_large(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forgotten bytes count no more."""
    monkeypatch.setattr(outbox, "_MOST_BYTES", 100)
    seen = []
    for size in (50, 10):
        for _ in range(2):
            worker.box.add(ended(body=size))
            seen.append(worker.box.is_full)
        worker.box.forget()
    assert seen == [False, True, False, False]


def test_take_from_threads(worker: Worker) -> None:
    """Of threads that take at once each invocation goes to one."""
    for number in range(2000):
        worker.box.add(ended(str(number)))
    taken: list[list[Watch]] = []
    take: Callable[[], None] = lambda: taken.append(worker.box.take())  # noqa: E731 - the target of four threads
    threads = [threading.Thread(target=take, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_S)
    assert sorted(int(watch.id) for batch in taken for watch in batch) == list(range(2000))
