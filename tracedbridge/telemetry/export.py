"""
Collects what the providers produce and sends it within a budget that holds, whatever the backend does.

Each exporter has a queue and a thread of its own; a flush gives all of them the same deadline, waits for them
together and leaves whoever is late behind.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from copy import copy
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from opentelemetry import context as context_api
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY
from opentelemetry.sdk._logs import LogRecordProcessor, ReadableLogRecord
from opentelemetry.sdk.metrics.export import MetricReader, MetricsData
from opentelemetry.sdk.trace import SpanProcessor

from tracedbridge.telemetry.environment import size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry.sdk.trace import ReadableSpan

    from tracedbridge.telemetry.environment import Signal

__all__ = ("Export", "LogQueue", "MetricQueue", "Outcome", "Sink", "SpanQueue")

_logger = logging.getLogger("tracedbridge.telemetry")

# What came of one batch: "" for sent, else the reason why it was dropped.
Outcome = str

# 404 and 405 over HTTP, UNIMPLEMENTED over gRPC: a backend that does not take this signal, as Jaeger metrics.
UNSUPPORTED = "unsupported"


class SpanQueue(SpanProcessor):
    """Holds finished, sampled spans until a flush; the newest are dropped when it is full."""

    def __init__(self, sinks: list[Sink]) -> None:
        """Feed these sinks."""
        self._sinks = sinks

    def on_end(self, span: ReadableSpan) -> None:
        """Queue the span."""
        if span.context is not None and span.context.trace_flags.sampled:
            for sink in self._sinks:
                sink.put(span)


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

    def take(self) -> list[MetricsData]:
        """Return what there is now, as a batch."""
        self.collect()
        collected, self._collected = self._collected, None
        return [] if collected is None else [collected]

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> None:
        del timeout_millis, kwargs
        self._collected = metrics_data

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Do nothing: the flush is ours."""


class Sink:
    """One exporter with its queue and thread."""

    def __init__(
        self,
        signal: Signal,
        name: str,
        exporter: Any,
        export: Callable[[list[Any], int], Outcome],
        abort: Callable[[], None],
    ) -> None:
        self.signal = signal
        self.name = name
        self.exporter = exporter
        # Takes a batch and a deadline; whoever calls `abort` ends it from another thread.
        self._export = export
        self._abort = abort
        prefix = "OTEL_BLRP" if signal == "logs" else "OTEL_BSP"
        # 2048 and 512: the specification's defaults for batch processors.
        self._limit = size(f"{prefix}_MAX_QUEUE_SIZE", 2048)
        self._batch_limit = min(size(f"{prefix}_MAX_EXPORT_BATCH_SIZE", 512), self._limit)
        self._queue: deque[Any] = deque()
        self._jobs: SimpleQueue[tuple[int, SimpleQueue[Sink]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_late = False
        self._unsupported = False
        self._warned = False
        # Called with (signal, outcome, number of items); Export sets it.
        self.count: Callable[[Signal, Outcome, int], None] = lambda *_: None
        self.collect: Callable[[], list[Any]] | None = None

    def put(self, item: Any) -> None:
        if self._unsupported:
            self.count(self.signal, UNSUPPORTED, 1)
        elif len(self._queue) >= self._limit:
            self.count(self.signal, "queue_full", 1)
        else:
            self._queue.append(item)

    def start(self, deadline_ns: int, done: SimpleQueue[Sink]) -> bool:
        """Have the queue sent by then, with a word to ``done``; say whether there is something to wait for."""
        if self._is_late or self._unsupported or not (self._queue or self.collect):
            # A late one is still held by its backend: waiting for it again would take another budget.
            return False
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=f"tracedbridge-{self.signal}", daemon=True)
            self._thread.start()
        self._jobs.put((deadline_ns, done))
        return True

    def leave(self) -> None:
        """Give up on what is under way; its thread is free again as soon as its socket is."""
        self._is_late = True
        self._abort()

    def end(self) -> None:
        if self._thread is not None:
            self._jobs.put(None)
            self._thread = None

    def _work(self) -> None:
        # What the exporters do themselves (HTTP calls, log lines) is not the app's to see.
        context_api.attach(context_api.set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
        while (job := self._jobs.get()) is not None:
            deadline_ns, done = job
            try:
                self._send_all(deadline_ns)
            except Exception as error:  # noqa: BLE001 - an exporter's own fault must not end its thread
                self._warn(f"{type(error).__name__}: {error}")
            self._is_late = False
            done.put(self)

    def _send_all(self, deadline_ns: int) -> None:
        if self.collect is not None:
            self._queue.extend(self.collect())
        while self._queue and time.monotonic_ns() < deadline_ns:
            batch: list[Any] = []
            while self._queue and len(batch) < self._batch_limit:
                batch.append(self._queue.popleft())
            items = sum(map(_points, batch)) if self.signal == "metrics" else len(batch)
            try:
                outcome = self._export(batch, deadline_ns)
            except Exception as error:
                self.count(self.signal, type(error).__name__, items)
                raise
            self.count(self.signal, outcome, items)
            if outcome == UNSUPPORTED:
                self._unsupported = True
                self._queue.clear()
                _logger.warning("the OTLP backend takes no %s: none are sent to it any more", self.signal)
                return
            if outcome:
                self._warn(outcome)
                return
            self._warned = False

    def _warn(self, reason: str) -> None:
        # Once until it works again: a dead backend must not fill the app's log.
        if not self._warned:
            self._warned = True
            _logger.warning("could not export %s by %s: %s", self.signal, self.name, reason)


class Export:
    """All sinks, and the one deadline they share."""

    def __init__(self, sinks: Iterable[Sink], budget_ms: float) -> None:
        """Flush these sinks within ``budget_ms`` each time."""
        self._sinks = list(sinks)
        self.budget_ms = budget_ms
        # Signal and outcome ("" is sent) → number of items, since the last look.
        self._counts: dict[tuple[Signal, Outcome], int] = {}
        self._lock = threading.Lock()
        self._closed = False
        for sink in self._sinks:
            sink.count = self._count

    def sinks(self, signal: Signal) -> list[Sink]:
        """Return the sinks of a signal."""
        return [sink for sink in self._sinks if sink.signal == signal]

    def flush(self, budget_ms: float) -> int:
        """Send what there is, for at most ``budget_ms``; return how long it took, in nanoseconds."""
        begun_ns = time.monotonic_ns()
        deadline_ns = begun_ns + int(budget_ms * 1e6)
        done: SimpleQueue[Sink] = SimpleQueue()
        waiting = {sink for sink in self._sinks if sink.start(deadline_ns, done)}
        while waiting:
            left_s = (deadline_ns - time.monotonic_ns()) / 1e9
            try:
                waiting.discard(done.get(timeout=max(left_s, 0.0)))
            except Empty:
                break
        for sink in waiting:
            sink.leave()
        if self._closed:
            # An invocation that outlived close(): no thread is left waiting for another.
            self.close()
        return time.monotonic_ns() - begun_ns

    def close(self) -> None:
        """End the threads, once they are done with what they do."""
        self._closed = True
        for sink in self._sinks:
            sink.end()

    def counted(self) -> dict[tuple[Signal, Outcome], int]:
        """Return how many items were sent and dropped since the last call, by signal and outcome."""
        with self._lock:
            counts, self._counts = self._counts, {}
        return counts

    def _count(self, signal: Signal, outcome: Outcome, items: int) -> None:
        with self._lock:
            self._counts[signal, outcome] = self._counts.get((signal, outcome), 0) + items


def _points(data: Any) -> int:
    return sum(
        len(metric.data.data_points)
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    )
