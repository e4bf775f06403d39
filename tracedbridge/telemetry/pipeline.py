"""Builds our providers from the environment, puts them in place, and knows who is in charge of each signal."""

from __future__ import annotations

import logging
import os
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from opentelemetry.context import Context
from opentelemetry.sdk.metrics import Histogram
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation
from opentelemetry.sdk.trace.sampling import Sampler
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from tracedbridge.telemetry.current import SCOPE
from tracedbridge.telemetry.environment import SAMPLERS, size
from tracedbridge.telemetry.export import Account, Export
from tracedbridge.telemetry.exporters import make_sinks
from tracedbridge.telemetry.following import in_charge, put_in_place, take_away
from tracedbridge.telemetry.metrics import Metrics, views
from tracedbridge.telemetry.points import Points
from tracedbridge.telemetry.providers import SteppingLoggerProvider, SteppingMeterProvider, SteppingTracerProvider
from tracedbridge.telemetry.queues import LogQueue, MetricQueue, SpanQueue
from tracedbridge.telemetry.standins import StandIn
from tracedbridge.telemetry.variables import entry_point

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry._logs import Logger
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.trace import Tracer

    from tracedbridge.telemetry.current import Ids
    from tracedbridge.telemetry.environment import Signal
    from tracedbridge.telemetry.records import LogFacts
    from tracedbridge.telemetry.standins import StandIns

__all__ = ("Pipeline",)

_logger = logging.getLogger("tracedbridge.telemetry")

_OURS = (SteppingTracerProvider, SteppingMeterProvider, SteppingLoggerProvider, StandIn)


class Pipeline:
    """From our instruments, tracers and loggers to the exporters."""

    def __init__(self, resource: Resource, function: str, budget_ms: float, stand_ins: StandIns | None = None) -> None:
        """
        Build it, and make its providers global where something is exported and nobody has set one.

        Args:
            resource: Of all three signals.
            function: The ``faas.name`` of metric points.
            budget_ms: How long a flush may take.
            stand_ins: What may have stood in for its providers.
        """
        sinks, readers = make_sinks(budget_ms)
        self.export = Export(sinks)
        self._function = function
        sampler = _sampler()
        # Whether a SERVER span can be made after the fact: what the sampler says of it must be known before.
        self._needs_live_spans = sampler is not None or bool(os.environ.get("OTEL_PYTHON_ID_GENERATOR", "").strip())
        self._tracer_provider = SteppingTracerProvider(sampler=sampler, resource=resource, shutdown_on_exit=False)
        self._meter_provider = SteppingMeterProvider(readers, resource, views=views(), shutdown_on_exit=False)
        self._logger_provider = SteppingLoggerProvider(resource, shutdown_on_exit=False)
        self._span_queue: SpanQueue | None = None
        if spans := self.export.sinks("traces"):
            self._span_queue = SpanQueue(spans)
            self._tracer_provider.add_span_processor(self._span_queue)
        if records := self.export.sinks("logs"):
            self._logger_provider.add_log_record_processor(LogQueue(records))
        self._points = _points_for(readers, resource, function)
        self._providers: dict[Signal, Any] = {
            "traces": self._tracer_provider,
            "metrics": self._meter_provider,
            "logs": self._logger_provider,
        }
        self._is_exported = {"traces": bool(spans), "metrics": bool(readers), "logs": bool(records)}
        for signal, provider in self._providers.items():
            # An app sees providers where it would see some with the SDK configured; without exporters it sees none.
            if self._is_exported[signal]:
                put_in_place(signal, provider)
                if stand_ins is not None:
                    put_in_place(signal, provider, instead_of=stand_ins.provider(signal))
        # Signal → the global provider, and what was made of it.
        self._made: dict[str, tuple[Any, Any]] = {}
        self._own_logger: Logger = self._logger_provider.own.get_logger(SCOPE, _version())
        self._lines: deque[LogFacts] = deque()
        self._max_lines = size("OTEL_BLRP_MAX_QUEUE_SIZE", 2048)

    def tracer(self) -> Tracer:
        """Return the tracer to use now: the app's provider's, once it has set one."""
        tracer: Tracer = self._for("traces", self._make_tracer)
        return tracer

    def live_tracer(self) -> Tracer | None:
        """Return the tracer that must make a SERVER span when it begins; None where a stand-in will do."""
        is_theirs = _others(in_charge("traces")) is not None
        return self.tracer() if is_theirs or self._needs_live_spans else None

    def note_open_spans(self) -> None:
        """Know from now on which spans of ours are open, for `tell_open_spans`."""
        if self._span_queue is not None:
            self._span_queue.notes_open = True

    def tell_open_spans(self, ids: Ids, since_ns: int, at_ns: int) -> None:
        """Queue the open spans of an invocation that began then, as timed out at that time; both since the epoch."""
        if self._span_queue is not None:
            self._span_queue.tell_open(ids, since_ns, at_ns)

    def drop(self, signal: Signal, reason: str, items: int) -> None:
        """Count items that were lost before they came here."""
        for sink in self.export.sinks(signal):
            sink.drop(reason, items)

    def metrics(self) -> Metrics | Points | None:
        """Return what takes our metrics now, or None if nobody reads them."""
        taker: Metrics | Points | None = self._for("metrics", self._make_metrics)
        return taker

    def log(self, facts: LogFacts) -> None:
        """Take a log line: at once where the app's provider takes it, with the next flush where ours does."""
        theirs = self._for("logs", self._their_logger)
        if theirs is not None:
            theirs.emit(facts.record())
        elif not self._is_exported["logs"]:
            return
        elif len(self._lines) < self._max_lines:
            self._lines.append(facts)
        else:
            self.drop("logs", "queue_full", 1)

    def accounts(self) -> list[Account]:
        """Return what became of all items until now, one account for each exporter; lines that wait are pending."""
        accounts = self.export.accounts()
        for account in accounts:
            if account.signal == "logs":
                account.produced += len(self._lines)
                account.pending += len(self._lines)
        return accounts

    def flush(self, budget_ms: float, *, is_last: bool = False) -> None:
        """Export what there is, for at most ``budget_ms``, and count what came of it; the last one insists."""
        # Here and not when they were written: a record is several times the cost of its facts.
        logger = self._for("logs", self._their_logger) or self._own_logger
        with suppress(IndexError):
            while True:
                logger.emit(self._lines.popleft().record())
        took_ns = self.export.flush(budget_ms, is_last=is_last)
        if (metrics := self.metrics()) is not None:
            # Of this flush: they go out with the next one.
            metrics.record("tracedbridge.export.duration", took_ns / 1e9, None)
            for (what, signal, outcome), count in self.export.counted().items():
                attributes = (
                    {"signal": signal} if what == "produced" else {"signal": signal, "outcome": outcome or "sent"}
                )
                metrics.record(f"tracedbridge.export.{what}", count, None, attributes)

    def is_sampled(self, trace_id: int) -> bool:
        """Say what the sampler decides about a trace without parent."""
        provider = _others(in_charge("traces")) or self._tracer_provider
        sampler = getattr(provider, "sampler", None)
        if not isinstance(sampler, Sampler):
            return True
        decision: Any = sampler.should_sample(Context(), trace_id, "startup").decision
        return bool(decision.is_sampled())

    def abandon(self) -> None:
        """Take our providers away in a forked process: threads and connections are its parent's."""
        for signal, provider in self._providers.items():
            take_away(signal, provider)

    def close(self) -> None:
        """Take our providers away and end the export; the app's own are not touched."""
        for signal, provider in self._providers.items():
            take_away(signal, provider)
        self.export.close()

    def _for(self, signal: str, make: Callable[[Any], Any]) -> Any:
        """Return what ``make`` makes of the provider that is global now; made anew when that changes."""
        provider = in_charge(signal)
        made = self._made.get(signal)
        if made is None or made[0] is not provider:
            made = self._made[signal] = (provider, make(provider))
        return made[1]

    def _make_tracer(self, provider: Any) -> Tracer:
        tracer: Tracer = (_others(provider) or self._tracer_provider.own).get_tracer(SCOPE, _version())
        return tracer

    def _make_metrics(self, provider: Any) -> Metrics | Points | None:
        theirs = _others(provider)
        if theirs is None and (self._points is not None or not self._is_exported["metrics"]):
            return self._points if self._is_exported["metrics"] else None
        return Metrics((theirs or self._meter_provider.own).get_meter(SCOPE, _version()), self._function)

    def _their_logger(self, provider: Any) -> Logger | None:
        theirs = _others(provider)
        return None if theirs is None else theirs.get_logger(SCOPE, _version())


