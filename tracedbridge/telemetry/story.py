"""What is known of one cold start: its record, its kind, and the ids of its boot trace; told when there is time."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from tracedbridge.imports import Recording
from tracedbridge.telemetry.current import RANDOM, SAMPLED, Ids

if TYPE_CHECKING:
    from typing import Literal

    from tracedbridge.boot import ColdStart
    from tracedbridge.settings import Settings

    ColdStartKind = Literal["on_demand", "proactive", "restored"]

__all__ = ("Story",)


class Story:
    """One cold start, while it happens."""

    def __init__(self, record: ColdStart, settings: Settings, kind: ColdStartKind | None, *, sampled: bool) -> None:
        """
        Args:
            record: What the bridge notes while it starts.
            settings: How long an app may wait for its first event, and whether its imports are recorded.
            kind: What the platform says; None where the wait decides.
            sampled: What the sampler says of the boot trace.
        """
        self.record = record
        self.settings = settings
        # What the app's own spans from before the first event have as parent.
        self.boot = Ids(record.trace_id, _random_id(), (SAMPLED if sampled else 0) | RANDOM)
        self.kind: ColdStartKind = kind or "on_demand"
        # From ready to the first event, in nanoseconds.
        self.idle_ns = 0
        self.failed_phase: str | None = None
        self._told_kind = kind

    @property
    def has_lifespan(self) -> bool:
        """Whether the app has run a lifespan startup."""
        return self.record.background_tasks is not None

    @property
    def begun_wall_ns(self) -> int:
        """When it began, in nanoseconds since the epoch."""
        return self.wall_ns(self.record.begun_ns)

    def wall_ns(self, at_ns: int | None) -> int:
        """Return a moment (CLOCK_MONOTONIC; None is now) in nanoseconds since the epoch."""
        return (time.monotonic_ns() if at_ns is None else at_ns) + self.record.wall_offset_ns

    def record_imports(self) -> Recording | None:
        """
        Record from now on what is imported, until the first invocation has ended, or the load failed.

        Returns:
            What records; None if that is switched off, or another one does.
        """
        record = self.record
        if self.settings.imports == "off":
            record.imports = None
            return None
        record.imports = record.imports or Recording()
        return record.imports if record.imports.open() else None

    def end(self) -> None:
        """Note that nothing more belongs to it."""
        if self.record.imports is not None:
            self.record.imports.close()

    def first_event(self, now_ns: int, now_wall_ns: int) -> None:
        """Note when the first event came (CLOCK_MONOTONIC, and since the epoch), and the kind that this makes it."""
        record = self.record
        # In a frozen process one of the clocks may have stood still.
        gaps_ns = (now_ns - (record.ready_ns or now_ns), now_wall_ns - (record.ready_wall_ns or now_wall_ns))
        self.idle_ns = max(0, *gaps_ns)
        if self._told_kind is None and self.idle_ns > self.settings.proactive_after_ms * 1e6:
            self.kind = "proactive"
        record.mark("wait", now_ns)

    def first_byte(self, now_ns: int) -> None:
        """Note when the first response began (CLOCK_MONOTONIC)."""
        self.record.mark("first_byte", now_ns)

    def unasked(self) -> None:
        """Note that no event has come, and none will."""
        if self.kind == "on_demand":
            self.kind = "proactive"
        self.end()

    def failed(self) -> None:
        """Note that the load ended in an error."""
        self.failed_phase = self.record.mark_failure()
        self.end()


def _random_id() -> int:
    return int.from_bytes(os.urandom(8), "big") or 1
