"""
Measures warm calls against the nearest peers; prints a table and writes it to ``results/warm.md``.

Subject and peer of a row run in turns, a block of calls each, in processes of their own. The medians are over the
blocks' means, the ratio is the median of the rounds' ratios: what the machine does meanwhile hits both. What is left
for after the response runs between the blocks there; a second table has runs without a pause, and all CPU time.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import selectors
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from conditions import conditions
from contenders import CONTENDERS, WARM_UP_CALLS

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "warm.md"

# A contender that says nothing for so long hangs; the slowest block takes a second.
_SILENCE_TIMEOUT_S = 120

_PACKAGES = (
    "tracedbridge", "mangum", "apig-wsgi", "vercel-runtime", "opentelemetry-sdk", "opentelemetry-instrumentation-asgi",
    "structlog",
)  # fmt: skip

# Rounds and calls of the runs without a pause. contrib makes three spans a call: they fill two batches, and not yet a
# queue, which its exporter empties more slowly than such calls fill it.
_WHOLE_ROUNDS = 9
_WHOLE_CALLS = 500

# SpanQueue, LogQueue and the SDK's batch processors hold so many items by default. Calls beyond would measure how
# fast they drop, which is why rows without export stay below.
_QUEUE_LIMIT = 2048


class Row(NamedTuple):
    """Subject against peer."""

    subject: str
    peer: str
    bound: float | None
    calls: int
    signals: bool = False
    # Both send what waits between two blocks, and are measured without a pause besides.
    settles: bool = False


class Figures(NamedTuple):
    """What a row came to: medians in microseconds."""

    subject_us: float
    peer_us: float
    ratio: float


class Found(NamedTuple):
    """All of a row: its blocks; and where it settles, calls without a pause, and the CPU time until all was sent."""

    blocks: Figures
    calls: Figures | None = None
    cpu: Figures | None = None


ROWS = (
    Row("asgi-off", "mangum", 1.35, 300),
    Row("wsgi-off", "apig-wsgi", 1.5, 300),
    # Without bounds: with the peers' own event, which is parsed already.
    Row("asgi-v2-off", "mangum", None, 300),
    Row("wsgi-v2-off", "apig-wsgi", None, 300),
    Row("asgi-v2-rendered", "mangum-rendered", None, 50, signals=True),
    Row("wsgi-v2-rendered", "apig-wsgi-rendered", None, 50, signals=True),
    Row("asgi-v2-after", "mangum-rendered", None, 50, signals=True, settles=True),
    Row("wsgi-v2-after", "apig-wsgi-rendered", None, 50, signals=True, settles=True),
    # Without bounds: what the number of headers does to the two rows above.
    Row("asgi-off-browser", "mangum-browser", None, 300),
    Row("wsgi-off-browser", "apig-wsgi-browser", None, 300),
    Row("asgi-off-few", "mangum-few", None, 300),
    Row("wsgi-off-few", "apig-wsgi-few", None, 300),
    Row("handler-off", "vercel-runtime", 0.15, 40),
    Row("asgi-rendered", "mangum-rendered", 0.5, 50, signals=True),
    Row("asgi-after", "mangum-rendered", 0.33, 50, signals=True, settles=True),
    Row("wsgi-after", "mangum-rendered", 0.25, 50, signals=True, settles=True),
    Row("asgi-exported", "mangum-exported", 0.6, 30, signals=True),
    # Without a bound: what is left when nothing but the sending is done.
    Row("asgi-exported", "floor", None, 30, signals=True),
    # Without bounds: an app that somebody else serves, with us, without, and with contrib.
    Row("served-ours", "served-contrib", None, 50, signals=True, settles=True),
    Row("served-ours", "served", None, 50),
    # For information: what telemetry adds to the other kinds.
    Row("wsgi-rendered", "wsgi-off", None, 50),
    Row("handler-rendered", "handler-off", None, 50),
)


class Child:
    """A process that we talk to by lines."""

    def __init__(self, *command: str) -> None:
        self._name = " ".join(command[:2])
        environ = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "TRACEDBRIDGE_"))}
        # The tree that this file is in, installed or not.
        environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, *command], cwd=HERE, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def read(self) -> str:
        """Return its next line."""
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(_SILENCE_TIMEOUT_S):
                raise SystemExit(f"{self._name} said nothing for {_SILENCE_TIMEOUT_S} s")
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._name} ended with exit code {self._process.wait()}")
        return line.strip()

    def ask(self, line: str) -> str:
        """Send a line and return the one that answers it."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self.read()

    def end(self) -> None:
        """Let it close what it has open, and return when it has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(_SILENCE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        if self._process.returncode:
            raise SystemExit(f"{self._name} ended with exit code {self._process.returncode}")


@contextlib.contextmanager
def running(*command: str) -> Iterator[Child]:
    """Run a child for as long as the block takes."""
    child = Child(*command)
    try:
        yield child
    finally:
        child.end()


def measured(row: Row, rounds: int, sink: Child, endpoint: str) -> Found:
    """Run a row and return its figures; fail if a contender with telemetry did not deliver it."""
    whole_rounds = _WHOLE_ROUNDS if row.settles else 0
    blocks, whole_calls, whole_cpu = _Means(row), _Means(row), _Means(row)
    with running("contenders.py", row.subject, endpoint) as subject:
        subject.read()
        bodies = [sink.ask(f"last {row.subject}")] if row.peer == "floor" else []
        with running("contenders.py", row.peer, endpoint, *bodies) as peer:
            peer.read()
            turns = [(row.subject, subject), (row.peer, peer)]
            for number in range(rounds):
                # Each goes first as often as the other.
                for name, child in turns if number % 2 else turns[::-1]:
                    took_ns, _ = map(int, child.ask(f"call {row.calls}").split())
                    blocks.add(name, took_ns / row.calls)
                    if row.settles:
                        # What waits must not run into the other's block.
                        child.ask("settle 0")
            for number in range(whole_rounds):
                for name, child in turns if number % 2 else turns[::-1]:
                    took_ns, cpu_ns = map(int, child.ask(f"settle {_WHOLE_CALLS}").split())
                    whole_calls.add(name, took_ns / _WHOLE_CALLS)
                    whole_cpu.add(name, cpu_ns / _WHOLE_CALLS)
    counts = json.loads(sink.ask("count"))
    if row.signals:
        _check_delivery(row, WARM_UP_CALLS + rounds * row.calls + whole_rounds * _WHOLE_CALLS, counts)
    if not row.settles:
        return Found(blocks.figures())
    return Found(blocks.figures(), whole_calls.figures(), whole_cpu.figures())


class _Means:
    """The means of the blocks of subject and peer, in turns."""

    def __init__(self, row: Row) -> None:
        self._names = (row.subject, row.peer)
        self._means_us: dict[str, list[float]] = {name: [] for name in self._names}

    def add(self, name: str, mean_ns: float) -> None:
        self._means_us[name].append(mean_ns / 1e3)

    def figures(self) -> Figures:
        ours, theirs = (self._means_us[name] for name in self._names)
        ratio = statistics.median(one / other for one, other in zip(ours, theirs, strict=True))
        return Figures(statistics.median(ours), statistics.median(theirs), ratio)


def _check_delivery(row: Row, calls: int, counts: dict[str, dict[str, int]]) -> None:
    for name in (row.subject, row.peer):
        got = counts.get(name, {})
        for signal, least in (("servers", calls), ("logs", calls), ("metrics", 1)):
            if got.get(signal, 0) < least:
                raise SystemExit(f"{name} made {calls} calls, but the sink got {got.get(signal, 0)} {signal}: {got}")


def table(all_found: list[tuple[Row, Found | None]]) -> str:
    """Return the table in Markdown."""
    lines = [
        "| subject | peer | subject, µs | peer, µs | ratio | bound | |",
        "|---|---|--:|--:|--:|--:|---|",
    ]
    for row, found in all_found:
        subject, peer = CONTENDERS[row.subject].title, CONTENDERS[row.peer].title
        bound = "" if row.bound is None else f"{row.bound:g}"
        if found is None:
            lines.append(f"| {subject} | {peer} | | | | {bound} | not installed |")
            continue
        figures = found.blocks
        verdict = "" if row.bound is None else "ok" if figures.ratio <= row.bound else "**over**"
        lines.append(
            f"| {subject} | {peer} | {figures.subject_us:.0f} | {figures.peer_us:.0f} | {figures.ratio:.2f} | {bound} "
            f"| {verdict} |"
        )
    return "\n".join(lines)


def whole_table(all_found: list[tuple[Row, Found | None]]) -> str:
    """Return the table of the runs without a pause in Markdown, or nothing if there were none."""
    lines = [
        f"\n\n{_WHOLE_CALLS} calls without a pause, per call:\n",
        "| subject | peer | measured | subject, µs | peer, µs | ratio |",
        "|---|---|---|--:|--:|--:|",
    ]
    empty = len(lines)
    for row, found in all_found:
        subject, peer = CONTENDERS[row.subject].title, CONTENDERS[row.peer].title
        measures = () if found is None else (("the calls", found.calls), ("CPU until all is sent", found.cpu))
        lines.extend(
            f"| {subject} | {peer} | {what} | {each.subject_us:.0f} | {each.peer_us:.0f} | {each.ratio:.2f} |"
            for what, each in measures
            if each is not None
        )
    return "\n".join(lines) if len(lines) > empty else ""


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--rounds", type=int, default=34, help="rounds of each row (default: %(default)s)")
    parser.add_argument("--only", metavar="SUBJECT", action="append", help="measure these rows only, write nothing")
    arguments = parser.parse_args()
    rows = [row for row in ROWS if not arguments.only or row.subject in arguments.only]
    for row in rows:
        if row.subject.endswith("-rendered") and WARM_UP_CALLS + arguments.rounds * row.calls > _QUEUE_LIMIT:
            parser.error(f"with {arguments.rounds} rounds {row.subject} would fill its queue of {_QUEUE_LIMIT}")
    figures: list[tuple[Row, Found | None]] = []
    with running("sink.py") as sink:
        endpoint = f"http://127.0.0.1:{sink.read()}"
        for row in rows:
            needs = CONTENDERS[row.peer].needs
            is_there = not needs or importlib.util.find_spec(needs) is not None
            figures.append((row, measured(row, arguments.rounds, sink, endpoint) if is_there else None))
            print(f"{row.subject}: {figures[-1][1]}", file=sys.stderr, flush=True)
    measured_on = conditions("warm.py", f"{arguments.rounds} rounds", _PACKAGES)
    shown = f"{table(figures)}{whole_table(figures)}\n\n{measured_on}\n"
    print(shown)
    if not arguments.only:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(f"# Warm calls\n\n{shown}")


if __name__ == "__main__":
    main()
