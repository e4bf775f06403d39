"""Tells which files of a project go with its functions."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracedbridge.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ("user_files",)

# Never part of a function, whatever the ignore files say.
_FOLDERS = frozenset((
    ".git", ".hg", ".svn", ".vercel", ".now", "node_modules", "__pycache__", ".mypy_cache", ".pytest_cache",
    ".ruff_cache", ".tox", ".nox", ".venv", ".idea", ".vscode",
))  # fmt: skip
_FILES = frozenset((".DS_Store", ".gitignore", ".vercelignore", ".env"))


def user_files(project: Path, leave_out: Sequence[Path]) -> list[Path]:
    """
    Return the project's files that are deployed, relative to it, in order.

    Left out are what ``.vercelignore`` names, or, without one, the ``.gitignore`` files; version control, virtual
    environments, caches, bytecode, ``.env`` files and ``node_modules`` always. A link to a file or folder of the
    project counts as what it points at.

    Args:
        project: Its folder, without symbolic links in its path.
        leave_out: Folders that are none of the user's.

    Raises:
        Refusal: A link leads out of the project, or pathspec is not installed.
    """
    return sorted(_walk(_Ignoring(project), project, Path(), frozenset(leave_out), (project,)))


class _Ignoring:
    """What the ignore files of a project say."""

    def __init__(self, project: Path) -> None:
        try:
            from pathspec import GitIgnoreSpec
        except ImportError:
            raise Refusal(
                "`tracedbridge build` needs pathspec, which reads ignore files: pip install 'tracedbridge[vercel]'"
            ) from None
        self._spec: Any = GitIgnoreSpec
        self._project = project
        # By folder, relative to the project; the ones of git, where Vercel's own is not there.
        self._by_folder: dict[Path, Any] = {}
        self._is_gits = not (project / ".vercelignore").is_file()
        if not self._is_gits:
            self._by_folder[Path()] = self._read(project / ".vercelignore")

    def enter(self, folder: Path) -> None:
        """Read what a folder has to say; its parents come before it."""
        file = self._project / folder / ".gitignore"
        if self._is_gits and file.is_file():
            self._by_folder[folder] = self._read(file)

    def __call__(self, path: Path, *, is_folder: bool) -> bool:
        """Say whether that is ignored; the nearest file that says anything about it decides."""
        for folder in path.parents:
            spec = self._by_folder.get(folder)
            if spec is not None:
                told = spec.check_file(path.relative_to(folder).as_posix() + ("/" if is_folder else "")).include
                if told is not None:
                    return bool(told)
        return False

    def _read(self, file: Path) -> Any:
        try:
            return self._spec.from_lines(file.read_text(encoding="utf-8").splitlines())
        except (OSError, ValueError) as error:
            raise Refusal(f"could not read {str(file)!r}: {error}") from None


def _walk(
    ignoring: _Ignoring, project: Path, folder: Path, leave_out: frozenset[Path], above: tuple[Path, ...]
) -> Iterator[Path]:
    ignoring.enter(folder)
    with os.scandir(project / folder) as entries:
        names = sorted(entry.name for entry in entries)
    for name in names:
        path, real = folder / name, Path(os.path.realpath(project / folder / name))
        is_folder = real.is_dir()
        if project / path in leave_out or _is_never(name, real, is_folder) or ignoring(path, is_folder=is_folder):
            continue
        if not real.is_relative_to(project):
            raise Refusal(
                f"{str(path)!r} is a link to {str(real)!r}, which is not in {str(project)!r}: copy it there, or leave "
                "it out by .vercelignore"
            )
        if not is_folder:
            # Neither a socket or pipe nor a link to nothing.
            if real.is_file():
                yield path
        elif real not in above:
            yield from _walk(ignoring, project, path, leave_out, (*above, real))


def _is_never(name: str, real: Path, is_folder: bool) -> bool:
    if is_folder:
        return name in _FOLDERS or (real / "pyvenv.cfg").is_file()
    return name in _FILES or name.startswith(".env.") or name.endswith((".pyc", ".pyo"))
