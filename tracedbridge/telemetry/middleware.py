"""
Watches the bridge: what happened in an invocation becomes one SERVER span, one log line and the metrics.

Nothing here can change a response: whatever fails in a hook is told on stderr, once, and the bridge goes on.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ParamSpec

from opentelemetry import context as context_api
from opentelemetry import propagate
from opentelemetry import trace as trace_api
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

from tracedbridge.errors import BadRequestError
from tracedbridge.messages import Invocation, Request
from tracedbridge.platforms import platform_of
from tracedbridge.telemetry import environment
from tracedbridge.telemetry.attributes import CapturedHeaders, known_method, request_attributes
from tracedbridge.telemetry.coldstart import ColdStartStory
from tracedbridge.telemetry.ids import start_boot, start_pinned, stop_boot
from tracedbridge.telemetry.logs import Lines
from tracedbridge.telemetry.pipeline import Pipeline
from tracedbridge.telemetry.resource import function_name, resource_of
from tracedbridge.telemetry.route import asgi_route, wsgi_route

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from types import TracebackType

    from opentelemetry.trace import Span

    from tracedbridge.boot import ColdStart
    from tracedbridge.messages import Kind, Response
    from tracedbridge.settings import Settings

__all__ = ("Middleware",)

_P = ParamSpec("_P")

# At close() with a budget of 0 in the call: what waited gets the default budget, once.
_LAST_BUDGET_MS = 500.0


def _harmless(hook: Callable[_P, None]) -> Callable[_P, None]:
    """Make a hook that tells its own failures on stderr, the first of its kind, and swallows them."""

    @functools.wraps(hook)
    def guarded(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            hook(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - telemetry can never break the program
            _complain(hook.__qualname__, error)

    return guarded


@functools.lru_cache(maxsize=64)
def _complained(where: str, what: str) -> list[bool]:
    return [False]


def _complain(where: str, error: Exception) -> None:
    said = _complained(where, type(error).__name__)
    if not said[0]:
        said[0] = True
        try:
            sys.stderr.write(f"tracedbridge: telemetry failed in {where}: {type(error).__name__}: {error}\n")
        except (OSError, ValueError, AttributeError):
            return


class Middleware:
    """The telemetry of one bridge; implements `tracedbridge.messages.Telemetry`."""

    def __init__(self, settings: Settings, cold_start: ColdStart, app: str) -> None:
        """Set up providers and log lines, before the app is imported."""
        self.settings = settings
        self.record = cold_start
        self.platform = platform_of(os.environ)
        self.function = function_name(self.platform, app)
        self.captured = CapturedHeaders()
        self.pipeline: Pipeline | None = None
        if not environment.is_disabled():
            resource = resource_of(self.platform, self.function)
            self.pipeline = Pipeline(resource, self.function, settings.flush_timeout_ms)
        sampled = self.pipeline is not None and self.pipeline.is_sampled(cold_start.trace_id)
        # The cold start that no invocation has told yet; whoever takes it out owns it.
        self._untold = [ColdStartStory(cold_start, settings.proactive_after_ms, sampled=sampled)]
        self.story = self._untold[0]
        self.lines = Lines(self._otlp_logger)
        self.lines.install()
        if self.pipeline is not None:
            start_boot(self.story.boot)

    def _otlp_logger(self) -> Any:
        pipeline = self.pipeline
        return pipeline.logger() if pipeline is not None and pipeline.exports_logs() else None

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Watch the load: the app's early spans and lines carry the boot trace; a failure is exported."""
        token = None
        if self.pipeline is not None:
            token = context_api.attach(trace_api.set_span_in_context(trace_api.NonRecordingSpan(self.story.boot)))
        try:
            yield
        except BaseException as error:
            self._load_failed(error)
            raise
        finally:
            if token is not None:
                context_api.detach(token)

    @_harmless
    def _load_failed(self, error: BaseException) -> None:
        shown = error.__cause__ or error
        fields: dict[str, Any] = {
            "function": self.function,
            "cold_start": True,
            **self.story.log_fields(),
            "error": type(shown).__qualname__,
            "error_message": str(error),
        }
        if self.pipeline is not None:
            boot = self.story.boot
            fields |= {"trace_id": f"{boot.trace_id:032x}", "span_id": f"{boot.span_id:016x}"}
            self.story.draw_failure(self.pipeline.tracer(), error)
            if (metrics := self.pipeline.metrics()) is not None:
                context = trace_api.set_span_in_context(trace_api.NonRecordingSpan(boot))
                self.story.measure(metrics, context)
                metrics.record(
                    "faas.errors", 1, context, {"faas.trigger": "http", "error.type": type(shown).__qualname__}
                )
        self.lines.write("error", "cold start failed", fields, None)

    def wrap(self, app: Callable[..., Any], kind: Kind) -> Callable[..., Any]:
        """Put the contrib ASGI middleware around an ASGI app, if ``TRACEDBRIDGE_ASGI_DETAIL`` asks for it."""
        if kind != "asgi" or not self.settings.asgi_detail or self.pipeline is None:
            return app
        from tracedbridge.telemetry.detail import with_detail

        return with_detail(app)

    def watch(self, context: object) -> AbstractContextManager[Invocation]:
        """Watch one invocation."""
        return _Watch(self, context)

    @contextmanager
    def stopping(self) -> Iterator[None]:
        """Watch lifespan shutdown, where there was a startup."""
        begun_ns = time.monotonic_ns()
        begun_wall_ns = time.time_ns()
        error: BaseException | None = None
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._stopped(begun_wall_ns, time.monotonic_ns() - begun_ns, error)

    @_harmless
    def _stopped(self, begun_wall_ns: int, took_ns: int, error: BaseException | None) -> None:
        if self.pipeline is None or "lifespan" not in dict(self.record.marks):
            return
        span = self.pipeline.tracer().start_span("lifespan shutdown", context=Context(), start_time=begun_wall_ns)
        attributes = {"phase": "shutdown"}
        if error is not None:
            shown = error.__cause__ or error
            attributes["error.type"] = type(shown).__qualname__
            span.record_exception(shown)
            span.set_attribute("error.type", type(shown).__qualname__)
            span.set_status(Status(StatusCode.ERROR, str(error)))
        if (metrics := self.pipeline.metrics()) is not None:
            context = trace_api.set_span_in_context(span)
            metrics.record("tracedbridge.lifespan.duration", took_ns / 1e9, context, attributes)
        span.end(begun_wall_ns + took_ns)

    def close(self) -> None:
        """Tell a cold start that nobody came for, send what is left, and put back what was changed."""
        self._close()

    @_harmless
    def _close(self) -> None:
        if self.pipeline is not None:
            stop_boot(self.story.boot)
            try:
                self.pipeline.export.flush(self.settings.flush_timeout_ms or _LAST_BUDGET_MS)
            finally:
                self.pipeline.close()
        self.lines.uninstall()

    def take_cold_start(self) -> ColdStartStory | None:
        """Return the cold start to its first caller, None to all others; of threads that race, one wins."""
        try:
            return self._untold.pop()
        except IndexError:
            return None


