"""Has the user's own installer put a function's dependencies beside it, for the platform's Linux and Python."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlsplit

from tracedbridge.building.functions import project_table
from tracedbridge.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tracedbridge.building import Order

__all__ = ("ARCHITECTURES", "PYTHONS", "Target", "python_of", "vendor")

PYTHONS = ("3.12", "3.13", "3.14")
"""Vercel's, as of November 2026; the first is its default."""

# By Vercel's name: the machine of a wheel's tag. Its functions run on Amazon Linux 2023, glibc 2.34.
ARCHITECTURES = {"x86_64": "x86_64", "arm64": "aarch64"}
_GLIBCS = ("2_34", "2_28", "2_17")

_TIMEOUT_S = 1800.0
# An installer's last words.
_LINES = 15


class Target(NamedTuple):
    """Where a function is to run."""

    # "3.12"
    python: str
    # "x86_64" or "arm64"
    arch: str


class _Installer(NamedTuple):
    name: str
    # What runs it.
    command: tuple[str, ...]


def python_of(project: Path, say: Callable[[str], None]) -> str:
    """
    Return the version that a project is for: ``.python-version``, else what ``requires-python`` allows, else Vercel's.

    Raises:
        Refusal: It is for none that Vercel has.
    """
    told = project / ".python-version"
    if told.is_file():
        for line in told.read_text(encoding="utf-8", errors="replace").splitlines():
            if (match := re.match(r"\s*(?:cpython-?)?(3\.\d+)", line)) is not None:
                return _known(match[1], f"{str(told)!r} says")
    table = project_table(project).get("project")
    requires = table.get("requires-python") if isinstance(table, dict) else None
    if not requires:
        return PYTHONS[0]
    specifiers = _specifiers(str(requires), say)
    if specifiers is None:
        return PYTHONS[0]
    for python in PYTHONS:
        # The highest patch there may be: ">=3.12.3" is met by the platform's.
        if specifiers.contains(f"{python}.99"):
            return python
    raise Refusal(f"requires-python = {requires!r} allows none of {', '.join(PYTHONS)}, which are what Vercel has")


def vendor(order: Order, project: Path, into: Path, say: Callable[[str], None]) -> str:
    """
    Install a project's dependencies and tracedbridge, wheels only, whatever machine this is.

    They are those of ``uv.lock``, else of ``requirements.txt``, else ``project.dependencies`` of pyproject.toml.

    Args:
        order: What to build.
        project: Its folder, without symbolic links in its path.
        into: The folder; made here.
        say: Is told what the user should know.

    Returns:
        What did it: ``"uv"`` or ``"pip"``.

    Raises:
        Refusal: There is no installer, or it failed; the message has its last lines.
    """
    installer = _installer(order.installer)
    with tempfile.TemporaryDirectory(prefix="tracedbridge-build-") as scratch:
        wanted = _requirements(installer, project, Path(scratch), say)
        ours = _ours(order.tracedbridge, installer, Path(scratch))
        into.mkdir()
        _run(
            (*installer.command, *_for(installer, order.target, into), *wanted, ours),
            project,
            f"install what the functions need for Python {order.target.python} on {order.target.arch}",
        )
    # Programs are nobody's there, and locks are the installer's own.
    for name in ("bin", ".lock"):
        left = into / name
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink(missing_ok=True)
    for cache in list(into.rglob("__pycache__")):
        shutil.rmtree(cache)
    return installer.name


