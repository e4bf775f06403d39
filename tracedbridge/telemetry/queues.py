"""Where the SDK's providers put what they produce, until a flush takes it."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from opentelemetry import context as context_api
from opentelemetry.sdk._logs import LogRecordProcessor, ReadableLogRecord
from opentelemetry.sdk.metrics.export import MetricReader, MetricsData
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.trace import Status, StatusCode

from tracedbridge.telemetry.current import running

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import Span

    from tracedbridge.telemetry.current import Ids
    from tracedbridge.telemetry.export import Sink
    from tracedbridge.telemetry.points import Points

__all__ = ("LogQueue", "MetricQueue", "SpanQueue")


class SpanQueue(SpanProcessor):
    """Holds finished, sampled spans until a flush; the newest are dropped when it is full."""

    def __init__(self, sinks: list[Sink]) -> None:
        """Feed these sinks."""
        self._sinks = sinks
        # By span id; and those of them that were told already, as timed out.
        # Weak: a span that its app forgets to end is forgotten, as without us. Only once there is a use for them.
        self._open: WeakValueDictionary[int, Span] = WeakValueDictionary()
        self._owner: WeakKeyDictionary[Span, int] = WeakKeyDictionary()
        self.notes_open = False
        self._told: set[int] = set()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Note that it is open."""
        del parent_context
        if self.notes_open:
            self._open[span.context.span_id] = span
            if (watch := running.get()) is not None:
                # Two invocations may be in one trace, of one caller. The first span of each is its own.
                self._owner[span] = span.context.span_id if watch.ids is None else watch.ids.span_id

    def on_end(self, span: ReadableSpan) -> None:
        """Queue the span."""
        if span.context is None:
            return
        # Whoever takes it out of the open ones tells it: an alarm may come at this very moment.
        is_ours = self.notes_open and self._open.pop(span.context.span_id, None) is not None
        if not is_ours and self._told and span.context.span_id in self._told:
            self._told.discard(span.context.span_id)
        elif span.context.trace_flags.sampled:
            for sink in self._sinks:
                sink.put(span)

    def tell_open(self, ids: Ids, since_ns: int, at_ns: int) -> None:
        """
        Queue the open spans of an invocation as they are, timed out at ``at_ns``; their true end is not told any more.

        The spans themselves are left alone: the app goes on with them.
        """
        for span in list(self._open.values()):
            # None: made before the SDK was there, and replayed.
            is_of_another = self._owner.get(span, ids.span_id) != ids.span_id
            if is_of_another or span.context.trace_id != ids.trace_id or (span.start_time or 0) < since_ns:
                continue
            # First said, then taken: whoever ends it now finds it there, or has taken it himself.
            self._told.add(span.context.span_id)
            if self._open.pop(span.context.span_id, None) is None:
                self._told.discard(span.context.span_id)
                continue
            timed_out = ReadableSpan(
                span.name, span.context, span.parent, span.resource,
                {**(span.attributes or {}), "error.type": "DeadlineError"}, span.events, span.links, span.kind,
                status=Status(StatusCode.ERROR, "its invocation has timed out"), start_time=span.start_time,
                end_time=at_ns, instrumentation_scope=span.instrumentation_scope,
            )  # fmt: skip
            for sink in self._sinks:
                sink.put(timed_out)


class LogQueue(LogRecordProcessor):
    """Holds log records until a flush; the newest are dropped when it is full."""

    def __init__(self, sinks: list[Sink]) -> None:
        """Feed these sinks."""
        self._sinks = sinks

    def on_emit(self, log_record: Any) -> None:
        """Queue the record, without the context that it may keep alive."""
        record = copy(log_record.log_record)
        record.context = context_api.Context()
        readable = ReadableLogRecord(
            log_record=record,
            resource=log_record.resource,
            instrumentation_scope=log_record.instrumentation_scope,
            limits=log_record.limits,
        )
        for sink in self._sinks:
            sink.put(readable)

    def shutdown(self) -> None:
        """Do nothing: the flush is ours."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Do nothing: the flush is ours."""
        del timeout_millis
        return True


class MetricQueue(MetricReader):
    """Collects metric points when a flush asks for them; no ticker, which would not tick in a frozen process."""

    def __init__(self, exporter: Any) -> None:
        """Use the temporality and aggregations that the exporter prefers."""
        super().__init__(
            preferred_temporality=exporter._preferred_temporality,
            preferred_aggregation=exporter._preferred_aggregation,
        )
        self._collected: MetricsData | None = None
        # Ours, where they are not among the SDK's instruments.
        self.points: Points | None = None
        self.temporality = exporter._preferred_temporality
        self.aggregation = exporter._preferred_aggregation

    def take(self) -> list[MetricsData]:
        """Return what there is now, as a batch."""
        self.collect()
        collected, self._collected = self._collected, None
        if self.points is not None:
            collected = self.points.add_to(collected)
        return [] if collected is None else [collected]

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> None:
        del timeout_millis, kwargs
        self._collected = metrics_data

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Do nothing: the flush is ours."""
