"""Who waits for a module, or for the first log line, is told once, right then, and neither import nor app notices."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.support import HANG_S, bounded
from tracedbridge import imports
from tracedbridge.imports import Recording
from tracedbridge.telemetry.awaiting import Awaiting, FirstLine, is_being_imported

pytestmark = pytest.mark.telemetry

# Names that nobody else imports.
NAMES = ("awaited_one", "awaited_two", "awaited_pack", "awaited_pack.part", "awaited_other")


@pytest.fixture(autouse=True)
def imports_as_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Modules may be put into ``tmp_path``; afterwards nothing of them is left, nor on `sys.meta_path`."""
    finders = list(sys.meta_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield
    left = [finder for finder in sys.meta_path if isinstance(finder, Awaiting)]
    sys.meta_path[:] = finders
    for name in NAMES:
        sys.modules.pop(name, None)
    assert left == []


class Told:
    """Keeps which arrivals were told, and whether the module was whole then."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def by(self, *names: str) -> dict[str, Callable[[], None]]:
        def telling(name: str) -> Callable[[], None]:
            def tell() -> None:
                assert sys.modules[name].whole
                self.names.append(name)

            return tell

        return {name: telling(name) for name in names}


@pytest.fixture
def told() -> Told:
    """What is told in this test."""
    return Told()


def put(folder: Path, name: str, source: str = "") -> None:
    """Write a module that is whole at its end."""
    path = folder / f"{name.replace('.', '/')}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{source}\nwhole = True\n")
    importlib.invalidate_caches()


def test_loaded_before(tmp_path: Path, told: Told) -> None:
    """Of a module that is there already one is told at once, and with nothing left to wait for nobody waits."""
    put(tmp_path, "awaited_one")
    importlib.import_module("awaited_one")
    finders = list(sys.meta_path)
    Awaiting(told.by("awaited_one"))
    assert told.names == ["awaited_one"]
    assert sys.meta_path == finders


def test_loaded_later(tmp_path: Path, told: Told) -> None:
    """Of others one is told when they are whole, in their order; after the last one nobody waits any more."""
    put(tmp_path, "awaited_one", "import awaited_two")
    put(tmp_path, "awaited_two", "import awaited_other")
    put(tmp_path, "awaited_other")
    finders = list(sys.meta_path)
    awaiting = Awaiting(told.by("awaited_one", "awaited_two"))
    assert sys.meta_path == [awaiting, *finders]
    importlib.import_module("awaited_other")
    assert told.names == []
    importlib.import_module("awaited_one")
    assert told.names == ["awaited_two", "awaited_one"]
    assert sys.meta_path == finders


def test_a_part_of_a_package(tmp_path: Path, told: Told) -> None:
    """A module within a package is waited for by its full name, and the package itself is not meant."""
    put(tmp_path, "awaited_pack.__init__")
    put(tmp_path, "awaited_pack.part")
    Awaiting(told.by("awaited_pack.part"))
    importlib.import_module("awaited_pack")
    assert told.names == []
    importlib.import_module("awaited_pack.part")
    assert told.names == ["awaited_pack.part"]


def test_what_a_module_looks_like(tmp_path: Path, told: Told) -> None:
    """A module that was waited for has loader, spec, origin and name as without us."""
    put(tmp_path, "awaited_one")

    def looks() -> tuple[Any, ...]:
        module = importlib.import_module("awaited_one")
        spec, loader = module.__spec__, module.__loader__
        assert spec is not None
        assert spec.loader is loader
        return type(loader), vars(loader), spec.origin, spec.name, spec.cached, module.__file__, sorted(vars(module))

    plain = looks()
    del sys.modules["awaited_one"]
    Awaiting(told.by("awaited_one"))
    assert looks() == plain
    assert told.names == ["awaited_one"]


def test_an_import_that_fails(tmp_path: Path, told: Told) -> None:
    """Of an import that fails nobody is told, its error is the module's own, and the next one that works is told."""
    flag = tmp_path / "works"
    put(tmp_path, "awaited_one", f"import os\nif not os.path.exists({str(flag)!r}): raise OSError('not yet')")
    Awaiting(told.by("awaited_one"))
    for _ in range(2):
        with pytest.raises(OSError, match="not yet"):
            importlib.import_module("awaited_one")
        assert told.names == []
    flag.touch()
    importlib.import_module("awaited_one")
    assert told.names == ["awaited_one"]


def test_a_module_that_is_missing(told: Told) -> None:
    """One that nobody finds is missing as without us, and is waited for further on."""
    awaiting = Awaiting(told.by("awaited_one"))
    with pytest.raises(ModuleNotFoundError, match="No module named 'awaited_one'"):
        importlib.import_module("awaited_one")
    assert importlib.util.find_spec("awaited_one") is None
    assert awaiting in sys.meta_path
    awaiting.close()


def test_threads(tmp_path: Path, told: Told) -> None:
    """Threads that import at once are all served with the whole module, and one is told once."""
    put(tmp_path, "awaited_one", "import time; time.sleep(0.05)")
    Awaiting(told.by("awaited_one"))
    together, seen = threading.Barrier(8, timeout=HANG_S), []

    def load() -> None:
        together.wait()
        seen.append(importlib.import_module("awaited_one").whole)

    threads = [threading.Thread(target=load, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_S)
    assert seen == [True] * 8
    assert told.names == ["awaited_one"]


def test_reload(tmp_path: Path, told: Told) -> None:
    """A reload works while others are waited for, and is no second arrival."""
    put(tmp_path, "awaited_one")
    awaiting = Awaiting(told.by("awaited_one", "awaited_two"))
    module = importlib.import_module("awaited_one")
    put(tmp_path, "awaited_one", "more = 'than before'")
    assert importlib.reload(module).more == "than before"
    assert told.names == ["awaited_one"]
    awaiting.close()


def test_reload_of_what_was_there_before(tmp_path: Path, told: Told) -> None:
    """So does that of a module which was there when the waiting began."""
    put(tmp_path, "awaited_one")
    module = importlib.import_module("awaited_one")
    awaiting = Awaiting(told.by("awaited_one", "awaited_two"))
    assert importlib.reload(module) is module
    assert told.names == ["awaited_one"]
    awaiting.close()


def test_close(tmp_path: Path, told: Told) -> None:
    """After close, which may come twice, imports go on, and nobody is told."""
    put(tmp_path, "awaited_one")
    awaiting = Awaiting(told.by("awaited_one"))
    awaiting.close()
    awaiting.close()
    assert importlib.import_module("awaited_one").whole
    assert told.names == []


def test_close_during_the_import(tmp_path: Path, told: Told) -> None:
    """Neither is of an import that is under way at close."""
    put(tmp_path, "awaited_one", "import sys; sys.modules['awaited_close'].closing()")
    awaiting = Awaiting(told.by("awaited_one"))
    closing = ModuleType("awaited_close")
    closing.closing = awaiting.close  # type: ignore[attr-defined]  # the app's module, which closes its bridge
    sys.modules["awaited_close"] = closing
    try:
        assert importlib.import_module("awaited_one").whole
    finally:
        del sys.modules["awaited_close"]
    assert told.names == []


class Finder:
    """An app's own finder, with a loader of its choice."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(name, self.loader) if name in NAMES else None


class Loader:
    """As the documentation has it."""

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        module.whole = True  # type: ignore[attr-defined]  # what the module's source would do


class SlottedLoader:
    """Takes no attribute."""

    __slots__ = ()

    create_module = Loader.create_module
    exec_module = Loader.exec_module


class ClassLoader:
    """Is a loader by itself, without an instance; as those of built-in and frozen modules are."""

    @staticmethod
    def create_module(spec: ModuleSpec) -> ModuleType | None:
        return None

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        module.whole = True  # type: ignore[attr-defined]  # what the module's source would do


class OldLoader:
    """As they were before Python 3.4."""

    def load_module(self, name: str) -> ModuleType:
        module = sys.modules.setdefault(name, ModuleType(name))
        module.whole = True  # type: ignore[attr-defined]  # what the module's source would do
        return module


@pytest.mark.filterwarnings("ignore:.*exec_module\\(\\) not found:ImportWarning")
@pytest.mark.parametrize(
    "make",
    [Loader, SlottedLoader, lambda: ClassLoader, OldLoader],
    ids=["instance", "with slots", "class", "without exec_module"],
)
def test_loaders(make: Callable[[], Any], told: Told) -> None:
    """Whatever a loader is, it loads its modules as without us, before and after; nobody is told what is not so."""
    loader = make()
    sys.meta_path.append(Finder(loader))
    awaiting = Awaiting(told.by("awaited_one"))
    for name in ("awaited_other", "awaited_one", "awaited_two"):
        assert importlib.import_module(name).whole
        assert told.names == ([] if name == "awaited_other" else told.names[:1])
    assert set(told.names) <= {"awaited_one"}
    if make is Loader:
        assert told.names == ["awaited_one"]
    awaiting.close()
    del sys.modules["awaited_other"]
    assert importlib.import_module("awaited_other").whole


def test_one_loader_for_all(tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a zip file all modules have one loader: to look for a module is no arrival, however often, nor is another."""
    archive = tmp_path / "app.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for name in ("awaited_one", "awaited_two", "awaited_other"):
            file.writestr(f"{name}.py", "whole = True\n")
    monkeypatch.syspath_prepend(str(archive))
    awaiting = Awaiting(told.by("awaited_one", "awaited_two"))
    for _ in range(2):
        assert importlib.util.find_spec("awaited_one") is not None
    assert importlib.import_module("awaited_other").whole
    assert told.names == []
    assert importlib.import_module("awaited_two").whole
    assert told.names == ["awaited_two"]
    assert importlib.import_module("awaited_one").whole
    assert told.names == ["awaited_two", "awaited_one"]
    awaiting.close()


class Following:
    """A finder of the app that comes first and asks the others, as import hooks do."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self._is_asking = False

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if self._is_asking or name not in NAMES:
            return None
        self._is_asking = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._is_asking = False
        if spec is not None:
            spec.loader = Chained(spec.loader, self.loaded)  # type: ignore[assignment]  # typeshed wants its own class
        return spec


class Chained:
    """Loads as another loader does."""

    def __init__(self, loader: Any, loaded: list[str]) -> None:
        self.loader, self.loaded = loader, loaded

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        created: ModuleType | None = self.loader.create_module(spec)
        return created

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        self.loaded.append(module.__name__)


@pytest.mark.parametrize("comes", ["before", "after"])
def test_import_hooks(comes: str, tmp_path: Path, told: Told) -> None:
    """An import hook of the app and we both hear of a module, whoever was there first."""
    put(tmp_path, "awaited_one")
    put(tmp_path, "awaited_two")
    hook = Following()
    if comes == "before":
        sys.meta_path.insert(0, hook)
    awaiting = Awaiting(told.by("awaited_one", "awaited_two"))
    if comes == "after":
        sys.meta_path.insert(0, hook)
    for name in ("awaited_one", "awaited_two"):
        bounded(lambda name=name: importlib.import_module(name))  # type: ignore[misc]  # a default in a lambda
    assert hook.loaded == told.names == ["awaited_one", "awaited_two"]
    assert awaiting not in sys.meta_path


def test_a_finder_without_find_spec(tmp_path: Path, told: Told) -> None:
    """A finder of the app that only knows what Python has forgotten is passed by, as Python does."""
    put(tmp_path, "awaited_one")
    sys.meta_path.insert(0, object())  # type: ignore[arg-type]  # what Python is lenient with
    Awaiting(told.by("awaited_one"))
    assert importlib.import_module("awaited_one").whole
    assert told.names == ["awaited_one"]


def test_is_being_imported(tmp_path: Path) -> None:
    """A module is being imported from its first line to its last one."""
    put(
        tmp_path, "awaited_one", "from tracedbridge.telemetry.awaiting import is_being_imported as f; now = f(__name__)"
    )
    assert not is_being_imported("awaited_one")
    assert importlib.import_module("awaited_one").now is True
    assert not is_being_imported("awaited_one")
    # Put there by hand: it has no spec.
    sys.modules["awaited_two"] = ModuleType("awaited_two")
    assert not is_being_imported("awaited_two")


def test_a_module_that_is_being_imported(tmp_path: Path, told: Told) -> None:
    """Who begins to wait for a module while it is being imported is not told that it is there."""
    source = "import sys; sys.modules['awaited_begin'].begin()"
    put(tmp_path, "awaited_one", source)
    begun: list[Awaiting] = []
    module = ModuleType("awaited_begin")
    module.begin = lambda: begun.append(  # type: ignore[attr-defined]  # the app's module, which makes a bridge
        Awaiting(told.by("awaited_one"))
    )
    sys.modules["awaited_begin"] = module
    try:
        assert importlib.import_module("awaited_one").whole
    finally:
        del sys.modules["awaited_begin"]
    assert told.names == []
    begun[0].close()


# While imports are recorded.


def test_a_recording_tells(tmp_path: Path, told: Told) -> None:
    """An open recording tells in place of the finder, in the same order; once it is closed the finder is back."""
    put(tmp_path, "awaited_one", "import awaited_two")
    put(tmp_path, "awaited_two", "import awaited_other")
    put(tmp_path, "awaited_other")
    put(tmp_path, "awaited_pack.__init__")
    finders = list(sys.meta_path)
    awaiting = Awaiting(told.by("awaited_one", "awaited_two", "awaited_pack"))
    imports.take_early()
    recording = Recording()
    assert recording.open()
    awaiting.leave_to(recording)
    assert sys.meta_path == finders
    importlib.import_module("awaited_one")
    assert told.names == ["awaited_two", "awaited_one"]
    recording.close()
    assert sys.meta_path == [awaiting, *finders]
    importlib.import_module("awaited_pack")
    assert told.names == ["awaited_two", "awaited_one", "awaited_pack"]
    assert sys.meta_path == finders


def test_a_recording_tells_of_nothing_else(tmp_path: Path, told: Told) -> None:
    """A module that fails is not told of, one that is waited for no longer neither, and nobody waits afterwards."""
    put(tmp_path, "awaited_one", "raise KeyError")
    put(tmp_path, "awaited_two")
    finders = list(sys.meta_path)
    awaiting = Awaiting(told.by("awaited_one", "awaited_two"))
    imports.take_early()
    recording = Recording()
    assert recording.open()
    awaiting.leave_to(recording)
    with pytest.raises(KeyError):
        importlib.import_module("awaited_one")
    awaiting.close()
    importlib.import_module("awaited_two")
    recording.close()
    assert told.names == []
    assert sys.meta_path == finders


# The first line.


class Lines:
    """What comes of log lines: what was told, in order."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.other: Callable[..., None] | None = None

    def put_other(self, notes: list[Callable[[Any], None]]) -> None:
        """Be what the first line brings: another patch, as the one that sends copies."""
        self.told.append("came")
        below: Any = logging.Logger.callHandlers

        def call_handlers(logger: logging.Logger, record: logging.LogRecord) -> None:
            self.told.append(f"noted {record.getMessage()}")
            below(logger, record)

        self.other = call_handlers
        patch(call_handlers)
        notes.append(lambda record: self.told.append(f"noted {record.getMessage()}"))

    def handler(self) -> logging.Handler:
        """Return the app's own."""
        handler = logging.Handler()
        handler.emit = lambda record: self.told.append(record.getMessage())  # type: ignore[method-assign]
        return handler


def patch(call_handlers: Callable[..., None]) -> None:
    """Put a patch in place."""
    setattr(logging.Logger, "callHandlers", call_handlers)  # noqa: B010 - to mypy a method is no variable


@pytest.fixture
def lines() -> Iterator[Lines]:
    """An app's logger, and what comes of it; nothing stays patched."""
    stock = logging.Logger.callHandlers
    lines = Lines()
    logger = logging.getLogger("awaited")
    handler = lines.handler()
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)
    if logging.Logger.callHandlers is lines.other:
        patch(stock)
    assert logging.Logger.callHandlers is stock


def test_first_line(lines: Lines) -> None:
    """The first line brings what takes lines down, and is itself taken down, once; so are all others."""
    FirstLine(lines.put_other)
    for text in ("one", "two"):
        logging.getLogger("awaited").warning(text)
    assert lines.told == ["came", "noted one", "one", "noted two", "two"]


def test_no_line(lines: Lines) -> None:
    """Where no line comes nothing is brought, and nothing stays in place."""
    stock = logging.Logger.callHandlers
    first = FirstLine(lines.put_other)
    assert logging.Logger.callHandlers is not stock
    first.close()
    logging.getLogger("awaited").warning("one")
    assert lines.told == ["one"]


def test_first_line_below_another_patch(lines: Lines) -> None:
    """A patch that somebody put in place after us stays, sees each line once, and no line is taken down twice."""
    first = FirstLine(lines.put_other)
    below: Any = logging.Logger.callHandlers

    def theirs(logger: logging.Logger, record: logging.LogRecord) -> None:
        lines.told.append(f"theirs {record.getMessage()}")
        below(logger, record)

    patch(theirs)
    for text in ("one", "two"):
        logging.getLogger("awaited").warning(text)
    assert lines.told == ["theirs one", "came", "noted one", "one", "noted two", "theirs two", "two"]
    # He takes his patch away, as he found it.
    patch(below)
    first.close()


def test_first_lines_at_once(lines: Lines) -> None:
    """Of two threads with a first line one waits until it can be taken down."""
    comes, goes_on = threading.Event(), threading.Event()

    def slowly(notes: list[Callable[[Any], None]]) -> None:
        comes.set()
        assert goes_on.wait(HANG_S)
        lines.put_other(notes)

    FirstLine(slowly)
    early: Any = logging.Logger.callHandlers
    threads = [threading.Thread(target=logging.getLogger("awaited").warning, args=(text,)) for text in ("one", "two")]
    threads[0].start()
    assert comes.wait(HANG_S)
    # It has looked up what to call before the first one was done.
    threads[1] = threading.Thread(
        target=early, args=(logging.getLogger("awaited"), logging.makeLogRecord({"msg": "two", "levelno": 30}))
    )
    threads[1].start()
    goes_on.set()
    for thread in threads:
        bounded(thread.join)
    assert sorted(lines.told) == ["came", "noted one", "noted two", "one", "two"]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["in order", "in reverse"])
def test_two_that_wait(order: tuple[int, int], lines: Lines) -> None:
    """Two that wait for the first line leave nothing behind, in whatever order they are closed."""
    both = [FirstLine(lines.put_other), FirstLine(lines.put_other)]
    for number in order:
        both[number].close()
    logging.getLogger("awaited").warning("one")
    assert lines.told == ["one"]
