"""
The memory of the viewer: the newest traces, log records and metric points that came, bounded, safe from any thread.

Knows of the records that it is given no more than the attributes below; whoever asks gets them as they came.
"""

from __future__ import annotations

import heapq
import threading
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from tracedbridge.serving import waterfall

if TYPE_CHECKING:
    from typing import Literal

    Signal = Literal["traces", "metrics", "logs"]

__all__ = ("NO_SERVICE", "Event", "Link", "Log", "Metric", "Scope", "Series", "Span", "Store", "Trace", "service_of")

# What the resource conventions have an SDK say where nobody named the service.
NO_SERVICE = "unknown_service"

# A record with so many characters in it, and each further so many, counts as one more record: else a hundred thousand
# spans with a megabyte of text each would be kept. What instrumentations send has some hundreds.
_CHARS_A_RECORD = 4_000

# What an empty text, a number or an empty list counts, which take memory too.
_LEAST_CHARS = 8

# A point with so many buckets, and each further so many, counts as one more point. SDKs use 10 to 160.
_BUCKETS_A_POINT = 20

# One trace that never ends may take this share of the memory, and leaves the rest to others.
_SHARE_OF_ONE_TRACE = 4

# A chart is some hundred pixels wide; at one export each ten seconds it shows most of an hour.
_MAX_POINTS_A_SERIES = 300
# And on the average of all series, most of which have a single point where instances are short-lived.
_POINTS_A_SERIES = 50


class Scope(Protocol):
    """The library that a record comes from."""

    @property
    def name(self) -> str:
        """Often an import path."""

    @property
    def version(self) -> str:
        """Empty if unknown."""

    @property
    def attributes(self) -> Mapping[str, object]:
        """By OpenTelemetry's names."""


class Event(Protocol):
    """Something that happened during a span."""

    @property
    def time_ns(self) -> int:
        """Nanoseconds since 1970."""

    @property
    def name(self) -> str:
        """Anything."""

    @property
    def attributes(self) -> Mapping[str, object]:
        """By OpenTelemetry's names."""


class Link(Protocol):
    """Another span that a span points to."""

    @property
    def trace_id(self) -> str:
        """Hex."""

    @property
    def span_id(self) -> str:
        """Hex."""

    @property
    def attributes(self) -> Mapping[str, object]:
        """By OpenTelemetry's names."""


class Span(waterfall.Span, Protocol):
    """A span, whole."""

    @property
    def events(self) -> Sequence[Event]:
        """In order."""

    @property
    def links(self) -> Sequence[Link]:
        """To spans of this trace or of others."""

    @property
    def scope(self) -> Scope:
        """The library that made it."""


class Log(Protocol):
    """A log record."""

    @property
    def time_ns(self) -> int:
        """Nanoseconds since 1970."""

    @property
    def severity(self) -> str:
        """As text, empty if unknown."""

    @property
    def body(self) -> object:
        """Text, or anything that an attribute may be."""

    @property
    def attributes(self) -> Mapping[str, object]:
        """By OpenTelemetry's names."""

    @property
    def trace_id(self) -> str:
        """Hex, empty outside a span."""

    @property
    def span_id(self) -> str:
        """Hex, empty outside a span."""

    @property
    def resource(self) -> Mapping[str, object]:
        """What the record comes from."""

    @property
    def scope(self) -> Scope:
        """The logger."""


class Metric(Protocol):
    """A metric with some of its points."""

    @property
    def name(self) -> str:
        """With dots."""

    @property
    def unit(self) -> str:
        """UCUM, or empty."""

    @property
    def description(self) -> str:
        """One sentence, or empty."""

    @property
    def kind(self) -> str:
        """``"gauge"``, ``"sum"``, ``"histogram"``, ``"exponential_histogram"``, ``"summary"`` or ``"none"``."""

    @property
    def temporality(self) -> str:
        """``"delta"`` where each point counts from the one before it."""

    @property
    def points(self) -> Sequence[Any]:
        """Of the kind; all have ``attributes``, ``start_ns`` and ``time_ns``."""

    @property
    def resource(self) -> Mapping[str, object]:
        """What the points come from."""

    @property
    def scope(self) -> Scope:
        """The library that measures."""


def service_of(resource: Mapping[str, object]) -> str:
    """Return the name of the service that a resource stands for."""
    return str(resource.get("service.name") or NO_SERVICE)


