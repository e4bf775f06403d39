"""The waterfall shows what came over the wire, on every width, and lets nothing planted through."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Mapping
from typing import Any

import pytest
from opentelemetry.trace import SpanKind
from rich.cells import cell_len

from tests.test_otlp import sdk_span, spans_over_the_wire
from tracedbridge.serving.waterfall import Span, draw, duration, printable

pytestmark = pytest.mark.telemetry

MS = 1_000_000
TRACE = "0af7651916cd43dd8448eb211c80319c"
OTHER_TRACE = "b" * 32
SERVER = SpanKind.SERVER


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLORTERM", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


class Terminal(io.StringIO):
    """A file that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def span(
    name: str,
    number: int,
    parent: int = 0,
    *,
    begin_ms: float = 0,
    end_ms: float = 0,
    trace_id: str = TRACE,
    kind: SpanKind = SpanKind.INTERNAL,
    error: str | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> Span:
    """Return a span as it comes out of the decoder; ids are numbers, times are since noon."""
    noon_ns = 1_780_000_000_000_000_000
    (record,) = spans_over_the_wire(
        sdk_span(
            name,
            trace_id=trace_id,
            span_id=f"{number:016x}",
            parent_id=f"{parent:016x}" if parent else "",
            start_ns=noon_ns + int(begin_ms * MS),
            end_ns=noon_ns + int(end_ms * MS),
            kind=kind,
            error=error,
            attributes=attributes,
        )
    )
    return record


def drawn(*spans: Span, width: int = 80) -> list[str]:
    """Return the lines of the waterfall in plain text."""
    file = io.StringIO()
    draw(spans, file, width=width)
    return file.getvalue().splitlines()


def cold_invocation() -> list[Span]:
    """Return the spans of a first invocation, in the order in which they end."""
    cold = {"faas.coldstart": True, "http.response.status_code": 200}
    return [
        span("import fastapi", 4, 3, begin_ms=60, end_ms=260),
        span("import app", 3, 2, begin_ms=50, end_ms=300),
        span("lifespan startup", 5, 2, begin_ms=300, end_ms=340),
        span("cold start", 2, 1, end_ms=350),
        span("SELECT items", 6, 1, begin_ms=360, end_ms=390, kind=SpanKind.CLIENT, error="OperationalError: locked"),
        span("GET /items/{id}", 1, end_ms=400, kind=SERVER, attributes=cold),
    ]


def test_one_cold_invocation() -> None:
    """One line a span in the order of the tree: name, bar on the common axis, duration, badge, status."""
    assert drawn(*cold_invocation(), width=72) == [
        "trace 0af7651916cd43dd8448eb211c80319c  6 spans  400 ms  index",
        "GET /items/{id}       █████████████████████████████   400 ms   cold  200",
        "  cold start          █████████████████████████▍      350 ms",
        "    import app           ▐█████████████████▊          250 ms",
        "      fastapi             ██████████████▉             200 ms",
        "    lifespan startup                       ▐██▊      40.0 ms",
        "  SELECT items                                  ██▍  30.0 ms         ✗",
    ]


def test_wide_page_says_what_went_wrong() -> None:
    """With more room the bars are longer, and an error says its reason."""
    lines = drawn(*cold_invocation(), width=118)
    assert lines[1] == "GET /items/{id}       " + "█" * 52 + "   400 ms   cold  200"
    assert lines[-1].endswith("30.0 ms         ✗ OperationalError: locked")


@pytest.mark.parametrize("width", [20, 33, 47, 60, 80, 99, 140, 300])
def test_no_line_is_wider_than_the_page(width: int) -> None:
    """Whatever the width, each span keeps its line, the begin of its name and its duration."""
    reason = {"error.type": "E" * 400}
    long = span("GET /" + "very/long/" * 40, 11, 99, begin_ms=1, end_ms=4, error="x" * 400, attributes=reason)
    wide = span("日本語" * 30, 12, 11, begin_ms=2, end_ms=3)
    lines = drawn(*cold_invocation(), long, wide, width=width)
    assert [line for line in lines if cell_len(line) > width] == []
    spans = lines[1:]
    begins = [line.strip()[:2] for line in spans]
    # Of a module, which may be cut from its front, the end.
    assert begins.pop(3) in ("fa", "…a", "…p", "…i")
    assert begins == ["GE", "co", "im", "li", "SE", "GE", "日本"]
    assert all(re.search(r"\d (ms|s)", line) for line in spans)


@pytest.mark.parametrize(
    ("attributes", "error", "shown"),
    [
        pytest.param({"http.response.status_code": 200}, None, "200", id="good"),
        pytest.param({"http.response.status_code": 404}, None, "404", id="not found is no error"),
        pytest.param({"http.response.status_code": 500, "error.type": "500"}, "", "500 ✗", id="5xx"),
        pytest.param(
            {"http.response.status_code": 500, "error.type": "ValueError"}, "", "500 ✗ ValueError", id="raised"
        ),
        pytest.param({"http.status_code": 302}, None, "302", id="old name of the status"),
        pytest.param({}, "no luck", "✗ no luck", id="no HTTP"),
        pytest.param({"faas.coldstart": True}, None, " cold", id="cold"),
        pytest.param({"faas.coldstart": False}, None, "", id="warm"),
        pytest.param({"faas.coldstart": "true"}, None, "", id="text is no flag"),
    ],
)
def test_status(attributes: dict[str, Any], error: str | None, shown: str) -> None:
    """The line ends with what the span says of itself."""
    (line,) = drawn(span("GET /", 1, end_ms=4, error=error, attributes=attributes), width=100)[1:]
    assert line.rstrip().endswith("4.00 ms" + (f"  {shown}" if shown else ""))


def test_missing_parent_is_said() -> None:
    """A span whose parent did not arrive is drawn as a root, its children under it, and says so."""
    lines = drawn(span("child", 2, 1, end_ms=3), span("GET /", 1, 77, end_ms=4))
    assert [re.split(r"[█▏▎▍▌▋▊▉▐ ]{3,}", line)[0] for line in lines[1:]] == ["GET /", "  child"]
    assert [line.endswith("parent missing") for line in lines[1:]] == [True, False]


def test_traces_come_one_after_the_other() -> None:
    """Traces come in the order of their beginning, a line between them, each on its own axis, columns in line."""
    lines = drawn(
        span("second", 1, begin_ms=1_000, end_ms=1_002, trace_id=OTHER_TRACE), span("1st", 1, end_ms=500), width=60
    )
    assert lines == [
        f"trace {TRACE}  1 span  500 ms  ind…",
        "1st     " + "█" * 43 + "   500 ms",
        "",
        f"trace {OTHER_TRACE}  1 span  2.00 ms  in…",
        "second  " + "█" * 43 + "  2.00 ms",
    ]


def test_spans_of_one_trace_from_two_invocations() -> None:
    """Two roots of one trace share its axis, as when one caller invokes twice."""
    first, second = span("first", 1, 99, end_ms=10), span("second", 2, 99, begin_ms=30, end_ms=40)
    lines = drawn(second, first, width=52)
    assert lines[1:] == [
        "first   ████▊                10.0 ms  parent missing",
        "second                █████  10.0 ms  parent missing",
    ]


def test_clocks_that_are_off_are_clamped() -> None:
    """A child from before the roots or from long after them is cut off at the edge; its length is told as it is."""
    lines = drawn(
        span("GET /", 1, end_ms=10),
        span("before", 2, 1, begin_ms=-3_600_000, end_ms=5),
        span("after", 3, 1, begin_ms=3_600_000, end_ms=3_600_001),
        span("backwards", 4, 1, begin_ms=5, end_ms=1),
        width=60,
    )
    assert lines[1:] == [
        "GET /        ██████████████████████████████████████  10.0 ms",
        "  before     <██████████████████                      60m00s",
        "  backwards                     ▏                       0 ms",
        "  after                                           >  1.00 ms",
    ]


def test_work_after_the_response_is_on_the_axis() -> None:
    """What goes on for a while after the root has ended is no clock that is off."""
    lines = drawn(span("GET /", 1, end_ms=10), span("background", 2, 1, begin_ms=12, end_ms=20), width=60)
    assert lines[1:] == [
        "GET /         ██████████████████▌                    10.0 ms",
        "  background                        ███████████████  8.00 ms",
    ]


@pytest.mark.parametrize(
    ("planted", "shown"),
    [
        pytest.param("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m", id="colour"),
        pytest.param("\x1b]0;title\x07", r"\x1b]0;title\x07", id="window title"),
        pytest.param("\x9b2J", r"\x9b2J", id="C1"),
        pytest.param("two\nlines\r\n", r"two\nlines\r\n", id="lines"),
        pytest.param("tab\tback\b", r"tab\tback\x08", id="cursor"),
        pytest.param("\u202etxt.exe\u2066", r"\u202etxt.exe\u2066", id="text direction"),
        pytest.param("a\u2028b\u200b", r"a\u2028b\u200b", id="invisible"),
        pytest.param("[red]x[/red]", "[red]x[/red]", id="markup"),
        pytest.param("[link=file:///]x", "[link=file:///]x", id="link"),
        pytest.param("[/nothing]", "[/nothing]", id="broken markup"),
        pytest.param(":smile:", ":smile:", id="emoji code"),
    ],
)
@pytest.mark.parametrize("file_class", [io.StringIO, Terminal])
def test_planted_text_is_shown_not_obeyed(planted: str, shown: str, file_class: type[io.StringIO]) -> None:
    """Nothing in names, errors, or service names reaches the terminal raw."""
    sent = sdk_span(planted, error=planted, service=planted)
    file = file_class()
    draw(spans_over_the_wire(sent), file, width=160)
    # What is left without the colours that we chose ourselves.
    text = re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue())
    heading, line, end = text.split("\n")
    assert heading.endswith(f"  {shown}")
    assert line.startswith(f"{shown}  ")
    assert line.endswith(f"✗ {shown}")
    assert end == ""
    assert (heading + line).isprintable()


