"""The HTML page: one file without any reference to another, that one can send to a colleague."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from tracedbridge.coldstarts import figures, noise
from tracedbridge.coldstarts.table import milliseconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tracedbridge.coldstarts.runs import Measured, Run

__all__ = ("render", "write")

# Nothing may be loaded, whatever a name manages to plant.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"

_FOLDER = Path(__file__).parent
_OWNERS = ("app", "third_party", "stdlib")

# The style sheet has so many colours of phases; those of real apps are four to seven, the last ones tiny.
_COLOURS = 6

# A large app has 150; what is not among these took less than a thousandth.
_MAX_PACKAGES = 40


def write(measured: Measured, name: str) -> None:
    """Write the page of ``measured`` to a file."""
    # A file's name may hold bytes that are no text.
    with open(name, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(render(measured))


def render(measured: Measured) -> str:
    """Return the page of ``measured``; its chart is that of the run with the median total."""
    runs = measured["runs"]
    middle = figures.middle_run(runs)
    title = f"Cold start of {measured['app']}"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
{_text_of("page.css")}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
<p class="faint">{escape(_facts(measured))}</p>
</header>
<main>
{_summary(runs)}
<h2>Phases</h2>
{_phases(runs)}
<h2>Packages</h2>
{_packages(runs)}
<h2 id="imports">Imports</h2>
<p class="faint">Of the run with the median total ({escape(milliseconds(middle["total_ms"]))}). The width is the time
that an import took with all that it imported. Click or Enter zooms in, Escape zooms out, arrow keys move.</p>
<p class="legend">{_owners()}</p>
<nav id="crumbs" aria-label="Zoomed into"></nav>
<p id="details" role="status">The chart needs JavaScript; the table above does not.</p>
<div id="icicle" role="group" aria-labelledby="imports"></div>
</main>
<script type="application/json" id="run">{_embedded(middle)}</script>
<script>
{_text_of("page.js")}</script>
</body>
</html>
"""


def _text_of(file: str) -> str:
    return (_FOLDER / file).read_text(encoding="utf-8")


def _embedded(run: Run) -> str:
    # In a script element nothing is an entity, and "</script>" or "<!--" inside of a text would end it all the same.
    return json.dumps(run, separators=(",", ":")).replace("<", "\\u003c")


def _facts(measured: Measured) -> str:
    count = len(measured["runs"])
    return ", ".join(
        (
            f"{count} cold start{'' if count == 1 else 's'}",
            f"{measured['method']} {measured['path']}",
            f"Python {measured['python']}",
            measured["platform"],
            f"tracedbridge {measured['tracedbridge']}",
            f"telemetry {measured['telemetry']}",
        )
    )


def _summary(runs: Sequence[Run]) -> str:
    phases = _medians(runs)
    longest = max(phases, key=lambda name: phases[name])
    first = figures.phases(runs).get("first_byte")
    cells = [
        ("Until ready, median", milliseconds(noise.median(figures.totals(runs))), _spread(figures.totals(runs))),
        ("Largest phase", longest, milliseconds(phases[longest])),
        ("Modules loaded", str(max(run["modules"] for run in runs)), "tracedbridge's and Python's own included"),
    ]
    if first is not None:
        cells.insert(1, ("First response, median", milliseconds(noise.median(first)), _spread(first)))
    shown = (
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(more)}</small></dd></div>"
        for name, value, more in cells
    )
    return f'<dl class="figures">\n{_lines(shown)}\n</dl>'


def _phases(runs: Sequence[Run]) -> str:
    medians = _medians(runs)
    values = figures.phases(runs)
    # Medians do not add up exactly: the bar is filled all the same.
    whole_ms = sum(medians.values()) or 1.0
    label = ", ".join(f"{name} {milliseconds(duration_ms)}" for name, duration_ms in medians.items())
    bar = (
        f'<span class="phase{number % _COLOURS}" style="width: {duration_ms / whole_ms:.3%}" '
        f'title="{escape(f"{name}: {milliseconds(duration_ms)}")}"></span>'
        for number, (name, duration_ms) in enumerate(medians.items())
    )
    rows = [
        _row(
            f'<span class="swatch phase{number % _COLOURS}"></span>{escape(name)}',
            milliseconds(duration_ms), _spread(values[name]), f"{duration_ms / whole_ms:.1%}",
        )
        for number, (name, duration_ms) in enumerate(medians.items())
    ]  # fmt: skip
    return f'<div class="stack" role="img" aria-label="{escape(label)}">\n{_lines(bar)}\n</div>\n' + _table(
        ("Phase", "Median", "p10 to p90", "Share"), rows, texts=1
    )


def _packages(runs: Sequence[Run]) -> str:
    packages = figures.packages(runs)
    rows = [
        _row(
            escape(cost.name), escape(cost.owner.replace("_", " ")), str(cost.modules), milliseconds(cost.self_ms),
            milliseconds(cost.total_ms), texts=2,
        )
        for cost in packages[:_MAX_PACKAGES]
    ]  # fmt: skip
    if len(packages) > _MAX_PACKAGES:
        rest = packages[_MAX_PACKAGES:]
        self_ms = sum(cost.self_ms for cost in rest)
        rows.append(
            _row(f"{len(rest)} more", "", str(sum(cost.modules for cost in rest)), milliseconds(self_ms), "", texts=2)
        )
    return _table(("Package", "Owner", "Modules", "Self", "Total"), rows, texts=2)


def _medians(runs: Sequence[Run]) -> Mapping[str, float]:
    return {
        name: noise.median(values_ms)
        for name, values_ms in figures.phases(runs).items()
        if name not in figures.AFTER_READY
    }


def _spread(values_ms: Sequence[float]) -> str:
    return f"{milliseconds(noise.quantile(values_ms, 0.1))} to {milliseconds(noise.quantile(values_ms, 0.9))}"


def _owners() -> str:
    return "".join(f'<span><span class="swatch {name}"></span>{name.replace("_", " ")}</span>' for name in _OWNERS)


def _table(heads: Sequence[str], rows: Iterable[str], *, texts: int) -> str:
    """Return a table whose first ``texts`` columns are text; the others are numbers."""
    cells = (f'<th scope="col"{_alignment(number, texts)}>{escape(head)}</th>' for number, head in enumerate(heads))
    return f'<div class="scroll"><table>\n<tr>{"".join(cells)}</tr>\n{_lines(rows)}\n</table></div>'


def _row(*cells: str, texts: int = 1) -> str:
    """Return a row; what came from outside is escaped already."""
    return f"<tr>{''.join(f'<td{_alignment(number, texts)}>{cell}</td>' for number, cell in enumerate(cells))}</tr>"


def _alignment(column: int, texts: int) -> str:
    return "" if column < texts else ' class="number"'


def _lines(parts: Iterable[str]) -> str:
    return "\n".join(parts)
