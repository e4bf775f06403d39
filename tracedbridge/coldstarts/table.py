"""What the terminal shows of the runs; nothing in a module's name can reach it raw."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tracedbridge.coldstarts import figures, noise
from tracedbridge.serving.waterfall import duration, printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

    from tracedbridge.coldstarts.figures import Change, Cost
    from tracedbridge.coldstarts.runs import Measured

__all__ = ("Page", "milliseconds")

# As many as fit on a screen, and more than one has time to mend.
_MODULES = 15
_PACKAGES = 8

# In columns. Rich gives 80 where there is no terminal to ask; in less no column of names is left.
_MIN_WIDTH = 80
_WIDE = 110
# What a row takes besides its name and its bar.
_COST_COLUMNS = 8 + 8 + 11 + 9 + 5 * 2
_CHANGE_COLUMNS = 8 + 8 + 9 + 6 + 12 + 5 * 2

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_COLOURS = {"app": "green", "third_party": "yellow", "stdlib": "blue"}
_VERDICTS = {"slower": "bold red", "faster": "bold green", "noise": "dim", "too few runs": "dim"}


def milliseconds(value_ms: float) -> str:
    """Write a duration with three digits and its unit."""
    return duration(round(value_ms * 1e6))


class Page:
    """The tables of one measurement, on a file: a terminal gets colours, anything else plain text."""

    def __init__(self, file: TextIO | None = None) -> None:
        """Write on ``file``, on standard output if None."""
        file = file or sys.stdout
        # Markup, emoji codes and number colours would be read out of the names.
        self._console = Console(file=file, markup=False, emoji=False, highlight=False, soft_wrap=True)
        self._width = max(self._console.width, _MIN_WIDTH)
        self._bar_width = 24 if self._width >= _WIDE else 12
        self._is_ascii = self._console.options.ascii_only

    def show(self, measured: Measured) -> None:
        """Show the phases, and the imports by module and by package."""
        self._line(_heading(measured), "bold")
        self._phases(measured)
        modules = figures.modules(measured["runs"])
        if modules:
            packages = figures.packages(measured["runs"])
            by_total = sorted(packages, key=lambda cost: (-cost.total_ms, cost.name))
            self._costs("modules by self time", "source", modules[:_MODULES])
            self._costs("packages by self time", "modules", packages[:_PACKAGES])
            self._costs("packages by total time", "modules", by_total[:_PACKAGES])
            self._legend(modules)

    def show_changes(self, before: Measured, changes: Sequence[Change]) -> None:
        """Show what changed against an earlier measurement."""
        self._console.print()
        self._line(f"before: {_heading(before)}", "bold")
        table = _table("median", "before", "after", "change", "", "verdict")
        for change in changes:
            share = f"{change.difference_ms / change.before_ms:+.0%}" if change.before_ms else "new"
            table.add_row(
                self._name(change.name, self._width - _CHANGE_COLUMNS),
                self._milliseconds(change.before_ms),
                self._milliseconds(change.after_ms),
                f"{'-' if change.difference_ms < 0 else '+'}{self._milliseconds(abs(change.difference_ms))}",
                share if round(change.after_ms, 6) else "gone" if change.before_ms else "",
                Text(change.verdict, style=_VERDICTS[change.verdict]),
            )
        self._print(table)
        if any(change.verdict == "too few runs" for change in changes):
            needed = noise.runs_needed(len(changes))
            self._line(f"too few runs to tell a difference from noise: it takes {needed} on each side", "dim")
        else:
            self._line("slower, faster: Mann-Whitney U test, p < 0.01 over all rows (Holm), and 1 ms or more", "dim")

    def _phases(self, measured: Measured) -> None:
        runs = measured["runs"]
        phases = figures.phases(runs)
        total_ms = noise.median(figures.totals(runs))
        table = _table("phase", "median", "p10", "p90", "share", "")
        for name, values_ms in phases.items():
            if name not in figures.AFTER_READY:
                share = noise.median(values_ms) / total_ms if total_ms else 0.0
                self._spread(table, name, values_ms, f"{share:.0%}", self._bar(share))
        self._spread(table, "total", figures.totals(runs), "100%", "", style="bold")
        for name in figures.AFTER_READY:
            if name in phases:
                self._spread(table, name, phases[name], "", "after ready")
        self._print(table)

    def _spread(
        self, table: Table, name: str, values_ms: list[float], share: str, bar: Text | str, style: str = ""
    ) -> None:
        spread = (self._milliseconds(noise.quantile(values_ms, at)) for at in (0.1, 0.9))
        table.add_row(printable(name), self._milliseconds(noise.median(values_ms)), *spread, share, bar, style=style)

    def _costs(self, title: str, last: Literal["source", "modules"], costs: Sequence[Cost]) -> None:
        self._console.print()
        table = _table(title, "self", "total", "owner", last, "")
        table.columns[3].justify = "left"
        if last == "source":
            table.columns[4].justify = "left"
        longest_ms = max(cost.total_ms for cost in costs)
        for cost in costs:
            table.add_row(
                self._name(cost.name, self._width - _COST_COLUMNS - self._bar_width),
                self._milliseconds(cost.self_ms),
                self._milliseconds(cost.total_ms),
                Text(cost.owner, style=_COLOURS.get(cost.owner, "")),
                _source(cost) if last == "source" else str(cost.modules),
                self._flame(cost, longest_ms),
            )
        self._print(table)

    def _legend(self, modules: Sequence[Cost]) -> None:
        full, light = self._blocks()
        self._line(f"{full} by itself  {light} by what it imported", "dim")
        compiled = sum(cost.is_compiled for cost in modules)
        if compiled:
            self._line(
                f"compiled: {compiled} {'module has' if compiled == 1 else 'modules have'} no usable .pyc file; "
                "run python -m compileall in the build",
                "dim",
            )

    def _flame(self, cost: Cost, longest_ms: float) -> Text:
        full, light = self._blocks()
        unit_ms = longest_ms / self._bar_width or 1.0
        own, whole = round(cost.self_ms / unit_ms), round(cost.total_ms / unit_ms)
        return Text(full * own + light * (whole - own), style=_COLOURS.get(cost.owner, ""))

    def _bar(self, share: float) -> Text:
        eighths = round(min(max(share, 0.0), 1.0) * self._bar_width * 8)
        if self._is_ascii:
            return Text("#" * round(eighths / 8))
        return Text(_EIGHTHS[8] * (eighths // 8) + _EIGHTHS[eighths % 8].strip(), style="cyan")

    def _blocks(self) -> tuple[str, str]:
        return ("#", "-") if self._is_ascii else ("█", "░")

    def _milliseconds(self, value_ms: float) -> str:
        text = milliseconds(value_ms)
        return text.replace("µ", "u") if self._is_ascii else text

    def _name(self, name: str, width: int) -> str:
        """Return a name that fits; of a long one its end, which tells more."""
        name = printable(name)
        if self._is_ascii:
            name = name.encode("ascii", "backslashreplace").decode()
        dots = "..." if self._is_ascii else "…"
        return name if len(name) <= width else dots + name[len(dots) - width :]

    def _line(self, text: str, style: str) -> None:
        if self._is_ascii:
            text = text.encode("ascii", "backslashreplace").decode()
        self._console.print(Text(printable(text), style=style))

    def _print(self, table: Table) -> None:
        # Cut by us, not folded by rich.
        self._console.print(table, width=self._width)


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first, no_wrap=True)
    for each in others[:-1]:
        table.add_column(each, justify="right", no_wrap=True)
    table.add_column(others[-1], no_wrap=True)
    return table


def _heading(measured: Measured) -> str:
    count = len(measured["runs"])
    return (
        f"{count} cold start{'' if count == 1 else 's'} of {measured['app']}, {measured['method']} {measured['path']}, "
        f"Python {measured['python']}, {measured['platform']}"
    )


def _source(cost: Cost) -> Text:
    return Text("compiled", style="red") if cost.is_compiled else Text(cost.source)
