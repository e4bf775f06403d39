"""The output is replaced as a whole or not at all, and only if it is ours."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.building.projects import make
from tracedbridge.building.tree import MARKER, new_tree
from tracedbridge.refusal import Refusal


def write(project: Path, output: Path, text: str) -> None:
    """Write a tree of one file."""
    with new_tree(project, output) as tree:
        tree.joinpath("a").write_text(text)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project."""
    return make(tmp_path / "project", {"main.py": ""})


def test_written(project: Path) -> None:
    """A second one takes the place of the first; nothing else is left."""
    output = project / ".vercel" / "output"
    for text in ("one", "two"):
        write(project, output, text)
        assert sorted(os.listdir(output)) == sorted([MARKER, "a"])
        assert output.joinpath("a").read_text() == text
        assert os.listdir(output.parent) == ["output"]
        assert output.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure(project: Path, error: type[BaseException]) -> None:
    """What was there before stays, and nothing is left of the new one."""
    output = project / "out"
    write(project, output, "one")

    def fail() -> None:
        with new_tree(project, output) as tree:
            tree.joinpath("a").write_text("two")
            raise error

    with pytest.raises(error):
        fail()
    assert output.joinpath("a").read_text() == "one"
    assert sorted(os.listdir(project)) == ["main.py", "out"]


def test_an_empty_folder(project: Path) -> None:
    """It may be anybody's."""
    project.joinpath("out").mkdir()
    write(project, project / "out", "one")
    assert project.joinpath("out", "a").read_text() == "one"


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ("src", "did not make"),
        ("main.py", "no folder"),
        (".", "the project is in it"),
        ("..", "the project is in it"),
        ("link", "symbolic link"),
        ("dangling", "symbolic link"),
    ],
)
def test_what_is_not_ours(output: str, why: str, project: Path) -> None:
    """It is refused, and stays as it is."""
    make(project, {"src/a": "mine", "elsewhere/" + MARKER: "{}"})
    os.symlink("elsewhere", project / "link")
    os.symlink("nowhere", project / "dangling")
    before = sorted(project.rglob("*"))
    with pytest.raises(Refusal, match=f"{why}.*--output"):
        write(project, Path(os.path.abspath(project / output)), "one")
    assert sorted(project.rglob("*")) == before
    assert project.joinpath("src", "a").read_text() == "mine"


def test_where_nothing_can_be_written(project: Path) -> None:
    """The message names the folder."""
    with pytest.raises(Refusal, match=r"could not write to .*main\.py"):
        write(project, project / "main.py" / "deep" / "output", "one")
