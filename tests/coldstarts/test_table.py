"""The tables fit, say what matters, and let nothing planted through."""

from __future__ import annotations

import io
import re

import pytest

from tests.coldstarts.measurements import import_of, measured, run_of
from tracedbridge.coldstarts import figures
from tracedbridge.coldstarts.runs import Measured
from tracedbridge.coldstarts.table import Page


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLORTERM", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


def orchard() -> Measured:
    """Return two runs of an app with one large import below another."""
    imports = [import_of("index", 80, 20), import_of("plum." + "stone." * 9 + "kernel", 60, 60, parent=0)]
    imports[1].update({"owner": "third_party", "source": "source", "compile_ms": 9.0})
    return measured([run_of(imports, interpreter=20, app_import=each) for each in (80, 82)])


def shown(told: Measured, encoding: str = "utf-8") -> list[str]:
    """Return the lines of the tables on a file of that encoding."""
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding=encoding) as file:
        page = Page(file)
        page.show(told)
        page.show_changes(told, figures.changes(told["runs"], told["runs"]))
        file.flush()
        return [line.rstrip() for line in raw.getvalue().decode(encoding).splitlines()]


@pytest.mark.parametrize(("columns", "full", "four_fifths"), [(80, 12, 10), (140, 24, 20)])
def test_phases_and_imports(monkeypatch: pytest.MonkeyPatch, columns: int, full: int, four_fifths: int) -> None:
    """Medians, spread, shares and bars stand in one row each, on every width."""
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = shown(orchard())
    # Sentences may be folded by the terminal, tables may not.
    assert max(len(line) for line in lines if re.search(" [mµ]s ", line)) <= columns
    app_import = next(line for line in lines if line.startswith("app_import")).split()
    assert app_import[1:8] == ["81.0", "ms", "80.2", "ms", "81.8", "ms", "80%"]
    assert len(app_import[8]) == four_fifths
    (index,) = (line for line in lines if line.startswith("index") and "cache" in line)
    assert index.split()[1:7] == ["20.0", "ms", "80.0", "ms", "app", "cache"]
    assert (index.count("█"), index.count("░")) == (full / 4, full * 3 / 4)
    (kernel,) = (line for line in lines if "stone.kernel" in line)
    assert kernel.split()[1:7] == ["60.0", "ms", "60.0", "ms", "third_party", "compiled"]
    assert any(line.startswith("compiled: 1 module has no usable .pyc file") for line in lines)
    assert lines[-1] == "too few runs to tell a difference from noise: it takes 7 on each side"


def test_encoding_without_blocks() -> None:
    """Where the encoding has no blocks, everything is drawn in ASCII."""
    told = orchard()
    told["runs"][0]["imports"][0]["name"] = told["runs"][1]["imports"][0]["name"] = "prünelle"
    lines = shown(told, "ascii")
    assert any(line.startswith("pr\\xfcnelle") and line.endswith("###---------") for line in lines)


def test_planted_names() -> None:
    """Escape codes, line ends and markup in names come out as text."""
    told = orchard()
    told["app"] = "a\x1b[31m.py"
    for run in told["runs"]:
        run["imports"][0]["name"] = "x\x1b[2J\n[red]y"
    lines = shown(told)
    assert "\x1b" not in "".join(lines)
    assert lines[0].startswith("2 cold starts of a\\x1b[31m.py, GET /")
    assert any(line.startswith("x\\x1b[2J\\n[red]y") for line in lines)
