"""
The boot record: when this process began and when each phase of the cold start ended.

Loaded first and kept to the standard library's cheapest modules: its import is part of what it measures.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Literal

    from tracedbridge.imports import Recording

    Beginning = Literal["process", "platform", "tracedbridge", "bridge", "restore"]

__all__ = ("IMPORTED_NS", "MAX_LOAD_NS", "ColdStart", "first_of_process", "is_young", "process_started")

# CLOCK_MONOTONIC at the first line of tracedbridge that ran.
IMPORTED_NS = time.monotonic_ns()

# A process that is older than this when tracedbridge is imported was up for other reasons (a test run, a
# notebook, a server): its age is no cold start. The longest init that a platform allows is 10 s (Lambda).
_MAX_AGE_NS = 10_000_000_000
# And one that makes its first bridge so much later did something else in between.
MAX_LOAD_NS = 60_000_000_000

_first: ColdStart | None = None


def process_started() -> tuple[int, Beginning]:
    """
    Tell when this process began, in CLOCK_MONOTONIC nanoseconds, and who says so.

    ``"platform"``: Vercel's variable. ``"process"``: the kernel, within half a clock tick (5 ms). ``"tracedbridge"``:
    nobody, as on macOS; then it is the first line of tracedbridge, the earliest moment that we know.

    Source: proc(5), field 22 of ``/proc/self/stat``, in ticks since boot.
    """
    told_ms = os.environ.get("__VC_PY_BOOT_START_MS", "")
    try:
        told_ns = int(float(told_ms) * 1e6)
    except (ValueError, OverflowError):
        told_ns = 0
    if 0 < told_ns <= IMPORTED_NS:
        return told_ns, "platform"
    try:
        with open("/proc/self/stat", "rb") as stat:
            # The command name may hold spaces and brackets: count from its last bracket.
            ticks = int(stat.read().rpartition(b")")[2].split()[19])
        tick_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
        # The kernel rounds down; the middle of the tick is wrong by half as much.
        age_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - ticks * tick_ns - tick_ns // 2
        started_ns = time.monotonic_ns() - age_ns
    except (OSError, ValueError, IndexError, AttributeError):
        return IMPORTED_NS, "tracedbridge"
    if started_ns > IMPORTED_NS:
        # A container may be given another boot time than its clock's.
        return IMPORTED_NS, "tracedbridge"
    return started_ns, "process"


def is_young() -> bool:
    """Say whether a bridge that is made now would have the process's own cold start."""
    return _young_start() is not None


def _young_start() -> tuple[int, Beginning] | None:
    if _first is not None or time.monotonic_ns() - IMPORTED_NS > MAX_LOAD_NS:
        return None
    started = process_started()
    is_young = started[1] == "platform" or IMPORTED_NS - started[0] <= _MAX_AGE_NS
    return started if is_young else None


def first_of_process() -> ColdStart | None:
    """Return the cold start that began with the process, if there was one."""
    return _first


class ColdStart:
    """
    The cold start of one bridge: its phases in order, without gaps, in CLOCK_MONOTONIC nanoseconds.

    Its parts are noted by whoever knows them, and read when it is over.
    """

    __slots__ = (
        "background_tasks", "begins_with", "begun_ns", "imports", "marks", "modules", "ready_ns", "ready_wall_ns",
        "trace_id", "wall_offset_ns",
    )  # fmt: skip

    def __init__(self, until_now: str = "bridge") -> None:
        """
        Begin with the process, if this is the first bridge of a young process, else now.

        Args:
            until_now: The phase from the import of tracedbridge until now.
        """
        global _first
        now_ns = time.monotonic_ns()
        # Wall clock minus monotonic: spans are placed by the first, all durations come from the second.
        self.wall_offset_ns = time.time_ns() - now_ns
        # Of the boot trace: what the app logs and traces before the first event carries it.
        self.trace_id = int.from_bytes(os.urandom(16), "big") or 1
        self.marks: list[tuple[str, int]] = []
        self.ready_ns: int | None = None
        self.ready_wall_ns: int | None = None
        # How many were loaded then, our own included.
        self.modules = 0
        self.imports: Recording | None = None
        # Tasks that lifespan startup left running, where there was one.
        self.background_tasks: int | None = None
        self.begun_ns = now_ns
        self.begins_with: Beginning = "bridge"
        started = _young_start()
        if started is not None:
            _first = self
            self.begun_ns, self.begins_with = started
            self.mark("interpreter", IMPORTED_NS)
        self.mark(until_now, now_ns)

    @classmethod
    def of_restore(cls) -> ColdStart:
        """Begin now, after a snapshot of this process was restored."""
        cold_start = cls("restore")
        cold_start.marks.clear()
        cold_start.begins_with = "restore"
        return cold_start

    def mark(self, phase: str, at_ns: int | None = None) -> None:
        """Note that ``phase`` ended, now unless told; it began where the phase before it ended."""
        self.marks.append((phase, time.monotonic_ns() if at_ns is None else at_ns))

    def mark_failure(self) -> str:
        """Note that the phase that was running ended in an error, now, and return its name."""
        done = {phase for phase, _ in self.marks}
        failed = next(phase for phase in ("app_import", "app_resolve", "lifespan") if phase not in done)
        self.mark(failed)
        self.ready()
        return failed

    def ready(self) -> None:
        """Note that the app can take its first event."""
        # The end of the last phase, so that the phases add up to the whole.
        self.ready_ns = self.marks[-1][1] if self.marks else time.monotonic_ns()
        self.ready_wall_ns = time.time_ns()
        self.modules = len(sys.modules)

    def phases(self) -> list[tuple[str, int, int]]:
        """Return name, begin and end of each phase, in CLOCK_MONOTONIC nanoseconds, in order."""
        phases = []
        begun_ns = self.begun_ns
        for phase, ended_ns in self.marks:
            phases.append((phase, begun_ns, ended_ns))
            begun_ns = ended_ns
        return phases

    def durations_ns(self) -> dict[str, int]:
        """Return how long each phase took, in order; what came in two parts is added up."""
        durations: dict[str, int] = {}
        for phase, begun_ns, ended_ns in self.phases():
            durations[phase] = durations.get(phase, 0) + ended_ns - begun_ns
        return durations

    def phase_at(self, at_ns: int) -> str | None:
        """Return the phase that a moment (CLOCK_MONOTONIC) is in, or None after the last."""
        return next((phase for phase, begun_ns, ended_ns in self.phases() if begun_ns <= at_ns < ended_ns), None)
