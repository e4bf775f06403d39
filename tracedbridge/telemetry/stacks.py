"""
Stacks as text, of every thread and of every asyncio task: files, lines, functions and source, never a value.

Secrets live in values. Everything here may be called from any thread, whatever the others do, except that nobody can
look while C code keeps the interpreter's lock.
"""

from __future__ import annotations

import gc
import sys
import threading
from time import monotonic_ns
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Task
    from collections.abc import Iterator
    from types import CodeType, FrameType

__all__ = ("WATCHDOG", "Stack", "frames_now", "places_of", "stacks_of", "text_of", "thread_stack")

# The name of the thread that looks at the others: what it does itself says nothing.
WATCHDOG = "tracedbridge-watchdog"

# More than anybody reads; with the length below it is a megabyte at most, a quarter of what gRPC takes by default.
MAX_STACKS = 64

# A stack through two frameworks and a database driver has about forty.
MAX_FRAMES = 50

# Twice of what a stack of 50 plain lines has; the rest is for minified source and endless paths.
MAX_STACK_BYTES = 16_000
_MAX_LINE = 300
_MAX_NAME = 200

# Each task is some microseconds with the interpreter's lock: the alarm would come late, and of a hundred thousand tasks
# nobody would read the last ones.
_LOOKING_NS = 8_000_000

# Names of stacks that are alike; the others are counted.
_MAX_NAMES = 4

# Reading a source file gives the interpreter's lock away a dozen times, and an app that spins gives it back after 5 ms
# each time. Of files that nobody has read within this, lines are told without their source.
_READING_NS = 100_000_000

# A set of tasks that changes under the hands of whoever copies it; asyncio itself tries a thousand times.
_TRIES = 5

Place = tuple["CodeType", int, dict[str, Any]]
"""Where one frame is: code, line and the module's globals, which know where the source of a zipped module is."""


class Stack:
    """What one thread or task did when it was looked at, or several that did the same."""

    __slots__ = ("_places", "_sources", "_text", "kind", "name")

    def __init__(self, kind: Literal["thread", "task"], name: str, places: list[Place], sources: _Sources) -> None:
        """
        Args:
            kind: Whose it is.
            name: The thread's or task's; of several that are alike ``"Task-1, Task-2 and 5 more"``.
            places: Innermost first.
            sources: Of all stacks that were taken together.
        """
        self.kind = kind
        self.name = name
        self._places = places
        self._sources = sources
        self._text: str | None = None

    @property
    def text(self) -> str:
        """As in a traceback, innermost last; what was cut is said in the first line. Made when first asked for."""
        if self._text is None:
            self._text = _text(self._places, self._sources)
            self._places = []
        return self._text


class _Sources:
    """Reads lines of source for a while; after that, what is in memory."""

    __slots__ = ("_until_ns",)

    def __init__(self) -> None:
        self._until_ns = 0

    def line(self, file: str, number: int, module: dict[str, Any]) -> str:
        import linecache

        if not self._until_ns:
            self._until_ns = monotonic_ns() + _READING_NS
        # One of length 1 only says how to read it. No `checkcache`: it asks the disk for each line again.
        if len(linecache.cache.get(file, (0,))) == 1 and monotonic_ns() > self._until_ns:
            return ""
        try:
            return linecache.getline(file, number, module).strip()
        except Exception:  # noqa: BLE001 - a loader of the app's may raise anything; the place is told without it
            return ""


# CPython 3.11 may collect garbage in the middle of `sys._current_frames`, and then waits for a lock that it holds
# itself: for ever, and with the interpreter's. Later versions collect between two instructions only. Source: gh-106883.
_COLLECTS_WITHIN = sys.version_info < (3, 12)


def frames_now() -> dict[int, FrameType]:
    """Return the innermost frame of each thread, by thread id, as `sys._current_frames` does; safely."""
    if not (_COLLECTS_WITHIN and gc.isenabled()):
        return sys._current_frames()
    gc.disable()
    try:
        return sys._current_frames()
    finally:
        gc.enable()


