"""``tracedbridge coldstart``: its command line, its budgets, and what it says when something is wrong."""

from __future__ import annotations

import argparse
import math
import os
import sys
from typing import TYPE_CHECKING

from tracedbridge.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tracedbridge.coldstarts.figures import Change
    from tracedbridge.coldstarts.runs import Measured, Run, Task

__all__ = ("run",)

_OK, _FAILURE, _USAGE = 0, 1, 2

_RICH_IS_MISSING = "cannot show the tables without rich; run: pip install 'tracedbridge[cli]'"


def run(arguments: Sequence[str]) -> int:
    """
    Measure, show, compare and judge; return the exit code: 0, or 1 for a broken app or a budget that did not hold.

    Raises:
        Refusal: Something is in the way that the user can mend.
        SystemExit: The arguments are wrong; the code is 2.
        KeyboardInterrupt: Ctrl-C.
    """
    options = _options(arguments)
    try:
        import rich  # noqa: F401 - asked before the runs, which take a while
    except ModuleNotFoundError:
        raise Refusal(_RICH_IS_MISSING, _FAILURE) from None
    from tracedbridge.coldstarts import figures, page, runs, table

    before = None if options.compare is None else runs.read(options.compare)
    for file in (options.json, options.html):
        if file is not None:
            _check_writable(file)
    task = runs.Task(options.app, options.method, options.path, options.runs, options.timeout_s)
    try:
        measured = _measure(task)
    except runs.Failure as failure:
        sys.stderr.buffer.write(failure.output)
        sys.stderr.buffer.flush()
        if str(failure):
            _say(str(failure))
        return _FAILURE
    except KeyboardInterrupt:
        _say("interrupted")
        raise
    try:
        if options.json is not None:
            runs.write(measured, options.json)
        if options.html is not None:
            page.write(measured, options.html)
    except OSError as error:
        raise Refusal(f"could not write {error.filename!r}: {error.strerror}", _FAILURE) from None
    changes = [] if before is None else figures.changes(before["runs"], measured["runs"])
    try:
        shown = table.Page()
        shown.show(measured)
        if before is not None:
            shown.show_changes(before, changes)
    except OSError as error:
        # The interpreter flushes at its end, and would fail once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise Refusal(f"could not write to standard output: {error.strerror}", _FAILURE) from None
    for note in (*_notes(measured), *_notes_on_comparison(measured, before), *_unused(measured, options.max_import)):
        _say(f"note: {note}")
    broken = list(_over_budget(measured["runs"], options, changes))
    for message in broken:
        _say(f"over budget: {message}")
    return _FAILURE if broken else _OK


# The arguments.


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tracedbridge coldstart",
        description="Start an app in N fresh processes, one after the other, each answering one request, and show "
        "where the time went, down to the single import. One more process, the first, is not counted: it warms "
        "the disk cache and writes missing .pyc files. Telemetry is as the environment configures it, so that its "
        "cost is in the figures, but nothing is exported: no backend sees these cold starts.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "app", metavar="APP", help="path/to/file.py, path/to/file.py:variable or package.module:variable"
    )
    parser.add_argument("-n", "--runs", metavar="N", type=int, default=20, help="cold starts that count (20)")
    parser.add_argument("--method", metavar="METHOD", default="GET", help="of the first request (GET)")
    parser.add_argument("--path", metavar="PATH", default="/", help="of the first request, with its query (/)")
    parser.add_argument("--json", metavar="FILE", help="write the runs there, for --compare")
    parser.add_argument("--html", metavar="FILE", help="write a page there that one can send to a colleague")
    parser.add_argument("--compare", metavar="FILE", help="show what changed against the runs in a file of --json")
    parser.add_argument(
        "--max-total-ms", metavar="N", type=_milliseconds, help="fail if the median total is more than that"
    )
    parser.add_argument(
        "--max-import",
        metavar="PKG=MS",
        type=_budget,
        action="append",
        default=[],
        help="fail if the import of a top-level package, what it imports included, takes more; repeatable",
    )
    parser.add_argument(
        "--timeout-s",
        metavar="S",
        type=_seconds,
        default=60.0,
        help="kill a process that has not answered by then (60)",
    )
    options = parser.parse_args(arguments)
    if not options.app.strip():
        parser.error("APP is empty: name a file or a module")
    if options.runs < 1:
        parser.error(f"-n {options.runs}: expected 1 or more")
    if not options.path.startswith("/"):
        parser.error(f"--path {options.path!r}: expected a path that starts with /")
    if not options.method.isascii() or not options.method.isalpha():
        parser.error(f"--method {options.method!r}: expected GET, POST, …")
    files = [os.path.realpath(name) for name in (options.json, options.html) if name is not None]
    if len(files) != len(set(files)):
        parser.error("--json and --html name the same file")
    return options


def _milliseconds(text: str) -> float:
    return _number(text, "milliseconds, zero or more")


def _seconds(text: str) -> float:
    value = _number(text, wanted := "seconds, more than zero")
    if not value:
        raise argparse.ArgumentTypeError(f"{text!r}: expected {wanted}")
    return value


def _number(text: str, wanted: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"{text!r}: expected {wanted}")
    return value


