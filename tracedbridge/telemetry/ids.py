"""Ids of spans that we choose ourselves, and the API's form of ids that were chosen before it was loaded."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import SpanContext, TraceFlags, TraceState

from tracedbridge.telemetry.current import SAMPLED

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from tracedbridge.telemetry.current import Ids

__all__ = ("PinnedIds", "span_context_of", "start_pinned")

# Not of every version of the API that we allow.
_KNOWN_FLAGS = SAMPLED | getattr(TraceFlags, "RANDOM_TRACE_ID", 0)


def span_context_of(ids: Ids, state: TraceState | None = None) -> SpanContext:
    """Return the context of a span in this process that has these ids."""
    return SpanContext(ids.trace_id, ids.span_id, False, TraceFlags(ids.flags & _KNOWN_FLAGS), state)


class PinnedIds:
    """Gives the ids that `start_pinned` wants on this thread, and otherwise those of another generator."""

    def __init__(self, otherwise: Any) -> None:
        """Ask ``otherwise`` where nothing is pinned."""
        self._otherwise = otherwise
        self.next = threading.local()

    def generate_trace_id(self) -> int:
        """Return the pinned trace id, else a new one."""
        return getattr(self.next, "trace_id", None) or int(self._otherwise.generate_trace_id())

    def generate_span_id(self) -> int:
        """Return the pinned span id, else a new one."""
        return getattr(self.next, "span_id", None) or int(self._otherwise.generate_span_id())

    def is_trace_id_random(self) -> bool:
        """Say whether the other generator's trace ids are random; ours are."""
        return bool(getattr(self._otherwise, "is_trace_id_random", lambda: True)())


def start_pinned(
    tracer: Any, name: str, *, trace_id: int | None = None, span_id: int | None = None, **kwargs: Any
) -> Span:
    """
    Start a span with ids that we choose; a tracer that is not of the SDK gives its own.

    Args:
        tracer: Of ours.
        name: Of the span.
        trace_id: Its trace, if it has no parent.
        span_id: Its id.
        kwargs: As for the API's ``start_span``.
    """
    pinned = None
    if hasattr(tracer, "id_generator"):
        if not isinstance(tracer.id_generator, PinnedIds):
            # Of the tracer, which is ours alone, and not of the provider, which may be the app's.
            tracer.id_generator = PinnedIds(tracer.id_generator)
        pinned = tracer.id_generator.next
        pinned.trace_id, pinned.span_id = trace_id, span_id
    try:
        span: Span = tracer.start_span(name, **kwargs)
    finally:
        if pinned is not None:
            pinned.trace_id = pinned.span_id = None
    return span