def test_colours_are_for_terminals() -> None:
    """A terminal gets colours; a file gets the same text without any."""
    terminal, file = Terminal(), io.StringIO()
    for target in (terminal, file):
        draw(cold_invocation(), target, width=90)
    assert "\x1b" not in file.getvalue()
    assert "\x1b[" in terminal.getvalue()
    assert re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue()) == file.getvalue()


def test_ascii_is_enough() -> None:
    """Where the stream takes ASCII only, bars, marks and names are written in it."""
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding="ascii", errors="strict", newline="\n") as file:
        sent = [span("GET /é", 1, end_ms=1, error="é"), span("x" * 70, 2, 1, begin_ms=0.5, end_ms=0.6), span("y", 3, 1)]
        draw(sent, file, width=70)
        file.flush()
        lines = raw.getvalue().decode("ascii").splitlines()
    assert [line.rstrip() for line in lines[1:]] == [
        r"GET /\xe9                      #######################  1.00 ms  error",
        "  y                            #                           0 ms",
        "  xxxxxxxxxxxxxxxxxxxxxxxx...             ###            100 us",
    ]


def test_spans_that_are_their_own_ancestors() -> None:
    """A circle of parents is broken up at its first span, so that every span is drawn once."""
    spans = [span("a", 1, 2, end_ms=9), span("b", 2, 1, begin_ms=1, end_ms=8), span("self", 3, 3, begin_ms=2, end_ms=3)]
    lines = drawn(*spans, span("c", 4, 2, begin_ms=3, end_ms=4))
    assert [(line.split()[0], len(line) - len(line.lstrip())) for line in lines[1:]] == [
        ("a", 0), ("b", 2), ("c", 4), ("self", 0),
    ]  # fmt: skip
    assert [line.endswith("parent circular") for line in lines[1:]] == [True, False, False, True]


