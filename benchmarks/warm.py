"""
Measures warm calls against the nearest peers; prints a table and writes it to ``results/warm.md``.

Subject and peer of a row run in turns, a block of calls each, in processes of their own. The medians are over the
blocks' means, the ratio is the median of the rounds' ratios: what the machine does meanwhile hits both.
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


class Figures(NamedTuple):
    """What a row came to: medians in microseconds."""

    subject_us: float
    peer_us: float
    ratio: float


ROWS = (
    Row("asgi-off", "mangum", 1.35, 300),
    Row("wsgi-off", "apig-wsgi", 1.5, 300),
    # Without bounds: what the number of headers does to the two rows above.
    Row("asgi-off-browser", "mangum-browser", None, 300),
    Row("wsgi-off-browser", "apig-wsgi-browser", None, 300),
    Row("asgi-off-few", "mangum-few", None, 300),
    Row("wsgi-off-few", "apig-wsgi-few", None, 300),
    Row("handler-off", "vercel-runtime", 0.15, 40),
    Row("asgi-rendered", "mangum-rendered", 0.5, 50, signals=True),
    Row("asgi-exported", "mangum-exported", 0.7, 30, signals=True),
    # For information: what telemetry adds to the other kinds.
    Row("wsgi-rendered", "wsgi-off", None, 50),
    Row("handler-rendered", "handler-off", None, 50),
)


class Child:
    """A process that we talk to by lines."""

    def __init__(self, *command: str) -> None:
        self._name = command[-2] if len(command) > 2 else command[-1]
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


def measured(row: Row, rounds: int, sink: Child, endpoint: str) -> Figures:
    """Run a row and return its figures; fail if a contender with telemetry did not deliver it."""
    names = (row.subject, row.peer)
    means_us: dict[str, list[float]] = {name: [] for name in names}
    with (
        running("contenders.py", row.subject, endpoint) as subject,
        running("contenders.py", row.peer, endpoint) as peer,
    ):
        children = {row.subject: subject, row.peer: peer}
        for child in children.values():
            child.read()
        for number in range(rounds):
            # Each goes first as often as the other.
            for name in names if number % 2 else names[::-1]:
                took_ns = int(children[name].ask(str(row.calls)))
                means_us[name].append(took_ns / row.calls / 1e3)
    counts = json.loads(sink.ask("count"))
    if row.signals:
        _check_delivery(row, WARM_UP_CALLS + rounds * row.calls, counts)
    ratios = [ours / theirs for ours, theirs in zip(means_us[row.subject], means_us[row.peer], strict=True)]
    return Figures(
        statistics.median(means_us[row.subject]), statistics.median(means_us[row.peer]), statistics.median(ratios)
    )


def _check_delivery(row: Row, calls: int, counts: dict[str, dict[str, int]]) -> None:
    for name in (row.subject, row.peer):
        got = counts.get(name, {})
        for signal, least in (("traces", calls), ("logs", calls), ("metrics", 1)):
            if got.get(signal, 0) < least:
                raise SystemExit(f"{name} made {calls} calls, but the sink got {got.get(signal, 0)} {signal}: {got}")


def table(figures: list[tuple[Row, Figures | None]]) -> str:
    """Return the table in Markdown."""
    lines = [
        "| subject | peer | subject, µs | peer, µs | ratio | bound | |",
        "|---|---|--:|--:|--:|--:|---|",
    ]
    for row, found in figures:
        subject, peer = CONTENDERS[row.subject].title, CONTENDERS[row.peer].title
        bound = "" if row.bound is None else f"{row.bound:g}"
        if found is None:
            lines.append(f"| {subject} | {peer} | | | | {bound} | not installed |")
            continue
        verdict = "" if row.bound is None else "ok" if found.ratio <= row.bound else "**over**"
        lines.append(
            f"| {subject} | {peer} | {found.subject_us:.0f} | {found.peer_us:.0f} | {found.ratio:.2f} | {bound} "
            f"| {verdict} |"
        )
    return "\n".join(lines)


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
    figures: list[tuple[Row, Figures | None]] = []
    with running("sink.py") as sink:
        endpoint = f"http://127.0.0.1:{sink.read()}"
        for row in rows:
            needs = CONTENDERS[row.peer].needs
            is_there = not needs or importlib.util.find_spec(needs) is not None
            figures.append((row, measured(row, arguments.rounds, sink, endpoint) if is_there else None))
            print(f"{row.subject}: {figures[-1][1]}", file=sys.stderr, flush=True)
    measured_on = conditions("warm.py", f"{arguments.rounds} rounds", _PACKAGES)
    shown = f"{table(figures)}\n\n{measured_on}\n"
    print(shown)
    if not arguments.only:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(f"# Warm calls\n\n{shown}")


if __name__ == "__main__":
    main()
