"""What has been answered and is still to be told, and the thread that does it where it may run after the response."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from tracedbridge.telemetry.middleware import QUIET_S

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable

    from tracedbridge.telemetry.watch import Watch

__all__ = ("Outbox",)

# Under steady traffic: how many may wait, how long, and how many bytes of requests and responses they may hold.
_MOST = 200
_LONGEST_S = 1.0
_MOST_BYTES = 4_000_000


class Outbox:
    """Watched invocations in the order of their ends; safe to use from any thread."""

    def __init__(self, work: Callable[[], None], waiting: deque[Watch]) -> None:
        """
        Args:
            work: Done by the thread: it is to take what waits.
            waiting: What waits already, and where it goes on waiting.
        """
        self._work = work
        self._waiting = waiting
        self._begin()
        if waiting:
            self._last_ns = waiting[-1].ended_ns

    def _begin(self) -> None:
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._wake = threading.Event()
        self._closing = threading.Event()
        # Not to wait until it is quiet.
        self._hurry = threading.Event()
        self._is_idle = True
        self._last_ns = 0
        self._bytes = 0

    def add(self, watch: Watch) -> None:
        """Have an invocation wait until somebody takes it."""
        self._waiting.append(watch)
        self._last_ns = watch.ended_ns
        self._bytes += watch.bytes_held()

    def take(self) -> list[Watch]:
        """Return what waits, which waits no more."""
        taken = []
        self._bytes = 0
        try:
            while True:
                taken.append(self._waiting.popleft())
        except IndexError:
            return taken

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not self._waiting

    @property
    def is_full(self) -> bool:
        """Whether more wait than should."""
        # A single one may be as large as its platform allows.
        return len(self._waiting) >= _MOST or (self._bytes >= _MOST_BYTES and len(self._waiting) > 1)

    def hand_over(self) -> bool:
        """Have the thread see to what waits; False if there is no thread, and there can be none."""
        if self._thread is None and not self._start():
            return False
        if self._is_idle:
            # Under steady traffic the thread looks by itself: waking it for each response would cost each response.
            self._wake.set()
        return True

    def hurry(self) -> None:
        """Have the thread not wait any longer."""
        self._hurry.set()

    def forget(self) -> None:
        """Begin anew with nothing, in a process that was forked or restored: the other one has what waited."""
        self._waiting.clear()
        # A thread of before ends, if there is one: it finds nothing to do.
        self._end()
        self._begin()

    def close(self, within_s: float | None = None) -> None:
        """End the thread, once it is done with what it does; that is waited for, for a second or less."""
        self._end()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            # It is a daemon, and waits for nobody but the export, which has a budget.
            thread.join(_LONGEST_S if within_s is None else min(within_s, _LONGEST_S))

    def _end(self) -> None:
        self._closing.set()
        self._hurry.set()
        self._wake.set()

    def _start(self) -> bool:
        with self._starting:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="tracedbridge-outbox", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    # The interpreter is ending: close() comes next.
                    return False
                self._thread = thread
        return True

    def _run(self) -> None:
        wake, closing = self._wake, self._closing
        while not closing.is_set():
            wake.wait()
            wake.clear()
            self._is_idle = False
            while self._waiting and not closing.is_set():
                self._wait_for_quiet(closing)
                self._hurry.clear()
                self._work()
            self._is_idle = True
            if self._waiting:
                # It came while this thread was not idle yet.
                wake.set()

    def _wait_for_quiet(self, closing: threading.Event) -> None:
        ends_ns = time.monotonic_ns() + int(_LONGEST_S * 1e9)
        while not (closing.is_set() or self._hurry.is_set() or self.is_full):
            now_ns = time.monotonic_ns()
            left_s = min(self._last_ns / 1e9 + QUIET_S, ends_ns / 1e9) - now_ns / 1e9
            if left_s <= 0:
                return
            self._hurry.wait(left_s)