def _installer(named: str | None) -> _Installer:
    if named in (None, "uv") and (uv := _uv()) is not None:
        return _Installer("uv", (uv, "pip", "install", "--python", sys.executable))
    if named in (None, "pip") and find_spec("pip") is not None:
        command = (sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-input")
        return _Installer("pip", command)
    wanted = "neither uv nor pip" if named is None else f"no {named}"
    raise Refusal(f"{wanted} found to install what the functions need: pip install uv")


def _uv() -> str | None:
    if (found := shutil.which("uv")) is not None:
        return found
    try:
        # Where it was installed as a package, its program may not be on the path.
        return str(import_module("uv").find_uv_bin())
    except (ImportError, FileNotFoundError):
        return None


def _for(installer: _Installer, target: Target, into: Path) -> list[str]:
    machine = ARCHITECTURES[target.arch]
    options = ["--target", str(into), "--python-version", target.python, "--only-binary", ":all:"]
    if installer.name == "uv":
        # A hard link would put the cache's own files where we, or the user, may change them.
        return [*options, "--python-platform", f"{machine}-manylinux_{_GLIBCS[0]}", "--link-mode", "copy", "--quiet"]
    for glibc in _GLIBCS:
        options += ["--platform", f"manylinux_{glibc}_{machine}"]
    return [*options, "--platform", f"manylinux2014_{machine}", "--implementation", "cp", "--quiet"]


def _requirements(installer: _Installer, project: Path, scratch: Path, say: Callable[[str], None]) -> list[str]:
    lock, listed = project / "uv.lock", project / "requirements.txt"
    if lock.is_file():
        if installer.name == "uv":
            exported = scratch / "requirements.txt"
            command = (
                installer.command[0], "export", "--frozen", "--no-dev", "--no-emit-project", "--no-hashes", "--quiet",
                "--format", "requirements-txt", "--output-file", str(exported),
            )  # fmt: skip
            _run(command, project, f"read {str(lock)!r}")
            return ["-r", str(exported)]
        say(f"{lock.name} is uv's, which is not used here: the versions are those that {installer.name} finds")
    if listed.is_file():
        return ["-r", str(listed)]
    table = project_table(project).get("project")
    dependencies = table.get("dependencies", []) if isinstance(table, dict) else []
    if not isinstance(dependencies, list) or not all(isinstance(each, str) for each in dependencies):
        raise Refusal(f"project.dependencies in {str(project / 'pyproject.toml')!r}: expected a list of strings")
    if table is None and not lock.is_file():
        say("no uv.lock, requirements.txt or pyproject.toml: only tracedbridge goes with the functions")
    wanted = scratch / "dependencies.txt"
    wanted.write_text("".join(f"{each}\n" for each in dependencies))
    return ["-r", str(wanted)] if dependencies else []


def _ours(named: str | None, installer: _Installer, scratch: Path) -> str:
    """Return tracedbridge as an installer takes it, with what it needs to serve."""
    wanted = named or _origin()
    place = Path(wanted)
    if place.is_dir():
        wheels = scratch / "wheels"
        if installer.name == "uv":
            command: tuple[str, ...] = (
                installer.command[0],
                "build",
                "--wheel",
                "--quiet",
                "--out-dir",
                str(wheels),
                str(place),
            )
        else:
            command = (
                sys.executable, "-m", "pip", "wheel", "--disable-pip-version-check", "--no-input", "--quiet",
                "--no-deps", "--wheel-dir", str(wheels), str(place),
            )  # fmt: skip
        _run(command, scratch, f"make a wheel of {str(place)!r}")
        made = sorted(wheels.glob("*.whl"))
        if not made:
            raise Refusal(f"could not make a wheel of {str(place)!r}: the installer left none")
        place = made[0]
    if place.suffix == ".whl":
        if not place.is_file():
            raise Refusal(f"no file {str(place)!r} to install tracedbridge from", 2)
        return f"tracedbridge[vercel] @ {place.resolve().as_uri()}"
    if named is not None and (os.sep in named or named.startswith(".")) and "@" not in named:
        raise Refusal(f"no folder or wheel {named!r} to install tracedbridge from", 2)
    return wanted


def _origin() -> str:
    """Return from where this tracedbridge was installed: a folder, a wheel, or a requirement."""
    ours = importlib.metadata.distribution("tracedbridge")
    released = f"tracedbridge[vercel]=={ours.version}"
    # PEP 610: only there if it was not an index.
    text = ours.read_text("direct_url.json")
    if text is None:
        return released
    told: dict[str, Any] = json.loads(text)
    url = str(told.get("url", ""))
    if url.startswith("file:"):
        place = unquote(urlsplit(url).path)
        return place if os.path.exists(place) else released
    vcs = told.get("vcs_info")
    if isinstance(vcs, dict):
        url = f"{vcs.get('vcs')}+{url}@{vcs.get('commit_id')}"
    return f"tracedbridge[vercel] @ {url}" if url else released


def _run(command: Sequence[str], cwd: Path, purpose: str) -> None:
    # As the user would run it: in his project, whose settings of the installer it has.
    told = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    try:
        done = subprocess.run(  # noqa: S603 - the user's installer
            command, cwd=cwd, env=told, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", timeout=_TIMEOUT_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Refusal(f"could not {purpose}: {error}") from None
    if done.returncode:
        lines = "\n".join(done.stdout.strip().splitlines()[-_LINES:])
        raise Refusal(f"could not {purpose}; only wheels can be taken to another machine:\n{lines}")


def _known(version: str, source: str) -> str:
    if version not in PYTHONS:
        raise Refusal(f"{source} Python {version}; Vercel has {', '.join(PYTHONS)}: choose one with --python")
    return version


def _specifiers(requires: str, say: Callable[[str], None]) -> Any:
    try:
        from packaging.specifiers import InvalidSpecifier, SpecifierSet
    except ImportError:
        say(f"packaging is not installed, so requires-python is not read: building for Python {PYTHONS[0]}")
        return None
    try:
        return SpecifierSet(requires)
    except InvalidSpecifier:
        raise Refusal(f"requires-python = {requires!r} is no version specifier") from None
