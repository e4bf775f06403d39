"""
Aggregates our own metrics in place: what the SDK's instruments make of them, at a tenth of the cost.

An SDK instrument takes 14 µs a value, most of it to look again at attributes that are always the same few; five values
an invocation would be a third of what telemetry costs (``benchmarks/``). `tests/telemetry/test_points.py` holds the
points next to the SDK's. Where somebody else reads our metrics (the app's provider, a reader that is pulled from) or
wants another aggregation, `tracedbridge.telemetry.metrics` uses the SDK's instruments.
"""

from __future__ import annotations

import os
import threading
import time
from bisect import bisect_left
from typing import TYPE_CHECKING, Any

from opentelemetry import trace as trace_api
from opentelemetry.sdk.metrics import Counter as CounterClass
from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics import Histogram as HistogramClass
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)

from tracedbridge.telemetry.metrics import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.context import Context
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    from tracedbridge.telemetry.metrics import Instrument, Labels

    # Value, time, span id, trace id.
    _Exemplar = tuple[float, int, int, int]

__all__ = ("Points",)

# The SDK's default, and the specification's: past it, further attribute sets fall into one.
_MAX_ATTRIBUTE_SETS = 2000
_OVERFLOW = (("otel.metric.overflow", True),)


class Points:
    """All our metrics for one exporter; safe to use from any thread."""

    def __init__(
        self,
        resource: Resource,
        scope: InstrumentationScope,
        function: str,
        temporality: Mapping[type, Any] | None,
    ) -> None:
        """
        Args:
            resource: Of the meter provider.
            scope: Of our meter.
            function: The ``faas.name`` of all points.
            temporality: SDK instrument class → AggregationTemporality, as the exporter prefers; cumulative otherwise.
        """
        self._resource = resource
        self._scope = scope
        self._function = function
        asked = temporality or {}
        cumulative = AggregationTemporality.CUMULATIVE
        self._temporality = {
            "counter": asked.get(CounterClass, cumulative),
            "histogram": asked.get(HistogramClass, cumulative),
        }
        self._begun_ns = self._collected_ns = time.time_ns()
        # Name of the instrument → attribute set → what was recorded.
        self._kept: dict[str, dict[tuple[tuple[str, Any], ...], _Counted | _Distribution]] = {}
        self._lock = threading.Lock()
        # Source: OpenTelemetry, "Metrics SDK", exemplar filters.
        self._filter = os.environ.get("OTEL_METRICS_EXEMPLAR_FILTER", "").strip().lower() or "trace_based"

    def record(
        self, name: str, value: float, context: Context | None, attributes: Mapping[str, Any] | None = None
    ) -> None:
        """Take one value, as `tracedbridge.telemetry.metrics.Metrics.record` does."""
        self.record_all([(name, value, attributes or {})], context)

    def record_all(self, values: list[tuple[str, float, Labels]], context: Context | None) -> None:
        """Take values that belong together: name, value and attributes of each."""
        seen = self._exemplars_of(context)
        now_ns = time.time_ns()
        with self._lock:
            for name, value, attributes in values:
                # The few that are the same for each invocation come as keys already.
                key = attributes if isinstance(attributes, tuple) else tuple(attributes.items())
                sets = self._kept.get(name)
                if sets is None:
                    sets = self._kept[name] = {}
                kept = sets.get(key)
                if kept is None:
                    kept = self._new(name, sets, key)
                kept.take(value, (value, now_ns, *seen) if seen is not None else None)

    def add_to(self, collected: MetricsData | None) -> MetricsData | None:
        """Return the SDK's collected data with our points; those of delta temporality begin anew."""
        now_ns = time.time_ns()
        with self._lock:
            metrics = [self._metric(BY_NAME[name], sets, now_ns) for name, sets in self._kept.items()]
            for name in [name for name in self._kept if self._is_delta(BY_NAME[name])]:
                del self._kept[name]
            self._collected_ns = now_ns
        if not metrics:
            return collected
        ours = ScopeMetrics(scope=self._scope, metrics=metrics, schema_url="")
        if collected is None:
            return MetricsData([ResourceMetrics(self._resource, [ours], self._resource.schema_url)])
        first, *others = collected.resource_metrics
        return MetricsData([ResourceMetrics(first.resource, [*first.scope_metrics, ours], first.schema_url), *others])

    def _new(
        self, name: str, sets: dict[tuple[tuple[str, Any], ...], _Counted | _Distribution], key: tuple[Any, ...]
    ) -> _Counted | _Distribution:
        if len(sets) >= _MAX_ATTRIBUTE_SETS:
            key = _OVERFLOW
        if key not in sets:
            buckets = BY_NAME[name].buckets
            sets[key] = _Distribution(buckets) if buckets else _Counted()
        return sets[key]

    def _metric(
        self,
        instrument: Instrument,
        sets: dict[tuple[tuple[str, Any], ...], _Counted | _Distribution],
        now_ns: int,
    ) -> Metric:
        begun_ns = self._collected_ns if self._is_delta(instrument) else self._begun_ns
        points: Any = [
            kept.point({"faas.name": self._function, **dict(key)}, begun_ns, now_ns) for key, kept in sets.items()
        ]
        temporality = self._temporality[instrument.kind]
        data = Histogram(points, temporality) if instrument.buckets else Sum(points, temporality, is_monotonic=True)
        return Metric(instrument.name, instrument.description, instrument.unit, data)

    def _is_delta(self, instrument: Instrument) -> bool:
        return bool(self._temporality[instrument.kind] is AggregationTemporality.DELTA)

    def _exemplars_of(self, context: Context | None) -> tuple[int, int] | None:
        """Return the span and trace id that exemplars are to carry, or None if there are to be none."""
        if self._filter == "always_off":
            return None
        span_context = trace_api.get_current_span(context).get_span_context()
        if not span_context.trace_flags.sampled and self._filter != "always_on":
            return None
        return span_context.span_id, span_context.trace_id


