"""What must not hold an event loop, and whose will it is that a task ends."""

from __future__ import annotations

import asyncio
import threading

import pytest

from tests.support import HANG_S, bounded
from tracedbridge.instrumented.threads import Settling, is_cancelled, on_a_thread


def test_one_round_for_many() -> None:
    """Whoever comes while it settles waits for a round that begins after that, and shares it with all who do."""
    rounds: list[int] = []
    may_go, begun = threading.Event(), threading.Event()

    def settle() -> None:
        rounds.append(len(rounds))
        begun.set()
        assert may_go.wait(HANG_S)

    settling = Settling(settle)
    first = threading.Thread(target=settling)
    first.start()
    assert begun.wait(HANG_S)
    others = [threading.Thread(target=settling) for _ in range(8)]
    for thread in others:
        thread.start()
    # All of them wait for the second round by now, or will find it done.
    while sum(thread.is_alive() for thread in others) < len(others):
        pass
    may_go.set()
    for thread in (first, *others):
        thread.join(HANG_S)
        assert not thread.is_alive()
    assert 2 <= len(rounds) <= 3


def test_a_round_that_fails() -> None:
    """It raises where it was asked for, and the next one is done all the same."""
    told: list[str] = []

    def settle() -> None:
        told.append("settled")
        if len(told) == 1:
            raise RuntimeError("once")

    settling = Settling(settle)
    with pytest.raises(RuntimeError, match="once"):
        settling()
    settling()
    assert len(told) == 2


def test_a_thread_for_a_loop() -> None:
    """Work is done elsewhere, and what comes of it, or goes wrong, comes back."""

    def fail() -> None:
        raise KeyError("x")

    async def main() -> None:
        assert await on_a_thread(threading.get_ident) != threading.get_ident()
        with pytest.raises(KeyError):
            await on_a_thread(fail)

    asyncio.run(main())


def test_a_loop_that_ends_before_its_thread() -> None:
    """Nobody waits any more, and nothing is wrong."""
    may_go, done = threading.Event(), threading.Event()

    def work() -> None:
        assert may_go.wait(HANG_S)
        done.set()

    async def main() -> None:
        task = asyncio.create_task(on_a_thread(work))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    may_go.set()
    assert done.wait(HANG_S)
    for thread in threading.enumerate():
        if thread.name == "tracedbridge-work":
            thread.join(HANG_S)


def test_cancelled() -> None:
    """A task that was cancelled has been; one that raises the exception by itself has not."""

    async def main() -> tuple[bool, bool]:
        async def body() -> bool:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError as error:
                return is_cancelled(error)
            return False

        task = asyncio.create_task(body())
        await asyncio.sleep(0)
        task.cancel()
        return await task, is_cancelled(asyncio.CancelledError())

    assert asyncio.run(main()) == (True, False)
    assert is_cancelled(GeneratorExit())
    assert not is_cancelled(ValueError())
    assert not bounded(lambda: is_cancelled(asyncio.CancelledError()))