class _Watch(Invocation):
    """One invocation, watched."""

    __slots__ = (
        "_attached", "_begun_cpu_s", "_begun_ns", "_begun_wall_ns", "_bound", "_context", "_id", "_middleware",
        "_platform_context", "_route", "_span", "_started_ns", "_story",
    )  # fmt: skip

    def __init__(self, middleware: Middleware, context: object) -> None:
        super().__init__()
        self._middleware = middleware
        self._platform_context = context
        self._span: Span | None = None
        self._context: Context | None = None
        self._attached: Any = None
        self._bound: Any = None
        self._route: str | None = None
        self._started_ns: int | None = None
        self._story: ColdStartStory | None = None
        self._id = ""

    def __enter__(self) -> Invocation:
        self._begun_cpu_s = time.process_time()
        self._begun_wall_ns = time.time_ns()
        self._begun_ns = time.monotonic_ns()
        self._begin()
        return self

    @_harmless
    def _begin(self) -> None:
        story = self._story = self._middleware.take_cold_start()
        if story is not None:
            story.first_event(self._begun_ns)
            stop_boot(story.boot)

    def arrived(self, request: Request) -> Request:
        """Start the span as the request's headers say, make it current, and hand its ids on to the app."""
        self.request = request
        self._open(request)
        return self.request

    @_harmless
    def _open(self, request: Request) -> None:
        middleware = self._middleware
        self._id = middleware.platform.invocation_id(request.headers, self._platform_context) or os.urandom(16).hex()
        ids = {"invocation_id": self._id}
        if middleware.pipeline is not None:
            self._start_span(request.headers, request)
            assert self._span is not None
            assert self._context is not None
            self._attached = context_api.attach(self._context)
            self.request = _with_ids(request, self._context)
            span_context = self._span.get_span_context()
            ids["trace_id"] = f"{span_context.trace_id:032x}"
            ids["span_id"] = f"{span_context.span_id:016x}"
        self._bound = middleware.lines.bind(**ids)

    def _start_span(self, headers: list[tuple[bytes, bytes]], request: Request | None) -> None:
        middleware = self._middleware
        assert middleware.pipeline is not None
        parent, remote = _parent_of(headers, middleware.settings.parent)
        links = []
        if remote is not None and middleware.settings.parent == "link":
            links.append(Link(remote))
        attributes: dict[str, Any] = {
            "faas.trigger": "http",
            "faas.coldstart": self._story is not None,
            "faas.invocation_id": self._id,
        }
        if request is not None:
            attributes.update(request_attributes(request))
            attributes.update(middleware.captured.of_request(request.headers))
            attributes.update(middleware.platform.span_attributes(os.environ, request.headers))
        begun_wall_ns, trace_id = self._begun_wall_ns, None
        tracer = middleware.pipeline.tracer()
        if (story := self._story) is not None:
            attributes["tracedbridge.coldstart.kind"] = story.kind
            is_root = not trace_api.get_current_span(parent).get_span_context().is_valid
            if story.kind == "on_demand":
                begun_wall_ns = story.begun_wall_ns
                trace_id = story.boot.trace_id
            if story.kind != "on_demand" or not is_root:
                # A link to a span of its own trace would make Jaeger take it for the parent.
                links.append(Link(story.boot))
        self._span = start_pinned(
            tracer, _span_name(request, None), trace_id=trace_id, context=parent, kind=SpanKind.SERVER,
            attributes=attributes, links=links, start_time=begun_wall_ns,
        )  # fmt: skip
        self._context = trace_api.set_span_in_context(self._span, parent)

    def response_started(self) -> None:
        """Note the time, and the route where it can be read only now."""
        if self._started_ns is None:
            self._started_ns = time.monotonic_ns()
        self._read_route()

    @_harmless
    def _read_route(self) -> None:
        if self.environ is not None:
            self._route = wsgi_route(self.environ)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.failed(error)
        self._finish(error)
        self._leave()
        self._flush()

    @_harmless
    def _leave(self) -> None:
        if self._bound is not None:
            self._middleware.lines.unbind(self._bound)
        if self._attached is not None:
            context_api.detach(self._attached)

    @_harmless
    def _finish(self, escaped: BaseException | None) -> None:
        ended_ns = time.monotonic_ns()
        cpu_s = time.process_time() - self._begun_cpu_s
        middleware = self._middleware
        if self.scope is not None and self._route is None:
            self._route = asgi_route(self.scope)
        if not self._id:
            self._id = os.urandom(16).hex()
        story = self._story
        if story is not None:
            story.first_byte(self._started_ns or ended_ns)
        status = None if self.response is None or escaped is not None else self.response.status
        error_type = self._error_type(status)
        pipeline = middleware.pipeline
        if pipeline is not None:
            if self._span is None:
                # The event held no request.
                self._start_span([], None)
            self._end_span(status, error_type, ended_ns)
            if (metrics := pipeline.metrics()) is not None:
                self._measure(metrics, status, error_type, ended_ns, cpu_s)
        self._log(status, error_type, ended_ns, cpu_s)

    def _error_type(self, status: int | None) -> str | None:
        """Return the exception's class, or the status of a 5xx; None for what is no failure of the function."""
        error = self.error
        if error is not None and not isinstance(error, BadRequestError):
            return type(error).__qualname__
        return str(status) if status is not None and status >= 500 else None

    def _end_span(self, status: int | None, error_type: str | None, ended_ns: int) -> None:
        middleware, span, story = self._middleware, self._span, self._story
        assert span is not None
        assert middleware.pipeline is not None
        if span.is_recording():
            if self._route is not None:
                span.set_attribute("http.route", self._route)
                span.update_name(_span_name(self.request, self._route))
            if status is not None:
                span.set_attribute("http.response.status_code", status)
            if self.response is not None:
                span.set_attributes(middleware.captured.of_response(self.response.headers))
            if self.error is not None:
                span.record_exception(self.error, escaped=status is None)
            if error_type is not None:
                span.set_attribute("error.type", error_type)
                span.set_status(Status(StatusCode.ERROR, "" if self.error is None else str(self.error)))
        tracer = middleware.pipeline.tracer()
        if story is not None:
            span_context = span.get_span_context()
            same_trace = span_context.trace_id == story.boot.trace_id
            if story.kind != "on_demand":
                story.draw(tracer, None, own_id=True)
            else:
                story.draw(tracer, self._context, own_id=same_trace)
                if not same_trace:
                    story.draw_startup(tracer)
        span.end(self._begun_wall_ns + (ended_ns - self._begun_ns))

    def _measure(self, metrics: Any, status: int | None, error_type: str | None, ended_ns: int, cpu_s: float) -> None:
        context, request = self._context, self.request
        trigger = {"faas.trigger": "http"}
        record = metrics.record
        record(
            "faas.invoke_duration", (ended_ns - self._begun_ns) / 1e9, context,
            {"faas.trigger": "http", "faas.coldstart": self._story is not None},
        )  # fmt: skip
        if self.timed_out:
            record("faas.timeouts", 1, context, trigger)
        elif error_type is not None:
            record("faas.errors", 1, context, {"faas.trigger": "http", "error.type": error_type})
        else:
            record("faas.invocations", 1, context, trigger)
        record("faas.cpu_usage", cpu_s, context, trigger)
        if (peak_bytes := _peak_memory_bytes()) is not None:
            record("faas.mem_usage", peak_bytes, context, trigger)
        if self.deadline_ns is not None:
            record("tracedbridge.time_left", max(self.deadline_ns - ended_ns, 0) / 1e9, context, trigger)
        if request is not None:
            attributes: dict[str, Any] = {
                "http.request.method": known_method(request.method),
                "url.scheme": request.scheme,
                "network.protocol.version": request.http_version,
            }
            if self._route is not None:
                attributes["http.route"] = self._route
            if status is not None:
                attributes["http.response.status_code"] = status
            if error_type is not None:
                attributes["error.type"] = error_type
            answered_ns = self.answered_ns or ended_ns
            record("http.server.request.duration", (answered_ns - self._begun_ns) / 1e9, context, attributes)
        if self._story is not None:
            self._story.measure(metrics, context)

    def _log(self, status: int | None, error_type: str | None, ended_ns: int, cpu_s: float) -> None:
        request, response, span = self.request, self.response, self._span
        fields: dict[str, Any] = {"function": self._middleware.function, "invocation_id": self._id}
        if span is not None:
            span_context = span.get_span_context()
            fields["trace_id"] = f"{span_context.trace_id:032x}"
            fields["span_id"] = f"{span_context.span_id:016x}"
        if request is not None:
            fields["method"] = request.method
            fields["path"] = request.raw_path.decode("ascii")
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
        if self.error is not None:
            fields["error"] = type(self.error).__qualname__
            fields["error_message"] = str(self.error)
        elif error_type is not None:
            fields["error"] = error_type
        if self.notes:
            fields["handler_log"] = self.notes
        level = "error" if error_type is not None else "warning" if self.error is not None else "info"
        self._middleware.lines.write(level, "invocation", fields, self._context)

    @_harmless
    def _flush(self) -> None:
        pipeline, budget_ms = self._middleware.pipeline, self._middleware.settings.flush_timeout_ms
        if pipeline is None or not budget_ms:
            return
        took_ns = pipeline.export.flush(budget_ms)
        if (metrics := pipeline.metrics()) is not None:
            # Of this flush, in the next one.
            metrics.record("tracedbridge.export.duration", took_ns / 1e9, self._context)
            for (signal, outcome), items in pipeline.export.counted().items():
                metrics.record(
                    "tracedbridge.export.items", items, None, {"signal": signal, "outcome": outcome or "sent"}
                )


