"""Draws spans as an indented waterfall, one line a span; nothing in a span can reach the terminal raw."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import TextIO

    from rich.text import Text

__all__ = ("Span", "draw", "duration", "printable")

# The share of the width that long names may take, whether it is said what went wrong (the log lines say it, too),
# and how many columns must be left for the bars; the first layout that fits. Shorter bars tell nothing.
_LAYOUTS = ((0.42, True, 30), (0.42, False, 16), (0.28, False, 12))
# In columns: shorter names tell nothing, either.
_MIN_NAME = 8
# Rich gives 80 where there is no terminal to ask; in less than this no layout survives.
_MIN_WIDTH = 20
_MAX_ERROR = 24
_IMPORT = "import "
_GAP = 2

# The last column of a bar that ends so many eighths into it.
_PARTS = "█▏▎▍▌▋▊▉"

_COLOURS = {"server": "green", "client": "magenta", "producer": "yellow", "consumer": "yellow"}


class Span(Protocol):
    """What is drawn: the part of the decoder's span records that matters here."""

    @property
    def trace_id(self) -> str:
        """Hex."""

    @property
    def span_id(self) -> str:
        """Hex."""

    @property
    def parent_id(self) -> str:
        """Hex, empty for a root."""

    @property
    def name(self) -> str:
        """Anything, control characters included."""

    @property
    def kind(self) -> str:
        """``"server"``, ``"internal"`` and so on."""

    @property
    def start_ns(self) -> int:
        """Nanoseconds since 1970."""

    @property
    def end_ns(self) -> int:
        """Nanoseconds since 1970."""

    @property
    def attributes(self) -> Mapping[str, object]:
        """By OpenTelemetry's names."""

    @property
    def status(self) -> str:
        """``"error"`` or another."""

    @property
    def status_message(self) -> str:
        """Why it is an error."""

    @property
    def resource(self) -> Mapping[str, object]:
        """What the span comes from."""


def draw(spans: Iterable[Span], file: TextIO, *, width: int | None = None) -> None:
    """
    Draw ``spans`` on ``file``: trace after trace, each in the order of its tree, on a time axis of its own.

    Args:
        spans: In any order. One whose parent is not among them is drawn as a root and says so. One that begins
            before the roots of its trace, or long after them, is cut off at the edge: its clock is off.
        file: A terminal gets colours, anything else plain text.
        width: In columns; the terminal's if None.

    Raises:
        ModuleNotFoundError: Rich is not installed, which is the extra ``cli``.
    """
    from rich.console import Console

    # Markup, emoji codes and number colours would be read out of the names.
    console = Console(file=file, width=width, markup=False, emoji=False, highlight=False, soft_wrap=True)
    traces = _traces(spans)
    if not traces:
        return
    page = _Page(max(console.width, _MIN_WIDTH), traces, ascii_only=console.options.ascii_only)
    for number, trace in enumerate(traces):
        if number:
            console.print()
        for line in page.lines(trace):
            console.print(line)


def duration(ns: int) -> str:
    """Write a duration in at most seven columns, with three digits: ``85 µs``, ``4.25 ms``, ``1.50 s``, ``2m05s``."""
    if ns < 1_000:
        return f"{ns} ns" if ns > 0 else "0 ms"
    for unit, size in (("µs", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000)):
        # Half a digit under the next unit: 999.6 µs are 1.00 ms, not 1000 µs.
        if ns < 999.5 * size:
            value = ns / size
            digits = 0 if value >= 99.95 or unit == "µs" else 1 if value >= 9.995 else 2
            if unit == "s" and value >= 120:
                break
            return f"{value:.{digits}f} {unit}"
    seconds = round(ns / 1_000_000_000)
    if seconds < 100 * 60:
        return f"{seconds // 60}m{seconds % 60:02}s"
    return f"{seconds // 3600}h{seconds % 3600 // 60:02}m"


