"""
The longest time that an event loop was kept from turning.

A loop waits in its selector and works outside of it: a note at both ends of ``select`` is all it takes, and all that
is done on the loop's thread. The stack comes from elsewhere (`tracedbridge.telemetry.watchdog`), while a stall lasts.
"""

from __future__ import annotations

from time import monotonic_ns
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable

__all__ = ("Pulse", "Stall", "pulse_of")

# In the selector's own namespace: it ends with its loop, and is found behind whatever else wraps ``select``.
_KEY = "_tracedbridge_pulse"

_NO_SAMPLES: dict[int, str] = {}


class Stall:
    """The longest time in an invocation that one turn of the loop took."""

    __slots__ = ("stack", "took_ns")

    def __init__(self, took_ns: int, stack: str) -> None:
        """
        Args:
            took_ns: How long nothing else on the loop could run.
            stack: Of the loop's thread during that time; empty if nobody has looked.
        """
        self.took_ns = took_ns
        self.stack = stack


class Pulse:
    """When one event loop is at work; written on the loop's thread, read anywhere."""

    __slots__ = ("__weakref__", "_begun_ns", "_longest_since_ns", "_loop", "_samples", "busy_since_ns", "longest_ns")

    def __init__(self, loop: Callable[[], object]) -> None:
        """Take a loop that does not run, by a weak reference."""
        self._loop = loop
        # CLOCK_MONOTONIC; 0 while the loop waits for events or does not run.
        self.busy_since_ns = 0
        # Since `begin`.
        self.longest_ns = 0
        self._begun_ns = 0
        # Which turn was the longest: its busy_since_ns.
        self._longest_since_ns = 0
        self._samples = _NO_SAMPLES

    @property
    def thread_id(self) -> int:
        """Of the thread that runs the loop now; 0 if none does."""
        # Asked for when there is a stall to look at; a note of it on each run would cost a tenth of all of this.
        return getattr(self._loop(), "_thread_id", None) or 0

    def begin(self, since_ns: int | None = None) -> None:
        """
        Forget what was: an invocation begins.

        Args:
            since_ns: Since when the loop is known to be at work, CLOCK_MONOTONIC; 0 if it waits; None: it runs not.
        """
        self._samples = _NO_SAMPLES
        self._begun_ns = since_ns or monotonic_ns()
        self.longest_ns = self._longest_since_ns = 0
        if since_ns is not None and not self.busy_since_ns:
            self.busy_since_ns = since_ns

    def end(self) -> Stall | None:
        """Return the longest turn since `begin`, be it over or not; None if the loop has not turned."""
        since_ns = self.busy_since_ns
        if since_ns:
            self.turned(since_ns, monotonic_ns())
        if not self.longest_ns:
            return None
        return Stall(self.longest_ns, self._samples.get(self._longest_since_ns, ""))

    def turned(self, since_ns: int, now_ns: int) -> None:
        """Note a turn; what was before `begin` is not counted."""
        took_ns = now_ns - max(since_ns, self._begun_ns)
        if took_ns > self.longest_ns:
            self.longest_ns = took_ns
            self._longest_since_ns = since_ns

    def stalled_since_ns(self) -> int:
        """Return since when the turn that is going on has been part of an invocation; 0 if none is."""
        since_ns = self.busy_since_ns
        return since_ns and max(since_ns, self._begun_ns)

    def sampled(self, since_ns: int, stack: str) -> None:
        """Take the stack of the turn that began when ``busy_since_ns`` was this; the last one of a turn counts."""
        longest_ns = self._longest_since_ns
        # Of two at most: an app that stalls for ever and ever must not fill the memory.
        kept = {each_ns: text for each_ns, text in self._samples.items() if each_ns == longest_ns}
        kept[since_ns] = stack
        self._samples = kept


def pulse_of(loop: AbstractEventLoop) -> Pulse | None:
    """
    Return the pulse of a loop, which is felt from the first call on; call it while the loop does not run.

    Returns:
        None for a loop that has no selector of Python's, such as uvloop's.
    """
    selector = getattr(loop, "_selector", None)
    pulse: Pulse | None = getattr(selector, _KEY, None)
    return pulse or _felt(loop, selector)


def _felt(loop: Any, selector: Any) -> Pulse | None:
    # Loaded already where there is a loop.
    from selectors import BaseSelector
    from weakref import ref

    if not isinstance(selector, BaseSelector):
        return None
    pulse = Pulse(ref(loop))
    select, run_forever = selector.select, loop.run_forever

    def noted(timeout: float | None = None) -> Any:
        now_ns = monotonic_ns()
        since_ns = pulse.busy_since_ns
        if since_ns and now_ns - since_ns > pulse.longest_ns:
            pulse.turned(since_ns, now_ns)
        if timeout == 0:
            # It only looks: what it takes is not worth a second clock.
            pulse.busy_since_ns = now_ns
            return select(timeout)
        pulse.busy_since_ns = 0
        try:
            return select(timeout)
        finally:
            pulse.busy_since_ns = monotonic_ns()

    def run() -> None:
        pulse.busy_since_ns = 0
        try:
            run_forever()
        finally:
            # What comes now is not the loop's, and its last turn has no `select` behind it.
            since_ns = pulse.busy_since_ns
            pulse.busy_since_ns = 0
            if since_ns:
                now_ns = monotonic_ns()
                if now_ns - since_ns > pulse.longest_ns:
                    pulse.turned(since_ns, now_ns)

    # Not by way of ``__dict__``: 3.11 and 3.12 are slower with every attribute of an object once that was asked for.
    setattr(selector, _KEY, pulse)
    selector.select = noted  # type: ignore[method-assign]  # of this one selector, not of its class
    loop.run_forever = run
    return pulse
