"""What every thread and every task does is told as a traceback tells it, within bounds, and without a value."""

from __future__ import annotations

import _thread
import asyncio
import functools
import gc
import re
import sys
import threading
import time
import traceback
import types
import uuid
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import HANG_S, bounded, run_python
from tracedbridge.telemetry import stacks as module_of_stacks
from tracedbridge.telemetry.stacks import (
    MAX_FRAMES,
    MAX_STACK_BYTES,
    MAX_STACKS,
    WATCHDOG,
    Stack,
    stacks_of,
    thread_stack,
)

pytestmark = pytest.mark.telemetry


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that does not run; what is left of its tasks ends with it."""

    async def end() -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.get_running_loop().shutdown_asyncgens()

    loop = asyncio.new_event_loop()
    yield loop
    loop.run_until_complete(end())
    loop.close()


@pytest.fixture(autouse=True)
def no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """All tasks are looked at and all sources read, however slow the machine is."""
    monkeypatch.setattr(module_of_stacks, "_LOOKING_NS", int(HANG_S * 1e9))
    monkeypatch.setattr(module_of_stacks, "_READING_NS", int(HANG_S * 1e9))


@contextmanager
def running(work: Callable[[], object], **named: Any) -> Iterator[int]:
    """Do ``work`` in a thread and give the thread's id; it must end by itself when the block does."""
    thread = threading.Thread(target=work, daemon=True, **named)
    thread.start()
    assert thread.ident is not None
    yield thread.ident
    thread.join(HANG_S)
    assert not thread.is_alive()


def held(enter: Callable[[Callable[[], None]], object]) -> tuple[Callable[[], object], Callable[[], None], Any]:
    """Return work that calls ``enter`` with a function that blocks in C, what ends it, and who waits for it."""
    lock = threading.Lock()
    lock.acquire()
    entered = threading.Event()

    def block() -> None:
        entered.set()
        lock.acquire()

    return lambda: enter(block), lock.release, entered


def functions(stack: Stack | str) -> list[str]:
    """Return the functions of a stack, outermost first."""
    return re.findall(r"^  File .*, line \d+, in (\S+)$", stack if isinstance(stack, str) else stack.text, re.MULTILINE)


def of(stacks: list[Stack], kind: str) -> list[Stack]:
    """Return the stacks of threads, or of tasks."""
    return [stack for stack in stacks if stack.kind == kind]


def call(block: Callable[[], None]) -> None:
    """Stand between."""
    block()


def test_as_a_traceback_prints_it() -> None:
    """A thread's stack is, to the letter, what `traceback` writes."""
    work, release, entered = held(call)
    with running(work) as thread_id:
        assert entered.wait(HANG_S)

        def settled() -> str:
            # From the event it goes on to the lock.
            while not (text := thread_stack(thread_id)).endswith("    lock.acquire()\n"):
                pass
            return text

        assert bounded(settled) == "".join(traceback.format_stack(sys._current_frames()[thread_id]))
        release()


def test_the_caller_itself() -> None:
    """Who asks for its own stack gets it, without what makes it."""
    assert functions(thread_stack(threading.get_ident()))[-1] == "test_the_caller_itself"
    here = [stack for stack in stacks_of(None) if stack.name == threading.current_thread().name]
    assert [functions(stack)[-1] for stack in here] == ["test_the_caller_itself"]


def test_a_thread_that_is_gone() -> None:
    """A thread that has ended has no stack."""
    with running(int) as thread_id:
        pass
    assert thread_stack(thread_id) == ""


async def for_ever() -> None:
    await asyncio.get_running_loop().create_future()


async def outer() -> None:
    await inner()


async def inner() -> None:
    await for_ever()


async def generated() -> AsyncIterator[int]:
    yield 1
    await for_ever()


async def iterating() -> None:
    async for _ in generated():
        pass


async def next_or_nothing() -> None:
    numbers = generated()
    while True:
        await anext(numbers, None)


async def closing() -> None:
    numbers = stubborn()
    await anext(numbers)
    await numbers.aclose()


async def stubborn() -> Any:
    try:
        yield 1
    finally:
        await for_ever()


class Custom:
    """An awaitable of the app's own."""

    def __await__(self) -> Generator[Any, None, None]:
        yield from for_ever().__await__()


async def custom() -> None:
    await Custom()


