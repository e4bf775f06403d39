"""
Ids of traces and spans: what is current, what is current before the first event, and ids that we choose ourselves.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from opentelemetry import context as context_api
from opentelemetry import trace as trace_api
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator

if TYPE_CHECKING:
    from opentelemetry.context import Context

__all__ = ("PinnedIds", "context_now", "current_ids", "random_span_id", "start_boot", "start_pinned", "stop_boot")

# Ids of the boot trace, until the first event comes; threads that the app starts while it is imported have no
# context of ours, but their log lines belong to it all the same.
_boot: list[trace_api.SpanContext] = []


def start_boot(context: trace_api.SpanContext) -> None:
    """Have what has no span of its own carry these ids."""
    _boot.append(context)


def stop_boot(context: trace_api.SpanContext) -> None:
    """Have it carry none again."""
    if context in _boot:
        _boot.remove(context)


def current_ids(context: Context | None = None) -> tuple[str, str] | None:
    """Return trace and span id as hex, of the current span or the boot trace."""
    span_context = trace_api.get_current_span(context).get_span_context()
    if not span_context.is_valid:
        if not _boot:
            return None
        span_context = _boot[-1]
    return f"{span_context.trace_id:032x}", f"{span_context.span_id:016x}"


def context_now() -> Context:
    """Return the current context, with the boot trace where it has no span and the first event has not come."""
    context = context_api.get_current()
    if _boot and not trace_api.get_current_span(context).get_span_context().is_valid:
        return trace_api.set_span_in_context(trace_api.NonRecordingSpan(_boot[-1]), context)
    return context


class PinnedIds(IdGenerator):
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
) -> trace_api.Span:
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
        span: trace_api.Span = tracer.start_span(name, **kwargs)
    finally:
        if pinned is not None:
            pinned.trace_id = pinned.span_id = None
    return span


def random_span_id() -> int:
    """Return a new span id."""
    return RandomIdGenerator().generate_span_id()
