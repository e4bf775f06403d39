"""
The SERVER span of an invocation: a stand-in while it runs, unless the app's provider or sampler must see it begin.

Needs the API only. The SDK's span, which costs several times as much, is made of it when there is time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry import context as context_api
from opentelemetry import trace as trace_api
from opentelemetry.trace import Link, SpanKind

from tracedbridge.telemetry.current import RANDOM, SAMPLED, Ids
from tracedbridge.telemetry.ids import span_context_of, start_pinned
from tracedbridge.telemetry.propagation import parent_of, with_ids
from tracedbridge.telemetry.standins import StandInSpan
from tracedbridge.telemetry.tracecontext import random_ids

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

    from tracedbridge.messages import Request
    from tracedbridge.telemetry.attributes import Attributes
    from tracedbridge.telemetry.middleware import Middleware
    from tracedbridge.telemetry.watch import Watch

__all__ = (
    "begin", "catch_up", "enter_boot", "leave", "leave_boot", "method_of", "open_span", "span_name",
)  # fmt: skip

_EMPTY = context_api.Context()


def open_span(watch: Watch, request: Request, middleware: Middleware, tracer: Tracer | None) -> None:
    """
    Open an invocation's span and make it current, and have the request tell its ids to the app.

    Args:
        watch: Of the invocation.
        request: As it came.
        middleware: Of the bridge.
        tracer: Makes the span at once; None is a stand-in.
    """
    watch.parent, link = parent_of(request, middleware.settings.parent)
    if link is not None:
        watch.link = link
    if tracer is None:
        watch.span = _stand_in(watch, middleware, method_of(request, middleware.known_methods))
    else:
        watch.tracer = tracer
        watch.span = begin(watch, tracer, middleware, middleware.attributes_of(request))
        span_context = watch.span.get_span_context()
        watch.ids = Ids(span_context.trace_id, span_context.span_id, int(span_context.trace_flags))
    watch.context = trace_api.set_span_in_context(watch.span, watch.parent)
    watch.attached = context_api.attach(watch.context)
    # Without a parent there is nothing in the context but this span.
    watch.request = with_ids(request, watch.context, watch.ids if not watch.parent else None)


def leave(watch: Watch) -> None:
    """Make the span of an invocation current no more."""
    if watch.attached is not None:
        try:
            # Not by detach(), which writes an error where a server has closed the response in another context.
            context_api._RUNTIME_CONTEXT.detach(watch.attached)
        except ValueError:
            return
    elif watch.span is not None and trace_api.get_current_span() is watch.span:
        # Made current in the middle of it, by `catch_up`.
        context_api.attach(_EMPTY)


def catch_up(middleware: Middleware, watch: Watch | None, boot: Ids | None) -> None:
    """Make current what would be, had the API been there before: a running invocation's span, or the boot trace."""
    if trace_api.get_current_span().get_span_context().is_valid:
        return
    if watch is not None and watch.asked is not None and watch.ids is not None and not watch.ended_ns:
        watch.parent, watch.link = parent_of(watch.asked, middleware.settings.parent)
        watch.span = _stand_in(watch, middleware, method_of(watch.asked, middleware.known_methods))
        watch.context = trace_api.set_span_in_context(watch.span, watch.parent)
        context_api.attach(watch.context)
    elif boot is not None:
        enter_boot(boot)


def enter_boot(boot: Ids) -> Any:
    """Make the boot trace current; return what `leave_boot` takes."""
    span = trace_api.NonRecordingSpan(span_context_of(boot))
    return context_api.attach(trace_api.set_span_in_context(span))


def leave_boot(token: Any, boot: Ids) -> None:
    """Make it current no more; without a token it became so in the middle of the load."""
    if token is not None:
        context_api.detach(token)
    elif trace_api.get_current_span().get_span_context().span_id == boot.span_id:
        context_api.attach(_EMPTY)


def begin(watch: Watch, tracer: Tracer, middleware: Middleware, attributes: Attributes) -> Span:
    """Start the real span of an invocation, with these attributes and more, links, and its ids if they are known."""
    story = watch.story
    told: dict[str, Any] = attributes
    told["faas.trigger"] = "http"
    told["faas.coldstart"] = story is not None
    told["faas.invocation_id"] = watch.id
    links = [] if watch.link is None else [Link(watch.link)]
    begun_wall_ns, trace_id, span_id = watch.begun_wall_ns, None, None
    if story is not None:
        told["tracedbridge.coldstart.kind"] = story.kind
        if story.kind == "on_demand":
            begun_wall_ns, trace_id = story.begun_wall_ns, story.boot.trace_id
        # Never to the span's own trace: Jaeger would take the link for a parent.
        if story.kind != "on_demand" or trace_api.get_current_span(watch.parent).get_span_context().is_valid:
            links.append(Link(span_context_of(story.boot)))
    if watch.ids is not None:
        trace_id, span_id = watch.ids.trace_id, watch.ids.span_id
    return start_pinned(
        tracer, span_name(method_of(watch.asked, middleware.known_methods), None), trace_id=trace_id, span_id=span_id,
        context=_EMPTY if watch.parent is None else watch.parent, kind=SpanKind.SERVER, attributes=told, links=links,
        start_time=begun_wall_ns,
    )  # fmt: skip


def method_of(request: Request | None, known: frozenset[str]) -> str:
    """Return the method as attributes have it; ``_OTHER`` where the event held no request."""
    return request.method if request is not None and request.method in known else "_OTHER"


def span_name(method: str, route: str | None) -> str:
    """Return the name of a SERVER span; the conventions' word for a method that they do not know is HTTP."""
    name = "HTTP" if method == "_OTHER" else method
    return name if route is None else f"{name} {route}"


def _stand_in(watch: Watch, middleware: Middleware, method: str) -> Span:
    parent = trace_api.get_current_span(watch.parent).get_span_context()
    story, begun_wall_ns = watch.story, watch.begun_wall_ns
    is_first = story is not None and story.kind == "on_demand"
    if story is not None and is_first:
        begun_wall_ns = story.begun_wall_ns
    state = parent.trace_state if parent.is_valid else None
    if watch.ids is None:
        trace_id, span_id = random_ids()
        flags, parent_sampled = RANDOM, None
        if parent.is_valid:
            trace_id, flags, parent_sampled = parent.trace_id, parent.trace_flags & RANDOM, parent.trace_flags.sampled
        elif story is not None and is_first:
            trace_id = story.boot.trace_id
        watch.ids = Ids(trace_id, span_id, flags | (SAMPLED if middleware.sampling(trace_id, parent_sampled) else 0))
    span_context = span_context_of(watch.ids, state)
    if not watch.ids.flags & SAMPLED:
        return trace_api.NonRecordingSpan(span_context)
    return StandInSpan(
        span_name(method, None), span_context, watch.parent, SpanKind.SERVER, None, (), begun_wall_ns,
        parent=parent if parent.is_valid else None,
    )  # fmt: skip