@types.coroutine
def old_style() -> Generator[Any, None, None]:
    yield from for_ever().__await__()


async def of_old_style() -> None:
    await old_style()


async def on_task() -> None:
    await asyncio.ensure_future(asyncio.sleep(HANG_S))


async def in_timeout() -> None:
    async with asyncio.timeout(HANG_S):
        await outer()


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (for_ever, ["for_ever"]),
        (outer, ["outer", "inner", "for_ever"]),
        (iterating, ["iterating", "generated", "for_ever"]),
        (next_or_nothing, ["next_or_nothing", "generated", "for_ever"]),
        (closing, ["closing", "stubborn", "for_ever"]),
        (custom, ["custom", "__await__", "for_ever"]),
        (of_old_style, ["of_old_style", "old_style", "for_ever"]),
        (on_task, ["on_task"]),
        (in_timeout, ["in_timeout", "outer", "inner", "for_ever"]),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_a_waiting_task(
    loop: asyncio.AbstractEventLoop, work: Callable[[], Coroutine[Any, Any, None]], expected: list[str]
) -> None:
    """A task's stack goes from its coroutine through all that it awaits, generators included, to the last one."""
    task = loop.create_task(work(), name="the one")
    loop.run_until_complete(asyncio.sleep(0.01))
    stacks = {stack.name: stack for stack in of(stacks_of(loop), "task")}
    assert functions(stacks["the one"]) == expected
    task.cancel()


def test_a_task_that_has_not_begun(loop: asyncio.AbstractEventLoop) -> None:
    """A task that has not begun stands at its first line."""
    task = loop.create_task(outer(), name="new")
    assert [(each.name, functions(each)) for each in of(stacks_of(loop), "task")] == [("new", ["outer"])]
    loop.run_until_complete(asyncio.sleep(0))
    task.cancel()


def test_a_blocked_loop(loop: asyncio.AbstractEventLoop) -> None:
    """The task that blocks its loop comes first, down to the call that blocks; those that wait for it follow."""

    async def blocking(block: Callable[[], None]) -> None:
        await asyncio.sleep(0)
        await deeper(block)

    async def deeper(block: Callable[[], None]) -> None:
        call(block)

    def run(block: Callable[[], None]) -> None:
        waiting = loop.create_task(outer(), name="a task")
        loop.run_until_complete(loop.create_task(blocking(block), name="the one"))
        waiting.cancel()

    work, release, entered = held(run)
    with running(work, name="of the loop") as thread_id:
        assert entered.wait(HANG_S)
        stacks = stacks_of(loop)
        threads, tasks = of(stacks, "thread"), of(stacks, "task")
        assert threads[0].name == "of the loop"
        assert threads[0].text.endswith(tasks[0].text)
        assert functions(thread_stack(thread_id))[-5:] == ["_run", "blocking", "deeper", "call", "block"]
        assert [(each.name, functions(each)) for each in tasks] == [
            ("the one", ["blocking", "deeper", "call", "block"]),
            ("a task", ["outer", "inner", "for_ever"]),
        ]
        release()


def test_while_tasks_come_and_go(loop: asyncio.AbstractEventLoop) -> None:
    """A loop whose tasks change all the time can be looked at from another thread."""
    enough = threading.Event()

    async def short(depth: int) -> None:
        await (short(depth - 1) if depth else asyncio.sleep(0))

    async def churn() -> None:
        while not enough.is_set():
            await asyncio.gather(*(short(depth % 7) for depth in range(50)))

    with running(lambda: loop.run_until_complete(loop.create_task(churn(), name="churn"))):
        seen: set[str] = set()
        until_s = time.monotonic() + HANG_S
        looks = 0
        # Sixty times, and until one of the short ones was met.
        while looks < 60 or (not any("Task-" in name for name in seen) and time.monotonic() < until_s):
            seen.update(stack.name for stack in of(bounded(lambda: stacks_of(loop)), "task"))
            looks += 1
        enough.set()
    assert any("churn" in name for name in seen)
    assert any("Task-" in name for name in seen)


def recursing(depth: int, block: Callable[[], None]) -> None:
    """Call itself so often, then block."""
    if depth:
        recursing(depth - 1, block)
    else:
        block()