class _Counted:
    """One point of a counter."""

    __slots__ = ("_exemplar", "_value")

    def __init__(self) -> None:
        self._value: float = 0
        self._exemplar: _Exemplar | None = None

    def take(self, value: float, exemplar: _Exemplar | None) -> None:
        self._value += value
        self._exemplar = exemplar or self._exemplar

    def point(self, attributes: dict[str, Any], begun_ns: int, now_ns: int) -> NumberDataPoint:
        exemplars, self._exemplar = _shown([self._exemplar]), None
        return NumberDataPoint(attributes, begun_ns, now_ns, self._value, exemplars)


class _Distribution:
    """One point of a histogram."""

    __slots__ = ("_bounds", "_counts", "_exemplars", "_max", "_min", "_sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        # The last of each bucket.
        self._exemplars: list[_Exemplar | None] = [None] * (len(bounds) + 1)
        self._sum: float = 0
        self._min, self._max = float("inf"), float("-inf")

    def take(self, value: float, exemplar: _Exemplar | None) -> None:
        # A bound belongs to the bucket below it: OpenTelemetry, "Metrics SDK", explicit bucket histogram.
        bucket = bisect_left(self._bounds, value)
        self._counts[bucket] += 1
        self._sum += value
        if value < self._min:
            self._min = value
        if value > self._max:
            self._max = value
        if exemplar is not None:
            self._exemplars[bucket] = exemplar

    def point(self, attributes: dict[str, Any], begun_ns: int, now_ns: int) -> HistogramDataPoint:
        exemplars = _shown(self._exemplars)
        self._exemplars = [None] * len(self._exemplars)
        return HistogramDataPoint(
            attributes, begun_ns, now_ns, sum(self._counts), self._sum, tuple(self._counts), self._bounds, self._min,
            self._max, exemplars,
        )  # fmt: skip


def _shown(exemplars: list[_Exemplar | None]) -> list[Exemplar]:
    return [
        Exemplar({}, value, at_ns, span_id or None, trace_id or None)
        for value, at_ns, span_id, trace_id in filter(None, exemplars)
    ]