def test_one_id_twice() -> None:
    """A span that was exported twice is drawn twice, its children once."""
    lines = drawn(span("GET /", 1, end_ms=4), span("GET /", 1, end_ms=4), span("child", 2, 1, end_ms=2))
    assert [line.split("  ")[0] or line.split()[0] for line in lines[1:]] == ["GET /", "child", "GET /"]


@pytest.mark.parametrize(
    "parent",
    [pytest.param(lambda number: 1, id="siblings"), pytest.param(lambda number: number - 1, id="one below the other")],
)
def test_three_thousand_spans(parent: Any) -> None:
    """A large trace, wide or deep, is drawn in seconds."""
    spans = [span("GET /", 1, end_ms=3_000)]
    spans += [span(f"import {n}", n, parent(n), begin_ms=n - 2, end_ms=n) for n in range(2, 3_002)]
    begun = time.perf_counter()
    lines = drawn(*spans, width=100)
    assert time.perf_counter() - begun < 10
    assert len(lines) == 3_002
    assert all(re.search(rf"(import |  ){n} ", line) for n, line in enumerate(lines[2:], 2))


def test_imports_below_imports() -> None:
    """Below another import a module is drawn by its name alone, and if that is too long by its end."""
    lines = drawn(
        span("import app", 1, end_ms=9), span("import fastapi", 2, 1, end_ms=8),
        span("import fastapi.dependencies.utils", 3, 2, end_ms=7), width=60,
    )  # fmt: skip
    assert [line.split("  █")[0].rstrip() for line in lines[1:]] == [
        "import app",
        "  fastapi",
        "    …i.dependencies.utils",
    ]


def test_nothing_is_drawn_of_nothing() -> None:
    """Without spans nothing is written."""
    assert drawn() == []


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (-5, "0 ms"),
        (0, "0 ms"),
        (1, "1 ns"),
        (999, "999 ns"),
        (1_000, "1 µs"),
        (999_499, "999 µs"),
        (999_600, "1.00 ms"),
        (4_254_000, "4.25 ms"),
        (9_996_000, "10.0 ms"),
        (99_960_000, "100 ms"),
        (999_400_000, "999 ms"),
        (999_600_000, "1.00 s"),
        (59_940_000_000, "59.9 s"),
        (119_600_000_000, "120 s"),
        (125_000_000_000, "2m05s"),
        (5_999_000_000_000, "99m59s"),
        (6_000_000_000_000, "1h40m"),
        (2**64, "5124095h34m"),
    ],
)
def test_duration(ns: int, text: str) -> None:
    """Durations have three digits and the unit that fits, also at the borders between units."""
    assert duration(ns) == text


def test_printable_keeps_what_can_be_read() -> None:
    """Letters of any script, quotes and backslashes stay as they are."""
    assert printable("GET /日本/é 'x' \\ 🙂") == "GET /日本/é 'x' \\ 🙂"