def test_a_deep_stack() -> None:
    """Of a deep recursion the innermost frames are told, and how many others there are."""
    work, release, entered = held(lambda block: recursing(400, block))
    with running(work) as thread_id:
        assert entered.wait(HANG_S)
        text = thread_stack(thread_id)
        cut = re.match(r"  \((\d+) outer frames are not shown\)\n", text)
        assert cut is not None
        assert len(functions(text)) == MAX_FRAMES
        assert functions(text)[-2:] == ["recursing", "block"]
        # recursing(0) to recursing(400), block, the lambdas, and what a thread begins with.
        assert int(cut[1]) + MAX_FRAMES >= 400
        release()


def test_long_lines(tmp_path: Path) -> None:
    """Minified source does not make a long text: lines are cut, then outer frames."""
    file = tmp_path / f"{'long' * 50}.py"
    source = f"def f(n, g): {'1;' * 40_000} g() if not n else f(n - 1, g)\n"
    file.write_text(source)
    module: dict[str, Any] = {}
    exec(compile(source, str(file), "exec"), module)
    work, release, entered = held(lambda block: module["f"](40, block))
    with running(work) as thread_id:
        assert entered.wait(HANG_S)
        text = thread_stack(thread_id)
        assert "outer frames are not shown" in text.splitlines()[0]
        assert MAX_STACK_BYTES / 2 < len(text.encode()) <= MAX_STACK_BYTES + 100
        assert max(map(len, text.splitlines())) < 800
        release()


def test_tasks_that_are_alike(loop: asyncio.AbstractEventLoop) -> None:
    """A thousand tasks that wait at the same place are one stack, with some names and the number of the others."""
    # Held: a loop only knows tasks that somebody else holds.
    held = [loop.create_task(outer(), name=f"w{number}") for number in range(1000)]
    loop.run_until_complete(asyncio.sleep(0))
    assert [(each.name, functions(each)) for each in of(stacks_of(loop), "task")] == [
        (f"w0, w1, w2, w3 and {len(held) - 4} more", ["outer", "inner", "for_ever"])
    ]


