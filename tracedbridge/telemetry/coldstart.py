"""
The boot record becomes spans, metrics and log fields: the cold start of one bridge, and whose it is.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal

from opentelemetry import trace as trace_api
from opentelemetry.context import Context
from opentelemetry.trace import SpanContext, TraceFlags

from tracedbridge.telemetry.failures import fail
from tracedbridge.telemetry.ids import random_span_id, start_pinned

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from tracedbridge.boot import ColdStart
    from tracedbridge.telemetry.metrics import Metrics
    from tracedbridge.telemetry.points import Points

    ColdStartKind = Literal["on_demand", "proactive"]

__all__ = ("ColdStartStory",)

# Phases that are drawn as spans of their own; the others are attributes of the cold start.
_DRAWN = {"app_import": "import app", "lifespan": "lifespan startup"}


class ColdStartStory:
    """Tells one cold start: to the first invocation, or by itself."""

    def __init__(self, record: ColdStart, proactive_after_ms: float, *, sampled: bool) -> None:
        """
        Args:
            record: What the bridge noted while it started.
            proactive_after_ms: An app that was ready for longer before its first event was started ahead of it.
            sampled: What the sampler says of the boot trace.
        """
        self._record = record
        self._proactive_after_ns = int(proactive_after_ms * 1e6)
        # The id is random, and says so where the API knows the bit, as the SDK does for roots.
        flags = TraceFlags((TraceFlags.SAMPLED if sampled else 0) | getattr(TraceFlags, "RANDOM_TRACE_ID", 0))
        # What the app's own spans from before the first event have as parent.
        self.boot = SpanContext(record.trace_id, random_span_id(), is_remote=False, trace_flags=flags)
        self.kind: ColdStartKind = "on_demand"

    @property
    def has_lifespan(self) -> bool:
        """Whether the app has run a lifespan startup."""
        return any(phase == "lifespan" for phase, _ in self._record.marks)

    @property
    def begun_wall_ns(self) -> int:
        """When it began, in nanoseconds since the epoch."""
        return self._wall(self._record.begun_ns)

    def duration_s(self) -> float:
        """Return how long it took until the app was ready."""
        ready_ns = self._record.ready_ns or time.monotonic_ns()
        return (ready_ns - self._record.begun_ns) / 1e9

    def first_event(self, now_ns: int) -> ColdStartKind:
        """Note when the first event came (CLOCK_MONOTONIC) and return the kind that this makes it."""
        waited_ns = now_ns - (self._record.ready_ns or now_ns)
        self.kind = "proactive" if waited_ns > self._proactive_after_ns else "on_demand"
        self._record.mark("wait", now_ns)
        return self.kind

    def first_byte(self, now_ns: int) -> None:
        """Note when the first response began (CLOCK_MONOTONIC)."""
        self._record.mark("first_byte", now_ns)

    def log_fields(self) -> dict[str, Any]:
        """Return its kind and its phases, in milliseconds."""
        return {
            "cold_start_kind": self.kind,
            "cold_start_ms": round(self.duration_s() * 1e3, 3),
            **{f"{phase}_ms": round(seconds * 1e3, 3) for phase, seconds in self._phases()},
        }

    def draw(self, tracer: Tracer, context: Context | None, *, own_id: bool) -> None:
        """
        Make the span ``cold start`` and its children.

        Args:
            tracer: Makes them.
            context: Holds their parent; None makes a trace of their own, the boot trace.
            own_id: Give ``cold start`` the id that the app's own early spans have as parent: it is in their trace.
        """
        self._draw(tracer, context, own_id=own_id, error=None)

    def draw_startup(self, tracer: Tracer) -> None:
        """Make the root ``startup`` of the boot trace, for the app's own early spans that have no other."""
        span = start_pinned(
            tracer, "startup", trace_id=self.boot.trace_id, span_id=self.boot.span_id, context=Context(),
            start_time=self.begun_wall_ns,
        )  # fmt: skip
        span.end(self._wall(self._record.ready_ns))

    def draw_failure(self, tracer: Tracer, error: BaseException) -> None:
        """Make the boot trace of a cold start that ended in an error."""
        self._draw(tracer, None, own_id=True, error=error)

    def draw_shutdown(self, tracer: Tracer, begun_wall_ns: int, took_ns: int, error: BaseException | None) -> Context:
        """Make the span ``lifespan shutdown``, a trace of its own; return the context with it."""
        span = tracer.start_span("lifespan shutdown", context=Context(), start_time=begun_wall_ns)
        if error is not None:
            fail(span, error, begun_wall_ns + took_ns)
        span.end(begun_wall_ns + took_ns)
        return trace_api.set_span_in_context(span)

    def measure(self, metrics: Metrics | Points, context: Context | None) -> None:
        """Record its metrics."""
        kind = {"tracedbridge.coldstart.kind": self.kind}
        metrics.record("faas.coldstarts", 1, context, {"faas.trigger": "http", **kind})
        metrics.record("faas.init_duration", self.duration_s(), context, {"faas.trigger": "http", **kind})
        for phase, seconds in self._phases():
            metrics.record("tracedbridge.coldstart.phase.duration", seconds, context, {"phase": phase, **kind})
            if phase == "lifespan":
                metrics.record("tracedbridge.lifespan.duration", seconds, context, {"phase": "startup"})

    def _phases(self) -> list[tuple[str, float]]:
        # The idle gap of a proactive start is nobody's waiting.
        return [
            (phase, (ended_ns - begun_ns) / 1e9)
            for phase, begun_ns, ended_ns in self._record.phases()
            if not (phase == "wait" and self.kind == "proactive")
        ]

    def _draw(self, tracer: Tracer, context: Context | None, *, own_id: bool, error: BaseException | None) -> None:
        attributes: dict[str, Any] = {"faas.coldstart": True, "tracedbridge.coldstart.kind": self.kind}
        phases = self._record.phases()
        for phase, begun_ns, ended_ns in phases:
            if phase not in ("wait", "first_byte"):
                attributes[f"tracedbridge.coldstart.{phase}_ms"] = round((ended_ns - begun_ns) / 1e6, 3)
        span = start_pinned(
            tracer, "cold start", trace_id=self.boot.trace_id, span_id=self.boot.span_id if own_id else None,
            # An empty context, and not None, which would be the current one.
            context=Context() if context is None else context, attributes=attributes, start_time=self.begun_wall_ns,
        )  # fmt: skip
        below = trace_api.set_span_in_context(span)
        for phase, begun_ns, ended_ns in phases:
            if phase in _DRAWN:
                child = tracer.start_span(_DRAWN[phase], context=below, start_time=self._wall(begun_ns))
                child.end(self._wall(ended_ns))
        ended = self._record.ready_ns or time.monotonic_ns()
        if error is not None:
            last = phases[-1][2] if phases else self._record.begun_ns
            failed = _failed_phase([phase for phase, _, _ in phases])
            if failed is not None:
                child = tracer.start_span(failed, context=below, start_time=self._wall(last))
                fail(child, error, self._wall(ended))
                child.end(self._wall(ended))
            fail(span, error, self._wall(ended))
        span.end(self._wall(ended))

    def _wall(self, at_ns: int | None) -> int:
        return (time.monotonic_ns() if at_ns is None else at_ns) + self._record.wall_offset_ns


def _failed_phase(phases: list[str]) -> str | None:
    if "app_resolve" in phases:
        return "lifespan startup"
    return None if "app_import" in phases else "import app"
