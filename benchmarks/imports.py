"""
Measures what recording costs the imports of an app; prints a table and writes it to ``results/imports.md``.

Each pair is two fresh processes that import the same modules, one watched and one bare. They take turns in being first,
the ratio is the median of the pairs' ratios: what the machine does meanwhile hits both.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from conditions import conditions

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "imports.md"

# Fewer are no app whose imports one would look into; a package that is missing or loads lazily must not go unseen.
_LEAST_MODULES = 600

# One process takes half a second; one that takes so long hangs.
_TIMEOUT_S = 120

_PACKAGES = ("tracedbridge", "datadog-lambda", "fastapi", "numpy", "pandas")

# They change what is imported, from where or how fast; the contenders are to differ in nothing but who watches.
_STRIPPED = (
    "DD_", "OTEL_", "TRACEDBRIDGE_", "AWS_LAMBDA_", "PYTHONDEVMODE", "PYTHONPROFILEIMPORTTIME", "PYTHONTRACEMALLOC",
    "PYTHONDONTWRITEBYTECODE", "COVERAGE_",
)  # fmt: skip


class Row(NamedTuple):
    """One way to watch imports."""

    contender: str
    title: str
    bound: float | None = None
    flags: tuple[str, ...] = ()
    needs: str | None = None


class Run(NamedTuple):
    """What one process did."""

    took_ns: int
    modules: int
    # None of the bare one.
    seen: int | None


class Figures(NamedTuple):
    """What a row came to: medians; of the ratios, the quartiles and the extremes as well."""

    watched_ms: float
    bare_ms: float
    ratio: float
    quartiles: tuple[float, float]
    extremes: tuple[float, float]
    modules: int
    seen: int


ROWS = (
    Row("tracedbridge", "tracedbridge.imports.Recording", bound=1.05),
    Row("datadog", "datadog-lambda, DD_COLD_START_TRACING", needs="datadog_lambda"),
    # For information: it tells more by writing a line for each module, here to a file.
    Row("importtime", "python -X importtime", flags=("-X", "importtime")),
)
_BARE = Row("bare", "nobody")


def run(row: Row) -> Run:
    """Import everything once in a fresh process, and fail if it was not what is to be measured."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith(_STRIPPED)}
    # The tree that this file is in, installed or not.
    environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    # The order of sets decides what some packages do first.
    environ |= {"PYTHONHASHSEED": "0", "DD_COLD_START_TRACING": "true"}
    # A file and no pipe: nobody has to read along.
    with tempfile.TemporaryFile("w+") as errors:
        done = subprocess.run(
            [sys.executable, *row.flags, "importing.py", row.contender],
            cwd=HERE, env=environ, stdout=subprocess.PIPE, stderr=errors, text=True, check=False, timeout=_TIMEOUT_S,
        )  # fmt: skip
        errors.seek(0)
        written = errors.read()
    if done.returncode:
        raise SystemExit(f"{row.contender} ended with exit code {done.returncode}:\n{written[-4000:]}")
    result = Run(**json.loads(done.stdout))
    if row.contender == "importtime":
        # Its lines have no beginning and no end: those of the interpreter's own start are among them.
        result = result._replace(seen=written.count("import time:"))
    if result.modules < _LEAST_MODULES:
        raise SystemExit(f"{row.contender} loaded {result.modules} modules, which must be {_LEAST_MODULES} at least")
    if row is not _BARE and (result.seen or 0) < _LEAST_MODULES:
        raise SystemExit(f"{row.contender} saw {result.seen} of {result.modules} modules: watching nothing is cheap")
    return result


def measured(rows: list[Row], pairs: int) -> dict[Row, Figures]:
    """Run all rows in turns and return their figures; fail if a contender did not load what the bare process did."""
    # Once each, unmeasured: it fills the bytecode cache and the file system's.
    for row in (*rows, _BARE):
        run(row)
    runs: dict[Row, list[tuple[Run, Run]]] = {row: [] for row in rows}
    for number in range(pairs):
        for row in rows:
            # Each goes first as often as the other.
            if number % 2:
                watched, bare = run(row), run(_BARE)
            else:
                bare, watched = run(_BARE), run(row)
            if watched.modules != bare.modules:
                raise SystemExit(f"{row.contender} loaded {watched.modules} modules, bare {bare.modules}")
            runs[row].append((watched, bare))
        print(f"\r{number + 1} of {pairs}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return {row: _figures(found) for row, found in runs.items()}


def _figures(runs: list[tuple[Run, Run]]) -> Figures:
    ratios = [watched.took_ns / bare.took_ns for watched, bare in runs]
    low, middle, high = statistics.quantiles(ratios, method="inclusive")
    return Figures(
        statistics.median(watched.took_ns for watched, _ in runs) / 1e6,
        statistics.median(bare.took_ns for _, bare in runs) / 1e6,
        middle, (low, high), (min(ratios), max(ratios)), runs[0][0].modules, runs[0][0].seen or 0,
    )  # fmt: skip


def table(figures: dict[Row, Figures | None]) -> str:
    """Return the table in Markdown."""
    lines = [
        "| watched by | watched, ms | bare, ms | ratio | middle half | all | bound | | modules | seen |",
        "|---|--:|--:|--:|--:|--:|--:|---|--:|--:|",
    ]
    for row, found in figures.items():
        bound = "" if row.bound is None else f"{row.bound:g}"
        if found is None:
            lines.append(f"| {row.title} | | | | | | {bound} | not installed | | |")
            continue
        verdict = "" if row.bound is None else "ok" if found.ratio <= row.bound else "**over**"
        lines.append(
            f"| {row.title} | {found.watched_ms:.0f} | {found.bare_ms:.0f} | {found.ratio:.3f} "
            f"| {found.quartiles[0]:.3f} to {found.quartiles[1]:.3f} | {found.extremes[0]:.2f} to "
            f"{found.extremes[1]:.2f} | {bound} | {verdict} | {found.modules} | {found.seen} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--pairs", type=int, default=40, help="pairs of each row (default: %(default)s)")
    parser.add_argument("--only", metavar="CONTENDER", action="append", help="measure these only, write nothing")
    arguments = parser.parse_args()
    if arguments.pairs < 2:
        parser.error("a spread needs 2 pairs at least")
    names = [row.contender for row in ROWS]
    for name in arguments.only or ():
        if name not in names:
            parser.error(f"no contender {name!r} (there are: {', '.join(names)})")
    rows = [row for row in ROWS if not arguments.only or row.contender in arguments.only]
    there = [row for row in rows if row.needs is None or importlib.util.find_spec(row.needs) is not None]
    found = measured(there, arguments.pairs)
    measured_on = conditions("imports.py", f"{arguments.pairs} pairs a row", _PACKAGES)
    shown = f"{table({row: found.get(row) for row in rows})}\n\n{measured_on}\n"
    print(shown)
    if not arguments.only:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(f"# Recorded imports\n\n{shown}")


if __name__ == "__main__":
    main()