class Trace:
    """One trace as it was when it was asked for: it does not change, more spans make another one."""

    def __init__(self, trace_id: str, spans: Sequence[Span], logs: Sequence[Log]) -> None:
        """Take at least one span, all of that trace, each id once; in the order of their arrival."""
        self.trace_id = trace_id
        self.logs = tuple(sorted(logs, key=lambda log: log.time_ns))
        self._arrived = spans

    @cached_property
    def start_ns(self) -> int:
        """When the first span began."""
        return min(span.start_ns for span in self._arrived)

    @cached_property
    def end_ns(self) -> int:
        """When the last span ended."""
        return max(max(span.end_ns, span.start_ns) for span in self._arrived)

    @cached_property
    def spans(self) -> tuple[Span, ...]:
        """All spans in the order of their start, but no child before its parent."""
        return self._tree[0]

    @property
    def parent_ids(self) -> Mapping[str, str]:
        """
        Id of the parent by id of the span, empty for a root.

        A missing parent has its id here, but a circle is cut: who walks up from a span comes to an end.
        """
        return self._tree[1]

    @cached_property
    def by_id(self) -> Mapping[str, Span]:
        """The spans by their ids."""
        return {span.span_id: span for span in self._arrived}

    @cached_property
    def children(self) -> Mapping[str, Sequence[Span]]:
        """The children by the id of their parent, in the order of their start; nothing for who has none."""
        children = defaultdict(list)
        for span in self.spans:
            if self.parent_ids[span.span_id] in self.by_id:
                children[self.parent_ids[span.span_id]].append(span)
        return dict(children)

    @cached_property
    def tops(self) -> tuple[Span, ...]:
        """The spans without a parent here, in the order of their start."""
        return tuple(span for span in self.spans if self.parent_ids[span.span_id] not in self.by_id)

    @cached_property
    def root(self) -> Span:
        """The span that the trace is named by: the first without any parent, else the first whose parent is missing."""
        return next((span for span in self.tops if not span.parent_id), self.tops[0])

    @cached_property
    def missing_parents(self) -> int:
        """How many spans name a parent that is not here."""
        return sum(1 for span in self._arrived if span.parent_id and span.parent_id not in self.by_id)

    @cached_property
    def errors(self) -> int:
        """How many spans ended in an error."""
        return sum(1 for span in self._arrived if span.status == "error")

    @cached_property
    def _tree(self) -> tuple[tuple[Span, ...], dict[str, str]]:
        waiting = sorted(self._arrived, key=lambda span: span.start_ns)
        below = defaultdict(list)
        parent_ids = {span.span_id: span.parent_id for span in waiting}
        # Numbers decide between equal starts: spans cannot be compared.
        numbers = {span.span_id: number for number, span in enumerate(waiting)}
        ready: list[tuple[int, int]] = []
        for number, span in enumerate(waiting):
            if span.parent_id in parent_ids:
                below[span.parent_id].append((span.start_ns, number))
            else:
                ready.append((span.start_ns, number))
        ordered: list[Span] = []
        # What is left when nothing is ready hangs below a circle, and a circle is cut at its earliest span.
        rest = iter(waiting)
        placed: set[str] = set()
        while len(ordered) < len(waiting):
            if not ready:
                cut = self._on_circle(next(span for span in rest if span.span_id not in placed))
                parent_ids[cut.span_id] = ""
                ready.append((cut.start_ns, numbers[cut.span_id]))
            heapq.heapify(ready)
            while ready:
                span = waiting[heapq.heappop(ready)[1]]
                if span.span_id not in placed:
                    placed.add(span.span_id)
                    ordered.append(span)
                    for child in below[span.span_id]:
                        heapq.heappush(ready, child)
        return tuple(ordered), parent_ids

    def _on_circle(self, span: Span) -> Span:
        """Return the earliest span of the circle that the ancestors of ``span`` end in."""
        seen: dict[str, int] = {}
        while span.span_id not in seen:
            seen[span.span_id] = len(seen)
            span = self.by_id[span.parent_id]
        circle = list(seen)[seen[span.span_id] :]
        return min((self.by_id[span_id] for span_id in circle), key=lambda each: each.start_ns)


class Series(NamedTuple):
    """The points of one metric with the same attributes, of one instance, as they came; oldest first."""

    metric: Metric
    """As it came last."""
    attributes: Mapping[str, object]
    instance: str
    """Empty if unknown."""
    points: tuple[Any, ...]


