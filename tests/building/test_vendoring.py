"""For which Python a project is built, what is installed as tracedbridge, and by whom."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.building.projects import make
from tracedbridge.building import bytecode, interpreters, vendoring
from tracedbridge.building.vendoring import Target, python_of
from tracedbridge.refusal import Refusal


def requiring(specifier: str) -> dict[str, str]:
    """Return a pyproject.toml that requires that."""
    return {"pyproject.toml": f'[project]\nname = "x"\nrequires-python = "{specifier}"\n'}


@pytest.mark.parametrize(
    ("files", "python"),
    [
        pytest.param({}, "3.12", id="Vercel's own"),
        pytest.param(requiring(">=3.10"), "3.12", id="the lowest that is allowed"),
        pytest.param(requiring(">=3.13"), "3.13", id="a lower bound"),
        pytest.param(requiring(">=3.12.4,<3.13"), "3.12", id="a patch"),
        pytest.param(requiring("==3.14.*"), "3.14", id="one"),
        pytest.param({".python-version": "3.13\n"}, "3.13", id="what pyenv and uv read"),
        pytest.param({".python-version": "# mine\ncpython-3.14.1\n", **requiring(">=3.12")}, "3.14", id="and first"),
        pytest.param({".python-version": "pypy\n"}, "3.12", id="none that can be read"),
        pytest.param({"pyproject.toml": "[tool.x]\n"}, "3.12", id="no project"),
    ],
)
def test_python(files: dict[str, str], python: str, tmp_path: Path) -> None:
    """The version is the one that the project asks for."""
    said: list[str] = []
    assert python_of(make(tmp_path, files), said.append) == python
    assert said == []


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (requiring("<3.12"), "3.12, 3.13, 3.14"),
        (requiring("newest"), "no version specifier"),
        ({".python-version": "3.8"}, "--python"),
    ],
)
def test_no_python(files: dict[str, str], message: str, tmp_path: Path) -> None:
    """A version that Vercel has not is refused."""
    with pytest.raises(Refusal, match=message):
        python_of(make(tmp_path, files), print)


def test_no_packaging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what reads specifiers it is Vercel's own version, and said so."""
    for name in ("packaging", "packaging.specifiers"):
        monkeypatch.setitem(sys.modules, name, None)
    said: list[str] = []
    assert python_of(make(tmp_path, requiring(">=3.13")), said.append) == "3.12"
    assert "packaging is not installed" in said[0]


@pytest.mark.parametrize(
    ("direct_url", "expected"),
    [
        pytest.param(None, "tracedbridge[vercel]==1.2", id="from an index"),
        pytest.param({"url": "{folder}", "dir_info": {}}, "{place}", id="from a folder"),
        pytest.param(
            {"url": "file:///is/gone", "dir_info": {}}, "tracedbridge[vercel]==1.2", id="from one that is gone"
        ),
        pytest.param(
            {"url": "https://x.example/t.whl", "archive_info": {}},
            "tracedbridge[vercel] @ https://x.example/t.whl",
            id="from an archive",
        ),
        pytest.param(
            {"url": "https://x.example/t", "vcs_info": {"vcs": "git", "commit_id": "c0ffee"}},
            "tracedbridge[vercel] @ git+https://x.example/t@c0ffee",
            id="from a repository",
        ),
    ],
)
def test_where_this_one_came_from(
    direct_url: dict[str, object] | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is installed again from where this one was; PEP 610."""
    place = make(tmp_path / "a folder", {"pyproject.toml": ""})
    text = None if direct_url is None else json.dumps(direct_url).replace("{folder}", place.as_uri())
    ours = SimpleNamespace(version="1.2", read_text=lambda name: text)
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: ours)
    assert vendoring._origin() == expected.format(place=place)


@pytest.mark.parametrize("named", ["uv", "pip", None])
def test_no_installer(named: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one, the message says which to install."""
    monkeypatch.setattr(vendoring, "_uv", lambda: None)
    monkeypatch.setattr(vendoring, "find_spec", lambda name: None)
    with pytest.raises(Refusal, match="pip install uv"):
        vendoring._installer(named)


def test_no_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one of its version there is no bytecode, and that is said."""
    monkeypatch.setenv("PATH", str(tmp_path))
    folder = make(tmp_path / "function", {"a.py": ""})
    said: list[str] = []
    assert bytecode.compile_all(folder, Target("3.10", "x86_64"), said.append) is None
    assert "no Python 3.10 found" in said[0]


def test_a_shim_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of the right name that is no Python of that version is none."""
    for name, answer in (("python3.10", "exit 127"), ("uv", "echo /nowhere")):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{answer}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert interpreters.interpreter_of("3.10") is None
    tmp_path.joinpath("python3.10").write_text("#!/bin/sh\necho 3.10\n")
    assert interpreters.interpreter_of("3.10") == str(tmp_path / "python3.10")


def test_what_does_not_compile(tmp_path: Path) -> None:
    """It is left as it is; the rest is compiled."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    folder = make(tmp_path, {"good.py": "x = 1\n", "template.py": "{{ name }} = \n"})
    assert bytecode.compile_all(folder, Target(version, "x86_64"), print) == sys.executable
    assert [each.name.partition(".")[0] for each in folder.rglob("*.pyc")] == ["good"]
