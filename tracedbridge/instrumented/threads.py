"""Work that must not hold an event loop, and when a server is to wait for it."""

from __future__ import annotations

import asyncio
import sys
import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

from tracedbridge import ending

if TYPE_CHECKING:
    from collections.abc import Callable

    _T = TypeVar("_T")

__all__ = ("OwnTasks", "Settling", "is_cancelled", "must_settle", "on_a_thread")


_begun_below: ContextVar[object] = ContextVar("tracedbridge_begun_below")


def must_settle() -> bool:
    """
    Say whether the process may stand still, or end, as soon as the app has returned.

    Vercel's runtime tells its platform that an invocation has ended when the app returns, which is after the last byte.
    """
    return "vercel_runtime" in sys.modules or ending.is_near()


class Settling:
    """Settles for many at once: a server with a hundred requests under way need not export a hundred times."""

    def __init__(self, settle: Callable[[], None]) -> None:
        """
        Args:
            settle: Tells and exports all that has ended when it is called; bounded in time.
        """
        self._settle = settle
        self._changed = threading.Condition()
        # How many rounds have begun, and are over; one at a time.
        self._begun = self._done = 0

    def __call__(self) -> None:
        """Return when all that had ended when this was called has been exported, or the time for it is over."""
        with self._changed:
            wanted = self._begun + 1
            self._changed.wait_for(lambda: self._done >= wanted or self._begun == self._done)
            if self._done >= wanted:
                return
            self._begun += 1
        try:
            self._settle()
        finally:
            with self._changed:
                self._done = self._begun
                self._changed.notify_all()


async def on_a_thread(work: Callable[[], _T]) -> _T:
    """
    Do something on a thread of its own, while the event loop goes on; return what it returns, or raise what it raises.

    On asyncio and on trio; not by their pools, whose threads are the app's, which may have taken all of them.
    """
    trio: Any = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_task():
        told: _T = await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1))
        return told
    return await _on_asyncios_thread(work)


async def _on_asyncios_thread(work: Callable[[], _T]) -> _T:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_T] = loop.create_future()

    def told(result: Any, error: BaseException | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(result)
        else:
            done.set_exception(error)

    def run() -> None:
        result: Any = None
        failed: BaseException | None = None
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            failed = error
        try:
            loop.call_soon_threadsafe(told, result, failed)
        except RuntimeError:
            # The loop is closed: nobody waits any more.
            return

    threading.Thread(target=run, name="tracedbridge-work", daemon=True).start()
    return await done


class OwnTasks:
    """Counts the tasks of asyncio's that are begun below the one that makes this: a loop has its server's, too."""

    def __init__(self) -> None:
        _begun_below.set(self)
        self._count_here = self._count()

    def __call__(self) -> int:
        """Return how many are alive; 0 on a loop of another kind, and on 3.11, whose tasks tell no context."""
        return self._count() - self._count_here

    def _count(self) -> int:
        try:
            tasks: Any = asyncio.all_tasks()
        except RuntimeError:
            return 0
        if not hasattr(asyncio.Task, "get_context"):
            return 0
        return sum(task.get_context().get(_begun_below) is self for task in tasks)


def is_cancelled(error: BaseException) -> bool:
    """Say whether it is somebody else's will that a task has ended in this: its server's, as a rule."""
    if isinstance(error, GeneratorExit):
        # Its loop has ended, and it never will.
        return True
    if isinstance(error, asyncio.CancelledError):
        try:
            task = asyncio.current_task()
        except RuntimeError:
            return False
        # An app that raises one of its own accord has not been cancelled.
        return task is not None and task.cancelling() > 0
    trio: Any = sys.modules.get("trio")
    return trio is not None and isinstance(error, trio.Cancelled)
