"""
The SERVER span of an invocation: a stand-in while it runs, unless the app's provider or sampler must see it begin.
Where somebody traces around the app already, it is his.

Needs the API only. The SDK's span, which costs several times as much, is made of it when there is time.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from opentelemetry import context as context_api
from opentelemetry import trace as trace_api
from opentelemetry.trace import Link, SpanKind

from tracedbridge.telemetry.current import RANDOM, SAMPLED, Ids
from tracedbridge.telemetry.failures import type_of
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
    "begin", "catch_up", "enter_boot", "leave", "leave_boot", "method_of", "open_span", "span_name", "tell_joined",
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
    if watch.is_streamed and (around := _span_around(watch, middleware)) is not None:
        _join(watch, request, middleware, around)
        return
    watch.parent, link = parent_of(request, watch.worth or middleware.settings.parent)
    if link is not None:
        watch.link = link
    if tracer is None:
        watch.span = _stand_in(watch, middleware, name_of(watch, middleware))
    else:
        watch.tracer = tracer
        watch.span = begin(watch, tracer, middleware, {} if watch.asked is None else middleware.attributes_of(request))
        span_context = watch.span.get_span_context()
        watch.ids = Ids(span_context.trace_id, span_context.span_id, int(span_context.trace_flags))
    watch.context = trace_api.set_span_in_context(watch.span, watch.parent)
    watch.attached = context_api.attach(watch.context)
    # Without a parent there is nothing in the context but this span.
    watch.request = with_ids(request, watch.context, watch.ids if not watch.parent else None)


def _span_around(watch: Watch, middleware: Middleware) -> Span | None:
    """Return the SERVER span that somebody has made current around a streamed invocation; None if nobody has."""
    span: Any = trace_api.get_current_span()
    span_context = span.get_span_context()
    if not span_context.is_valid or span_context.is_remote or span_context.span_id == middleware.story.boot.span_id:
        return None
    if watch.outer is not None and (watch.outer.span is span or not watch.outer.ended_ns):
        # Ours, left behind on this thread by a server that has closed the response elsewhere; or that of a request
        # which asks this app in this process, and is another one.
        return None
    if isinstance(span, trace_api.NonRecordingSpan):
        # Not sampled, whatever its kind: neither is this.
        return span
    is_server = getattr(span, "kind", None) is SpanKind.SERVER and span.is_recording()
    return span if is_server else None


def _join(watch: Watch, request: Request, middleware: Middleware, span: Span) -> None:
    watch.is_joined = True
    watch.span = span
    watch.context = context_api.get_current()
    span_context = span.get_span_context()
    watch.ids = Ids(span_context.trace_id, span_context.span_id, int(span_context.trace_flags))
    watch.request = with_ids(request, watch.context)
    if not span.is_recording():
        return
    told: dict[str, Any] = middleware.platform.span_attributes(os.environ, request)
    told |= {"faas.trigger": watch.trigger, "faas.coldstart": watch.story is not None, "faas.invocation_id": watch.id}
    if (story := watch.story) is not None:
        told["tracedbridge.coldstart.kind"] = story.kind
        span.add_link(span_context_of(story.boot))
    span.set_attributes(told)


def tell_joined(watch: Watch) -> None:
    """Add what is known of an invocation to the span that it has joined, unless that has ended; more than once."""
    span = watch.span
    if not span.is_recording():
        return
    if watch.route is not None:
        span.set_attribute("http.route", watch.route)
    if watch.started_ns and not watch.has_told_start:
        watch.has_told_start = True
        span.add_event("first byte", None, watch.begun_wall_ns + (watch.started_ns - watch.begun_ns))
    if watch.ended_ns and watch.is_abandoned:
        span.add_event("client disconnected", None, watch.ended_wall_ns)
    if watch.error is not None:
        span.set_attribute("error.type", type_of(watch.error))


def leave(watch: Watch) -> None:
    """Make the span of an invocation current no more."""
    if watch.is_joined:
        return
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
        watch.parent, watch.link = parent_of(watch.asked, watch.worth or middleware.settings.parent)
        watch.span = _stand_in(watch, middleware, name_of(watch, middleware))
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
    told["faas.trigger"] = watch.trigger
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
        tracer, name_of(watch, middleware), trace_id=trace_id, span_id=span_id,
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


def name_of(watch: Watch, middleware: Middleware) -> str:
    """Return the name of an invocation's span, before its route is known."""
    if watch.trigger != "http":
        return middleware.function
    return span_name(method_of(watch.asked, middleware.known_methods), None)


def _stand_in(watch: Watch, middleware: Middleware, name: str) -> Span:
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
        name, span_context, watch.parent, SpanKind.SERVER, None, (), begun_wall_ns,
        parent=parent if parent.is_valid else None,
    )  # fmt: skip
