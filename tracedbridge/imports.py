"""
The import recorder: who imported whom, how long each module took, and where that time went.

Standard library only. While a recording is open, three private functions of CPython's import system are wrapped, the
same that ``-X importtime`` watches from the inside; modules that are loaded already never come by there. Afterwards
the originals are back in place.
"""

from __future__ import annotations

import _thread
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Sequence

__all__ = ("Import", "Recording", "import_system", "importing", "is_possible", "open_early", "take_early")

# Django with everything is 1,500 modules, a notebook stack 5,000. Each entry is about 400 bytes.
_MAX_IMPORTS = 20_000

# Warnings look past the import system's frames for the line that they are about; with this name, past ours, too.
_FRAME_NAME = "<frozen importlib._bootstrap>"


class Import:
    """
    One import of one module that was not loaded yet, as it ran on one thread.

    Times are CLOCK_MONOTONIC nanoseconds. ``find_ns`` and ``compile_ns`` are parts of ``self_ns``.
    """

    __slots__ = (
        "begun_ns", "children", "compile_ns", "ended_ns", "error", "find_ns", "has_failed_parent", "is_reload", "name",
        "nested_ns", "parent", "spec", "thread_id",
    )  # fmt: skip

    def __init__(self, name: str, parent: Import | None) -> None:
        """
        Args:
            name: Of the module, absolute.
            parent: What was being imported on this thread when this import began.
        """
        self.name = name
        self.parent = parent
        # A list where there are some; most have none.
        self.children: Sequence[Import] = ()
        self.begun_ns = self.ended_ns = 0
        # Taken by children; by finders; to compile source.
        self.nested_ns = self.find_ns = self.compile_ns = 0
        # What the finders gave, if they gave something: the loader is in there.
        self.spec: Any = None
        # Class of the exception that ended it.
        self.error: str | None = None
        # Whether that exception ended what imported it, too; a dependency that one can do without raises as well.
        self.has_failed_parent = False
        self.is_reload = False
        self.thread_id = 0

    @property
    def total_ns(self) -> int:
        """How long it took, everything that it imported included."""
        return self.ended_ns - self.begun_ns

    @property
    def self_ns(self) -> int:
        """How long it took without what it imported."""
        return self.total_ns - self.nested_ns

    @property
    def package(self) -> str:
        """The top-level package."""
        return self.name.partition(".")[0]

    def walk(self) -> Iterator[Import]:
        """Yield it and everything below, parents first, in the order in which they ended."""
        waiting = [self]
        while waiting:
            each = waiting.pop()
            yield each
            waiting.extend(reversed(each.children))


class _Stack(list[Import]):
    """What is being imported on one thread, the innermost last, and the exception that came out of it last."""

    raised: tuple[Import, BaseException] | None = None


class Recording:
    """What was imported while it was open."""

    def __init__(self, for_ns: int | None = None) -> None:
        """Record nothing yet; once opened, for at most ``for_ns`` nanoseconds if told so."""
        self._for_ns = for_ns
        self._ends_ns: int | None = None
        # Imports that no other import asked for, in the order in which they ended, of all threads.
        self.roots: list[Import] = []
        # How many there were, and how many of them found no place here.
        self.count = self.dropped = 0
        self.is_open = False
        # Modules that somebody waits for, and who is told when one has been imported.
        self._awaited: Container[str] = ()
        self._arrived: Callable[[str], None] | None = None
        self._stacks = _thread._local()
        self._undo: list[Callable[[], None]] = []

    def open(self) -> bool:
        """Begin to record, or go on; False if another recording is open, or this Python cannot be watched."""
        global _open
        if _open is not None or not is_possible():
            return _open is self
        _open = self
        self.is_open = True
        self._ends_ns = None if self._for_ns is None else time.monotonic_ns() + self._for_ns
        bootstrap, external = import_system()
        self._replace(external.SourceLoader, "source_to_code", _compiling)
        self._replace(bootstrap, "_exec", _reloading)
        self._replace(bootstrap, "_find_spec", _finding)
        self._replace(bootstrap, "_find_and_load", _loading)
        return True

    def close(self) -> None:
        """Stop, and put the import system back as it was; a second time does nothing."""
        global _open
        self.is_open = False
        self._awaited = ()
        while self._undo:
            self._undo.pop()()
        if _open is self:
            _open = None

    def tell(self, awaited: Container[str], arrived: Callable[[str], None], closed: Callable[[], None]) -> None:
        """Call ``arrived`` with each name in ``awaited`` that has been imported, and ``closed`` when this is closed."""
        self._awaited, self._arrived = awaited, arrived
        self._undo.insert(0, closed)

    def walk(self) -> Iterator[Import]:
        """Yield all imports, parents first."""
        for root in self.roots:
            yield from root.walk()

    def begin(self, name: str) -> Import | None:
        """Note that an import begins on this thread; None if there is no more room."""
        if self.count >= _MAX_IMPORTS:
            self.dropped += 1
            return None
        self.count += 1
        try:
            stack = self._stacks.stack
        except AttributeError:
            stack = self._stacks.stack = _Stack()
        each = Import(name, stack[-1] if stack else None)
        stack.append(each)
        begun_ns = each.begun_ns = time.monotonic_ns()
        if self._ends_ns is not None and begun_ns > self._ends_ns:
            self.close()
        return each

    def end(self, each: Import, error: BaseException | None) -> None:
        """Note that it has ended."""
        each.ended_ns = time.monotonic_ns()
        stack: _Stack = self._stacks.stack
        if error is None:
            stack.raised = None
        else:
            each.error = type(error).__name__
            if stack.raised is not None and stack.raised[1] is error:
                stack.raised[0].has_failed_parent = True
            # Kept only while it may be on its way up: it holds the frames that it came through.
            stack.raised = (each, error) if each.parent is not None else None
        # Greenlets may leave it in another order than they came.
        if stack and stack[-1] is each:
            stack.pop()
        elif each in stack:
            stack.remove(each)
        parent = each.parent
        if parent is None:
            each.thread_id = _thread.get_ident()
            self.roots.append(each)
        else:
            parent.nested_ns += each.ended_ns - each.begun_ns
            if isinstance(parent.children, list):
                parent.children.append(each)
            else:
                parent.children = [each]

    def current(self) -> Import | None:
        """Return what is being imported on this thread right now."""
        stack: _Stack | None = getattr(self._stacks, "stack", None)
        return stack[-1] if stack else None

    def _replace(self, owner: Any, name: str, wrap: Callable[[Recording, Any], Any]) -> None:
        original = vars(owner)[name]
        ours = wrap(self, original)
        ours.__code__ = ours.__code__.replace(co_filename=_FRAME_NAME, co_name=name, co_qualname=name)
        setattr(owner, name, ours)

        def undo() -> None:
            # Whoever wrapped it after us keeps his wrapper; ours, below it, only passes through from now on.
            if vars(owner)[name] is ours:
                setattr(owner, name, original)

        self._undo.append(undo)


