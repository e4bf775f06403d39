"""
Notices that the source of an app has changed.

werkzeug's reloader starts its own process anew, and with it the viewer's memory would be lost; in the app's process it
would load what the app did not ask for, and stand in its cold start. So this looks from outside.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ("Changes",)

# Nobody has so many of his own. Each request looks, and a look at all of them takes 20 ms.
_MOST_FILES = 5_000
_MOST_FOLDERS = 2_000

# Not the user's own, or not Python.
_SKIPPED = frozenset(("__pycache__", "node_modules", "site-packages"))

# File systems note times by the kernel's tick: what happens right after a look may leave a folder's time as it was.
_TICK_NS = 50_000_000

_State = tuple[int, int]


class _Listed(NamedTuple):
    """What was in a folder."""

    changed_ns: int
    files: list[str]
    folders: list[str]


class Changes:
    """The Python files below a folder, and others that are named; safe from any thread."""

    def __init__(self, folder: str) -> None:
        """Take down how they are now."""
        self._folder = folder
        self._others: set[str] = set()
        # By path; a folder is listed again when its time says that something has come or gone.
        self._listed: dict[str, _Listed] = {}
        self._lock = threading.Lock()
        self._seen = dict(self._look())

    def watch(self, files: Iterable[str]) -> None:
        """Look at these files, too, from now on."""
        with self._lock:
            for file in set(files) - self._others - set(self._seen):
                self._others.add(file)
                self._seen.update(_state_of(file))

    def found(self) -> list[str]:
        """Return the files that have changed, come or gone since the last call, in order; none, nearly always."""
        with self._lock:
            before, self._seen = self._seen, dict(self._look())
            changed = {file for file, _ in before.items() ^ self._seen.items()}
        return sorted(changed)

    def _look(self) -> Iterator[tuple[str, _State]]:
        before, self._listed = self._listed, {}
        todo, files_left = [self._folder], _MOST_FILES
        while todo and files_left > 0 and len(self._listed) < _MOST_FOLDERS:
            folder = todo.pop()
            listed = _list_of(folder, before.get(folder))
            if listed is None:
                continue
            self._listed[folder] = listed
            todo += reversed(listed.folders)
            for file in listed.files[:files_left]:
                yield from _state_of(file)
            files_left -= len(listed.files)
        for file in self._others:
            yield from _state_of(file)


def _list_of(folder: str, before: _Listed | None) -> _Listed | None:
    """Return what is in a folder, which is as before if its time is; None if it cannot be looked into."""
    try:
        # First: what comes while it is listed changes it again.
        changed_ns = os.stat(folder).st_mtime_ns
        if before is not None and before.changed_ns == changed_ns:
            return before
        with os.scandir(folder) as entries:
            inside = sorted(entries, key=lambda entry: entry.name)
        files = [entry.path for entry in inside if entry.name.endswith(".py")]
        folders = [entry.path for entry in inside if _is_own(entry)]
    except OSError:
        return None
    is_old = time.time_ns() - changed_ns > _TICK_NS
    return _Listed(changed_ns if is_old else -1, files, folders)


def _is_own(entry: os.DirEntry[str]) -> bool:
    """Say whether to look into a folder: not into hidden ones, nor another Python's environment; links lead astray."""
    if entry.name.startswith(".") or entry.name in _SKIPPED or not entry.is_dir(follow_symlinks=False):
        return False
    return not os.path.exists(os.path.join(entry.path, "pyvenv.cfg"))


def _state_of(file: str) -> Iterator[tuple[str, _State]]:
    """Yield the file with time and size of its last change; nothing if it is gone."""
    try:
        state = os.stat(file)
    except OSError:
        return
    yield file, (state.st_mtime_ns, state.st_size)
