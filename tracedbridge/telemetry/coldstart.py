"""
The boot record becomes spans, metrics and log fields: the cold start of one bridge, and whose it is.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from opentelemetry import trace as trace_api
from opentelemetry.context import Context

from tracedbridge.telemetry.failures import fail
from tracedbridge.telemetry.ids import span_context_of, start_pinned
from tracedbridge.telemetry.importspans import ImportSpans

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext, Tracer

    from tracedbridge.telemetry.metrics import Labels, Metrics
    from tracedbridge.telemetry.points import Points
    from tracedbridge.telemetry.story import ColdStartKind, Story

__all__ = ("ColdStartStory",)

# Phases that are drawn as spans of their own; the others are attributes of the cold start.
_DRAWN = {"app_import": "import app", "lifespan": "lifespan startup"}


class ColdStartStory:
    """Tells one cold start: to the first invocation, or by itself."""

    def __init__(self, story: Story) -> None:
        """Tell what is known of it, which goes on being written."""
        self._story = story
        self._record = story.record
        self._drawn: ImportSpans | None = None

    @property
    def kind(self) -> ColdStartKind:
        """Its kind, which the first event may change."""
        return self._story.kind

    @property
    def boot(self) -> SpanContext:
        """What the app's own spans from before the first event have as parent."""
        return span_context_of(self._story.boot)

    def duration_s(self) -> float:
        """Return how long it took until the app was ready, in seconds."""
        ready_ns = self._record.ready_ns or time.monotonic_ns()
        return (ready_ns - self._record.begun_ns) / 1e9

    def log_fields(self) -> dict[str, Any]:
        """Return its kind and its phases, in milliseconds, and how many modules it loaded."""
        fields: dict[str, Any] = {"cold_start_kind": self.kind, "cold_start_ms": round(self.duration_s() * 1e3, 3)}
        fields |= {f"{phase}_ms": round(seconds * 1e3, 3) for phase, seconds in self._phases()}
        if self.kind != "on_demand":
            fields["idle_ms"] = round(self._story.idle_ns / 1e6, 3)
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
            start_time=self._story.begun_wall_ns,
        )  # fmt: skip
        span.end(self._story.wall_ns(self._record.ready_ns))

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
            attributes["tracedbridge.coldstart.idle_ms"] = round(self._story.idle_ns / 1e6, 3)
        span = start_pinned(
            tracer, "cold start", trace_id=self.boot.trace_id, span_id=self.boot.span_id if own_id else None,
            # An empty context, and not None, which would be the current one.
            context=Context() if context is None else context, attributes=attributes,
            start_time=self._story.begun_wall_ns,
        )  # fmt: skip
        below = trace_api.set_span_in_context(span, context)
        for phase, begun_ns, ended_ns in record.phases():
            if phase in _DRAWN:
                self._draw_phase(tracer, below, phase, begun_ns, ended_ns, error)
        if self._imports is not None:
            # A phase too short for a span of its own, as a rule.
            self._imports.draw("app_resolve", tracer, below, record.wall_offset_ns)
        if error is not None:
            fail(span, error, self._story.wall_ns(record.ready_ns))
        span.end(self._story.wall_ns(record.ready_ns))
        return below

    def _draw_phase(
        self, tracer: Tracer, context: Context, phase: str, begun_ns: int, ended_ns: int, error: BaseException | None
    ) -> None:
        is_failed = error is not None and phase == self._story.failed_phase
        attributes: dict[str, Any] = {} if self._imports is None else dict(self._imports.summary(phase))
        if phase == "lifespan" and self._record.background_tasks is not None:
            attributes["tracedbridge.lifespan.background_tasks"] = self._record.background_tasks
        span = tracer.start_span(
            _DRAWN[phase], context=context, attributes=attributes, start_time=self._story.wall_ns(begun_ns)
        )
        if self._imports is not None:
            below = trace_api.set_span_in_context(span, context)
            self._imports.draw(phase, tracer, below, self._record.wall_offset_ns, failed=is_failed)
        if error is not None and is_failed:
            fail(span, error, self._story.wall_ns(ended_ns))
        span.end(self._story.wall_ns(ended_ns))

    @property
    def _imports(self) -> ImportSpans | None:
        recording = self._record.imports
        if recording is not None and self._drawn is None:
            recording.close()
            self._drawn = ImportSpans(recording, self._story.settings, self._record.phase_at)
        return self._drawn
