"""Between a request's headers and the trace: the caller's context in, this invocation's ids on to the app."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from opentelemetry import propagate
from opentelemetry import trace as trace_api
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tracedbridge.telemetry.tracecontext import with_headers

if TYPE_CHECKING:
    from tracedbridge.messages import Headers, Request
    from tracedbridge.settings import Parent
    from tracedbridge.telemetry.current import Ids

__all__ = ("mend_no_propagation", "parent_of", "with_ids")


def parent_of(request: Request | None, worth: Parent) -> tuple[Context, trace_api.SpanContext | None]:
    """Return the context to start a span in, and the remote span to link, if it is worth a link only."""
    if worth == "ignore" or request is None or not request.has_any(_fields(propagate.get_global_textmap())):
        return Context(), None
    context = propagate.extract(request.event_headers, Context(), getter=_GETTER)
    if worth == "parent":
        return context, None
    remote = trace_api.get_current_span(context).get_span_context()
    # Baggage stays: it is the request's, not the trace's.
    context = trace_api.set_span_in_context(trace_api.INVALID_SPAN, context)
    return context, remote if remote.is_valid else None


def with_ids(request: Request, context: Context, root: Ids | None = None) -> Request:
    """
    Return the request with the context's trace headers in place of the caller's; it may be the same one.

    Args:
        request: As it came.
        context: With the span.
        root: The span's ids, if there is nothing but that span in the context, and the span is a root.
    """
    propagator = propagate.get_global_textmap()
    ours: Headers
    if root is not None and _is_w3c(propagator):
        ids = root.fields()
        ours = [("traceparent", f"00-{ids['trace_id']}-{ids['span_id']}-{root.flags:02x}")]
    else:
        ours = _injected(propagator, context)
    # Replaced, not added: frameworks that trace by themselves would read the caller's first.
    return with_headers(request, _fields(propagator), ours)


def _injected(propagator: Any, context: Context) -> Headers:
    # A context with nothing but a span: neither baggage nor anything else that a propagator knows.
    if len(context) == 1 and _is_w3c(propagator):
        span_context = trace_api.get_current_span(context).get_span_context()
        if span_context.is_valid and not span_context.trace_state:
            # What the propagators come to then, at a fifth of their cost. Source: W3C Trace Context, 3.2.
            ids = f"{span_context.trace_id:032x}-{span_context.span_id:016x}"
            return [("traceparent", f"00-{ids}-{span_context.trace_flags:02x}")]
    carrier: dict[str, str] = {}
    propagator.inject(carrier, context)
    return [(name.lower(), value) for name, value in carrier.items()]


@functools.lru_cache(maxsize=4)
def _is_w3c(propagator: Any) -> bool:
    """Say whether these are the propagators of the specification's default, or the first of them."""
    parts = [type(part) for part in getattr(propagator, "_propagators", ())]
    known = [TraceContextTextMapPropagator, W3CBaggagePropagator]
    return type(propagator) is CompositePropagator and parts in (known, known[:1])


def mend_no_propagation() -> None:
    """
    Have ``OTEL_PROPAGATORS=none`` give a context.

    The API's propagator gives None then, and FastAPI, given any provider, fails on every request.
    """
    current = propagate.get_global_textmap()
    if isinstance(current, CompositePropagator) and not current.fields:
        propagate.set_global_textmap(_NoPropagation([]))


class _NoPropagation(CompositePropagator):
    def extract(self, carrier: Any, context: Context | None = None, getter: Any = None) -> Context:
        del carrier, getter
        return Context() if context is None else context


class _HeadersGetter(Getter[list[tuple[str, str]]]):
    def get(self, carrier: list[tuple[str, str]], key: str) -> list[str] | None:
        name = key.lower()
        values = [value for each, value in carrier if each == name]
        # Of a repeated header the propagators read the first value only: that would be half of the baggage.
        return [",".join(values)] if values else None

    def keys(self, carrier: list[tuple[str, str]]) -> list[str]:
        return [name for name, _ in carrier]


_GETTER = _HeadersGetter()


@functools.lru_cache(maxsize=4)
def _fields(propagator: Any) -> frozenset[str]:
    return frozenset(field.lower() for field in propagator.fields)