class Store:
    """Keeps what came; what came longest ago makes room."""

    def __init__(self, *, max_spans: int = 100_000, max_logs: int = 20_000, max_series: int = 2_000) -> None:
        """
        Begin with nothing.

        Args:
            max_spans: Of all traces; a quarter of it for one trace. Very long ones count as several.
            max_logs: Of all log records; very long ones count as several.
            max_series: Of all metrics, with fifty points each on the average.
        """
        self._lock = threading.Lock()
        self._seq = 0
        self._dropped = {"traces": 0, "logs": 0, "metrics": 0}
        self._max_spans = max_spans
        self._max_spans_a_trace = max(max_spans // _SHARE_OF_ONE_TRACE, 1)
        self._max_logs = max_logs
        self._max_series = max_series
        # In the order in which they last got a span.
        self._traces: OrderedDict[str, _Growing] = OrderedDict()
        self._spans_weight = 0
        self._logs: deque[tuple[Log, int]] = deque()
        self._logs_weight = 0
        # Logs come before, after or without the spans that they were written in.
        self._logs_of: dict[str, deque[Log]] = {}
        # In the order in which they last got a point.
        self._series: OrderedDict[_SeriesKey, _GrowingSeries] = OrderedDict()
        self._series_weight = 0
        self._points_weight = 0

    @property
    def seq(self) -> int:
        """A number that grows with everything that arrives."""
        with self._lock:
            return self._seq

    @property
    def dropped(self) -> dict[str, int]:
        """How many traces (whole or in part), log records and metric points made room so far."""
        with self._lock:
            return dict(self._dropped)

    def add(self, signal: Signal, records: Sequence[Any]) -> None:
        """
        Keep ``records``.

        Args:
            signal: What they are: spans, metrics or log records.
            records: As ``tracedbridge.telemetry.otlp.decode`` gives them. A span that is here already is replaced.
        """
        if not records:
            return
        with self._lock:
            self._seq += 1
            if signal == "traces":
                self._add_spans(records)
            elif signal == "logs":
                self._add_logs(records)
            else:
                self._add_metrics(records)

    def trace(self, trace_id: str) -> Trace | None:
        """Return one trace, or None if no span of it is here."""
        with self._lock:
            growing = self._traces.get(trace_id)
            return None if growing is None else self._seen(trace_id, growing)

    def traces(self, limit: int | None = None) -> list[Trace]:
        """Return the traces that began last, newest first."""
        with self._lock:
            newest = sorted(self._traces.items(), key=lambda each: -each[1].start_ns)[:limit]
            return [self._seen(trace_id, growing) for trace_id, growing in newest]

    def logs(self, limit: int | None = None) -> list[Log]:
        """Return the newest log records, newest first."""
        with self._lock:
            # Of records with the same time the one that came later was written later, as a rule.
            logs = [log for log, _ in reversed(self._logs)]
        return sorted(logs, key=lambda log: -log.time_ns)[:limit]

    def series(self) -> list[Series]:
        """Return all series, in the order of service, metric and attributes."""
        with self._lock:
            return [
                Series(growing.metric, growing.attributes, key.instance, tuple(growing.points))
                for key, growing in sorted(self._series.items(), key=lambda each: each[0])
            ]

    def _seen(self, trace_id: str, growing: _Growing) -> Trace:
        if growing.seen is None:
            growing.seen = Trace(
                trace_id, [span for span, _ in growing.spans.values()], tuple(self._logs_of.get(trace_id, ()))
            )
        return growing.seen

    def _add_spans(self, spans: Iterable[Span]) -> None:
        for span in spans:
            growing = self._traces.get(span.trace_id)
            if growing is None:
                growing = self._traces[span.trace_id] = _Growing(span.start_ns)
            self._traces.move_to_end(span.trace_id)
            grown = growing.add(span, _span_weight(span))
            self._spans_weight += grown
            while growing.weight > self._max_spans_a_trace:
                self._spans_weight -= growing.drop_oldest()
                if not growing.is_cut:
                    growing.is_cut = True
                    self._dropped["traces"] += 1
            if not growing.spans:
                # A single span, longer than a trace may be.
                del self._traces[span.trace_id]
        while self._spans_weight > self._max_spans:
            _, oldest = self._traces.popitem(last=False)
            self._spans_weight -= oldest.weight
            self._dropped["traces"] += not oldest.is_cut

    def _add_logs(self, logs: Iterable[Log]) -> None:
        for log in logs:
            weight = _log_weight(log)
            self._logs.append((log, weight))
            self._logs_weight += weight
            if log.trace_id:
                self._logs_of.setdefault(log.trace_id, deque()).append(log)
                self._logs_changed(log.trace_id)
            while self._logs_weight > self._max_logs:
                oldest, weight = self._logs.popleft()
                self._logs_weight -= weight
                self._dropped["logs"] += 1
                if oldest.trace_id:
                    of_trace = self._logs_of[oldest.trace_id]
                    of_trace.popleft()
                    if not of_trace:
                        del self._logs_of[oldest.trace_id]
                    self._logs_changed(oldest.trace_id)

    def _logs_changed(self, trace_id: str) -> None:
        if trace_id in self._traces:
            self._traces[trace_id].seen = None

    def _add_metrics(self, metrics: Iterable[Metric]) -> None:
        for metric in metrics:
            service, instance = service_of(metric.resource), _instance_of(metric.resource)
            for point in metric.points:
                attributes = tuple(sorted((key, repr(value)) for key, value in point.attributes.items()))
                key = _SeriesKey(
                    service, metric.name, metric.scope.name, metric.kind, metric.unit, attributes, instance
                )
                self._add_point(key, metric, point)
        while self._series_weight > self._max_series:
            self._drop_series()
        while self._points_weight > self._max_series * _POINTS_A_SERIES:
            oldest = next(iter(self._series.values()))
            self._drop_point(oldest)
            if not oldest.points:
                self._drop_series()

    def _add_point(self, key: _SeriesKey, metric: Metric, point: Any) -> None:
        growing = self._series.get(key)
        if growing is None:
            growing = self._series[key] = _GrowingSeries(point.attributes, _chars_weight(_chars_of(key)))
            self._series_weight += growing.weight
        self._series.move_to_end(key)
        growing.metric = metric
        if growing.points and _times(growing.points[-1]) == _times(point):
            # Sent again, because the answer to the first time was lost.
            self._points_weight -= _point_weight(growing.points.pop())
        growing.points.append(point)
        self._points_weight += _point_weight(point)
        if len(growing.points) > _MAX_POINTS_A_SERIES:
            self._drop_point(growing)

    def _drop_series(self) -> None:
        _, oldest = self._series.popitem(last=False)
        self._series_weight -= oldest.weight
        while oldest.points:
            self._drop_point(oldest)

    def _drop_point(self, growing: _GrowingSeries) -> None:
        self._points_weight -= _point_weight(growing.points.popleft())
        self._dropped["metrics"] += 1


class _SeriesKey(NamedTuple):
    service: str
    metric: str
    scope: str
    kind: str
    unit: str
    attributes: tuple[tuple[str, str], ...]
    instance: str


class _Growing:
    """A trace, while spans may still come."""

    __slots__ = ("is_cut", "seen", "spans", "start_ns", "weight")

    def __init__(self, start_ns: int) -> None:
        self.spans: dict[str, tuple[Span, int]] = {}
        self.start_ns = start_ns
        self.weight = 0
        # Whether spans of it had to make room.
        self.is_cut = False
        # What was told of it last, until it changes.
        self.seen: Trace | None = None

    def add(self, span: Span, weight: int) -> int:
        """Add or replace a span; return by how much the trace grew."""
        _, before = self.spans.pop(span.span_id, (None, 0))
        self.spans[span.span_id] = (span, weight)
        self.start_ns = min(self.start_ns, span.start_ns)
        self.seen = None
        self.weight += weight - before
        return weight - before

    def drop_oldest(self) -> int:
        """Drop the span that came first; return by how much the trace shrank."""
        _, weight = self.spans.pop(next(iter(self.spans)))
        self.weight -= weight
        return weight


class _GrowingSeries:
    """A series, while points may still come."""

    __slots__ = ("attributes", "metric", "points", "weight")

    def __init__(self, attributes: Mapping[str, object], weight: int) -> None:
        self.attributes = attributes
        self.weight = weight
        self.points: deque[Any] = deque()
        self.metric: Metric


def _instance_of(resource: Mapping[str, object]) -> str:
    return str(resource.get("service.instance.id") or "")


def _times(point: Any) -> tuple[int, int]:
    return point.start_ns, point.time_ns


def _span_weight(span: Span) -> int:
    """Return as how many spans one counts."""
    chars = len(span.name) + len(span.status_message) + _chars_of(span.attributes)
    for event in span.events:
        chars += len(event.name) + _chars_of(event.attributes)
    for link in span.links:
        chars += len(link.trace_id) + len(link.span_id) + _chars_of(link.attributes)
    # The resource too, which the spans of a request share: a long one would be missed if none of them counted it.
    return _chars_weight(chars + _chars_of(span.resource))


def _log_weight(log: Log) -> int:
    """Return as how many log records one counts."""
    return _chars_weight(_chars_of(log.body) + _chars_of(log.attributes) + _chars_of(log.resource))


def _chars_weight(chars: int) -> int:
    return 1 + chars // _CHARS_A_RECORD


def _chars_of(value: object) -> int:
    if isinstance(value, (str, bytes)):
        return _LEAST_CHARS + len(value)
    if isinstance(value, Mapping):
        return _LEAST_CHARS + sum(len(key) + _chars_of(each) for key, each in value.items())
    if isinstance(value, Sequence):
        return _LEAST_CHARS + sum(map(_chars_of, value))
    return _LEAST_CHARS


def _point_weight(point: Any) -> int:
    numbers = 0
    for name in ("bucket_counts", "positive", "negative", "quantiles", "exemplars"):
        numbers += len(getattr(point, name, ()))
    return 1 + numbers // _BUCKETS_A_POINT
