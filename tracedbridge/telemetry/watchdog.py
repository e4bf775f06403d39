"""
One thread that looks at invocations from outside: when their time is nearly over, and why their loop stands still.

An invocation tells it nothing but that it begins and ends: both are a few steps without a system call. The thread
looks by itself, as often as a stall must last to be worth a look, and sleeps when nothing has come for a second.
"""

from __future__ import annotations

import os
import sys
import threading

# `weakref` itself is not loaded before an app needs it, and asks for more than this.
from _weakrefset import WeakSet
from time import monotonic_ns
from typing import TYPE_CHECKING, Protocol

from tracedbridge.telemetry.stacks import WATCHDOG, frames_now, places_of, stacks_of, text_of

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from tracedbridge.telemetry.stacks import Stack
    from tracedbridge.telemetry.stalls import Pulse

__all__ = ("Guarded", "Watchdog")

# Later than every clock.
_NEVER_NS = sys.maxsize

# Without an invocation for so long, the thread no longer looks; it is as often woken at most.
_QUIET_NS = 1_000_000_000

# Two of CPython's switch intervals (`sys.getswitchinterval`): a thread that wants the interpreter waits one of them.
_SHORTEST_STALL_NS = 10_000_000

# What an invocation waits at its end for its own alarm, and `close` for the thread.
_END_S = 1.0

# A stall's stack is taken when it is worth it, and once more: who comes late in it may be the true cause.
_SAMPLES = 2


class Guarded(Protocol):
    """An invocation, to the watchdog."""

    @property
    def alarm_ns(self) -> int | None:
        """When to call `alarm`, CLOCK_MONOTONIC; None for never."""

    @property
    def pulse(self) -> Pulse | None:
        """Of the loop that it runs on, if that has one."""

    @property
    def loop(self) -> AbstractEventLoop | None:
        """Whose tasks `alarm` is to hear of."""

    def slow(self, since_ns: int) -> None:
        """
        Begin to feel its loop, which nobody does before it has run for a while: what is quick does not pay for it.

        Args:
            since_ns: Since when the loop has been seen at work, CLOCK_MONOTONIC; 0 if it waits.
        """

    def alarm(self, stacks: list[Stack]) -> None:
        """
        Do what there is to do when ``alarm_ns`` has come; called on the watchdog's thread, once at most.

        Meanwhile nobody else's alarm is called, and an invocation that ends waits for it.
        """