# The one that is open: the import system is the process's, and so is what is recorded of it.
_open: Recording | None = None
_early: Recording | None = None


def is_possible() -> bool:
    """Say whether this Python's import system has what the recorder wraps; all of CPython 3.11 to 3.14 do."""
    bootstrap, external = import_system()
    return all(
        callable(getattr(bootstrap, name, None)) for name in ("_find_and_load", "_find_spec", "_exec")
    ) and "source_to_code" in vars(getattr(external, "SourceLoader", object))


def open_early(for_ns: int) -> None:
    """Begin to record before there is a bridge, whose telemetry asks for it by `take_early`."""
    global _early
    early = Recording(for_ns)
    if early.open():
        _early = early


def take_early() -> Recording | None:
    """Return what `open_early` began, closed, if there is something; once."""
    global _early
    early, _early = _early, None
    if early is not None:
        early.close()
        early._for_ns = None
    return early


@contextmanager
def importing(name: str, spec: Any) -> Iterator[None]:
    """Record, if a recording is open, the import of a module that is executed without an ``import``."""
    recording = _open
    each = None if recording is None else recording.begin(name)
    if recording is None or each is None:
        yield
        return
    each.spec = spec
    try:
        yield
    except BaseException as error:
        recording.end(each, error)
        raise
    recording.end(each, None)


def import_system() -> tuple[Any, Any]:
    """Return the two modules that ``import`` consists of: importlib's ``_bootstrap`` and ``_bootstrap_external``."""
    return sys.modules.get("_frozen_importlib"), sys.modules.get("_frozen_importlib_external")


def _loading(recording: Recording, original: Any) -> Any:
    def load(name: str, import_: Any) -> Any:  # pragma: no cover - runs as another file
        each = None
        # Also while it is being loaded, by this thread (a circle) or another one, whose import it is then.
        if recording.is_open and name not in sys.modules:
            each = recording.begin(name)
        try:
            module = original(name, import_)
        except BaseException as error:
            _forget_this_frame(error)
            if each is not None:
                recording.end(each, error)
            raise
        if each is not None:
            if each.spec is None:
                # Its package has loaded it, or another thread.
                each.spec = getattr(module, "__spec__", None)
            recording.end(each, None)
        if name in recording._awaited and recording.is_open and recording._arrived is not None:
            recording._arrived(name)
        return module

    return load


def _finding(recording: Recording, original: Any) -> Any:
    def find(name: str, path: Any, target: Any = None) -> Any:  # pragma: no cover - runs as another file
        each = recording.current() if recording.is_open else None
        if each is None or each.name != name:
            # Nobody imports it: somebody only looks whether it is there.
            each = None
            nested_ns = begun_ns = 0
        else:
            nested_ns, begun_ns = each.nested_ns, time.monotonic_ns()
        try:
            spec = original(name, path, target)
        except BaseException as error:
            _forget_this_frame(error)
            raise
        finally:
            if each is not None:
                # A finder may import, too.
                each.find_ns += time.monotonic_ns() - begun_ns - (each.nested_ns - nested_ns)
        if each is not None:
            each.spec = spec
        return spec

    return find


def _compiling(recording: Recording, original: Any) -> Any:
    def compile_source(self: Any, *args: Any, **kwargs: Any) -> Any:  # pragma: no cover - runs as another file
        each = recording.current() if recording.is_open else None
        begun_ns = time.monotonic_ns()
        try:
            return original(self, *args, **kwargs)
        except BaseException as error:
            _forget_this_frame(error)
            raise
        finally:
            if each is not None:
                each.compile_ns += time.monotonic_ns() - begun_ns

    return compile_source


def _reloading(recording: Recording, original: Any) -> Any:
    # What `importlib.reload` calls, and nobody else.
    def execute(spec: Any, module: Any) -> Any:  # pragma: no cover - runs as another file
        each = recording.begin(spec.name) if recording.is_open else None
        if each is not None:
            each.spec, each.is_reload = spec, True
        try:
            module = original(spec, module)
        except BaseException as error:
            _forget_this_frame(error)
            if each is not None:
                recording.end(each, error)
            raise
        if each is not None:
            recording.end(each, None)
        return module

    return execute


def _forget_this_frame(error: BaseException) -> None:
    """Take the caller's frame, the outermost so far, out of a traceback; the bare `raise` that follows adds none."""
    if error.__traceback__ is not None:
        error.__traceback__ = error.__traceback__.tb_next
