"""
The boot record becomes spans, metrics and log fields: the cold start of one bridge, and whose it is.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal

from opentelemetry import trace as trace_api
from opentelemetry.context import Context
from opentelemetry.trace import SpanContext, TraceFlags

from tracedbridge.imports import Recording
from tracedbridge.telemetry.failures import fail
from tracedbridge.telemetry.ids import random_span_id, start_pinned
from tracedbridge.telemetry.importspans import ImportSpans

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from tracedbridge.boot import ColdStart
    from tracedbridge.settings import Settings
    from tracedbridge.telemetry.metrics import Labels, Metrics
    from tracedbridge.telemetry.points import Points

    ColdStartKind = Literal["on_demand", "proactive", "restored"]

__all__ = ("ColdStartStory",)

# Phases that are drawn as spans of their own; the others are attributes of the cold start.
_DRAWN = {"app_import": "import app", "lifespan": "lifespan startup"}


class ColdStartStory:
    """Tells one cold start: to the first invocation, or by itself."""

    def __init__(self, record: ColdStart, settings: Settings, kind: ColdStartKind | None, *, sampled: bool) -> None:
        """
        Args:
            record: What the bridge noted while it started.
            settings: How long an app may wait for its first event, and what is shown of its imports.
            kind: What the platform says; None where the wait decides.
            sampled: What the sampler says of the boot trace.
        """
        self._record = record
        self._settings = settings
        # The id is random, and says so where the API knows the bit, as the SDK does for roots.
        flags = TraceFlags((TraceFlags.SAMPLED if sampled else 0) | getattr(TraceFlags, "RANDOM_TRACE_ID", 0))
        # What the app's own spans from before the first event have as parent.
        self.boot = SpanContext(record.trace_id, random_span_id(), is_remote=False, trace_flags=flags)
        self._told_kind = kind
        self.kind: ColdStartKind = kind or "on_demand"
        # From ready to the first event, in nanoseconds.
        self._idle_ns = 0
        self._imports: ImportSpans | None = None
        self._failed_phase: str | None = None

    @property
    def has_lifespan(self) -> bool:
        """Whether the app has run a lifespan startup."""
        return self._record.background_tasks is not None

    @property
    def begun_wall_ns(self) -> int:
        """When it began, in nanoseconds since the epoch."""
        return self._wall(self._record.begun_ns)

    def record_imports(self) -> None:
        """Record from now on what is imported, until the first invocation has ended, or the load failed."""
        record = self._record
        if self._settings.imports == "off":
            record.imports = None
        else:
            record.imports = record.imports or Recording()
            record.imports.open()

    def end(self) -> None:
        """Note that nothing more belongs to it."""
        recording = self._record.imports
        if recording is not None and self._imports is None:
            recording.close()
            self._imports = ImportSpans(recording, self._settings, self._record.phase_at)

    def duration_s(self) -> float:
        """Return how long it took until the app was ready."""
        ready_ns = self._record.ready_ns or time.monotonic_ns()
        return (ready_ns - self._record.begun_ns) / 1e9

    def first_event(self, now_ns: int, now_wall_ns: int) -> ColdStartKind:
        """Note when the first event came (CLOCK_MONOTONIC, and since the epoch); return the kind that this makes it."""
        record = self._record
        # In a frozen process one of the clocks may have stood still.
        gaps_ns = (now_ns - (record.ready_ns or now_ns), now_wall_ns - (record.ready_wall_ns or now_wall_ns))
        self._idle_ns = max(0, *gaps_ns)
        if self._told_kind is None and self._idle_ns > self._settings.proactive_after_ms * 1e6:
            self.kind = "proactive"
        record.mark("wait", now_ns)
        return self.kind

    def first_byte(self, now_ns: int) -> None:
        """Note when the first response began (CLOCK_MONOTONIC)."""
        self._record.mark("first_byte", now_ns)

    def unasked(self) -> None:
        """Note that no event has come, and none will."""
        if self.kind == "on_demand":
            self.kind = "proactive"
        self.end()

    def failed(self) -> None:
        """Note that the load ended in an error."""
        self._failed_phase = self._record.mark_failure()
        self.end()

    def log_fields(self) -> dict[str, Any]:
        """Return its kind and its phases, in milliseconds, and how many modules it loaded."""
        fields: dict[str, Any] = {"cold_start_kind": self.kind, "cold_start_ms": round(self.duration_s() * 1e3, 3)}
        fields |= {f"{phase}_ms": round(seconds * 1e3, 3) for phase, seconds in self._phases()}
        if self.kind != "on_demand":
            fields["idle_ms"] = round(self._idle_ns / 1e6, 3)
        fields["modules"] = self._record.modules
        if self._record.background_tasks:
            fields["background_tasks"] = self._record.background_tasks
        return fields

    def draw(self, tracer: Tracer, context: Context | None, *, own_id: bool) -> Context:
        """
        Make the span ``cold start`` and its children; return the context with it.

        Args:
            tracer: Makes them.
            context: Holds their parent; None makes a trace of their own, the boot trace.
            own_id: Give ``cold start`` the id that the app's own early spans have as parent: it is in their trace.
        """
        return self._draw(tracer, context, own_id=own_id, error=None)

    def draw_first_imports(self, tracer: Tracer, context: Context) -> dict[str, int | float]:
        """Make the spans of what the first invocation imported, below its own; return their sum, attributes for it."""
        if self._imports is None:
            return {}
        self._imports.draw("first_byte", tracer, context, self._record.wall_offset_ns)
        return self._imports.summary("first_byte")

    def draw_startup(self, tracer: Tracer) -> None:
        """Make the root ``startup`` of the boot trace, for the app's own early spans that have no other."""
        span = start_pinned(
            tracer, "startup", trace_id=self.boot.trace_id, span_id=self.boot.span_id, context=Context(),
            start_time=self.begun_wall_ns,
        )  # fmt: skip
        span.end(self._wall(self._record.ready_ns))

    def draw_failure(self, tracer: Tracer, error: BaseException) -> Context:
        """Make the boot trace of a cold start that ended in an error; return the context with its root."""
        return self._draw(tracer, None, own_id=True, error=error)

    def draw_shutdown(self, tracer: Tracer, begun_wall_ns: int, took_ns: int, error: BaseException | None) -> Context:
        """Make the span ``lifespan shutdown``, a trace of its own; return the context with it."""
        span = tracer.start_span("lifespan shutdown", context=Context(), start_time=begun_wall_ns)
        if error is not None:
            fail(span, error, begun_wall_ns + took_ns)
        span.end(begun_wall_ns + took_ns)
        return trace_api.set_span_in_context(span)

    def measure(self, metrics: Metrics | Points, context: Context | None, error_type: str | None = None) -> None:
        """Record its metrics; ``error_type`` says what ended it, if it failed."""
        kind = {"tracedbridge.coldstart.kind": self.kind}
        values: list[tuple[str, float, Labels]] = [
            ("faas.coldstarts", 1, {"faas.trigger": "http", **kind}),
            ("faas.init_duration", self.duration_s(), {"faas.trigger": "http", **kind}),
            ("tracedbridge.coldstart.modules", self._record.modules, kind),
        ]
        for phase, seconds in self._phases():
            values.append(("tracedbridge.coldstart.phase.duration", seconds, {"phase": phase, **kind}))
        if "lifespan" in (durations_ns := self._record.durations_ns()):
            attributes = {"phase": "startup"} | ({} if error_type is None else {"error.type": error_type})
            values.append(("tracedbridge.lifespan.duration", durations_ns["lifespan"] / 1e9, attributes))
        if self._imports is not None:
            for package in self._imports.packages():
                attributes = {"package": package.name, "owner": package.owner}
                values.append(("tracedbridge.import.duration", package.self_ns / 1e9, attributes))
        metrics.record_all(values, context)

    def _phases(self) -> list[tuple[str, float]]:
        # The idle gap of a proactive start is nobody's waiting, and the invocation after it is no part of it.
        after = () if self.kind == "on_demand" else ("wait", "first_byte")
        return [
            (phase, duration_ns / 1e9)
            for phase, duration_ns in self._record.durations_ns().items()
            if phase not in after
        ]

    def _draw(self, tracer: Tracer, context: Context | None, *, own_id: bool, error: BaseException | None) -> Context:
        record = self._record
        attributes: dict[str, Any] = {
            "faas.coldstart": True,
            "tracedbridge.coldstart.kind": self.kind,
            "tracedbridge.coldstart.begins_with": record.begins_with,
        }
        for phase, duration_ns in record.durations_ns().items():
            if phase not in ("wait", "first_byte"):
                attributes[f"tracedbridge.coldstart.{phase}_ms"] = round(duration_ns / 1e6, 3)
        if self.kind != "on_demand":
            attributes["tracedbridge.coldstart.idle_ms"] = round(self._idle_ns / 1e6, 3)
        span = start_pinned(
            tracer, "cold start", trace_id=self.boot.trace_id, span_id=self.boot.span_id if own_id else None,
            # An empty context, and not None, which would be the current one.
            context=Context() if context is None else context, attributes=attributes, start_time=self.begun_wall_ns,
        )  # fmt: skip
        below = trace_api.set_span_in_context(span, context)
        for phase, begun_ns, ended_ns in record.phases():
            if phase in _DRAWN:
                self._draw_phase(tracer, below, phase, begun_ns, ended_ns, error)
        if self._imports is not None:
            # A phase too short for a span of its own, as a rule.
            self._imports.draw("app_resolve", tracer, below, record.wall_offset_ns)
        if error is not None:
            fail(span, error, self._wall(record.ready_ns))
        span.end(self._wall(record.ready_ns))
        return below

    def _draw_phase(
        self, tracer: Tracer, context: Context, phase: str, begun_ns: int, ended_ns: int, error: BaseException | None
    ) -> None:
        is_failed = error is not None and phase == self._failed_phase
        attributes: dict[str, Any] = {} if self._imports is None else dict(self._imports.summary(phase))
        if phase == "lifespan" and self._record.background_tasks is not None:
            attributes["tracedbridge.lifespan.background_tasks"] = self._record.background_tasks
        span = tracer.start_span(_DRAWN[phase], context=context, attributes=attributes, start_time=self._wall(begun_ns))
        if self._imports is not None:
            below = trace_api.set_span_in_context(span, context)
            self._imports.draw(phase, tracer, below, self._record.wall_offset_ns, failed=is_failed)
        if error is not None and is_failed:
            fail(span, error, self._wall(ended_ns))
        span.end(self._wall(ended_ns))

    def _wall(self, at_ns: int | None) -> int:
        return (time.monotonic_ns() if at_ns is None else at_ns) + self._record.wall_offset_ns