def _budget(text: str) -> tuple[str, float]:
    package, equals, limit = text.partition("=")
    if not equals or not package.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r}: expected PKG=MS, with a top-level package: numpy=120")
    return package, _milliseconds(limit)


def _check_writable(name: str) -> None:
    is_new = not os.path.exists(name)
    try:
        # Without a change to what is there.
        with open(name, "ab"):
            pass
        if is_new:
            os.remove(name)
    except OSError as error:
        raise Refusal(f"could not write {name!r}: {error.strerror}", _USAGE) from None


# The runs.


def _measure(task: Task) -> Measured:
    from tracedbridge.coldstarts import runs

    # Nothing where nobody watches: a log file is no place for it, and older rich ends even a disabled bar with a line.
    if not sys.stderr.isatty():
        return runs.measure(task, lambda: None)
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr),
        transient=True,
    )
    with bar:
        shown = bar.add_task("warming up", total=task.runs + 1)
        return runs.measure(task, lambda: bar.update(shown, advance=1, description="cold starts"))


def _notes(measured: Measured) -> Iterator[str]:
    told = measured["runs"]
    bad = sorted({run["status"] for run in told if run["status"] >= 500})
    if bad:
        yield (
            f"{measured['method']} {measured['path']} was answered with {', '.join(map(str, bad))}: "
            "first_byte may be that of an error"
        )
    if any(run["begins_with"] != "process" for run in told):
        yield "the start of a process is not known here: what Python itself took is missing"
    dropped = max(run["dropped"] for run in told)
    if dropped:
        yield f"up to {dropped} imports of a run were not recorded: there were too many"
    if not any(run["imports"] for run in told):
        yield "no imports were recorded"


def _notes_on_comparison(measured: Measured, before: Measured | None) -> Iterator[str]:
    if before is None:
        return
    for name in ("app", "method", "path", "python", "platform", "tracedbridge", "telemetry"):
        # mypy knows literal keys only.
        was, now = dict(before).get(name), dict(measured)[name]
        if was != now:
            yield f"compared with another {name}: {was} before, {now} now"


def _unused(measured: Measured, budgets: Sequence[tuple[str, float]]) -> Iterator[str]:
    from tracedbridge.coldstarts import figures

    imported = {cost.name for cost in figures.packages(measured["runs"])}
    for package, _ in budgets:
        if package not in imported:
            yield f"--max-import {package}: it was never imported"


# The budgets.


def _over_budget(told: Sequence[Run], options: argparse.Namespace, changes: Sequence[Change]) -> Iterator[str]:
    from tracedbridge.coldstarts import figures, noise
    from tracedbridge.coldstarts.table import milliseconds

    culprits = _culprits(told, changes)
    total_ms = noise.median(figures.totals(told))
    if options.max_total_ms is not None and total_ms > options.max_total_ms:
        yield (
            f"the median total is {milliseconds(total_ms)}, {milliseconds(total_ms - options.max_total_ms)} more than "
            f"--max-total-ms {options.max_total_ms:g}; {culprits}"
        )
    costs = {cost.name: cost for cost in figures.packages(told)}
    for package, limit_ms in options.max_import:
        if package in costs and costs[package].total_ms > limit_ms:
            took_ms = costs[package].total_ms
            yield (
                f"the import of {package} takes {milliseconds(took_ms)}, {milliseconds(took_ms - limit_ms)} more than "
                f"--max-import {package}={limit_ms:g}; {culprits}"
            )


def _culprits(told: Sequence[Run], changes: Sequence[Change]) -> str:
    """Return what takes longest, and what grew most, if that is known."""
    from tracedbridge.coldstarts import figures, noise
    from tracedbridge.coldstarts.table import milliseconds

    medians: Mapping[str, float] = {
        name: noise.median(values_ms)
        for name, values_ms in figures.phases(told).items()
        if name not in figures.AFTER_READY
    }
    longest = max(medians, key=lambda name: medians[name])
    parts = [f"the largest phase is {longest} ({milliseconds(medians[longest])})"]
    costs = figures.packages(told)
    if costs:
        parts.append(f"the package with most self time is {costs[0].name} ({milliseconds(costs[0].self_ms)})")
    if changes:
        parts.append(_growth(changes))
    return ", ".join(parts)


def _growth(changes: Sequence[Change]) -> str:
    """Return which phase and which package grew most, where that is more than noise, or not known."""
    from tracedbridge.coldstarts import figures
    from tracedbridge.coldstarts.table import milliseconds

    grown = [
        change
        for change in changes
        if change.difference_ms > 0 and change.verdict != "noise" and change.name not in ("total", *figures.AFTER_READY)
    ]
    grown.sort(key=lambda change: -change.difference_ms)
    most = [next((each for each in grown if each.is_package is is_package), None) for is_package in (False, True)]
    parts = [f"{each.name} by {milliseconds(each.difference_ms)} ({each.verdict})" for each in most if each is not None]
    return f"what grew most: {', '.join(parts)}" if parts else "nothing grew by more than noise"


def _say(line: str) -> None:
    from tracedbridge.serving.waterfall import printable

    sys.stderr.write(f"tracedbridge: {printable(line)}\n")
