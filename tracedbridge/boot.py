"""
The boot record: when this process began and when each phase of the cold start ended.

Loaded first and kept to the standard library's cheapest modules: its import is part of what it measures.
"""

from __future__ import annotations

import os
import time

__all__ = ("IMPORTED_NS", "ColdStart", "process_started_ns")

# CLOCK_MONOTONIC at the first line of tracedbridge that ran.
IMPORTED_NS = time.monotonic_ns()

# A process that is older than this when its function is loaded was up for other reasons (a test run, a
# notebook, a server): its age is no cold start. The longest init that a platform allows is 10 s (Lambda).
_MAX_AGE_NS = 10_000_000_000

_claimed = False


def process_started_ns() -> int:
    """
    Tell when this process began, in CLOCK_MONOTONIC nanoseconds.

    Exact to one clock tick (10 ms) on Linux; the first line of tracedbridge where neither the platform nor
    ``/proc`` tells, as on macOS.

    Source: proc(5), field 22 of ``/proc/self/stat``, in ticks since boot.
    """
    told_ms = os.environ.get("__VC_PY_BOOT_START_MS", "")
    try:
        told_ns = int(float(told_ms) * 1e6)
    except (ValueError, OverflowError):
        told_ns = 0
    if 0 < told_ns <= IMPORTED_NS:
        return told_ns
    try:
        with open("/proc/self/stat", "rb") as stat:
            # The command name may hold spaces and brackets: count from its last bracket.
            ticks = int(stat.read().rpartition(b")")[2].split()[19])
        since_boot_ns = ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
        age_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - since_boot_ns
        started_ns = time.monotonic_ns() - age_ns
    except (OSError, ValueError, IndexError, AttributeError):
        return IMPORTED_NS
    # The tick is rounded down, and a container may be given another boot time than its clock's.
    return min(started_ns, IMPORTED_NS) if age_ns > 0 else IMPORTED_NS


class ColdStart:
    """The cold start of one bridge: its phases in order, without gaps, in CLOCK_MONOTONIC nanoseconds."""

    __slots__ = ("begun_ns", "marks", "ready_ns", "trace_id", "wall_offset_ns")

    def __init__(self, until_now: str = "bridge") -> None:
        """
        Begin with the process, if this is the first bridge of a young process, else now.

        Args:
            until_now: The phase from the import of tracedbridge until now.
        """
        global _claimed
        now_ns = time.monotonic_ns()
        # Wall clock minus monotonic: spans are placed by the first, all durations come from the second.
        self.wall_offset_ns = time.time_ns() - now_ns
        # Of the boot trace: what the app logs and traces before the first event carries it.
        self.trace_id = int.from_bytes(os.urandom(16), "big") or 1
        self.marks: list[tuple[str, int]] = []
        self.ready_ns: int | None = None
        self.begun_ns = now_ns
        if not _claimed:
            _claimed = True
            started_ns = process_started_ns()
            if now_ns - started_ns <= _MAX_AGE_NS:
                self.begun_ns = started_ns
                self.mark("interpreter", IMPORTED_NS)
        self.mark(until_now, now_ns)

    def mark(self, phase: str, at_ns: int | None = None) -> None:
        """Note that ``phase`` ended, now unless told; it began where the phase before it ended."""
        self.marks.append((phase, time.monotonic_ns() if at_ns is None else at_ns))

    def ready(self) -> None:
        """Note that the app can take its first event."""
        self.ready_ns = time.monotonic_ns()

    def phases(self) -> list[tuple[str, int, int]]:
        """Return name, begin and end of each phase, in CLOCK_MONOTONIC nanoseconds, in order."""
        phases = []
        begun_ns = self.begun_ns
        for phase, ended_ns in self.marks:
            phases.append((phase, begun_ns, ended_ns))
            begun_ns = ended_ns
        return phases
