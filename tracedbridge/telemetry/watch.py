"""Watches one invocation: what happened becomes one SERVER span, one log line and the metrics."""

from __future__ import annotations

import os
import resource
import sys
import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from opentelemetry import context as context_api
from opentelemetry import trace as trace_api
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

from tracedbridge.errors import BadRequestError
from tracedbridge.messages import Invocation
from tracedbridge.telemetry.attributes import redacted_line, request_attributes
from tracedbridge.telemetry.failures import message_of, show, stacktrace_of, type_of
from tracedbridge.telemetry.guard import harmless
from tracedbridge.telemetry.ids import start_pinned, stop_boot
from tracedbridge.telemetry.propagation import parent_of, with_ids
from tracedbridge.telemetry.route import asgi_route, wsgi_route

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

    from tracedbridge.messages import Request
    from tracedbridge.telemetry.coldstart import ColdStartStory
    from tracedbridge.telemetry.metrics import Labels, Metrics
    from tracedbridge.telemetry.middleware import Middleware
    from tracedbridge.telemetry.pipeline import Pipeline
    from tracedbridge.telemetry.points import Points

__all__ = ("Watch",)

_TRIGGER = (("faas.trigger", "http"),)
_INVOKED = {is_cold: (*_TRIGGER, ("faas.coldstart", is_cold)) for is_cold in (False, True)}


