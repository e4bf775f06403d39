"""Work that must not hold an event loop, and when a server is to wait for it."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    _T = TypeVar("_T")

__all__ = ("must_settle", "on_a_thread")


def must_settle() -> bool:
    """
    Say whether the process may stand still as soon as the app has returned.

    Vercel's runtime tells its platform that an invocation has ended when the app returns, which is after the last byte.
    """
    return "vercel_runtime" in sys.modules


async def on_a_thread(work: Callable[[], _T]) -> _T:
    """
    Do something on a thread of its own, while the event loop goes on; return what it returns, or raise what it raises.

    Not by ``asyncio.to_thread``: its threads are the app's, which may have taken all of them.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_T] = loop.create_future()

    def told(result: Any, error: BaseException | None) -> None:
        if done.cancelled():
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
