"""An executor without threads, for an interpreter that starts none any more."""

from __future__ import annotations

# The module, and not the package's lazy name for it.
import concurrent.futures.thread
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("Inline", "can_start_threads")


class Inline(concurrent.futures.thread.ThreadPoolExecutor):
    """Does its work at once: CPython 3.12 starts no thread at exit, for asyncio.to_thread() neither."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        """Do it, and return a future that is done."""
        done: concurrent.futures.Future[Any] = concurrent.futures.Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - raised where the future is awaited
            done.set_exception(error)
        return done


def can_start_threads() -> bool:
    """Say whether a thread can be started now."""
    try:
        threading.Thread(target=int).start()
    except RuntimeError:
        return False
    return True
