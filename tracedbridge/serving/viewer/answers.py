"""
The page's own JSON API: what it shows of the traces, cold starts, metrics and logs in a store.

Times are text where their name ends in ``Ns``, and whole numbers beyond 2**53 are, because JavaScript cannot hold
them; so are NaN and the infinities, which JSON cannot. Ids are lower-case hex.

Cold starts are known by the spans and attributes of ``tracedbridge/telemetry/coldstart.py`` and ``importspans.py``.
Traces of other tools have none of these, and get what can be told without.
"""

from __future__ import annotations

import base64
import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

from tracedbridge.serving.viewer.store import service_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tracedbridge.serving.viewer.store import Log, Series, Span, Store, Trace

__all__ = ("Json", "answer", "json_of", "text_of")

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"
"""What the page can read."""

# More rows than these nobody reads; the filter of the page works on what it has.
_MAX_TRACES = 500
_MAX_COLD_STARTS = 500
_MAX_LOGS = 1_000
# By default a bridge draws 40 import spans, on request 1,500.
_MAX_IMPORTS = 200

# The largest whole number below which a JavaScript number has no gaps.
_MAX_SAFE_INTEGER = 2**53 - 1

# OpenTelemetry SDKs use 160 buckets at most; half as many are finer than a chart.
_MAX_BUCKETS = 80

_KIND = "tracedbridge.coldstart.kind"
_KINDS = ("on_demand", "proactive", "restored")
_COLD_START = "cold start"
# In the order in which they happen.
_PHASES = (
    "restore", "interpreter", "bridge", "telemetry", "app_import", "app_resolve", "lifespan", "wait", "first_byte",
)  # fmt: skip
_PHASE_OF_NAME = {"import app": "app_import", "lifespan startup": "lifespan"}
_IMPORT = "import "
# On each import span, and on nothing else: the span of the phase `import app` is none, a module may be called app.
_SELF_MS = "tracedbridge.import.self_ms"

# Of the HTTP conventions: what they are called now, and before 2023.
_METHOD = ("http.request.method", "http.method")
_STATUS = ("http.response.status_code", "http.status_code")
_PATH = ("url.path", "http.target")
_ROUTE = ("http.route",)
_VERSION = ("service.version", "faas.version")


def answer(store: Store, parts: Sequence[str]) -> object | None:
    """
    Return the JSON value for a path of the page's API, or None if there is none.

    Args:
        store: What is asked.
        parts: The path below ``/api/viewer/``, split at the slashes.
    """
    match list(parts):
        case ["traces"]:
            # Asked before the traces: what comes between the two is newer than the number, and asked for again.
            return {"seq": store.seq, "traces": [_row(trace) for trace in store.traces(_MAX_TRACES)]}
        case ["traces", trace_id]:
            trace = store.trace(trace_id.lower())
            return None if trace is None else _whole(trace)
        case ["coldstarts"]:
            cold_starts = (each for trace in store.traces() for each in _cold_starts(trace))
            return {"coldstarts": [_cold_start(*each) for each in islice(cold_starts, _MAX_COLD_STARTS)]}
        case ["metrics"]:
            return {"metrics": _metrics(store.series())}
        case ["logs"]:
            return {"logs": [{**_log(log), "traceId": log.trace_id} for log in store.logs(_MAX_LOGS)]}
    return None


