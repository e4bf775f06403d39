"""What counts as a change of an app's source."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tracedbridge.serving import changes
from tracedbridge.serving.changes import Changes


@pytest.fixture(name="folder")
def folder_of_an_app(tmp_path: Path) -> Path:
    """A folder with a package, and with what is not the user's own."""
    for name in ("index.py", "lib/deep/a.py", "node_modules/x.py", ".hidden/x.py", "env/pyvenv.cfg", "env/lib/x.py"):
        file = tmp_path / "app" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
    (tmp_path / "shared.py").write_text("")
    return tmp_path / "app"


def write(name: str) -> Callable[[Path], object]:
    """Return what writes a file, made with its folder if need be, as an editor does it: by a new one in its place."""

    def do(folder: Path) -> None:
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        new = file.with_name(f"{file.name}~")
        new.write_text("more")
        new.rename(file)

    return do


@pytest.mark.parametrize(
    ("do", "expected"),
    [
        pytest.param(lambda folder: None, [], id="nothing"),
        pytest.param(write("index.py"), ["index.py"], id="changed"),
        pytest.param(write("lib/deep/a.py"), ["lib/deep/a.py"], id="changed below"),
        pytest.param(write("new.py"), ["new.py"], id="new"),
        pytest.param(write("lib/deep/new.py"), ["lib/deep/new.py"], id="new below"),
        pytest.param(write("package/new.py"), ["package/new.py"], id="in a new folder"),
        pytest.param(lambda folder: (folder / "index.py").unlink(), ["index.py"], id="gone"),
        pytest.param(lambda folder: os.utime(folder / "index.py", (1, 1)), ["index.py"], id="touched"),
        pytest.param(write("../shared.py"), ["../shared.py"], id="elsewhere, but loaded"),
        pytest.param(write("../other.py"), [], id="elsewhere"),
        pytest.param(write("notes.txt"), [], id="no Python"),
        pytest.param(write("node_modules/x.py"), [], id="somebody else's"),
        pytest.param(write(".hidden/x.py"), [], id="hidden"),
        pytest.param(write("env/lib/x.py"), [], id="an environment"),
    ],
)
def test_changes(folder: Path, do: Callable[[Path], object], expected: list[str]) -> None:
    """A change is found at the next look, once."""
    watched = Changes(str(folder))
    watched.watch([str(folder.parent / "shared.py"), str(folder / "index.py")])
    assert watched.found() == []
    do(folder)
    found = [os.path.relpath(file, folder) for file in watched.found()]
    assert found == expected
    assert watched.found() == []


@pytest.mark.parametrize("name", ["_MOST_FILES", "_MOST_FOLDERS"])
def test_bounds(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a folder that is far too large the first files are looked at."""
    monkeypatch.setattr(changes, name, 1)
    watched = Changes(str(folder))
    write("lib/deep/a.py")(folder)
    assert watched.found() == []
    write("index.py")(folder)
    assert watched.found() == [str(folder / "index.py")]


def test_a_folder_that_goes(folder: Path) -> None:
    """A folder that is gone, or a circle of links, is no error."""
    (folder / "circle").symlink_to(folder)
    watched = Changes(str(folder))
    folder.rename(folder.with_name("elsewhere"))
    assert [os.path.basename(file) for file in watched.found()] == ["index.py", "a.py"]
    assert watched.found() == []
