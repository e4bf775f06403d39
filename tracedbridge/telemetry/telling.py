"""Tells what was watched: one SERVER span, one log line and the metrics for each invocation, and each cold start."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from opentelemetry import trace as trace_api
from opentelemetry.trace import Status, StatusCode

from tracedbridge.errors import BadRequestError
from tracedbridge.telemetry import harmless
from tracedbridge.telemetry.attributes import redacted_line
from tracedbridge.telemetry.captured import CapturedHeaders
from tracedbridge.telemetry.coldstart import ColdStartStory
from tracedbridge.telemetry.current import RANDOM, SAMPLED, SCOPE
from tracedbridge.telemetry.export import UNSUPPORTED
from tracedbridge.telemetry.failures import message_of, show, stacktrace_of, type_of
from tracedbridge.telemetry.following import in_charge
from tracedbridge.telemetry.ids import start_pinned
from tracedbridge.telemetry.lines import Lines
from tracedbridge.telemetry.pipeline import Pipeline
from tracedbridge.telemetry.propagation import parent_of
from tracedbridge.telemetry.providers import SteppingMeterProvider
from tracedbridge.telemetry.resource import resource_of
from tracedbridge.telemetry.serverspan import begin, method_of, span_name
from tracedbridge.telemetry.standins import StandInSpan
from tracedbridge.telemetry.variables import without_bad_values

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

    from tracedbridge.telemetry.current import Ids
    from tracedbridge.telemetry.metrics import Labels, Metrics
    from tracedbridge.telemetry.middleware import Middleware
    from tracedbridge.telemetry.points import Points
    from tracedbridge.telemetry.records import LogFacts
    from tracedbridge.telemetry.stalls import Stall
    from tracedbridge.telemetry.story import Story
    from tracedbridge.telemetry.watch import Watch

__all__ = ("Teller",)

# The duration of a request, by the semantic conventions and by those before them.
_MEASURED = frozenset(("http.server.request.duration", "http.server.duration"))

_TRIGGER = (("faas.trigger", "http"),)
_INVOKED = {is_cold: (*_TRIGGER, ("faas.coldstart", is_cold)) for is_cold in (False, True)}


class Teller:
    """Tells what one middleware has watched, with everything that this needs loaded."""

    def __init__(self, middleware: Middleware) -> None:
        """Set up providers, exporters and log lines."""
        self._middleware = middleware
        self.captured = CapturedHeaders()
        self.pipeline: Pipeline | None = None
        self.lines = Lines()
        self.connect()

    def note_open_spans(self) -> None:
        """Know from now on which spans are open, for `tell_open_spans`."""
        if self.pipeline is not None:
            self.pipeline.note_open_spans()

    def connect(self, *, forked: bool = False) -> None:
        """Set up what exports, with an instance id and connections of its own, in place of what there was."""
        middleware, before = self._middleware, self.pipeline
        if before is not None and forked:
            before.abandon()
        elif before is not None:
            before.close()
        if middleware.is_traced:
            with without_bad_values():
                resource = resource_of(middleware.platform, middleware.function)
                self.pipeline = Pipeline(
                    resource, middleware.function, middleware.settings.flush_timeout_ms, middleware.stand_ins
                )
            if middleware.has_deadlines:
                self.pipeline.note_open_spans()

    def take_over(self) -> None:
        """Replay what was made until now, and take the log lines that wait."""
        stand_ins = self._middleware.stand_ins
        if self.pipeline is not None and stand_ins is not None:
            for signal, items in stand_ins.replay().items():
                self.pipeline.drop(signal, "queue_full", items)
        self.take_lines()

    def take_lines(self) -> None:
        """Take the log lines that wait."""
        middleware = self._middleware
        if self.pipeline is None:
            return
        with suppress(IndexError):
            while True:
                self.pipeline.log(middleware.lines.popleft())
        lost, middleware.lost_lines = middleware.lost_lines, 0
        if lost:
            self.pipeline.drop("logs", "queue_full", lost)

    def boot_flags(self, boot: Ids) -> int:
        """Return the trace flags of the boot trace, which a sampler that only the SDK knows may have a say in."""
        sampled = self.pipeline is not None and self.pipeline.is_sampled(boot.trace_id)
        return RANDOM | (SAMPLED if sampled else 0)

    def live_tracer(self, *, always: bool) -> Tracer | None:
        """Return the tracer that is to make a SERVER span when it begins; None where a stand-in will do."""
        if self.pipeline is None:
            return None
        return self.pipeline.tracer() if always else self.pipeline.live_tracer()

    @harmless
    def tell(self, watch: Watch) -> None:
        """Tell one invocation, which has ended."""
        status = None if watch.response is None or watch.escaped else watch.response.status
        error_type = _error_type(watch, status)
        if self.pipeline is not None:
            if not watch.is_joined:
                span = self._begun_span(watch, self.pipeline)
                self._end_span(watch, span, self.pipeline, status, error_type)
            elif watch.story is not None:
                self._draw_cold_start(watch, watch.story, watch.span, self.pipeline)
            if (metrics := self.pipeline.metrics()) is not None:
                self._measure(watch, metrics, status, error_type)
        self._write_line(watch, status, error_type)

    def tell_open_spans(self, watch: Watch) -> None:
        """Export what the app's open spans of an invocation are now: they may never end."""
        if self.pipeline is not None and watch.ids is not None:
            self.pipeline.tell_open_spans(watch.ids, watch.begun_wall_ns, watch.ended_wall_ns)

    def tell_failure(self, story: Story, error: BaseException) -> None:
        """Tell a cold start that ended in an error."""
        told = ColdStartStory(story)
        error_type = type_of(error.__cause__ or error)
        fields: dict[str, Any] = {"function": self._middleware.function, "cold_start": True, **told.log_fields()}
        fields |= {"error": error_type, "error_message": message_of(error)}
        context = None
        if self.pipeline is not None:
            fields |= story.boot.fields()
            context = told.draw_failure(self.pipeline.tracer(), error)
            if (metrics := self.pipeline.metrics()) is not None:
                told.measure(metrics, context, error_type)
                metrics.record("faas.errors", 1, context, {"faas.trigger": "http", "error.type": error_type})
        self._write("error", "cold start failed", fields, context)

    def tell_shutdown(self, story: Story, begun_wall_ns: int, took_ns: int, error: BaseException | None) -> None:
        """Tell a lifespan shutdown."""
        if self.pipeline is None:
            return
        context = ColdStartStory(story).draw_shutdown(self.pipeline.tracer(), begun_wall_ns, took_ns, error)
        if (metrics := self.pipeline.metrics()) is not None:
            attributes = {"phase": "shutdown"}
            if error is not None:
                attributes["error.type"] = type_of(error.__cause__ or error)
            metrics.record("tracedbridge.lifespan.duration", took_ns / 1e9, context, attributes)

    def tell_unasked(self, story: Story) -> None:
        """Tell a cold start to which no event has come."""
        if self.pipeline is None:
            return
        told = ColdStartStory(story)
        context = told.draw(self.pipeline.tracer(), None, own_id=True)
        if (metrics := self.pipeline.metrics()) is not None:
            told.measure(metrics, context)

    def flush(self, budget_ms: float) -> None:
        """Export what there is, for at most ``budget_ms``."""
        if self.pipeline is not None:
            self.pipeline.flush(budget_ms)

    def has_batch(self) -> bool:
        """Say whether so much waits that it is time for a flush."""
        return self.pipeline is not None and self.pipeline.export.has_batch()

    def close(self, budget_ms: float) -> None:
        """Export what is left, say what was lost, and end."""
        if self.pipeline is None:
            return
        try:
            self.pipeline.flush(budget_ms, is_last=True)
            self._tell_losses(self.pipeline)
        finally:
            self.pipeline.close()

    def _begun_span(self, watch: Watch, pipeline: Pipeline) -> Span:
        """Return the real span of an invocation, which may have to be made now."""
        tracer = pipeline.tracer()
        if watch.tracer is not None:
            # The app may have set a provider of its own in its first request: it wins, this span included.
            moved: Span = watch.span if tracer is watch.tracer else _moved(watch.span, tracer, watch.parent)
            return moved
        if isinstance(watch.span, StandInSpan):
            span = watch.span.replay(tracer, lambda tracer: self._start_span(watch, tracer))
            # What is done to it from now on comes too late.
            watch.span.end_time = watch.ended_wall_ns
            return span
        if watch.span is not None:
            # Not sampled, which is all there is to it.
            unsampled: Span = watch.span
            return unsampled
        # Nothing of OpenTelemetry was there while it ran, or the event held no request.
        watch.parent, watch.link = parent_of(watch.asked, watch.worth or self._middleware.settings.parent)
        span = self._start_span(watch, tracer)
        watch.context = trace_api.set_span_in_context(span, watch.parent)
        return span

    def _start_span(self, watch: Watch, tracer: Tracer) -> Span:
        attributes = {} if watch.asked is None else self._middleware.attributes_of(watch.asked)
        return begin(watch, tracer, self._middleware, attributes)

    def _end_span(
        self, watch: Watch, span: Span, pipeline: Pipeline, status: int | None, error_type: str | None
    ) -> None:
        ended_wall_ns = watch.ended_wall_ns
        if span.is_recording():
            attributes: dict[str, Any] = {}
            if watch.route is not None:
                attributes["http.route"] = watch.route
                method = method_of(watch.asked, self._middleware.known_methods)
                span.update_name(span_name(method, watch.route))
            if status is not None:
                attributes["http.response.status_code"] = status
            if watch.response is not None:
                attributes.update(self.captured.of_response(watch.response.fields))
            if watch.is_streamed:
                self._show_stream(span, watch, ended_wall_ns)
            if watch.error is not None and not watch.stacks:
                show(span, watch.error, ended_wall_ns)
            for stack in watch.stacks:
                told = {"tracedbridge.stack.name": stack.name, "tracedbridge.stack": stack.text}
                span.add_event(stack.kind, told, ended_wall_ns)
            if watch.stall is not None:
                self._show_stall(span, watch.stall, attributes, ended_wall_ns)
            if error_type is not None:
                attributes["error.type"] = error_type
                span.set_status(Status(StatusCode.ERROR, None if watch.error is None else message_of(watch.error)))
            for key, value in attributes.items():
                # One or two, as a rule: each by itself costs less than all at once.
                span.set_attribute(key, value)
        if watch.story is not None:
            self._draw_cold_start(watch, watch.story, span, pipeline)
        span.end(ended_wall_ns)

    def _show_stream(self, span: Span, watch: Watch, ended_wall_ns: int) -> None:
        if watch.started_ns:
            span.add_event("first byte", None, watch.begun_wall_ns + (watch.started_ns - watch.begun_ns))
        if watch.is_abandoned:
            span.add_event("client disconnected", None, ended_wall_ns)

    def _show_stall(self, span: Span, stall: Stall, attributes: dict[str, Any], at_ns: int) -> None:
        if stall.took_ns >= self._middleware.settings.stall_ms * 1e6:
            attributes["tracedbridge.loop_stall_ms"] = round(stall.took_ns / 1e6, 3)
            span.add_event("event loop stalled", {"tracedbridge.stack": stall.stack}, at_ns)

    def _draw_cold_start(self, watch: Watch, story: Story, span: Span, pipeline: Pipeline) -> None:
        tracer, told = pipeline.tracer(), ColdStartStory(story)
        watch.told = told
        first_imports = told.draw_first_imports(tracer, watch.context)
        if span.is_recording():
            # One that is somebody else's has ended with the response.
            span.set_attributes(first_imports)
        if story.kind != "on_demand":
            # A trace of its own, and so are the exemplars of its metrics.
            watch.cold_context = told.draw(tracer, None, own_id=True)
            return
        is_boot_trace = span.get_span_context().trace_id == story.boot.trace_id
        watch.cold_context = told.draw(tracer, watch.context, own_id=is_boot_trace)
        if not is_boot_trace:
            told.draw_startup(tracer)

    def _measure(self, watch: Watch, metrics: Metrics | Points, status: int | None, error_type: str | None) -> None:
        request = watch.asked
        trigger: Labels = _TRIGGER
        invoked: Labels = _INVOKED[watch.story is not None]
        if watch.trigger != "http":
            trigger = (("faas.trigger", watch.trigger),)
            invoked = (*trigger, ("faas.coldstart", watch.story is not None))
        took_s = (watch.ended_ns - watch.begun_ns) / 1e9
        values: list[tuple[str, float, Labels]] = [
            ("faas.invoke_duration", took_s, invoked),
            ("faas.cpu_usage", watch.cpu_s, trigger),
            ("faas.mem_usage", watch.peak_bytes, trigger),
        ]
        if watch.timed_out:
            values.append(("faas.timeouts", 1, trigger))
        elif error_type is not None:
            values.append(("faas.errors", 1, (*trigger, ("error.type", error_type))))
        else:
            values.append(("faas.invocations", 1, trigger))
        if (end_by_ns := watch.end_by_ns) is not None:
            values.append(("tracedbridge.time_left", max(end_by_ns - watch.ended_ns, 0) / 1e9, trigger))
        if watch.stall is not None and watch.stall.took_ns >= self._middleware.settings.stall_ms * 1e6:
            values.append(("tracedbridge.loop_stall", watch.stall.took_ns / 1e9, trigger))
        if request is not None and not _others_measure():
            answered_s = ((watch.answered_ns or watch.ended_ns) - watch.begun_ns) / 1e9
            method = method_of(request, self._middleware.known_methods)
            served: tuple[tuple[str, Any], ...] = (
                ("http.request.method", method),
                ("url.scheme", request.scheme),
                ("network.protocol.version", request.http_version),
            )
            if watch.route is not None:
                served = (*served, ("http.route", watch.route))
            if status is not None:
                served = (*served, ("http.response.status_code", status))
            if error_type is not None:
                served = (*served, ("error.type", error_type))
            values.append(("http.server.request.duration", answered_s, served))
        metrics.record_all(values, watch.context)
        if watch.told is not None:
            watch.told.measure(metrics, watch.cold_context)

    def _write_line(self, watch: Watch, status: int | None, error_type: str | None) -> None:
        request, response, error = watch.asked, watch.response, watch.error
        fields: dict[str, Any] = {"function": self._middleware.function, "invocation_id": watch.id}
        if watch.tracer is not None and watch.ids is not None:
            fields |= watch.ids.fields()
        elif self.pipeline is not None and watch.context is not None:
            # A provider of the app's that is not the SDK's may have chosen other ids.
            span_context = trace_api.get_current_span(watch.context).get_span_context()
            fields["trace_id"] = f"{span_context.trace_id:032x}"
            fields["span_id"] = f"{span_context.span_id:016x}"
        if request is not None:
            fields["method"] = request.method
            fields["path"] = request.raw_path
            fields["bytes_in"] = watch.size_in
        if watch.route is not None:
            fields["route"] = watch.route
        if status is not None and response is not None:
            fields["status"] = status
            fields["bytes_out"] = watch.size_out
        if watch.trigger != "http":
            fields["trigger"] = watch.trigger
        fields["duration_ms"] = round((watch.ended_ns - watch.begun_ns) / 1e6, 3)
        fields["cpu_ms"] = round(watch.cpu_s * 1e3, 3)
        fields["memory_mb"] = round(watch.peak_bytes / 1e6, 1)
        if (end_by_ns := watch.end_by_ns) is not None:
            fields["time_left_ms"] = round((end_by_ns - watch.ended_ns) / 1e6, 3)
        if watch.stall is not None:
            fields["loop_stall_ms"] = round(watch.stall.took_ns / 1e6, 3)
        fields["cold_start"] = watch.story is not None
        if watch.story is not None:
            fields |= (watch.told or ColdStartStory(watch.story)).log_fields()
        if watch.timed_out:
            fields["timed_out"] = True
        if watch.is_abandoned:
            fields["abandoned"] = True
        if error is not None or error_type is not None:
            fields["error"] = type_of(error) if error is not None else error_type
        if error is not None:
            fields["error_message"] = message_of(error)
            if not isinstance(error, BadRequestError) and not watch.stacks:
                # What any server writes to its log; nobody else does for an app that is called by us.
                fields["exception"] = stacktrace_of(error)
        if watch.notes:
            fields["handler_log"] = [redacted_line(note) for note in watch.notes]
        level = "error" if error_type is not None else "warning" if error is not None else "info"
        self._write(level, "invocation", fields, watch.context, watch.ended_wall_ns)

    def _write(
        self, level: str, event: str, fields: dict[str, Any], context: Context | None, at_ns: int | None = None
    ) -> None:
        facts = self.lines.write(level, event, fields, context, at_ns)
        if self.pipeline is not None:
            self.pipeline.log(facts)

    def log(self, facts: LogFacts) -> None:
        """Take a log line of the app."""
        if self.pipeline is not None:
            self.pipeline.log(facts)

    def _tell_losses(self, pipeline: Pipeline) -> None:
        lost: dict[str, int] = {}
        for account in pipeline.accounts():
            for reason, items in {**account.dropped, "unsent": account.pending}.items():
                # A point that a newer one stands for is no loss, nor is what the backend never wanted.
                if items and reason not in ("superseded", UNSUPPORTED):
                    lost[f"{account.signal}_{reason}"] = lost.get(f"{account.signal}_{reason}", 0) + items
        if lost:
            # On stdout only: there is nobody left to send it.
            self.lines.say("warning", "telemetry was lost", {"function": self._middleware.function, **lost})


def _others_measure() -> bool:
    """
    Say whether an instrumentation measures the requests in the app's own meter provider.

    In ours, a view drops what it measures; beside its measurements there, ours would count each request twice.
    """
    provider = in_charge("metrics")
    if isinstance(provider, SteppingMeterProvider):
        return False
    # What the SDK's provider and its meters keep, 1.43 to 1.45; of another one nothing is known.
    for scope, meter in list(getattr(provider, "_meters", {}).items()):
        if scope.name != SCOPE and any(
            made.partition(",")[0] in _MEASURED for made in list(getattr(meter, "_instrument_ids", ()))
        ):
            return True
    return False


def _error_type(watch: Watch, status: int | None) -> str | None:
    """Return the exception's class, or the status of a 5xx; None for what is no failure of the function."""
    if watch.error is not None and not isinstance(watch.error, BadRequestError):
        return type_of(watch.error)
    return str(status) if status is not None and status >= 500 else None


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