def json_of(value: object) -> Json:
    """Return an attribute's value as the page, and `json.dumps`, can take it."""
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, int):
        return value if abs(value) <= _MAX_SAFE_INTEGER else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else _name_of(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return {str(key): json_of(each) for key, each in value.items()}
    if isinstance(value, Sequence):
        return [json_of(each) for each in value]
    return str(value)


def text_of(value: object) -> str:
    """Return an attribute's value as text: as it is, or as JSON."""
    if value is None:
        return ""
    # In a text long integers may stay what they are.
    told = value if isinstance(value, int) else json_of(value)
    return told if isinstance(told, str) else json.dumps(told, ensure_ascii=False)


def _name_of(value: float) -> str:
    """Return the name of a number that JSON does not have, as JavaScript and protobuf spell it."""
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _pairs(attributes: Mapping[str, object]) -> list[list[Json]]:
    return [[key, json_of(value)] for key, value in attributes.items()]


def _first(names: Iterable[str], *attributes: Mapping[str, object]) -> object | None:
    return next((each[name] for each in attributes for name in names if each.get(name) not in (None, "")), None)


# Traces.


def _row(trace: Trace) -> dict[str, Any]:
    """Return what the list of traces shows."""
    root = trace.root
    # With a browser's or a queue's span on top, the request is the one that was served.
    server = next((span for span in trace.spans if span.kind == "server"), root)
    told = (root.attributes, server.attributes)
    kinds, length_ns = _coldness(trace)
    status = _first(_STATUS, *told)
    return {
        "traceId": trace.trace_id,
        "name": root.name,
        "service": service_of(root.resource),
        "startNs": str(trace.start_ns),
        "durationNs": str(trace.end_ns - trace.start_ns),
        "status": root.status,
        "httpStatus": status if isinstance(status, int) else None,
        "method": _text_or_none(_first(_METHOD, *told)),
        "path": _text_or_none(_first(_PATH, *told)),
        "route": _text_or_none(_first(_ROUTE, *told)),
        "cold": kinds,
        "coldNs": None if length_ns is None else str(length_ns),
        "spanCount": len(trace.spans),
        "errorCount": trace.errors,
        "logCount": len(trace.logs),
        "hasMissingParents": trace.missing_parents > 0,
    }


def _text_or_none(value: object | None) -> str | None:
    return None if value is None else text_of(value)


def _coldness(trace: Trace) -> tuple[str | None, int | None]:
    """Return the kind of the cold start that a trace tells of, or None, and how long it took, if it says so."""
    for span, kind in _cold_starts_in(trace):
        return kind, _length_ns(span)
    for span in trace.spans:
        # The first invocation after a proactive start, or one that another tool saw.
        if span.attributes.get("faas.coldstart") is True:
            return _kind_of(span) or "on_demand", None
    return None, None


def _whole(trace: Trace) -> dict[str, Any]:
    """Return what the page of one trace shows."""
    resources = _Resources()
    phases, critical = _phases_of(trace), _critical_ids(trace)
    spans = [
        {
            **_span(span),
            "parentId": trace.parent_ids[span.span_id],
            "resource": resources.index_of(span),
            "phase": phases.get(span.span_id),
            "isCritical": span.span_id in critical,
        }
        for span in trace.spans
    ]
    logs = [_log(log) for log in trace.logs]
    return {"traceId": trace.trace_id, "spans": spans, "logs": logs, "resources": resources.listed}


def _span(span: Span) -> dict[str, Any]:
    """Return what is known of a span by itself."""
    return {
        "spanId": span.span_id,
        "name": span.name,
        "kind": span.kind,
        "service": service_of(span.resource),
        "scope": _scope_of(span),
        "startNs": str(span.start_ns),
        "durationNs": str(_length_ns(span)),
        "status": span.status,
        "statusMessage": span.status_message,
        "attributes": _pairs(span.attributes),
        "events": [
            {"timeNs": str(event.time_ns), "name": event.name, "attributes": _pairs(event.attributes)}
            for event in span.events
        ],
        "links": [
            {"traceId": link.trace_id, "spanId": link.span_id, "attributes": _pairs(link.attributes)}
            for link in span.links
        ],
        "isImport": _is_import(span),
    }


class _Resources:
    """The resources of a trace, each once."""

    def __init__(self) -> None:
        self.listed: list[list[list[Json]]] = []
        self._indexes: dict[str, int] = {}
        # The spans of a request share one object, which is found sooner than its equals are.
        self._by_object: dict[int, int] = {}

    def index_of(self, span: Span) -> int:
        index = self._by_object.get(id(span.resource))
        if index is None:
            pairs = _pairs(span.resource)
            index = self._indexes.setdefault(json.dumps(pairs), len(self.listed))
            self._by_object[id(span.resource)] = index
            if index == len(self.listed):
                self.listed.append(pairs)
        return index


def _scope_of(record: Span | Log) -> str:
    return f"{record.scope.name} {record.scope.version}".strip()


def _length_ns(span: Span) -> int:
    return max(span.end_ns - span.start_ns, 0)


def _log(log: Log) -> dict[str, Any]:
    return {
        "timeNs": str(log.time_ns),
        "severity": log.severity,
        "body": text_of(log.body),
        "attributes": _pairs(log.attributes),
        "spanId": log.span_id,
        "scope": _scope_of(log),
        "service": service_of(log.resource),
    }


# The critical path.


def _critical_ids(trace: Trace) -> set[str]:
    """
    Return the ids of the spans that a trace waited for.

    Source: Jaeger's UI, "Critical path": from the end of each root backwards, time belongs to the child that finished
    last; before its start, to the one that finished last until then; else to the span itself. Children are clipped to
    their parents; those outside of it, and what a queue's producer or consumer does, nobody waited for.

    A child that ends where the next one begins counts here, which Jaeger's microseconds leave out: our phases do so.
    """
    critical: set[str] = set()
    todo = [(top, top.start_ns, max(top.end_ns, top.start_ns)) for top in trace.tops]
    while todo:
        span, start_ns, end_ns = todo.pop()
        critical.add(span.span_id)
        within = []
        for child in trace.children.get(span.span_id, ()):
            child_start_ns, child_end_ns = max(child.start_ns, start_ns), min(child.end_ns, end_ns)
            if child_start_ns < child_end_ns and child.kind not in ("producer", "consumer"):
                within.append((child_end_ns, child_start_ns, child))
        # Of two that end together the longer one.
        within.sort(key=lambda each: (-each[0], each[1]))
        waited_until_ns = end_ns
        for child_end_ns, child_start_ns, child in within:
            if child_end_ns <= waited_until_ns:
                todo.append((child, child_start_ns, child_end_ns))
                waited_until_ns = child_start_ns
    return critical


# Cold starts.


def _kind_of(span: Span) -> str | None:
    kind = span.attributes.get(_KIND)
    return kind if isinstance(kind, str) and kind in _KINDS else None


def _cold_starts_in(trace: Trace) -> Iterator[tuple[Span, str]]:
    """Yield the spans ``cold start`` and their kinds."""
    for span in trace.spans:
        # The SERVER span has the kind too.
        if span.name == _COLD_START and (kind := _kind_of(span)) is not None:
            yield span, kind


def _cold_starts(trace: Trace) -> Iterator[tuple[Trace, Span, str]]:
    for span, kind in _cold_starts_in(trace):
        yield trace, span, kind


def _is_import(span: Span) -> bool:
    return span.name.startswith(_IMPORT) and _SELF_MS in span.attributes


def _phases_of(trace: Trace) -> dict[str, str]:
    """Return the phase of the cold start by the ids of the spans that are in one."""
    phases: dict[str, str] = {}
    cold_starts = {span.span_id: kind for span, kind in _cold_starts_in(trace)}
    drawn = {
        span_id: [
            (child.start_ns, child.end_ns, _PHASE_OF_NAME[child.name])
            for child in trace.children.get(span_id, ())
            if child.name in _PHASE_OF_NAME
        ]
        for span_id in cold_starts
    }
    for span in trace.spans:
        parent_id = trace.parent_ids[span.span_id]
        if span.span_id in cold_starts:
            # The restore is its only phase; others are more than one.
            phase = "restore" if cold_starts[span.span_id] == "restored" else None
        elif parent_id in cold_starts:
            phase = _phase_below(span, drawn[parent_id])
        elif _is_import(span):
            # Those that the first invocation made are below its SERVER span.
            phase = phases.get(parent_id, "first_byte")
        else:
            phase = phases.get(parent_id)
        if phase is not None:
            phases[span.span_id] = phase
    return phases


def _phase_below(span: Span, drawn: Sequence[tuple[int, int, str]]) -> str | None:
    """Return the phase of a child of ``cold start``, of whose phases these are drawn."""
    if _is_import(span):
        return "app_resolve"
    if span.name in _PHASE_OF_NAME:
        return _PHASE_OF_NAME[span.name]
    # The app's own, from while it was imported or started.
    return next((phase for start_ns, end_ns, phase in drawn if start_ns <= span.start_ns < end_ns), None)


def _cold_start(trace: Trace, span: Span, kind: str) -> dict[str, Any]:
    """Return what the page of cold starts shows of one."""
    below: list[Span] = []
    todo = [span]
    while todo:
        children = trace.children.get(todo.pop().span_id, ())
        below += children
        todo += children
    imports = [each for each in below if _is_import(each)]
    # What it cost by itself: a package that only imports others is not slow.
    imports.sort(key=lambda each: -_ns_of_ms(each.attributes[_SELF_MS]))
    modules = [count for each in below if isinstance(count := each.attributes.get("tracedbridge.imports.modules"), int)]
    phases = [
        [phase, str(_ns_of_ms(span.attributes[name]))]
        for phase in _PHASES
        if (name := f"tracedbridge.coldstart.{phase}_ms") in span.attributes
    ]
    return {
        "traceId": trace.trace_id,
        "service": service_of(span.resource),
        "version": _text_or_none(_first(_VERSION, span.resource)),
        "kind": kind,
        "startNs": str(span.start_ns),
        "totalNs": str(_length_ns(span)),
        "modules": sum(modules) if modules else None,
        "phases": phases,
        "imports": [
            [each.name.removeprefix(_IMPORT), str(_ns_of_ms(each.attributes[_SELF_MS])), str(_length_ns(each))]
            for each in imports[:_MAX_IMPORTS]
        ],
    }


def _ns_of_ms(value: object) -> int:
    if isinstance(value, int | float) and math.isfinite(value):
        return max(round(value * 1_000_000), 0)
    return 0


# Metrics.


def _metrics(series: Iterable[Series]) -> list[dict[str, Any]]:
    metrics: dict[tuple[str, ...], dict[str, Any]] = {}
    for each in series:
        metric = each.metric
        points_of, kind = _POINTS[metric.kind]
        service = service_of(metric.resource)
        # Two libraries may measure under the same name, each in its own way.
        key = (service, metric.name, metric.scope.name, kind, metric.unit)
        shown = metrics.setdefault(
            key,
            {
                "name": metric.name, "unit": metric.unit, "type": kind, "service": service, "scope": metric.scope.name,
                "series": [],
            },
        )  # fmt: skip
        shown["description"] = metric.description
        attributes = _pairs(each.attributes)
        if each.instance:
            attributes.append(["service.instance.id", each.instance])
        points = sorted(each.points, key=lambda point: (point.time_ns, point.start_ns))
        for more, told in points_of(points, metric.temporality == "delta"):
            shown["series"].append({"attributes": attributes + more, "points": told})
    return list(metrics.values())


_Told: TypeAlias = "Iterator[tuple[list[list[Json]], list[dict[str, Any]]]]"


def _of_numbers(points: Sequence[Any], is_delta: bool) -> _Told:
    """Yield the points of a sum or gauge; deltas are added up, from the first one that is here."""
    told, total = [], 0
    for point in points:
        # Nothing was recorded, or nothing that can be drawn.
        if point.value is None or not math.isfinite(point.value):
            continue
        total = total + point.value if is_delta else point.value
        told.append({"timeNs": str(point.time_ns), "value": json_of(float(total)) if _is_long(total) else total})
    yield [], told


def _of_histograms(points: Sequence[Any], is_delta: bool) -> _Told:
    told: list[dict[str, Any]] = []
    last: _Buckets | None = None
    for point in points:
        buckets = _Buckets.of_point(point)
        if is_delta and last is not None:
            buckets = buckets.added_to(last)
        last = buckets
        told.append({"timeNs": str(point.time_ns), **buckets.told()})
    yield [], told


def _of_summaries(points: Sequence[Any], _is_delta: bool) -> _Told:
    """Yield a series for each quantile, as Prometheus has them."""
    by_quantile: dict[float, list[dict[str, Any]]] = defaultdict(list)
    for point in points:
        for quantile, value in point.quantiles.items():
            if math.isfinite(value):
                by_quantile[quantile].append(
                    {"timeNs": str(point.time_ns), "value": value, "count": point.count, "sum": json_of(point.sum)}
                )
    for quantile, told in sorted(by_quantile.items()):
        yield [["quantile", json_of(quantile)]], told


def _is_long(number: float) -> bool:
    return abs(number) > _MAX_SAFE_INTEGER


class _Buckets:
    """One point of a histogram: how many values were at most as large as each bound, and above the one before."""

    __slots__ = ("bounds", "count", "counts", "exponential", "sum")

    def __init__(self, count: int, total: float | None, bounds: Sequence[float], counts: Sequence[int]) -> None:
        self.count = count
        # None if there may have been negative values.
        self.sum = total
        self.bounds = list(bounds)
        self.counts = list(counts)
        # What the buckets were made of, if they were.
        self.exponential: _Exponential | None = None

    @classmethod
    def of_point(cls, point: Any) -> _Buckets:
        if hasattr(point, "scale"):
            return cls._of_exponential(
                point.count, point.sum, _Exponential(point.scale, point.zero_count, point.positive, point.negative)
            )
        if len(point.bucket_counts) != len(point.bounds) + 1:
            # Allowed for none at all: only count and sum are known then.
            return cls(point.count, point.sum, (), (point.count,))
        return cls(point.count, point.sum, point.bounds, point.bucket_counts)

    @classmethod
    def _of_exponential(cls, count: int, total: float | None, exponential: _Exponential) -> _Buckets:
        made = cls(count, total, *exponential.explicit())
        made.exponential = exponential
        return made

    def added_to(self, before: _Buckets) -> _Buckets:
        """Return what both have counted; where their buckets cannot be added, only what this one has."""
        total = None if self.sum is None or before.sum is None else self.sum + before.sum
        if self.exponential is not None and before.exponential is not None:
            both = self.exponential.added_to(before.exponential)
            return self._of_exponential(self.count + before.count, total, both)
        if self.bounds != before.bounds:
            return self
        counts = [here + there for here, there in zip(self.counts, before.counts, strict=True)]
        return _Buckets(self.count + before.count, total, self.bounds, counts)

    def told(self) -> dict[str, Any]:
        return {
            "count": self.count, "sum": json_of(self.sum), "bounds": json_of(self.bounds), "counts": self.counts,
        }  # fmt: skip


class _Exponential:
    """
    The buckets of an exponential histogram, no more than a chart can show.

    Bucket ``i`` counts what is above ``base ** i`` and at most ``base ** (i + 1)``, for a base of ``2 ** 2 ** -scale``.
    Source: OpenTelemetry, "Metrics Data Model", "Exponential buckets" and "ExponentialHistogram: Downscaling".
    """

    __slots__ = ("negative", "positive", "scale", "zeros")

    def __init__(self, scale: int, zeros: int, positive: Mapping[int, int], negative: Mapping[int, int]) -> None:
        self.scale = scale
        self.zeros = zeros
        self.positive = dict(positive)
        self.negative = dict(negative)
        while max(len(self.positive), len(self.negative)) > _MAX_BUCKETS:
            self.scale -= 1
            self.positive = _coarser(self.positive, 1)
            self.negative = _coarser(self.negative, 1)

    def added_to(self, before: _Exponential) -> _Exponential:
        scale = min(self.scale, before.scale)
        positive: Counter[int] = Counter()
        negative: Counter[int] = Counter()
        for each in (self, before):
            positive.update(_coarser(each.positive, each.scale - scale))
            negative.update(_coarser(each.negative, each.scale - scale))
        return _Exponential(scale, self.zeros + before.zeros, positive, negative)

    def explicit(self) -> tuple[list[float], list[int]]:
        """Return bounds and counts as an explicit histogram has them."""
        # By upper bound. The lower bounds are there to keep what is empty empty.
        counts: Counter[float] = Counter()
        for index, count in self.negative.items():
            counts[-self._bound(index + 1)] += 0
            counts[-self._bound(index)] += count
        if self.zeros or (self.negative and self.positive):
            counts[0.0] += self.zeros
        for index, count in self.positive.items():
            counts[self._bound(index)] += 0
            counts[self._bound(index + 1)] += count
        # The bounds of a planted scale are larger than a float can be.
        below, above = counts.pop(-math.inf, 0), counts.pop(math.inf, 0)
        bounds = sorted(counts)
        told = [*(counts[bound] for bound in bounds), above]
        told[0] += below
        return bounds, told

    def _bound(self, index: int) -> float:
        try:
            return float(2.0 ** (index * 2.0**-self.scale))
        except OverflowError:
            return math.inf


def _coarser(buckets: Mapping[int, int], steps: int) -> dict[int, int]:
    """Return the buckets at a scale that is smaller by ``steps``, each of which joins two neighbours."""
    coarse: Counter[int] = Counter()
    for index, count in buckets.items():
        coarse[index >> steps] += count
    return coarse


# By the kind of the metric: how its points are told, and what the page calls it.
_POINTS: dict[str, tuple[Callable[[Sequence[Any], bool], _Told], str]] = {
    "sum": (_of_numbers, "sum"),
    "gauge": (_of_numbers, "gauge"),
    "histogram": (_of_histograms, "histogram"),
    "exponential_histogram": (_of_histograms, "histogram"),
    "summary": (_of_summaries, "summary"),
}