class Watch(Invocation):
    """One invocation, watched; a context manager."""

    # Defaults of the class, as in `Invocation`: most invocations set half of them.
    _span: Span | None = None
    _tracer: Tracer | None = None
    _parent: Context | None = None
    _context: Context | None = None
    # With the span of the cold start, if this invocation tells it.
    _cold_context: Context | None = None
    _attached: Any = None
    _bound: Any = None
    _route: str | None = None
    _started_ns: int | None = None
    _story: ColdStartStory | None = None
    _id = ""
    # Of the span, as hex.
    _ids: Mapping[str, str] = MappingProxyType({})
    # Of the conventions; this one where the event holds no request.
    _method = "_OTHER"

    def __init__(self, middleware: Middleware, context: object) -> None:
        """
        Args:
            middleware: Of the bridge.
            context: The platform's.
        """
        self._middleware = middleware
        self._platform_context = context

    def __enter__(self) -> Self:
        """Take the time, and the cold start if nobody has it."""
        self._begun_cpu_s = time.process_time()
        self._begun_wall_ns = time.time_ns()
        self._begun_ns = time.monotonic_ns()
        story = self._middleware.take_cold_start()
        if story is not None:
            self._story = story
            self._begin(story)
        return self

    def arrived(self, request: Request) -> Request:
        """Start the span as the request's headers say, make it current, and hand its ids on to the app."""
        self.request = request
        self._open(request)
        return self.request

    def response_started(self) -> None:
        """Note the time, and the route where it can be read only now."""
        if self._started_ns is None:
            self._started_ns = time.monotonic_ns()
            if self.environ is not None:
                self._read_wsgi_route(self.environ)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the time, leave the span's context, render what happened and export it."""
        ended_ns = time.monotonic_ns()
        if error is not None:
            self.failed(error)
        self._leave()
        self._render(ended_ns, escaped=error is not None)
        budget_ms = self._middleware.settings.flush_timeout_ms
        if budget_ms and self._middleware.pipeline is not None:
            self._flush(self._middleware.pipeline, budget_ms)

    @harmless
    def _begin(self, story: ColdStartStory) -> None:
        stop_boot(story.boot)
        story.first_event(self._begun_ns, self._begun_wall_ns)

    @harmless
    def _open(self, request: Request) -> None:
        middleware = self._middleware
        self._method = request.method if request.method in middleware.known_methods else "_OTHER"
        self._id = middleware.platform.invocation_id(request, self._platform_context) or os.urandom(16).hex()
        if middleware.pipeline is None:
            self._bound = middleware.lines.bind(invocation_id=self._id)
            return
        context = self._start_span(request)
        self._attached = context_api.attach(context)
        self.request = with_ids(request, context)
        self._bound = middleware.lines.bind(invocation_id=self._id, **self._ids)

    @harmless
    def _read_wsgi_route(self, environ: dict[str, Any]) -> None:
        self._route = wsgi_route(environ)

    @harmless
    def _leave(self) -> None:
        if self._bound is not None:
            self._middleware.lines.unbind(self._bound)
        if self._attached is not None:
            context_api.detach(self._attached)

    @harmless
    def _render(self, ended_ns: int, *, escaped: bool) -> None:
        cpu_s = time.process_time() - self._begun_cpu_s
        pipeline = self._middleware.pipeline
        if self.scope is not None:
            self._route = asgi_route(self.scope)
        if not self._id:
            self._id = os.urandom(16).hex()
        if self._story is not None:
            self._story.first_byte(self._started_ns or ended_ns)
            self._story.end()
        status = None if self.response is None or escaped else self.response.status
        error_type = self._error_type(status)
        if pipeline is not None:
            if self._span is None:
                # The event held no request.
                self._start_span(None)
            self._end_span(status, error_type, ended_ns)
            if (metrics := pipeline.metrics()) is not None:
                self._measure(metrics, status, error_type, ended_ns, cpu_s)
        self._write_line(status, error_type, ended_ns, cpu_s)

    @harmless
    def _flush(self, pipeline: Pipeline, budget_ms: float) -> None:
        pipeline.flush(budget_ms)

    def _error_type(self, status: int | None) -> str | None:
        """Return the exception's class, or the status of a 5xx; None for what is no failure of the function."""
        if self.error is not None and not isinstance(self.error, BadRequestError):
            return type_of(self.error)
        return str(status) if status is not None and status >= 500 else None

    def _start_span(self, request: Request | None) -> Context:
        middleware, story = self._middleware, self._story
        assert middleware.pipeline is not None
        parent, remote = parent_of(request, middleware.settings.parent)
        links = [] if remote is None else [Link(remote)]
        attributes: dict[str, Any] = {
            "faas.trigger": "http",
            "faas.coldstart": story is not None,
            "faas.invocation_id": self._id,
        }
        if request is not None:
            attributes.update(request_attributes(request, self._method))
            attributes.update(middleware.captured.of_request(request))
            attributes.update(middleware.platform.span_attributes(os.environ, request))
        begun_wall_ns, trace_id = self._begun_wall_ns, None
        if story is not None:
            attributes["tracedbridge.coldstart.kind"] = story.kind
            if story.kind == "on_demand":
                begun_wall_ns, trace_id = story.begun_wall_ns, story.boot.trace_id
            # Never to the span's own trace: Jaeger would take the link for a parent.
            if story.kind != "on_demand" or trace_api.get_current_span(parent).get_span_context().is_valid:
                links.append(Link(story.boot))
        tracer = self._tracer = middleware.pipeline.tracer()
        span = self._span = start_pinned(
            tracer, _span_name(self._method, None), trace_id=trace_id, context=parent, kind=SpanKind.SERVER,
            attributes=attributes, links=links, start_time=begun_wall_ns,
        )  # fmt: skip
        span_context = span.get_span_context()
        self._ids = {"trace_id": f"{span_context.trace_id:032x}", "span_id": f"{span_context.span_id:016x}"}
        self._parent = parent
        context = self._context = trace_api.set_span_in_context(span, parent)
        return context

    def _end_span(self, status: int | None, error_type: str | None, ended_ns: int) -> None:
        assert self._middleware.pipeline is not None
        assert self._span is not None
        tracer = self._middleware.pipeline.tracer()
        if tracer is not self._tracer:
            # The app has set a provider of its own in its first request: it wins, this span included.
            self._span = _moved(self._span, tracer, self._parent)
        span = self._span
        ended_wall_ns = self._begun_wall_ns + (ended_ns - self._begun_ns)
        if span.is_recording():
            attributes: dict[str, Any] = {}
            if self._route is not None:
                attributes["http.route"] = self._route
                span.update_name(_span_name(self._method, self._route))
            if status is not None:
                attributes["http.response.status_code"] = status
            if self.response is not None:
                attributes.update(self._middleware.captured.of_response(self.response.fields))
            if self.error is not None:
                show(span, self.error, ended_wall_ns)
            if error_type is not None:
                attributes["error.type"] = error_type
                span.set_status(Status(StatusCode.ERROR, None if self.error is None else message_of(self.error)))
            for key, value in attributes.items():
                # One or two, as a rule: each by itself costs less than all at once.
                span.set_attribute(key, value)
        if self._story is not None:
            self._draw_cold_start(self._story, span, tracer)
        span.end(ended_wall_ns)

    def _draw_cold_start(self, story: ColdStartStory, span: Span, tracer: Tracer) -> None:
        assert self._context is not None
        span.set_attributes(story.draw_first_imports(tracer, self._context))
        if story.kind != "on_demand":
            # A trace of its own, and so are the exemplars of its metrics.
            self._cold_context = story.draw(tracer, None, own_id=True)
            return
        is_boot_trace = span.get_span_context().trace_id == story.boot.trace_id
        self._cold_context = story.draw(tracer, self._context, own_id=is_boot_trace)
        if not is_boot_trace:
            story.draw_startup(tracer)

    def _measure(
        self, metrics: Metrics | Points, status: int | None, error_type: str | None, ended_ns: int, cpu_s: float
    ) -> None:
        request = self.request
        took_s = (ended_ns - self._begun_ns) / 1e9
        values: list[tuple[str, float, Labels]] = [
            ("faas.invoke_duration", took_s, _INVOKED[self._story is not None]),
            ("faas.cpu_usage", cpu_s, _TRIGGER),
            ("faas.mem_usage", _peak_memory_bytes(), _TRIGGER),
        ]
        if self.timed_out:
            values.append(("faas.timeouts", 1, _TRIGGER))
        elif error_type is not None:
            values.append(("faas.errors", 1, (*_TRIGGER, ("error.type", error_type))))
        else:
            values.append(("faas.invocations", 1, _TRIGGER))
        if self.deadline_ns is not None:
            values.append(("tracedbridge.time_left", max(self.deadline_ns - ended_ns, 0) / 1e9, _TRIGGER))
        if request is not None:
            served: tuple[tuple[str, Any], ...] = (
                ("http.request.method", self._method),
                ("url.scheme", request.scheme),
                ("network.protocol.version", request.http_version),
            )
            if self._route is not None:
                served = (*served, ("http.route", self._route))
            if status is not None:
                served = (*served, ("http.response.status_code", status))
            if error_type is not None:
                served = (*served, ("error.type", error_type))
            answered_s = ((self.answered_ns or ended_ns) - self._begun_ns) / 1e9
            values.append(("http.server.request.duration", answered_s, served))
        metrics.record_all(values, self._context)
        if self._story is not None:
            self._story.measure(metrics, self._cold_context)

    def _write_line(self, status: int | None, error_type: str | None, ended_ns: int, cpu_s: float) -> None:
        request, response, error = self.request, self.response, self.error
        fields: dict[str, Any] = {"function": self._middleware.function, "invocation_id": self._id}
        fields |= self._ids
        if request is not None:
            fields["method"] = request.method
            fields["path"] = request.raw_path
            fields["bytes_in"] = len(request.body)
        if self._route is not None:
            fields["route"] = self._route
        if status is not None and response is not None:
            fields["status"] = status
            fields["bytes_out"] = len(response.body)
        fields["duration_ms"] = round((ended_ns - self._begun_ns) / 1e6, 3)
        fields["cpu_ms"] = round(cpu_s * 1e3, 3)
        fields["cold_start"] = self._story is not None
        if self._story is not None:
            fields |= self._story.log_fields()
        if self.timed_out:
            fields["timed_out"] = True
        if error is not None or error_type is not None:
            fields["error"] = type_of(error) if error is not None else error_type
        if error is not None:
            fields["error_message"] = message_of(error)
            if not isinstance(error, BadRequestError):
                # What any server writes to its log; nobody else does for an app that is called by us.
                fields["exception"] = stacktrace_of(error)
        if self.notes:
            fields["handler_log"] = [redacted_line(note) for note in self.notes]
        level = "error" if error_type is not None else "warning" if error is not None else "info"
        self._middleware.lines.write(level, "invocation", fields, self._context)


def _moved(span: Any, tracer: Tracer, parent: Context | None) -> Span:
    """Start a span like ``span``, ids included, with another tracer; the first one is never ended, nor exported."""
    if not hasattr(span, "attributes"):
        # Not sampled: it has nothing to move.
        return span  # type: ignore[no-any-return]  # a Span that is no SDK span
    span_context = span.get_span_context()
    moved = start_pinned(
        tracer, span.name, trace_id=span_context.trace_id, span_id=span_context.span_id, context=parent,
        kind=span.kind, attributes=span.attributes, links=span.links, start_time=span.start_time,
    )  # fmt: skip
    for event in span.events:
        moved.add_event(event.name, event.attributes, event.timestamp)
    if span.status.status_code is not StatusCode.UNSET:
        moved.set_status(span.status)
    return moved


def _span_name(method: str, route: str | None) -> str:
    # The conventions' word for a method that they do not know.
    name = "HTTP" if method == "_OTHER" else method
    return name if route is None else f"{name} {route}"


def _peak_memory_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes, but on macOS bytes: getrusage(2).
    return int(peak if sys.platform == "darwin" else peak * 1024)