def _others(provider: Any) -> Any:
    """Return the provider in charge if it is the app's; that of another bridge, which exports by itself, is not."""
    return None if isinstance(provider, _OURS) else provider


def _points_for(readers: list[Any], resource: Resource, function: str) -> Points | None:
    """Return what aggregates our metrics in place, if the one reader there is leaves that to us."""
    if len(readers) != 1 or not isinstance(readers[0], MetricQueue):
        return None
    reader = readers[0]
    asked = (reader.aggregation or {}).get(Histogram)
    if asked is not None and not isinstance(asked, ExplicitBucketHistogramAggregation):
        # Exponential buckets: the SDK's instruments make them.
        return None
    reader.points = Points(resource, InstrumentationScope(SCOPE, _version()), function, reader.temporality)
    return reader.points


def _sampler() -> Sampler | None:
    name = os.environ.get("OTEL_TRACES_SAMPLER", "").strip()
    # Those the SDK reads itself; others are installed components.
    if not name or name.lower() in SAMPLERS:
        return None
    try:
        made = entry_point("opentelemetry_traces_sampler", name)(os.environ.get("OTEL_TRACES_SAMPLER_ARG"))
    except Exception as error:  # noqa: BLE001 - whatever an installed component does, the default samples
        _logger.warning("no sampler %r: %s: %s; using parentbased_always_on", name, type(error).__name__, error)
        return _always_on()
    return made if isinstance(made, Sampler) else _always_on()


def _always_on() -> Sampler:
    from opentelemetry.sdk.trace.sampling import DEFAULT_ON

    return DEFAULT_ON


def _version() -> str:
    from tracedbridge import __version__

    return __version__
