"""Reads what a local OTLP receiver got: typed records, and whole span trees drawn as text to compare."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from tracedbridge.serving.receiver import Receiver
from tracedbridge.telemetry.otlp import HistogramPoint, LogRecord, MetricRecord, NumberPoint, SpanRecord, Value

__all__ = ("Received", "child_of", "drawn", "steady")


class Received:
    """What came at one receiver, of which each read is a new look."""

    def __init__(self, receiver: Receiver) -> None:
        """Read from ``receiver``."""
        self._receiver = receiver
        self.endpoint = receiver.endpoint

    @property
    def refusals(self) -> tuple[str, ...]:
        """What the receiver could not take."""
        return self._receiver.refusals

    @property
    def spans(self) -> list[SpanRecord]:
        """All spans, in the order of their arrival."""
        return cast("list[SpanRecord]", list(self._receiver.spans))

    @property
    def logs(self) -> list[LogRecord]:
        """All log records, in the order of their arrival."""
        return cast("list[LogRecord]", list(self._receiver.logs))

    @property
    def metrics(self) -> list[MetricRecord]:
        """All metrics, one record for each time that one came."""
        return cast("list[MetricRecord]", list(self._receiver.metrics))

    def span(self, name: str) -> SpanRecord:
        """Return the one span of that name; with several or none the test fails."""
        (found,) = [span for span in self.spans if span.name == name]
        return found

    def servers(self) -> list[SpanRecord]:
        """Return our SERVER spans, in order of start."""
        ours = [span for span in self.spans if span.kind == "server" and span.scope.name == "tracedbridge"]
        return sorted(ours, key=lambda span: span.start_ns)

    def server(self) -> SpanRecord:
        """Return our only SERVER span."""
        (found,) = self.servers()
        return found

    def log(self, body: str) -> LogRecord:
        """Return the one log record with that body."""
        (found,) = [record for record in self.logs if record.body == body]
        return found

    def metric(self, name: str) -> MetricRecord:
        """Return a metric as it came last: with cumulative temporality, all that was counted."""
        found = [record for record in self.metrics if record.name == name]
        assert found, f"no metric {name!r} came"
        return found[-1]

    def histogram(self, name: str) -> list[HistogramPoint]:
        """Return the last points of a histogram."""
        points = self.metric(name).points
        assert all(isinstance(point, HistogramPoint) for point in points)
        return cast("list[HistogramPoint]", list(points))

    def counts(self, name: str, *keys: str) -> dict[tuple[Value, ...], int | float | None]:
        """Return the last values of a counter by these attributes; of one that never came, none."""
        if not any(record.name == name for record in self.metrics):
            return {}
        points = cast("list[NumberPoint]", list(self.metric(name).points))
        return {tuple(point.attributes.get(key) for key in keys): point.value for point in points}


def drawn(spans: Iterable[SpanRecord]) -> str:
    """
    Draw spans as a forest: one line each, below its parent; siblings and roots in order of start.

    A line is the name; ``(kind)`` unless internal; ``! error.type`` if its status is an error; ``[events]``;
    ``-> name`` for each link, by the name of the linked span, or ``elsewhere``. ``… `` stands before a span whose
    parent is not among them.
    """
    every = sorted(spans, key=lambda span: (span.start_ns, -span.end_ns))
    by_id = {(span.trace_id, span.span_id): span for span in every}
    assert len(by_id) == len(every), "two spans have the same ids"

    def line(span: SpanRecord) -> str:
        text = span.name
        if span.kind != "internal":
            text += f" ({span.kind})"
        if span.status == "error":
            text += f" ! {span.attributes.get('error.type')!s}"
        if span.events:
            text += f" [{', '.join(event.name for event in span.events)}]"
        for link in span.links:
            linked = by_id.get((link.trace_id, link.span_id))
            text += f" -> {'elsewhere' if linked is None else linked.name}"
        return text

    def below(span: SpanRecord, depth: int) -> list[str]:
        lines = ["  " * depth + line(span)]
        for child in every:
            if child_of(span, child):
                lines += below(child, depth + 1)
        return lines

    lines: list[str] = []
    for span in every:
        if not span.parent_id:
            lines += below(span, 0)
        elif (span.trace_id, span.parent_id) not in by_id:
            first, *rest = below(span, 0)
            lines += [f"… {first}", *rest]
    assert len(lines) == len(every), "there are spans in a circle"
    return "\n".join(lines)


def child_of(parent: SpanRecord, span: SpanRecord) -> bool:
    """Say whether ``span`` is a child of ``parent``."""
    return (span.trace_id, span.parent_id) == (parent.trace_id, parent.span_id)


def steady(attributes: dict[str, Value], *moving: str) -> dict[str, Value]:
    """Return attributes to compare: of those named, and of every duration, only that it is there."""
    return {key: "…" if key in moving or key.endswith("_ms") else value for key, value in attributes.items()}
