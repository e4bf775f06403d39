"""
Waits for modules that an app may import, or not, and for its first log line: then somebody is told.

While imports are recorded, the recorder tells us: a finder on `sys.meta_path` is one more to ask for each import.
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    from tracedbridge.imports import Recording

__all__ = ("Awaiting", "FirstLine", "dig_up", "is_being_imported")


def is_being_imported(name: str) -> bool:
    """Say whether a module's import has begun and not ended."""
    # What the import system itself asks, to tell a circular import.
    return bool(getattr(getattr(sys.modules.get(name), "__spec__", None), "_initializing", False))


class Awaiting:
    """A finder of `sys.meta_path` that finds nothing itself, and is told when a module has been executed."""

    def __init__(self, told: dict[str, Callable[[], None]]) -> None:
        """Call what ``told`` has for a module right after its import, once; at once for what is loaded already."""
        self._told = dict(told)
        for name in told:
            if name in sys.modules and not is_being_imported(name):
                self._arrived(name)
        self._go_on()

    def leave_to(self, recording: Recording) -> None:
        """Have an open recording tell us of arrivals until it is closed."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
            recording.tell(self._told, self._arrived, self._go_on)

    def _go_on(self) -> None:
        if self._told and self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def close(self) -> None:
        """Wait no longer."""
        self._told.clear()
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module that is waited for by the other finders, and have its loader tell us."""
        if name not in self._told:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = None if finder is self or find is None else find(name, path, target)
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    loader: Any = _Listening(spec.loader, name, self._arrived)
                    spec.loader = loader
                return spec
        return None

    def _arrived(self, name: str) -> None:
        tell = self._told.pop(name, None)
        if not self._told and self in sys.meta_path:
            sys.meta_path.remove(self)
        if tell is not None:
            tell()


class _Listening:
    """Stands before the loader of one module, until that has been executed; a loader may serve many."""

    def __init__(self, loader: Any, name: str, tell: Callable[[str], None]) -> None:
        self._loader = loader
        self._name = name
        self._tell = tell

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        # The module sees its own loader, and so does whoever asks for it later.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._tell(self._name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


def dig_up() -> None:
    """Take away what is on top of `logging.Logger.callHandlers` now, and was done with while another patch was."""
    for each in _buried:
        if each._logger_class.callHandlers is each._ours:
            _buried.remove(each)
            each._put_back()
            break


class FirstLine:
    """Stands before `logging.Logger.callHandlers` until the first record comes by, which somebody is told before."""

    def __init__(self, come: Callable[[list[Callable[[Any], None]]], None]) -> None:
        """
        Args:
            come: Puts another patch in place of this one; appends what is to be done with a record that will not come
                by there.
        """
        self._logger_class: Any = sys.modules["logging"].Logger
        self._stock = stock = self._logger_class.callHandlers
        self._come: Callable[[list[Callable[[Any], None]]], None] | None = come
        self._notes: list[Callable[[Any], None]] = []
        self._lock = threading.RLock()
        self._is_over = False

        def call_handlers(logger: Any, record: Any) -> None:
            if self._is_over:
                # Whoever has patched it after us, and so still has us below.
                stock(logger, record)
            else:
                self._first(logger, record)

        self._ours = call_handlers
        self._logger_class.callHandlers = call_handlers

    def close(self) -> None:
        """Wait no longer."""
        self._come = None
        self._is_over = True
        self._put_back()

    def _put_back(self) -> None:
        if self._logger_class.callHandlers is not self._ours:
            # Somebody has patched it after us: he passes records on to us, and we pass them on.
            if self not in _buried:
                _buried.append(self)
            return
        self._logger_class.callHandlers = self._stock
        dig_up()

    def _first(self, logger: Any, record: Any) -> None:
        goes_by_the_other = False
        with self._lock:
            come, self._come = self._come, None
            if come is not None:
                goes_by_the_other = self._logger_class.callHandlers is self._ours
                self._put_back()
                come(self._notes)
                self._is_over = True
        if goes_by_the_other:
            self._logger_class.callHandlers(logger, record)
            return
        # From below somebody else's patch, or from a thread that logged its first line just then, too.
        for note in self._notes:
            note(record)
        self._stock(logger, record)


# Closed, and not put back yet.
_buried: list[FirstLine] = []