class Watchdog:
    """Watches all invocations of a process; make one for the process."""

    def __init__(self, stall_ns: int) -> None:
        """
        Args:
            stall_ns: How long a loop stands still until its stack is taken; less than 10 ms is 10 ms.
        """
        self._stall_ns = max(stall_ns, _SHORTEST_STALL_NS)
        self._begin_anew()

    def _begin_anew(self) -> None:
        # By id: an invocation need not be hashable, and lives as long as it is here.
        self._running: dict[int, Guarded] = {}
        # Those that are still running after their alarm.
        self._alarmed: dict[int, Guarded] = {}
        # Whose alarm is under way, and what is locked until it is over.
        self._alarming: Guarded | None = None
        self._alarm_over = threading.Lock()
        # When the thread looks next by itself; never if it sleeps, or is none.
        self._looks_ns = _NEVER_NS
        self._is_quiet = False
        self._thread: threading.Thread | None = None
        self._is_closing = False
        # Held while the thread is started or ends. Reentrant: a signal handler may close what it has interrupted.
        self._change = threading.RLock()
        # Locked while there is no reason to wake: an Event costs three times as much.
        self._call = threading.Lock()
        self._call.acquire()
        # Which stall had its stack taken, by pulse: busy_since_ns and how often. The thread's own.
        self._sampled: dict[Pulse, tuple[int, int]] = {}
        # Who ran at the last look, and when his loop was at work then; the thread's own.
        self._seen: dict[int, tuple[Guarded, int]] = {}
        self._has_told = False

    def begin(self, guarded: Guarded) -> None:
        """Watch an invocation from now on; call it again when its alarm, loop or pulse have become known."""
        self._running[id(guarded)] = guarded
        self._is_quiet = False
        alarm_ns = guarded.alarm_ns
        if alarm_ns is None:
            if guarded.pulse is None and guarded.loop is None:
                return
            alarm_ns = _NEVER_NS - 1
        if alarm_ns < self._looks_ns:
            self._rouse()

    def end(self, guarded: Guarded) -> None:
        """Watch it no longer; its alarm is not called from now on. One that is under way is waited for, for 1 s."""
        self._running.pop(id(guarded), None)
        if self._alarming is guarded:
            self._wait_for(guarded)
        if self._alarmed:
            self._alarmed.pop(id(guarded), None)

    def close(self) -> None:
        """End the thread, after what it watches has ended; a later `begin` starts another."""
        with self._change:
            thread = self._thread
            if thread is None:
                return
            self._is_closing = True
            self._wake()
        if not self._running and thread.ident != threading.get_ident():
            thread.join(_END_S)

    def _wait_for(self, guarded: Guarded) -> None:
        if self._thread is not None and self._thread.ident == threading.get_ident():
            # The alarm itself ends its invocation.
            return
        # Taken after `_alarming` was seen: if that is another's by now, there is nothing to wait for.
        over = self._alarm_over
        if self._alarming is guarded and over.acquire(timeout=_END_S):
            over.release()

    def _rouse(self) -> None:
        with self._change:
            if self._thread is not None:
                self._wake()
                return
            thread = threading.Thread(target=self._watch, name=WATCHDOG, daemon=True)
            self._is_closing = False
            # From here on it looks by itself.
            self._looks_ns = 0
            self._thread = thread
            _watchdogs.add(self)
            try:
                thread.start()
            except RuntimeError:
                # No thread to be had, as at interpreter exit, and every invocation would pay for asking again: with
                # this, no alarm is early enough to ask.
                self._looks_ns = -1
                self._thread = None

    def _wake(self) -> None:
        try:
            self._call.release()
        except RuntimeError:
            # Somebody else has called already.
            return

    def _watch(self) -> None:
        quiet_since_ns = 0
        while True:
            now_ns = monotonic_ns()
            if self._running or not self._is_quiet:
                quiet_since_ns = now_ns
            # An invocation that begins from here on makes it untrue.
            self._is_quiet = True
            if self._running:
                looks_ns = self._look(now_ns)
            elif self._is_closing or now_ns - quiet_since_ns >= _QUIET_NS:
                if self._may_end():
                    return
                looks_ns = _NEVER_NS
            else:
                looks_ns = now_ns + min(self._stall_ns, _QUIET_NS)
            self._sleep(looks_ns)

    def _sleep(self, until_ns: int) -> None:
        # First said, then checked: whoever begins meanwhile sees that he must call, or is seen.
        self._looks_ns = until_ns
        if until_ns == _NEVER_NS:
            if not self._running and not self._is_closing:
                self._call.acquire()
            self._looks_ns = 0
            return
        left_ns = until_ns - monotonic_ns()
        if left_ns > 0:
            self._call.acquire(timeout=left_ns / 1e9)

    def _may_end(self) -> bool:
        """Say whether the thread is to end; from then on the next invocation starts another."""
        with self._change:
            if not self._is_closing:
                return False
            # In this order, as in `_sleep`.
            self._looks_ns = _NEVER_NS
            if self._running:
                return False
            self._thread = None
            return True

    def _look(self, now_ns: int) -> int:
        """Do what is due; return when to look again. What it holds, it holds no longer than that."""
        # Twice in the time of a stall: who is seen by two looks is slow.
        looks_ns = now_ns + min(self._stall_ns // 2, _QUIET_NS)
        seen: dict[int, tuple[Guarded, int]] = {}
        sampled: dict[Pulse, tuple[int, int]] = {}
        for guarded in list(self._running.values()):
            try:
                pulse = guarded.pulse
                if pulse is None and guarded.loop is not None:
                    self._see(guarded, now_ns, seen)
                    pulse = guarded.pulse
                if pulse is not None and pulse not in sampled:
                    looks_ns = min(looks_ns, self._feel(pulse, now_ns, sampled))
                alarm_ns = guarded.alarm_ns
                if alarm_ns is not None and id(guarded) not in self._alarmed:
                    if alarm_ns <= now_ns:
                        self._call_alarm(guarded)
                    else:
                        looks_ns = min(looks_ns, alarm_ns)
            except BaseException as error:  # noqa: BLE001 - whatever it is: without this thread no alarm comes at all
                self._tell(error)
        self._sampled, self._seen = sampled, seen
        return looks_ns

    def _see(self, guarded: Guarded, now_ns: int, seen: dict[int, tuple[Guarded, int]]) -> None:
        """Note who runs; who did so at the last look, too, is slow, and at work since then if he was seen so twice."""
        before, since_ns = self._seen.get(id(guarded), (None, 0))
        is_waiting = _is_waiting(getattr(guarded.loop, "_thread_id", None) or 0)
        if before is guarded:
            guarded.slow(0 if is_waiting else since_ns or now_ns)
        else:
            seen[id(guarded)] = (guarded, 0 if is_waiting else now_ns)

    def _feel(self, pulse: Pulse, now_ns: int, sampled: dict[Pulse, tuple[int, int]]) -> int:
        """Take a stalled loop's stack if it is time; return when to look again."""
        since_ns = pulse.busy_since_ns
        begun_ns = pulse.stalled_since_ns()
        if not since_ns or not begun_ns:
            return _NEVER_NS
        which, count = self._sampled.get(pulse, (0, 0))
        if which != since_ns:
            count = 0
        if count < _SAMPLES and now_ns >= begun_ns + (count + 1) * self._stall_ns:
            places = places_of(pulse.thread_id)
            # Else the stack may be that of the turn after.
            if places and pulse.busy_since_ns == since_ns:
                pulse.sampled(since_ns, text_of(places))
                count += 1
        sampled[pulse] = (since_ns, count)
        return _NEVER_NS if count >= _SAMPLES else begun_ns + (count + 1) * self._stall_ns

    def _call_alarm(self, guarded: Guarded) -> None:
        self._alarm_over = over = threading.Lock()
        over.acquire()
        # First said, then checked: whoever ends meanwhile sees that he must wait, or is seen.
        self._alarming = guarded
        try:
            if not self._is_running(guarded):
                return
            self._alarmed[id(guarded)] = guarded
            try:
                stacks = stacks_of(guarded.loop)
            except Exception as error:  # noqa: BLE001 - an alarm without stacks is better than none
                self._tell(error)
                stacks = []
            # Who has ended meanwhile needs no alarm.
            if self._is_running(guarded):
                guarded.alarm(stacks)
        finally:
            self._alarming = None
            over.release()

    def _is_running(self, guarded: Guarded) -> bool:
        return self._running.get(id(guarded)) is guarded

    def _tell(self, error: BaseException) -> None:
        if self._has_told:
            return
        self._has_told = True
        try:
            sys.stderr.write(f"tracedbridge: telemetry failed in an alarm: {type(error).__name__}: {error}\n")
        except Exception:  # noqa: BLE001 - no stderr, or an exception without a text: nobody is left to tell
            return


def _is_waiting(thread_id: int) -> bool:
    """Say whether a thread's loop waits for events."""
    frame = frames_now().get(thread_id)
    return frame is not None and frame.f_code.co_name in ("select", "noted", "poll")


_watchdogs: WeakSet[Watchdog] = WeakSet()


def _after_fork() -> None:
    # The child has no thread of its parent, and what it runs is no invocation of its own.
    for watchdog in list(_watchdogs):
        watchdog._begin_anew()


os.register_at_fork(after_in_child=_after_fork)
