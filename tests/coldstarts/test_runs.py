"""The file of runs is read back as it was written, and nothing else is taken for one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.coldstarts.measurements import import_of, measured, run_of
from tracedbridge.coldstarts.runs import read, write
from tracedbridge.refusal import Refusal


def test_file_of_runs(tmp_path: Path) -> None:
    """What was written is read, names that are no text included."""
    told = measured([run_of([import_of("plum\udce9 </script>", 3, 2)], app_import=3.25)], app="p\udce9ach.py")
    write(told, str(tmp_path / "runs.json"))
    assert read(str(tmp_path / "runs.json")) == told


def without(name: str) -> Callable[[dict[str, Any]], object]:
    """Return what takes a key out of a measurement."""
    return lambda told: told.pop(name)


def of_first_import(**more: object) -> Callable[[dict[str, Any]], object]:
    """Return what changes the first import of the second run."""
    return lambda told: told["runs"][1]["imports"][0].update(more)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        pytest.param(without("app"), "it is no file of runs", id="no app"),
        pytest.param(without("runs"), "it has no runs", id="no runs"),
        pytest.param(lambda told: told["runs"].clear(), "it has no runs", id="empty"),
        pytest.param(lambda told: told.update(version=2), "its version is 2, expected 1", id="version"),
        pytest.param(lambda told: told["runs"][1].pop("total_ms"), "run 2 is not whole", id="no total"),
        pytest.param(lambda told: told["runs"][1].update(phases={"x": True}), "run 2 is not whole", id="bad phase"),
        pytest.param(lambda told: told["runs"].append([]), "run 3 is not whole", id="no run"),
        pytest.param(of_first_import(parent=0), "run 2 is not whole", id="its own parent"),
        pytest.param(of_first_import(self_ms=None), "run 2 is not whole", id="no number"),
        pytest.param(of_first_import(self_ms=float("nan")), "it is no JSON: NaN is no number", id="NaN"),
        pytest.param(of_first_import(name=7), "run 2 is not whole", id="no name"),
        pytest.param(lambda told: told["runs"][1]["imports"].append(None), "run 2 is not whole", id="no import"),
    ],
)
def test_another_file(tmp_path: Path, damage: Callable[[dict[str, Any]], object], reason: str) -> None:
    """A file that is not quite one of ours is refused with its name and the reason."""
    file = tmp_path / "runs.json"
    runs = [run_of([import_of("plum", 3, 2)], app_import=3) for _ in range(2)]
    told = json.loads(json.dumps(measured(runs)))
    damage(told)
    file.write_text(json.dumps(told))
    with pytest.raises(Refusal) as refused:
        read(str(file))
    assert str(refused.value).startswith(f"could not read the runs in {str(file)!r}: {reason}")
    assert refused.value.code == 2


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file or directory"),
        (b"", "it is no JSON: "),
        (b"\xff", "it is no JSON: "),
        (b"[" * 100_000, "it is no JSON: "),
        (b"[]", "it is no file of runs"),
        (b'{"runs": 3, "version": 1}', "it is no file of runs"),
    ],
    ids=["missing", "empty", "no text", "too deep", "a list", "other keys"],
)
def test_no_file_of_runs(tmp_path: Path, content: bytes | None, reason: str) -> None:
    """What is no JSON, or other JSON, is refused, too."""
    file = tmp_path / "runs.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(Refusal, match=reason) as refused:
        read(str(file))
    assert refused.value.code == 2