def stacks_of(loop: AbstractEventLoop | None) -> list[Stack]:
    """
    Return what all threads do, and all tasks of ``loop``; call it from any thread.

    The threads come first, the one that runs the loop before all others; of the tasks the one that is running. Those
    with equal stacks are one `Stack`. At most 64 are returned; the name of a kind's last one tells how many were left
    out. Sources are read when a text is asked for: that takes longer, up to a tenth of a second for all of them.
    """
    frames = frames_now()
    # Else this frame would be in a variable of its own, and live until the garbage collector comes.
    frames[threading.get_ident()] = sys._getframe(1)
    threads = _threads(frames, getattr(loop, "_thread_id", None))
    tasks, unseen = ([], 0) if loop is None else _tasks(loop, frames)
    shown = _alike(threads), _alike(tasks)
    # Half for each; what one does not need, the other has.
    for_threads = min(len(shown[0]), max(MAX_STACKS // 2, MAX_STACKS - len(shown[1]) - bool(unseen)))
    sources = _Sources()
    return [
        *_stacks("thread", shown[0], for_threads, 0, sources),
        *_stacks("task", shown[1], MAX_STACKS - for_threads, unseen, sources),
    ]


def thread_stack(thread_id: int) -> str:
    """Return what one thread does; empty if there is no such thread."""
    if thread_id == threading.get_ident():
        return text_of(_places(_callers(sys._getframe(1))))
    return text_of(places_of(thread_id))


def places_of(thread_id: int) -> list[Place]:
    """Return where another thread is, innermost first; `text_of` reads the source to it."""
    frame = frames_now().get(thread_id)
    return [] if frame is None else _places(_callers(frame))


def text_of(places: list[Place]) -> str:
    """Write places as a traceback does, outermost first; what was cut is said in the first line."""
    return _text(places, _Sources())


def _text(places: list[Place], sources: _Sources) -> str:
    entries: list[str] = []
    left_bytes = MAX_STACK_BYTES
    for code, number, module in places[:MAX_FRAMES]:
        file = code.co_filename
        entry = f'  File "{_plain(file, _MAX_LINE)}", line {number}, in {_plain(code.co_name, _MAX_NAME)}\n'
        if source := sources.line(file, number, module):
            entry += f"    {_plain(source, _MAX_LINE)}\n"
        left_bytes -= len(entry.encode())
        if left_bytes < 0:
            break
        entries.append(entry)
    if len(entries) < len(places):
        entries.append(f"  ({len(places) - len(entries)} outer frames are not shown)\n")
    return "".join(reversed(entries))


def _threads(frames: dict[int, FrameType], first_id: int | None) -> list[tuple[str, list[Place]]]:
    # Not `threading.current_thread`: it makes a Thread object for each that was started from C, and keeps it.
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    # Python's threads in the order of their start, the main one first; what C has started last.
    order = [first_id, *names, *frames]
    ordered = [each for each in dict.fromkeys(order) if each is not None and each in frames]
    return [
        (names.get(each, f"thread {each}"), _places(_callers(frames[each])))
        for each in ordered
        if names.get(each) != WATCHDOG
    ]


def _tasks(loop: AbstractEventLoop, frames: dict[int, FrameType]) -> tuple[list[tuple[str, list[Place]]], int]:
    """Return names and places of the tasks, and how many there are beyond those."""
    import asyncio

    found: list[Task[Any]] = []
    for _ in range(_TRIES):
        try:
            found = list(asyncio.all_tasks(loop))
            break
        except (RuntimeError, IndexError):
            # "Set changed size during iteration": the loop's thread goes on meanwhile.
            continue
    running = {}
    for thread_id, frame in frames.items():
        running.update(dict.fromkeys(_callers(frame), thread_id))
    # The running one is in the way of all others; then by name, "Task-9" before "Task-10": who waits for the others
    # is older than they are.
    current = asyncio.current_task(loop)
    named = [(task is not current, len(name := _name_of(task)), name, task) for task in found]
    named.sort(key=lambda each: each[:3])
    seen: list[tuple[str, list[Place]]] = []
    until_ns = monotonic_ns() + _LOOKING_NS
    for _, _, name, task in named:
        try:
            seen.append((name, _task_places(task, frames, running)))
        except Exception:  # noqa: BLE001 - tasks of somebody's own making need not have a coroutine
            seen.append((name, []))
        if monotonic_ns() > until_ns:
            break
    return seen, len(named) - len(seen)


def _name_of(task: Task[Any]) -> str:
    try:
        return str(task.get_name())
    except Exception:  # noqa: BLE001 - as above, nor a name
        return type(task).__name__


def _task_places(task: Task[Any], frames: dict[int, FrameType], running: dict[FrameType, int]) -> list[Place]:
    outermost = _frame_of(coroutine := task.get_coro())
    thread_id = None if outermost is None else running.get(outermost)
    if thread_id is None:
        return _places(reversed(list(_awaited(coroutine))))
    # It runs: what it calls is on the thread's stack, down to its own coroutine.
    inner = []
    for frame in _callers(frames[thread_id]):
        inner.append(frame)
        if frame is outermost:
            break
    return _places(inner)


def _awaited(coroutine: object) -> Iterator[FrameType]:
    """Give the frames of a suspended coroutine and of what it awaits, outermost first."""
    awaiting: Any = coroutine
    while type(awaiting) is CoroutineType:
        # Nearly all of them.
        if (frame := awaiting.cr_frame) is not None:
            yield frame
        awaiting = awaiting.cr_await
    seen: set[int] = set()
    # An object that awaits itself is nothing that Python makes; Cython might.
    while awaiting is not None and id(awaiting) not in seen:
        seen.add(id(awaiting))
        if (frame := _frame_of(awaiting)) is not None:
            yield frame
        awaiting = _next_of(awaiting)


def _frame_of(awaiting: object) -> FrameType | None:
    for name in ("cr_frame", "gi_frame", "ag_frame"):
        frame: FrameType | None = getattr(awaiting, name, None)
        if frame is not None:
            return frame
    return None


def _next_of(awaiting: object) -> object:
    for name in ("cr_await", "gi_yieldfrom", "ag_await"):
        if hasattr(awaiting, name):
            return getattr(awaiting, name)
    if type(awaiting).__name__ not in _WRAPPERS:
        return None
    # These have no attribute that leads on; the garbage collector knows what they hold.
    return next((each for each in gc.get_referents(awaiting) if _leads_on(each)), None)


# What `async for` and `anext` await, and what the ``__await__()`` of a coroutine is.
_WRAPPERS = frozenset(("async_generator_asend", "async_generator_athrow", "anext_awaitable", "coroutine_wrapper"))


def _leads_on(awaiting: object) -> bool:
    return _frame_of(awaiting) is not None or type(awaiting).__name__ in _WRAPPERS


def _callers(frame: FrameType) -> Iterator[FrameType]:
    each: FrameType | None = frame
    while each is not None:
        yield each
        each = each.f_back


def _places(frames: Iterator[FrameType] | list[FrameType]) -> list[Place]:
    # Copied at once: the thread goes on. A line is None in code that has none.
    return [(frame.f_code, frame.f_lineno or 0, frame.f_globals) for frame in frames]


def _alike(stacks: list[tuple[str, list[Place]]]) -> list[tuple[list[str], list[Place]]]:
    """Put equal stacks together: forty idle workers, a thousand tasks of one `gather`."""
    groups: dict[tuple[tuple[int, int], ...], tuple[list[str], list[Place]]] = {}
    for name, places in stacks:
        key = tuple((id(code), line_number) for code, line_number, _ in places)
        groups.setdefault(key, ([], places))[0].append(name)
    return list(groups.values())


def _stacks(
    kind: Literal["thread", "task"],
    groups: list[tuple[list[str], list[Place]]],
    room: int,
    unseen: int,
    sources: _Sources,
) -> list[Stack]:
    has_all = len(groups) <= room and not unseen
    shown = groups if has_all else groups[: max(room - 1, 0)]
    stacks = [Stack(kind, _joined(names), places, sources) for names, places in shown]
    if not has_all:
        left_out = unseen + sum(len(names) for names, _ in groups[len(shown) :])
        stacks.append(Stack(kind, f"({left_out} more {kind}s are not shown)", [], sources))
    return stacks


def _joined(names: list[str]) -> str:
    # Running on after a dozen names is no name; each is the app's own choice.
    shown = ", ".join(_plain(name, _MAX_NAME) for name in names[:_MAX_NAMES])
    return shown if len(names) <= _MAX_NAMES else f"{shown} and {len(names) - _MAX_NAMES} more"


def _plain(text: str, longest: int) -> str:
    """Return the text without what a terminal obeys or UTF-8 cannot hold, cut to a length."""
    if len(text) > longest:
        text = text[: longest - 3] + "..."
    return text if text.isprintable() else "".join(c if c.isprintable() or c == "\t" else "?" for c in text)
