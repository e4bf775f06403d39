"""
Sees to what a middleware has noted: loads the SDK, tells, exports, and begins anew after a fork or a restore.

Not loaded before the first response, unless the SDK has to be; after it every invocation comes by here.
"""

from __future__ import annotations

import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tracedbridge.boot import ColdStart
from tracedbridge.telemetry import harmless
from tracedbridge.telemetry.current import stop_boot
from tracedbridge.telemetry.outbox import Outbox
from tracedbridge.telemetry.watch import load_resource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tracedbridge.telemetry.middleware import Middleware
    from tracedbridge.telemetry.stacks import Stack
    from tracedbridge.telemetry.telling import Teller
    from tracedbridge.telemetry.watch import Watch

__all__ = ("Desk",)

# At close(), where nothing may be exported in a call: what waited gets the default budget, once.
_LAST_BUDGET_MS = 500.0

# Traffic is steady once so many responses have followed each other this closely; then not each of them is flushed for.
_STEADY = 5
_STEADY_GAP_NS = 100_000_000
# And what waits is flushed all the same after so many, or so long.
_STEADY_MOST = 100
_STEADY_LONGEST_NS = 1_000_000_000


class Desk:
    """What a middleware hands its notes to."""

    def __init__(self, middleware: Middleware) -> None:
        """
        Args:
            middleware: Whose it is.
        """
        self._middleware = middleware
        self._settings = middleware.settings
        self._outbox = Outbox(middleware.settle, middleware.waiting)
        load_resource()
        self._is_broken = False
        # Held while the SDK is loaded, and while somebody tells: of two threads the second finds nothing to do.
        self._arming = threading.RLock()
        self._telling = threading.RLock()
        # Of steady traffic: how many responses in a row, the end of the last, what the last flush left.
        self._row = self._unflushed = 0
        self._last_ns = self._flushed_ns = 0

    def ended(self, watch: Watch) -> None:
        """Tell an invocation, now or later."""
        mode, teller = self._settings.flush, self._middleware.teller
        if teller is not None and mode != "after" and self._outbox.is_empty:
            # Nearly always where the caller waits for it anyway.
            teller.tell(watch)
            self._unflushed += 1
            if self._settings.flush_timeout_ms and (mode == "before" or not self._can_wait(teller, watch)):
                self._flush(teller, watch)
            return
        self._outbox.add(watch)
        if teller is not None and teller.has_batch():
            # The app's own spans, or records of the lines that it logs: they do not wait to be told.
            self._outbox.hurry()
        if mode == "after" and not self._outbox.is_full and self._outbox.hand_over():
            return
        is_due = watch.begun_ns > self._middleware.answered_ns
        if mode == "auto" and teller is None and not is_due and not self._outbox.is_full:
            # Nothing may run after the first response, and it is not to wait for the SDK.
            return
        self.work(watch)

    def hand_over(self) -> bool:
        """Have a thread see to what waits; False if there is none, and there can be none."""
        return self._outbox.hand_over()

    @harmless
    def work(self, last: Watch | None) -> None:
        """Tell what waits, and export it unless that can wait."""
        teller = self._arm()
        if teller is None:
            self._outbox.take()
            return
        with self._telling:
            for watch in self._outbox.take():
                if watch.surroundings is None:
                    teller.tell(watch)
                else:
                    watch.surroundings.run(teller.tell, watch)
                self._unflushed += 1
                if teller.has_batch():
                    self._flush(teller, last)
        if last is not None and self._settings.flush == "auto" and self._can_wait(teller, last):
            return
        self._flush(teller, last)

    def settle(self) -> None:
        """Tell and export what waits."""
        self.work(None)

    def alarmed(self, watch: Watch, stacks: list[Stack]) -> None:
        """Tell and export an invocation that still runs, whose time is nearly over."""
        watch.is_told = True
        teller = self._arm()
        if teller is None:
            return
        snapshot = watch.snapshot(stacks)
        with self._telling:
            for each in (*self._outbox.take(), snapshot):
                teller.tell(each)
            teller.tell_open_spans(snapshot)
        # Elsewhere: the invocation may end now, and would wait for this thread.
        threading.Thread(target=self._flush, args=(teller, watch), name="tracedbridge-alarm", daemon=True).start()

    @harmless
    def before_snapshot(self) -> None:
        """Tell and export all there is."""
        self._middleware.story.end()
        if (teller := self._arm()) is not None:
            self._tell_all(teller)
            # Nobody waits for it, and what is not sent now never is.
            teller.flush(max(self._settings.flush_timeout_ms, _LAST_BUDGET_MS))

    @harmless
    def restored(self) -> None:
        """
        Begin anew after a snapshot was restored: ids, instance, connections, and a cold start that is the restore.

        What had not been sent before the snapshot is dropped: each process that is restored from it would send it.
        """
        cold_start = ColdStart.of_restore()
        self._middleware.story.end()
        stop_boot(self._middleware.story.boot)
        if "random" in sys.modules:
            # The SDK's ids come from here, and every restored process would have the same.
            sys.modules["random"].seed()
        self._start_over()
        cold_start.mark("restore")
        cold_start.ready()
        self._middleware.begin(cold_start, "restored")

    @harmless
    def forked(self) -> None:
        """Begin anew in the child of a fork: ids and instance of its own, and nothing that is its parent's to send."""
        self._arming, self._telling = threading.RLock(), threading.RLock()
        self._middleware.untold.clear()
        stop_boot(self._middleware.story.boot)
        self._start_over(forked=True)

    @contextmanager
    def stopping(self) -> Iterator[None]:
        """Watch lifespan shutdown, where there was a startup."""
        begun_wall_ns, begun_ns = time.time_ns(), time.monotonic_ns()
        error: BaseException | None = None
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._stopped(begun_wall_ns, time.monotonic_ns() - begun_ns, error)

    def close(self, within_s: float | None) -> None:
        """Send what is left, for at most so long if that is told, and have what was changed put back."""
        self._send_rest(within_s)
        self._middleware.put_back()

    @harmless
    def load_failed(self, error: BaseException) -> None:
        """Tell and export a cold start that ended in an error."""
        self._middleware.untold.clear()
        self._middleware.story.failed()
        if (teller := self._arm()) is not None:
            teller.tell_failure(self._middleware.story, error)

    def _arm(self) -> Teller | None:
        """Return who tells, with the SDK loaded; None if that failed."""
        with self._arming:
            if self._middleware.teller is None and not self._is_broken:
                self._is_broken = True
                self.arm_now()
                self._is_broken = False
            return self._middleware.teller

    def arm_now(self) -> None:
        """Load the SDK, and tell by it from now on."""
        awaiting, self._middleware.awaiting = self._middleware.awaiting, None
        if awaiting is not None:
            # What they waited for is coming now, or nobody needs to know any more.
            awaiting.close()
        from tracedbridge.telemetry.telling import Teller

        teller = Teller(self._middleware)
        self._middleware.story.boot.flags = teller.boot_flags(self._middleware.story.boot)
        self._middleware.teller = teller
        teller.take_over()
        if awaiting is not None:
            self._middleware.listen()

    def _can_wait(self, teller: Teller, watch: Watch) -> bool:
        """Say whether traffic is steady, and little of it is unflushed."""
        is_close = watch.begun_ns - self._last_ns < _STEADY_GAP_NS
        self._row = self._row + 1 if is_close else 0
        self._last_ns = watch.ended_ns
        is_little = self._unflushed < _STEADY_MOST and watch.ended_ns - self._flushed_ns < _STEADY_LONGEST_NS
        return self._row >= _STEADY and is_little and not teller.has_batch()

    @harmless
    def _flush(self, teller: Teller, last: Watch | None) -> None:
        budget_ms = self._settings.flush_timeout_ms
        if last is not None and last.platform_deadline_ns is not None:
            # What is left of the invocation is all that the platform gives.
            budget_ms = min(budget_ms, (last.platform_deadline_ns - time.monotonic_ns()) / 1e6)
        if budget_ms > 0:
            teller.flush(budget_ms)
            self._unflushed, self._flushed_ns = 0, time.monotonic_ns()

    @harmless
    def _stopped(self, begun_wall_ns: int, took_ns: int, error: BaseException | None) -> None:
        if not self._middleware.is_traced or not self._middleware.has_lifespan:
            return
        if (teller := self._arm()) is not None:
            teller.tell_shutdown(self._middleware.story, begun_wall_ns, took_ns, error)

    @harmless
    def _send_rest(self, within_s: float | None) -> None:
        begun_s = time.monotonic()
        # Whatever came of it, nothing of the interpreter stays patched.
        self._middleware.story.end()
        stop_boot(self._middleware.story.boot)
        self._outbox.close(within_s)
        teller = self._arm()
        if teller is None:
            return
        self._tell_all(teller)
        budget_ms = self._settings.flush_timeout_ms or _LAST_BUDGET_MS
        if within_s is not None:
            budget_ms = min(budget_ms, max(within_s - (time.monotonic() - begun_s), 0.0) * 1e3)
        teller.close(budget_ms)

    def _tell_all(self, teller: Teller) -> None:
        with self._telling:
            for watch in self._outbox.take():
                teller.tell(watch)
            if (story := self._middleware.take_cold_start()) is not None:
                # No event has come: what the app did until then would have no root.
                story.unasked()
                teller.tell_unasked(story)

    def _start_over(self, *, forked: bool = False) -> None:
        self._outbox.forget()
        self._middleware.lines.clear()
        self._middleware.lost_lines = 0
        self._middleware.answered_ns = self._row = self._unflushed = 0
        if self._middleware.teller is not None:
            self._middleware.teller.connect(forked=forked)
        elif self._middleware.stand_ins is not None:
            self._middleware.stand_ins.forget()
