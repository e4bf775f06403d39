"""What a sink got, in a shape to compare: what differs from run to run is checked and replaced by what it is."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pprint import pformat
from typing import Any

from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.collector.sink import Attributes, ReceivedMetric, ReceivedSpan, Sink, attributes_of, value_of

__all__ = ("final_points", "instance_free", "ordered", "outline", "records", "text", "tree")

# The wall clock is read span by span in the app and once for ours; meanwhile it may be slewed.
SLACK_NS = 1_000_000

# The semantic conventions' bounds for durations, and ours for memory.
BOUNDS = {
    (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10): "seconds",
    tuple(mib * 2**20 for mib in (16, 32, 64, 128, 256, 512, 768, 1024, 2048, 3072, 4096, 6144, 8192)): "memory",
    (50, 100, 200, 300, 400, 500, 750, 1000, 1500, 2000, 3000, 5000): "modules",
}

_CUMULATIVE = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE


def text(value: Any) -> str:
    """Return a value in lines, so that a comparison that fails shows the lines that differ."""
    return pformat(value, width=118)


def tree(spans: list[ReceivedSpan]) -> list[dict[str, Any]]:
    """
    Return the spans as trees, roots and siblings by their start, without ids and times.

    Checked on the way: every trace has one root, children are inside their parents, and events inside their spans.
    """
    by_id = {each.item.span_id: each for each in spans}
    assert len(by_id) == len(spans), "a span came twice"
    children: dict[bytes, list[ReceivedSpan]] = {}
    roots = []
    for each in sorted(spans, key=lambda each: each.item.start_time_unix_nano):
        parent = by_id.get(each.item.parent_span_id)
        if parent is None:
            roots.append(each)
            continue
        children.setdefault(each.item.parent_span_id, []).append(each)
        assert each.item.trace_id == parent.item.trace_id
        assert each.item.start_time_unix_nano >= parent.item.start_time_unix_nano - SLACK_NS, each.item.name
        assert each.item.end_time_unix_nano <= parent.item.end_time_unix_nano + SLACK_NS, each.item.name
    assert len({root.item.trace_id for root in roots}) == len(roots), "two roots in one trace"
    return [_node(root, children, by_id) for root in roots]


def _node(
    each: ReceivedSpan, children: dict[bytes, list[ReceivedSpan]], by_id: dict[bytes, ReceivedSpan]
) -> dict[str, Any]:
    span = each.item
    begun_ns, ended_ns = span.start_time_unix_nano, span.end_time_unix_nano
    assert begun_ns <= ended_ns, span.name
    assert (len(span.trace_id), len(span.span_id)) == (16, 8)
    node: dict[str, Any] = {
        "span": f"{Span.SpanKind.Name(span.kind).removeprefix('SPAN_KIND_')} {span.name}",
        "scope": each.scope,
    }
    if span.parent_span_id and span.parent_span_id not in by_id:
        node["parent"] = f"{span.trace_id.hex()} {span.parent_span_id.hex()}"
    if span.trace_state:
        node["tracestate"] = span.trace_state
    if attributes := attributes_of(span.attributes):
        node["attributes"] = _plain(attributes)
    if span.events:
        for event in span.events:
            assert begun_ns <= event.time_unix_nano <= ended_ns, f"{event.name!r} is not within {span.name!r}"
        node["events"] = [(event.name, _plain(attributes_of(event.attributes))) for event in span.events]
    if span.links:
        node["links"] = [by_id[link.span_id].item.name for link in span.links]
    if span.status.code != Status.STATUS_CODE_UNSET:
        code = Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_")
        node["status"] = (code, span.status.message)
    if below := children.get(span.span_id):
        node["children"] = [_node(child, children, by_id) for child in below]
    return node


def outline(nodes: list[dict[str, Any]], indent: str = "") -> list[str]:
    """Return the names of a tree, ``<`` their remote parents and ``~`` their links."""
    lines = []
    for node in nodes:
        line = indent + node["span"].partition(" ")[2]
        line += f" < {node['parent']}" if "parent" in node else ""
        line += f" ~ {', '.join(node['links'])}" if "links" in node else ""
        lines += [line, *outline(node.get("children", []), indent + "  ")]
    return lines


def final_points(metrics: list[ReceivedMetric]) -> dict[str, tuple[str, str, Any]]:
    """
    Return name → kind with bounds, unit and points of the last export; of a histogram's point its count.

    Checked on the way: everything is cumulative, a name belongs to one scope, and no value ever falls.
    """
    exports: dict[str, list[ReceivedMetric]] = {}
    for each in metrics:
        exports.setdefault(each.item.name, []).append(each)
    return {name: _final(name, each) for name, each in exports.items()}


def _final(name: str, exports: list[ReceivedMetric]) -> tuple[str, str, Any]:
    assert len({each.scope for each in exports}) == 1, f"{name} comes from two scopes"
    values = [_values(each) for each in exports]
    for before, after in pairwise({str(attributes): value for attributes, value in each} for each in values):
        assert before.keys() <= after.keys(), f"{name} lost a point"
        assert all(before[key] <= after[key] for key in before), f"{name} fell"
    metric = exports[-1].item
    assert metric.description
    if metric.WhichOneof("data") == "sum":
        assert metric.sum.is_monotonic
        assert metric.sum.aggregation_temporality == _CUMULATIVE
        return "counter", metric.unit, values[-1]
    assert metric.histogram.aggregation_temporality == _CUMULATIVE
    for point in metric.histogram.data_points:
        assert sum(point.bucket_counts) == point.count
        assert 0 <= point.min <= point.sum / point.count <= point.max
        assert point.start_time_unix_nano <= point.time_unix_nano
    (bounds,) = {tuple(point.explicit_bounds) for point in metric.histogram.data_points}
    return f"histogram of {BOUNDS.get(bounds, bounds)}", metric.unit, values[-1]


def _values(each: ReceivedMetric) -> list[tuple[Attributes, int]]:
    kind = each.item.WhichOneof("data")
    if kind == "sum":
        return ordered((attributes_of(point.attributes), point.as_int) for point in each.item.sum.data_points)
    assert kind == "histogram", f"{each.item.name} is a {kind}"
    return ordered((attributes_of(point.attributes), point.count) for point in each.item.histogram.data_points)


def ordered(points: Iterable[tuple[Attributes, Any]]) -> list[tuple[Attributes, Any]]:
    """Return points, and their attributes, in an order that depends on the attributes only."""
    sorted_keys = [(dict(sorted(attributes.items())), value) for attributes, value in points]
    return sorted(sorted_keys, key=lambda point: str(point[0]))


def records(sink: Sink) -> list[tuple[Any, ...]]:
    """
    Return severity text and number, body, place and attributes of each log record.

    A place is the number of the trace, by the roots' starts, and the name of the span. Checked on the way: a record of
    the app is from within its span.
    """
    spans = {each.item.span_id: each.item for each in sink.spans}
    starts: dict[bytes, int] = {}
    for span in spans.values():
        starts[span.trace_id] = min(starts.get(span.trace_id, span.start_time_unix_nano), span.start_time_unix_nano)
    traces = sorted(starts, key=starts.__getitem__)
    found = []
    for each in sink.logs:
        record, span = each.item, spans[each.item.span_id]
        assert record.trace_id == span.trace_id
        if value_of(record.body) != "invocation":
            assert span.start_time_unix_nano - SLACK_NS <= record.time_unix_nano <= span.end_time_unix_nano + SLACK_NS
        assert record.time_unix_nano <= record.observed_time_unix_nano
        place = traces.index(record.trace_id), span.name
        attributes = _plain(attributes_of(record.attributes))
        found.append((record.severity_text, record.severity_number, value_of(record.body), place, attributes))
    return found


def instance_free(resource: Attributes) -> Attributes:
    """Return a resource with its two instance ids, which must be one and no constant, replaced."""
    instance = resource["service.instance.id"]
    assert resource["faas.instance"] == instance
    assert len(set(instance)) > 3
    return resource | {"service.instance.id": "<instance>", "faas.instance": "<instance>"}


def _plain(attributes: Attributes) -> Attributes:
    plain = dict(attributes)
    for key, value in attributes.items():
        if key.endswith("_ms"):
            assert isinstance(value, float)
            assert 0 <= value < 60_000
            plain[key] = "<ms>"
        if key == "memory_mb":
            assert 5 < value < 5000
            plain[key] = "<mb>"
        if key == "modules":
            assert 100 < value < 5000
            plain[key] = "<modules>"
        if key == "exception.stacktrace":
            assert value.startswith("Traceback (most recent call last)")
            assert 'File "' in value
            plain[key] = "<stack>"
    return plain
