"""Which files of a project are deployed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.building.projects import make
from tracedbridge.building.files import user_files
from tracedbridge.refusal import Refusal

pytest.importorskip("pathspec", reason="it comes with the extra vercel")


def kept(project: Path) -> list[str]:
    """Return what is deployed."""
    return [file.as_posix() for file in user_files(project, leave_out=())]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({"a.py": "", "b/c.txt": ""}, ["a.py", "b/c.txt"], id="everything"),
        pytest.param(
            {".gitignore": "*.txt\n!keep.txt\nout/\n", "a.txt": "", "keep.txt": "", "out/a.py": "", "b/out/c.py": ""},
            ["keep.txt"],
            id="but what git ignores",
        ),
        pytest.param(
            {".gitignore": "*.log\n", "b/.gitignore": "!x.log\n/y\n", "x.log": "", "b/x.log": "", "b/y": "", "y": ""},
            ["b/x.log", "y"],
            id="the nearest file decides",
        ),
        pytest.param({".gitignore": "b/\n", "b/.gitignore": "!*\n", "b/c": "", "d": ""}, ["d"], id="below it nothing"),
        pytest.param(
            {".vercelignore": "docs\n", ".gitignore": "*.py\n", "docs/a": "", "a.py": ""}, ["a.py"], id="Vercel's own"
        ),
        pytest.param(
            {
                "venv/pyvenv.cfg": "", "venv/a.py": "", ".git/x": "", "node_modules/x/a.js": "", "__pycache__/a": "",
                "b.pyc": "", ".env": "", ".env.local": "", ".vercel/output/a": "", ".vercelignore": "!.env\n", "c": "",
            },
            ["c"],
            id="never secrets, environments, caches",
        ),
    ],
)  # fmt: skip
def test_kept(files: dict[str, str], expected: list[str], tmp_path: Path) -> None:
    """The user's files are deployed."""
    assert kept(make(tmp_path, files)) == expected


def test_left_out(tmp_path: Path) -> None:
    """A folder that is none of the user's is not deployed."""
    project = make(tmp_path, {"a": "", "out/b": ""})
    assert user_files(project, leave_out=(project / "out",)) == [Path("a")]


def test_links(tmp_path: Path) -> None:
    """A link within the project is what it points at; one that leads to itself, or to nothing, is nothing."""
    project = make(tmp_path, {"a.py": "", "b/c.py": ""})
    for name, to in (("d.py", "a.py"), ("e", "b"), ("b/up", ".."), ("gone", "nothing")):
        os.symlink(to, project / name)
    assert kept(project) == ["a.py", "b/c.py", "d.py", "e/c.py"]


def test_a_link_that_leaves(tmp_path: Path) -> None:
    """A link to somewhere else is refused by its name: what it points at is not the project's."""
    project = make(tmp_path / "project", {"a.py": ""})
    os.symlink(tmp_path, project / "secrets")
    with pytest.raises(Refusal, match=r"'secrets' is a link to .*\.vercelignore"):
        kept(project)
    project.joinpath(".vercelignore").write_text("secrets\n")
    assert kept(project) == ["a.py"]


def test_no_pathspec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, the message names it."""
    monkeypatch.setitem(sys.modules, "pathspec", None)
    with pytest.raises(Refusal, match=r"tracedbridge\[vercel\]"):
        kept(make(tmp_path, {"a.py": ""}))
