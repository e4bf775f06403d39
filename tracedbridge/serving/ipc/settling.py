"""Exports what requests have left, on a thread, while the event loop serves others; one export for all that wait."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("Settling",)


class Settling:
    """For one event loop."""

    def __init__(self, settle: Callable[[], None]) -> None:
        """
        Args:
            settle: Tells and exports all that has ended when it is called; bounded in time.
        """
        self._settle = settle
        self._waiting: list[asyncio.Future[None]] = []
        self._is_working = False

    async def done(self) -> None:
        """Wait until all that had ended when this was called has been exported, or the time for it is over."""
        loop = asyncio.get_running_loop()
        settled: asyncio.Future[None] = loop.create_future()
        self._waiting.append(settled)
        if not self._is_working:
            self._is_working = True
            self._begin(loop)
        await settled

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        # Taken on the loop: whoever comes from here on has ended later, and waits for the next one.
        waiting, self._waiting = self._waiting, []

        def over() -> None:
            for settled in waiting:
                if not settled.done():
                    settled.set_result(None)
            if self._waiting:
                self._begin(loop)
            else:
                self._is_working = False

        def work() -> None:
            try:
                self._settle()
            finally:
                loop.call_soon_threadsafe(over)

        threading.Thread(target=work, name="tracedbridge-settle", daemon=True).start()