def _span_name(request: Request | None, route: str | None) -> str:
    method = "_OTHER" if request is None else known_method(request.method)
    # The conventions' word for a method that they do not know.
    method = "HTTP" if method == "_OTHER" else method
    return method if route is None else f"{method} {route}"


class _HeadersGetter:
    """Reads a request's headers for the propagators."""

    def get(self, carrier: list[tuple[bytes, bytes]], key: str) -> list[str] | None:
        name = key.lower().encode("latin-1")
        values = [value.decode("latin-1") for each, value in carrier if each == name]
        # One value of a repeated header is half of it: of baggage, the propagator reads only the first.
        return [",".join(values)] if values else None

    def keys(self, carrier: list[tuple[bytes, bytes]]) -> list[str]:
        return [name.decode("latin-1") for name, _ in carrier]


_GETTER = _HeadersGetter()


def _parent_of(headers: list[tuple[bytes, bytes]], worth: str) -> tuple[Context, trace_api.SpanContext | None]:
    """Return the context to start in, and the remote span if the headers name one."""
    if worth == "ignore" or not _carries(headers):
        return Context(), None
    context = propagate.extract(headers, Context(), getter=_GETTER)  # type: ignore[type-var]  # a list is a carrier
    remote = trace_api.get_current_span(context).get_span_context()
    if not remote.is_valid:
        return context, None
    if worth == "link":
        # Baggage stays: it is the request's, not the trace's.
        return trace_api.set_span_in_context(trace_api.INVALID_SPAN, context), remote
    return context, remote


def _carries(headers: list[tuple[bytes, bytes]]) -> bool:
    fields = _fields(propagate.get_global_textmap())
    return any(name in fields for name, _ in headers)


@functools.lru_cache(maxsize=4)
def _fields(propagator: Any) -> frozenset[bytes]:
    return frozenset(field.lower().encode("latin-1") for field in propagator.fields)


def _with_ids(request: Request, context: Context) -> Request:
    """Return the request with this invocation's trace headers in place of the caller's."""
    carrier: dict[str, str] = {}
    propagator = propagate.get_global_textmap()
    propagator.inject(carrier, context)
    # Replaced, not added: frameworks that trace by themselves would read the caller's first.
    ours = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in carrier.items()]
    fields = _fields(propagator)
    headers = [pair for pair in request.headers if pair[0] not in fields]
    return Request(
        request.method, request.raw_path, request.query, headers + ours, request.body, request.scheme, request.host,
        request.port, request.client, request.http_version,
    )  # fmt: skip


def _peak_memory_bytes() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes, but on macOS bytes: getrusage(2).
    return int(peak if sys.platform == "darwin" else peak * 1024)