def printable(text: str) -> str:
    """Write escapes for everything that a terminal could obey: control characters, line ends, text direction."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class _Row(NamedTuple):
    span: Span
    depth: int
    note: str
    # The word "import" stands in the row above already.
    is_below_import: bool = False

    @property
    def is_import(self) -> bool:
        return self.span.name.startswith(_IMPORT)


class _Trace(NamedTuple):
    trace_id: str
    rows: list[_Row]
    start_ns: int
    end_ns: int


def _traces(spans: Iterable[Span]) -> list[_Trace]:
    by_trace: dict[str, list[Span]] = defaultdict(list)
    for span in spans:
        by_trace[span.trace_id].append(span)
    traces = [_trace(trace_id, members) for trace_id, members in by_trace.items()]
    return sorted(traces, key=lambda trace: trace.start_ns)


def _trace(trace_id: str, spans: list[Span]) -> _Trace:
    spans.sort(key=lambda span: span.start_ns)
    known = {span.span_id for span in spans}
    children: dict[str, list[Span]] = defaultdict(list)
    roots: list[tuple[Span, str]] = []
    for span in spans:
        if not span.parent_id:
            roots.append((span, ""))
        elif span.parent_id not in known:
            roots.append((span, "parent missing"))
        else:
            children[span.parent_id].append(span)
    rows = [row for root, note in roots for row in _below(root, note, children)]
    if len(rows) < len(spans):
        # Spans that are their own ancestors hang under no root.
        for span in spans:
            if span.parent_id in children and span in children[span.parent_id]:
                children[span.parent_id].remove(span)
                roots.append((span, "parent circular"))
                rows += _below(span, "parent circular", children)
    start_ns = min(root.start_ns for root, _ in roots)
    return _Trace(trace_id, rows, start_ns, _end_of_axis(start_ns, max(_end(root) for root, _ in roots), spans))


def _below(root: Span, note: str, children: dict[str, list[Span]]) -> Iterable[_Row]:
    # Not recursive: a trace may be deeper than Python's stack. Children are taken out, so that none comes twice.
    todo = [_Row(root, 0, note)]
    while todo:
        row = todo.pop()
        yield row
        below = reversed(children.pop(row.span.span_id, []))
        todo += [_Row(child, row.depth + 1, "", row.is_import) for child in below]


def _end(span: Span) -> int:
    return max(span.end_ns, span.start_ns)


def _end_of_axis(start_ns: int, roots_end_ns: int, spans: list[Span]) -> int:
    # Work that goes on after the response belongs on the axis, a clock that is off does not: what begins no later
    # than one more root's length after the roots counts as work.
    latest_ns = 2 * roots_end_ns - start_ns
    ends = (_end(span) for span in spans if start_ns <= span.start_ns <= latest_ns)
    return max(roots_end_ns, *ends, start_ns + 1)


class _Page:
    """The columns: name, bar, duration, badge, status; shared by all traces, so that they line up."""

    def __init__(self, width: int, traces: list[_Trace], *, ascii_only: bool) -> None:
        from rich.cells import cell_len

        self._width = width
        self._ascii = ascii_only
        rows = [row for trace in traces for row in trace.rows]
        self._durations = max(len(self._length(row)) for row in rows)
        self._badges = any(_is_cold(row.span) for row in rows)
        self._reasons = True
        longest = max(cell_len(self._name(row)) for row in rows)
        for share, self._reasons, least in _LAYOUTS:
            self._names = min(longest, max(_MIN_NAME, int(width * share)))
            tails = max(self._tail(row).cell_len for row in rows)
            self._bars = width - self._names - 2 * _GAP - self._durations - (_GAP + tails if tails else 0)
            if self._bars >= least:
                return
        self._names = min(longest, max(self._names + _GAP + self._bars, _MIN_NAME))
        self._bars = 0

    def lines(self, trace: _Trace) -> Iterable[Text]:
        yield self._heading(trace)
        for row in trace.rows:
            yield self._line(row, trace)

    def _heading(self, trace: _Trace) -> Text:
        from rich.text import Text

        services = sorted({str(row.span.resource.get("service.name", "")) for row in trace.rows} - {""})
        count = len(trace.rows)
        heading = Text(f"trace {self._plain(trace.trace_id)}", style="bold")
        heading.append(f"  {count} span{'' if count == 1 else 's'}", style="not bold dim")
        heading.append(f"  {self._written(trace.end_ns - trace.start_ns)}", style="not bold dim")
        heading.append(f"  {self._plain(', '.join(services))}" if services else "", style="not bold dim")
        heading.truncate(self._width, overflow="ellipsis" if not self._ascii else "crop")
        return heading

    def _line(self, row: _Row, trace: _Trace) -> Text:
        from rich.text import Text

        failed = row.span.status == "error"
        line = Text(self._fitted_name(row), style="red" if failed else "")
        if self._bars:
            colour = "red" if failed else _COLOURS.get(row.span.kind, "blue")
            line.append(" " * _GAP)
            line.append(self._bar(row.span, trace), style=colour)
        line.append(" " * _GAP + self._length(row).rjust(self._durations))
        tail = self._tail(row)
        if tail.plain:
            line.append(" " * _GAP)
            line.append_text(tail)
        line.truncate(self._width)
        return line

    def _name(self, row: _Row) -> str:
        name = row.span.name.removeprefix(_IMPORT) if row.is_below_import else row.span.name
        return "  " * row.depth + self._plain(name)

    def _length(self, row: _Row) -> str:
        return self._written(_end(row.span) - row.span.start_ns)

    def _written(self, length_ns: int) -> str:
        return duration(length_ns).replace("µ", "u") if self._ascii else duration(length_ns)

    def _fitted_name(self, row: _Row) -> str:
        from rich.cells import cell_len, set_cell_size

        name = self._name(row)
        if cell_len(name) <= self._names:
            return set_cell_size(name, self._names)
        # Half of the column at most is indentation: a deep span still has a name.
        name = name[2 * max(row.depth - self._names // 4, 0) :]
        if cell_len(name) <= self._names:
            return set_cell_size(name, self._names)
        more = "..." if self._ascii else "…"
        if row.is_below_import:
            # Of a module's name the end tells more; the package is mostly that of the row above.
            indent = name[: len(name) - len(name.lstrip())]
            room = max(self._names - len(indent) - len(more), 1)
            return set_cell_size(indent + more + name[-room:], self._names)
        return set_cell_size(name, self._names - len(more)) + more

    def _bar(self, span: Span, trace: _Trace) -> str:
        eighths = 8 * self._bars
        length_ns = trace.end_ns - trace.start_ns
        # Floor and ceiling, and at least one eighth: every span leaves a mark, also at the right edge.
        begin = min(max((span.start_ns - trace.start_ns) * eighths // length_ns, 0), eighths - 1)
        end = min(max(-((trace.start_ns - _end(span)) * eighths // length_ns), begin + 1), eighths)
        first, last = begin // 8, (end - 1) // 8
        if self._ascii:
            drawn = "#" * (last - first + 1)
        elif first < last:
            drawn = ("▐" if begin % 8 >= 4 else "█") + "█" * (last - first - 1) + _PARTS[end % 8]
        else:
            # Of a single column only a left part or the right edge can be drawn.
            drawn = "▕" if begin % 8 >= 4 else _PARTS[end % 8]
        if span.start_ns < trace.start_ns:
            drawn = "<" + drawn[1:]
        if _end(span) > trace.end_ns:
            drawn = drawn[:-1] + ">"
        return (" " * first + drawn).ljust(self._bars)

    def _tail(self, row: _Row) -> Text:
        from rich.text import Text

        status = Text()
        code = row.span.attributes.get("http.response.status_code", row.span.attributes.get("http.status_code"))
        failed = row.span.status == "error"
        if isinstance(code, int):
            status.append(str(code), style="red" if failed or code >= 500 else "yellow" if code >= 400 else "green")
        if failed:
            mark = "error" if self._ascii else "✗"
            status.append(f" {mark}" if status else mark, style="bold red")
            if self._reasons and (reason := self._reason(row.span, code)):
                status.append(f" {reason}", style="red")
        if row.note:
            status.append(f" {row.note}" if status else row.note, style="yellow")
        if _is_cold(row.span):
            badge = Text(" cold ", style="black on cyan")
            return badge.append(" ").append_text(status) if status else badge
        # In line with those that have a badge.
        return Text(" " * 7).append_text(status) if self._badges and status else status

    def _reason(self, span: Span, code: object) -> str:
        reason = span.attributes.get("error.type")
        if reason is None or str(reason) == str(code):
            reason = span.status_message
        text = self._plain(str(reason))
        return text if len(text) <= _MAX_ERROR else text[: _MAX_ERROR - 1] + ("." if self._ascii else "…")

    def _plain(self, text: str) -> str:
        text = printable(text)
        return text.encode("ascii", "backslashreplace").decode() if self._ascii else text


def _is_cold(span: Span) -> bool:
    return span.attributes.get("faas.coldstart") is True