@pytest.mark.parametrize("looking_s", [HANG_S, 0], ids=["many", "too many to look at"])
def test_many_stacks(loop: asyncio.AbstractEventLoop, looking_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many different stacks 64 are told; the last one tells how many tasks are not among them."""

    async def waiting(depth: int) -> None:
        await (waiting(depth - 1) if depth else for_ever())

    monkeypatch.setattr(module_of_stacks, "_LOOKING_NS", int(looking_s * 1e9))
    held = [loop.create_task(waiting(depth)) for depth in range(200)]
    loop.run_until_complete(asyncio.sleep(0))
    stacks = stacks_of(loop)
    tasks = of(stacks, "task")
    assert len(stacks) == MAX_STACKS if looking_s else len(tasks) == 2
    named = "".join(f"{stack.name}\n" for stack in tasks[:-1])
    shown = len(re.findall(r"Task-", named)) + sum(map(int, re.findall(r" and (\d+) more\n", named)))
    assert shown >= 1
    assert (tasks[-1].name, tasks[-1].text) == (f"({len(held) - shown} more tasks are not shown)", "")


def test_threads_from_c() -> None:
    """A thread that Python's threading does not know is told by its id, and stays unknown."""
    work, release, entered = held(call)
    thread_id = _thread.start_new_thread(work, ())
    assert entered.wait(HANG_S)
    known = threading.enumerate()
    names = [stack.name for stack in stacks_of(None) if "call" in functions(stack)]
    assert names == [f"thread {thread_id}"]
    assert threading.enumerate() == known
    release()


def test_the_watchdog_is_left_out() -> None:
    """The thread that looks is not shown."""

    def look_from_outside(block: Callable[[], None]) -> None:
        block()

    work, release, entered = held(look_from_outside)
    with running(work, name=WATCHDOG):
        assert entered.wait(HANG_S)
        # Of a name that no thread of another test has in its stack.
        assert not [stack for stack in stacks_of(None) if "look_from_outside" in functions(stack)]
        release()


def test_no_values(loop: asyncio.AbstractEventLoop) -> None:
    """What variables hold is not in any text; what the source says is."""
    secret = uuid.uuid4().hex

    async def login(password: str, then: Callable[[], Awaitable[None]]) -> None:
        hashed = password[::-1]
        await then()
        assert hashed

    task = loop.create_task(login(secret, for_ever))
    loop.run_until_complete(asyncio.sleep(0))
    text = "".join(stack.text for stack in stacks_of(loop))
    assert "await then()" in text
    assert secret not in text
    assert secret[::-1] not in text
    task.cancel()


def test_names_that_a_terminal_would_obey(loop: asyncio.AbstractEventLoop) -> None:
    """Control characters and what UTF-8 cannot hold are question marks; a long name is cut."""
    held = loop.create_task(for_ever(), name="\x1b[2J\ud800 né\n" + "x" * 1000)
    (task,) = of(stacks_of(loop), "task")
    assert task.name.startswith("?[2J? né?xxx")
    assert task.name.endswith("x...")
    assert len(task.name) == 200
    loop.run_until_complete(asyncio.sleep(0))
    held.cancel()


class Source:
    """A loader that fails when it is asked for its source."""

    def get_source(self, name: str) -> str:
        raise ZeroDivisionError


def test_a_slow_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Sources are read for a while only; what was not read by then is told without."""
    clock = iter(range(0, 10**12, module_of_stacks._READING_NS // 2))
    monkeypatch.setattr(module_of_stacks, "monotonic_ns", lambda: next(clock) + 1)
    module: dict[str, Any] = {}
    for name in "abcdef":
        file = tmp_path / f"{name}.py"
        file.write_text(f"def {name}(g): g()  # as it stands in the file\n")
        exec(compile(file.read_text(), str(file), "exec"), module)

    def enter(block: Callable[[], None]) -> None:
        step: Callable[[], None] = block
        for name in "abcdef":
            step = functools.partial(module[name], step)
        step()

    work, release, entered = held(enter)
    with running(work) as thread_id:
        assert entered.wait(HANG_S)
        lines = thread_stack(thread_id).splitlines()
        told = [name for name in "abcdef" if f"    def {name}(g): g()  # as it stands in the file" in lines]
        assert told
        assert "f" not in told
        assert [name for name in functions("\n".join(lines)) if len(name) == 1] == list("fedcba")
        release()


def test_a_loader_that_fails() -> None:
    """Where the source cannot be had the place is told all the same."""
    module: dict[str, Any] = {"__name__": "odd", "__loader__": Source()}
    exec(compile("def f(g): g()", "odd/place.py", "exec"), module)
    work, release, entered = held(module["f"])
    with running(work) as thread_id:
        assert entered.wait(HANG_S)
        assert '  File "odd/place.py", line 1, in f\n  File ' in thread_stack(thread_id)
        release()


class Thing:
    """What a variable holds."""


def test_nothing_is_kept_alive(loop: asyncio.AbstractEventLoop) -> None:
    """What the frames held ends with them, without the garbage collector."""

    def looking() -> weakref.ref[Thing]:
        thing = Thing()
        stacks_of(loop)
        thread_stack(threading.get_ident())
        return weakref.ref(thing)

    gc.disable()
    try:
        assert looking()() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("is_on", [True, False], ids=["collecting", "switched off"])
def test_no_collection_within(is_on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a collection in the midst of looking would never end, there is none; the collector is left as it was."""
    seen: list[bool] = []
    real = sys._current_frames

    def looking() -> dict[int, types.FrameType]:
        seen.append(gc.isenabled())
        return real()

    monkeypatch.setattr(sys, "_current_frames", looking)
    (gc.enable if is_on else gc.disable)()
    try:
        stacks_of(None)
        thread_stack(_thread.start_new_thread(int, ()))
        assert module_of_stacks.places_of(0) == []
        assert gc.isenabled() is is_on
    finally:
        gc.enable()
    assert seen == [is_on and sys.version_info >= (3, 12)] * 3


def test_what_it_loads(tmp_path: Path) -> None:
    """Where a bridge has been made without telemetry, importing this loads itself and what is built in."""
    program = """
import sys, tracedbridge
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"ok"]
with tracedbridge.create_bridge(app):
    before = set(sys.modules)
    import tracedbridge.telemetry.stacks
print(sorted(set(sys.modules) - before))
"""
    done = run_python("-c", program, cwd=tmp_path)
    assert done.stderr == ""
    assert done.stdout == "['gc', 'tracedbridge.telemetry', 'tracedbridge.telemetry.stacks']\n"
