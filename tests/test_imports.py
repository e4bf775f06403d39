"""The recorder sees every import that really happens, as the tree that it was, and changes nothing about it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import textwrap
import threading
import traceback
import types
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support import bounded, run_python
from tests.telemetry.functions import run_program
from tracedbridge import imports
from tracedbridge.imports import Import, Recording, importing
from tracedbridge.origins import source_of

# What the recorder wraps while it is open.
WRAPPED = (
    ("_frozen_importlib", "_find_and_load"),
    ("_frozen_importlib", "_find_spec"),
    ("_frozen_importlib", "_exec"),
    ("_frozen_importlib_external", "SourceLoader.source_to_code"),
)


def import_system() -> list[Any]:
    """Return what stands at the places that the recorder wraps."""
    found = []
    for module, name in WRAPPED:
        owner, _, attribute = name.rpartition(".")
        place = sys.modules[module]
        found.append(vars(getattr(place, owner) if owner else place)[attribute])
    return found


class Shelf:
    """A folder of modules on ``sys.path``."""

    def __init__(self, folder: Path) -> None:
        """Take what is put into ``folder``."""
        self.folder = folder
        self._names: set[str] = set()

    def put(self, files: dict[str, str]) -> None:
        """Write modules: sources by path; a path without suffix is a folder."""
        for name, source in files.items():
            path = self.folder / name
            self._names.add(name.partition("/")[0].removesuffix(".py"))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(source))
        importlib.invalidate_caches()

    def forget(self) -> None:
        """Take its modules out of ``sys.modules``."""
        for name in list(sys.modules):
            if name.partition(".")[0] in self._names:
                del sys.modules[name]


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    """A shelf whose modules are forgotten after the test, which must leave the import system as it was."""
    # The first import of create_bridge in a young test run begins one.
    imports.take_early()
    before = import_system()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    shelf = Shelf(tmp_path)
    yield shelf
    shelf.forget()
    if imports._open is not None:
        # Of a test that failed: the next one is not to fail with it.
        imports._open.close()
    assert import_system() == before


class Clock:
    """Stands in for the module ``time``; goes on when it is told to."""

    def __init__(self) -> None:
        """Begin at zero."""
        self.now_ns = 0

    def monotonic_ns(self) -> int:
        """Tell the time."""
        return self.now_ns

    def tick(self, ns: int) -> None:
        """Go on by so much."""
        self.now_ns += ns


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The recorder's clock, which modules advance by ``import clock; clock.tick(80)``."""
    clock = Clock()
    module = types.ModuleType("clock")
    module.tick = clock.tick  # type: ignore[attr-defined]  # a module made by hand has no declared names
    monkeypatch.setitem(sys.modules, "clock", module)
    monkeypatch.setattr(imports, "time", clock)
    return clock


def recorded(work: Callable[[], object]) -> Recording:
    """Record while ``work`` is done, which may raise."""
    recording = Recording()
    assert recording.open()
    try:
        work()
    finally:
        recording.close()
    return recording


def run(source: str) -> Callable[[], None]:
    """Return what runs a piece of source."""
    code = compile(textwrap.dedent(source), "<case>", "exec")
    return lambda: exec(code, {})


def drawn(recording: Recording) -> str:
    """
    Draw a recording, one import a line below its importer: name, source, ``again`` if reloaded, ``! error``.

    Checked on the way: times add up at every node, and children run one after the other within their parents.
    """
    lines: list[str] = []

    def draw(each: Import, depth: int) -> None:
        told = f"{each.name} {source_of(each)}" + " again" * each.is_reload
        lines.append("  " * depth + told + (f" ! {each.error}" if each.error else ""))
        assert each.self_ns == each.total_ns - sum(child.total_ns for child in each.children)
        assert 0 <= each.find_ns + each.compile_ns <= each.self_ns
        at_ns = each.begun_ns
        for child in each.children:
            assert child.parent is each
            assert at_ns <= child.begun_ns <= child.ended_ns <= each.ended_ns
            at_ns = child.ended_ns
            draw(child, depth + 1)

    for root in recording.roots:
        assert root.parent is None
        draw(root, 0)
    assert len(lines) == recording.count == len(list(recording.walk()))
    return "\n".join(lines)


class Case(NamedTuple):
    """Modules, what is run with them, and the tree that is recorded."""

    files: dict[str, str]
    source: str
    tree: str
    error: type[BaseException] | None = None


CASES = {
    "a package": Case(
        {"fruit/__init__.py": "import fruit.plum, plain", "fruit/plum.py": "", "plain.py": ""},
        "import fruit",
        """
        fruit source
          fruit.plum source
          plain source
        """,
    ),
    # As the interpreter does it: the import of the submodule is what imports the package.
    "a submodule before its package": Case(
        {"fruit/__init__.py": "", "fruit/stone/__init__.py": "", "fruit/stone/plum.py": ""},
        "import fruit.stone.plum",
        """
        fruit.stone.plum source
          fruit.stone source
            fruit source
        """,
    ),
    "names of a package": Case(
        {"fruit/__init__.py": "", "fruit/plum.py": "", "fruit/pear.py": "kernel = 1"},
        "from fruit import plum, pear; from fruit.pear import kernel",
        """
        fruit source
        fruit.plum source
        fruit.pear source
        """,
    ),
    "what is loaded": Case({"plain.py": ""}, "import plain; import plain; from plain import __name__", "plain source"),
    "a circle": Case(
        {"hen.py": "import egg", "egg.py": "import shell; import hen", "shell.py": ""},
        "import hen",
        """
        hen source
          egg source
            shell source
        """,
    ),
    "relative": Case(
        {"fruit/__init__.py": "from . import plum", "fruit/plum.py": "from .stone import kernel",
         "fruit/stone/__init__.py": "from .. import pear; kernel = 1", "fruit/pear.py": ""},
        "import fruit",
        """
        fruit source
          fruit.plum source
            fruit.stone source
              fruit.pear source
        """,
    ),
    "by import_module": Case(
        {"fruit/__init__.py": "", "fruit/plum.py": "import plain", "plain.py": ""},
        "from importlib import import_module; import_module('.plum', 'fruit')",
        """
        fruit.plum source
          fruit source
          plain source
        """,
    ),
    "a namespace package": Case(
        {"field/row/plum.py": ""},
        "import field.row.plum",
        """
        field.row.plum source
          field.row namespace
            field namespace
        """,
    ),
    "builtin": Case({}, "import _symtable", "_symtable builtin"),
    "frozen": Case({}, "import __phello__.spam", "__phello__.spam frozen\n  __phello__ frozen"),
    "reload": Case(
        {"plain.py": "import inner", "inner.py": ""},
        "import importlib, plain, sys; del sys.modules['inner']; importlib.reload(plain)",
        """
        plain source
          inner source
        plain cache again
          inner cache
        """,
    ),
    "a failing reload": Case(
        {"plain.py": "import sys\nif hasattr(sys.modules[__name__], 'seen'): raise ValueError\nseen = 1"},
        "import importlib, plain; importlib.reload(plain)",
        "plain source\nplain cache again ! ValueError",
        ValueError,
    ),
    "from the cache": Case(
        {"plain.py": ""},
        "import plain, sys; del sys.modules['plain']; import plain",
        "plain source\nplain cache",
    ),
    "without a cache": Case(
        {"plain.py": ""},
        """
        import sys
        sys.dont_write_bytecode = True
        import plain
        del sys.modules["plain"]
        import plain
        """,
        "plain source\nplain source",
    ),
    "a module that replaces itself": Case(
        {"plain.py": "import sys, types; sys.modules[__name__] = types.SimpleNamespace(kernel=1)"},
        "import plain; assert plain.kernel == 1",
        "plain source",
    ),
    "a module that raises": Case(
        {"outer.py": "import broken", "broken.py": "import plain; raise ValueError", "plain.py": ""},
        "import outer",
        """
        outer source ! ValueError
          broken source ! ValueError
            plain source
        """,
        ValueError,
    ),
    "no Python": Case({"broken.py": "def"}, "import broken", "broken source ! SyntaxError", SyntaxError),
    "a missing module": Case({}, "import soap", "soap nowhere ! ModuleNotFoundError", ModuleNotFoundError),
    "a missing submodule": Case(
        {"plain.py": ""},
        "import plain.soap",
        "plain.soap nowhere ! ModuleNotFoundError\n  plain source",
        ModuleNotFoundError,
    ),
    "a missing optional module": Case(
        {"plain.py": "try:\n    import soap\nexcept ImportError:\n    soap = None\nimport inner", "inner.py": ""},
        "import plain",
        """
        plain source
          soap nowhere ! ModuleNotFoundError
          inner source
        """,
    ),
    "a module that ends the process": Case(
        {"plain.py": "raise SystemExit(3)"}, "import plain", "plain source ! SystemExit", SystemExit
    ),
    # Refused by the table of loaded modules, before anybody looks for it.
    "a forbidden module": Case(
        {"plain.py": ""}, "import sys; sys.modules['plain'] = None; import plain", "", ModuleNotFoundError
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_trees(case: Case, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is imported, and however, is recorded as the tree that it was; what it raises arrives."""
    shelf.put(case.files)
    for name in ("_symtable", "__phello__", "__phello__.spam"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    recording = Recording()
    assert recording.open()
    try:
        if case.error is None:
            run(case.source)()
        else:
            with pytest.raises(case.error):
                run(case.source)()
    finally:
        recording.close()
    assert drawn(recording) == textwrap.dedent(case.tree).strip()


def test_loaded_by_its_package(shelf: Shelf) -> None:
    """A submodule that its package loads itself, before whoever asked for it gets to, does not come from nowhere."""
    shelf.put({"fruit/__init__.py": "from fruit import plum", "fruit/plum.py": "import fruit; from fruit import pear"})
    shelf.put({"fruit/pear.py": "from fruit import plum"})
    recording = recorded(run("import fruit.plum"))
    assert [(each.name, each.parent and each.parent.name) for each in recording.walk()] == [
        ("fruit.plum", None),
        ("fruit", "fruit.plum"),
        ("fruit.plum", "fruit"),
        ("fruit.pear", "fruit.plum"),
    ]
    assert "nowhere" not in drawn(recording)


def test_extension(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """An extension module is one."""
    specs = {name: importlib.util.find_spec(name) for name in ("_statistics", "_lsprof", "_zoneinfo")}
    name = next(name for name, spec in specs.items() if spec and isinstance(spec.loader, ExtensionFileLoader))
    monkeypatch.delitem(sys.modules, name, raising=False)
    assert drawn(recorded(lambda: importlib.import_module(name))) == f"{name} extension"


def test_zip(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules in a zip file are found and loaded from there."""
    shelf.put({"boxed/__init__.py": "", "boxed/plum.py": ""})
    with zipfile.ZipFile(shelf.folder / "box.zip", "w") as box:
        for name in ("__init__.py", "plum.py"):
            (shelf.folder / "boxed" / name).unlink()
            box.writestr(f"boxed/{name}", "")
    (shelf.folder / "boxed").rmdir()
    monkeypatch.syspath_prepend(str(shelf.folder / "box.zip"))
    assert drawn(recorded(run("import boxed.plum"))) == "boxed.plum zip\n  boxed zip"


def test_times(shelf: Shelf, clock: Clock) -> None:
    """Time in a module is its own; its total is that and what it imported; children are counted once."""
    shelf.put(
        {
            "outer.py": "import clock; clock.tick(10); import left; clock.tick(200); import right; clock.tick(3000)",
            "left.py": "import clock; clock.tick(40); import inner",
            "right.py": "import clock; clock.tick(5); import inner",
            "inner.py": "import clock; clock.tick(70)",
        }
    )
    recording = recorded(run("import outer"))
    assert {each.name: (each.self_ns, each.total_ns) for each in recording.walk()} == {
        "outer": (3210, 3325),
        "left": (40, 110),
        "inner": (70, 70),
        "right": (5, 5),
    }


class SlowFinder:
    """A meta-path finder that takes time for one module, and imports a tool of its own to look for it."""

    def __init__(self, clock: Clock, name: str) -> None:
        """Be slow by ``clock`` when asked for ``name``."""
        self._clock = clock
        self._name = name

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find nothing: the path has it."""
        if name == self._name:
            self._clock.tick(300)
            importlib.import_module("tool")
        return None


def test_a_slow_finder(shelf: Shelf, clock: Clock) -> None:
    """Time in a finder is find time of what is looked for; what the finder imports is below that, and no find time."""
    shelf.put(
        {
            "plain.py": "import clock; clock.tick(8); import inner",
            "inner.py": "import clock; clock.tick(20)",
            "tool.py": "import clock; clock.tick(1000)",
        }
    )
    sys.meta_path.insert(0, SlowFinder(clock, "inner"))
    recording = recorded(run("import plain"))
    assert [(each.name, each.find_ns, each.self_ns, each.total_ns) for each in recording.walk()] == [
        ("plain", 0, 8, 1328),
        ("inner", 300, 320, 1320),
        ("tool", 0, 1000, 1000),
    ]


class RaisingFinder(SlowFinder):
    """A finder that fails for its module."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        """Raise."""
        super().find_spec(name, path, target)
        if name == self._name:
            raise OSError("the disk is gone")
        return None


def test_a_failing_finder(shelf: Shelf, clock: Clock) -> None:
    """A finder that raises has taken its time as well."""
    shelf.put({"tool.py": ""})
    sys.meta_path.insert(0, RaisingFinder(clock, "plain"))
    recording = Recording()
    assert recording.open()
    with pytest.raises(OSError, match="the disk is gone"):
        run("import plain")()
    recording.close()
    (plain,) = recording.roots
    assert (plain.find_ns, plain.self_ns, plain.error) == (300, 300, "OSError")


class LazyFinder:
    """A meta-path finder that loads a module when it is first looked into."""

    def __init__(self, name: str) -> None:
        """Be lazy with ``name``."""
        self._name = name

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find it, with another loader."""
        if name != self._name:
            return None
        found = importlib.machinery.PathFinder.find_spec(name, path)
        assert found is not None
        assert found.loader is not None
        found.loader = importlib.util.LazyLoader(found.loader)
        return found


def test_a_lazy_module(shelf: Shelf, clock: Clock) -> None:
    """A lazy module costs whoever looks into it first; what it imports then is below that one."""
    shelf.put(
        {
            "lazy.py": "import clock; clock.tick(50); import inner; kernel = 1",
            "inner.py": "import clock; clock.tick(7)",
            "user.py": "import clock, lazy; clock.tick(4); lazy.kernel",
        }
    )
    sys.meta_path.insert(0, LazyFinder("lazy"))
    recording = recorded(run("import lazy, user"))
    assert [(each.name, each.parent and each.parent.name, each.self_ns) for each in recording.walk()] == [
        ("lazy", None, 0),
        ("user", None, 54),
        ("inner", "user", 7),
    ]


def test_executed_without_an_import(shelf: Shelf, clock: Clock) -> None:
    """What is executed by hand is recorded as an import, also when it fails; without a recording it just runs."""
    shelf.put({"plain.py": "import clock; clock.tick(6)"})
    spec = ModuleSpec("app", None, origin="app.py")
    recording = Recording()
    assert recording.open()
    with importing("app", spec):
        clock.tick(10)
        run("import plain")()
    with pytest.raises(ValueError, match="soap"):
        with importing("failing", spec):
            raise ValueError("soap")
    recording.close()
    with importing("later", spec):
        clock.tick(10)
    assert [(each.name, each.self_ns, each.error, each.spec is spec) for each in recording.walk()] == [
        ("app", 10, None, True),
        ("plain", 6, None, False),
        ("failing", 0, "ValueError", True),
    ]


def test_threads(shelf: Shelf) -> None:
    """Imports that run at the same time in several threads are trees of their own, each of its thread."""
    names = [f"field_{number}" for number in range(4)]
    meeting = threading.Barrier(len(names), timeout=10)
    rows = "import meeting; meeting.wait(); import {0}_row; meeting.wait()"
    shelf.put({f"{name}.py": rows.format(name) for name in names})
    shelf.put({f"{name}_row.py": "import meeting; meeting.wait()" for name in names})
    shelf.put({"meeting.py": ""})
    sys.modules["meeting"] = meeting  # type: ignore[assignment]  # what modules can import is whatever stands here
    threads = [threading.Thread(target=importlib.import_module, args=(name,), daemon=True) for name in names]
    ids = {}

    def work() -> None:
        for thread in threads:
            thread.start()
        for thread, name in zip(threads, names, strict=True):
            ids[name] = thread.ident
            thread.join(10)

    recording = recorded(work)
    expected = [f"{name} source\n  {name}_row source" for name in names]
    recording.roots.sort(key=lambda root: root.name)
    assert drawn(recording) == "\n".join(expected)
    assert {root.name: root.thread_id for root in recording.roots} == ids


def test_a_module_that_two_threads_want(shelf: Shelf) -> None:
    """A module that a second thread asks for while the first one loads it is recorded once."""
    shelf.put({"shared.py": "import gate; gate.entered.set(); gate.leave.wait(10)", "gate.py": ""})
    gate = types.SimpleNamespace(entered=threading.Event(), leave=threading.Event())
    sys.modules["gate"] = gate  # type: ignore[assignment]  # what modules can import is whatever stands here
    first = threading.Thread(target=importlib.import_module, args=("shared",), daemon=True)
    second = threading.Thread(target=importlib.import_module, args=("shared",), daemon=True)

    def work() -> None:
        first.start()
        assert gate.entered.wait(10)
        second.start()
        gate.leave.set()
        first.join(10)
        second.join(10)

    assert drawn(recorded(work)) == "shared source"


class WaitingFinder:
    """A meta-path finder that does not find a module before a second thread asks for it, too."""

    def __init__(self, name: str, recording: Recording) -> None:
        """Wait for ``recording`` to have two imports."""
        self._name = name
        self._recording = recording
        self.asked = threading.Event()

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find nothing: the path has it."""
        if name == self._name:
            self.asked.set()
            while self._recording.count < 2:
                threading.Event().wait(0.001)
        return None


def test_a_module_that_two_threads_look_for(shelf: Shelf) -> None:
    """Who waits for another thread to find and load a module has no other source for it than that one."""
    shelf.put({"shared.py": ""})
    recording = Recording()
    finder = WaitingFinder("shared", recording)
    sys.meta_path.insert(0, finder)
    threads = [threading.Thread(target=importlib.import_module, args=("shared",), daemon=True) for _ in range(2)]
    assert recording.open()
    try:
        threads[0].start()
        assert finder.asked.wait(10)
        threads[1].start()
        for thread in threads:
            thread.join(10)
    finally:
        recording.close()
    assert recording.count == 2
    assert [source_of(root) == "nowhere" for root in recording.roots] == [False, False], drawn(recording)


def test_wrapped_only_while_open(shelf: Shelf) -> None:
    """While a recording is open four functions are wrapped; afterwards the originals are there, whatever happened."""
    shelf.put({"broken.py": "raise ValueError"})
    before = import_system()
    recording = Recording()
    assert recording.open()
    assert not any(now is then for now, then in zip(import_system(), before, strict=True))
    with pytest.raises(ValueError, match=r"^$"):
        run("import broken")()
    recording.close()
    recording.close()
    assert all(now is then for now, then in zip(import_system(), before, strict=True))
    assert recording.open(), "it may go on"
    recording.close()
    assert all(now is then for now, then in zip(import_system(), before, strict=True))


def test_closed_in_the_middle(shelf: Shelf) -> None:
    """An import during which the recording is closed ends as it would have; what comes after is not recorded."""
    shelf.put({"plain.py": "import closing; closing(); import inner", "inner.py": "", "closing.py": ""})
    recording = Recording()
    sys.modules["closing"] = recording.close  # type: ignore[assignment]  # modules can import whatever stands here
    assert recording.open()
    run("import plain")()
    assert drawn(recording) == "plain source"


def test_another_tool(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tool that wrapped the import system after us keeps its wrapper when we leave, and all goes on working."""
    shelf.put({"one.py": "", "two.py": "", "three.py": ""})
    bootstrap = sys.modules["_frozen_importlib"]
    original: Any = vars(bootstrap)["_find_and_load"]
    seen = []
    recording = Recording()
    assert recording.open()
    ours: Any = vars(bootstrap)["_find_and_load"]

    def watch(name: str, import_: object) -> Any:
        seen.append(name)
        return ours(name, import_)

    bootstrap._find_and_load = watch  # type: ignore[attr-defined]  # private, and what such tools wrap
    try:
        run("import one")()
        recording.close()
        assert vars(bootstrap)["_find_and_load"] is watch
        run("import two")()
        again = recorded(run("import three"))
        assert vars(bootstrap)["_find_and_load"] is watch
    finally:
        bootstrap._find_and_load = original  # type: ignore[attr-defined]  # as above
    assert (drawn(recording), drawn(again), seen) == ("one source", "three source", ["one", "two", "three"])


FAILURES = {
    "in a module": ({"broken.py": "def burn():\n    raise ValueError('soap')\nburn()"}, "import broken"),
    "below a module": ({"outer.py": "import broken", "broken.py": "1 / 0"}, "import outer"),
    "no Python": ({"broken.py": "def"}, "import broken"),
    "nowhere": ({"outer.py": "import soap"}, "import outer"),
    "no such name": ({"plain.py": ""}, "from plain import soap"),
    "below a package": ({"fruit/__init__.py": "from . import plum", "fruit/plum.py": "1 / 0"}, "import fruit.plum"),
    "chained": ({"plain.py": "try:\n    import soap\nexcept ImportError:\n    1 / 0"}, "import plain"),
    "by import_module": ({"broken.py": "1 / 0"}, "from importlib import import_module; import_module('broken')"),
    "in a reload": (
        {"plain.py": "import sys\nif hasattr(sys.modules[__name__], 'seen'): raise ValueError\nseen = 1"},
        "import importlib, plain; importlib.reload(plain)",
    ),
    "in a finder": ({"tool.py": ""}, "import unfindable"),
}


@pytest.mark.parametrize(("files", "source"), FAILURES.values(), ids=FAILURES)
def test_tracebacks(files: dict[str, str], source: str, shelf: Shelf) -> None:
    """The traceback of an import that fails is the same text as without the recorder."""
    shelf.put(files)
    sys.meta_path.insert(0, RaisingFinder(Clock(), "unfindable"))
    work = run(source)

    def failure() -> str:
        shelf.forget()
        try:
            work()
        except Exception:
            return traceback.format_exc()
        raise AssertionError("it did not fail")

    # The second time everything is in the cache, or is not.
    failure()
    alone = failure()
    watched: list[str] = []
    recording = recorded(lambda: watched.append(failure()))
    assert recording.count > 0
    assert watched == [alone]


@pytest.mark.parametrize("source", ["import user", "from importlib import import_module; import_module('user')"])
def test_warnings(source: str, shelf: Shelf) -> None:
    """A module's warning about whoever imports it points to the same line as without the recorder."""
    shelf.put(
        {
            "user.py": "\n\nimport old",
            "old.py": "import warnings; warnings.warn('old', DeprecationWarning, stacklevel=2)",
        }
    )

    def places() -> list[tuple[str, int]]:
        shelf.forget()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run(source)()
        return [(each.filename, each.lineno) for each in caught]

    watched: list[list[tuple[str, int]]] = []
    recorded(lambda: watched.append(places()))
    assert watched == [places()] == [[(str(shelf.folder / "user.py"), 3)]]


def test_one_at_a_time(shelf: Shelf) -> None:
    """A second recording is refused while one is open, and closing it does not disturb the first."""
    shelf.put({"one.py": "", "two.py": ""})
    first, second = Recording(), Recording()
    assert first.open()
    assert first.open(), "it is open already"
    assert not second.open()
    run("import one")()
    second.close()
    run("import two")()
    first.close()
    assert (drawn(first), second.roots) == ("one source\ntwo source", [])


def test_imports_that_cross() -> None:
    """Imports that end in another order than they began, as those of greenlets may, leave no importer behind."""
    recording = Recording()
    first, second = recording.begin("first"), recording.begin("second")
    assert first is not None
    assert second is not None
    recording.end(first, None)
    recording.end(second, None)
    later = recording.begin("later")
    assert later is not None
    assert (second.parent, later.parent) == (first, None)


def test_the_cap(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the cap imports are counted only, and work."""
    shelf.put({"outer.py": "import one, two, three", "one.py": "", "two.py": "import inner", "three.py": ""})
    shelf.put({"inner.py": ""})
    monkeypatch.setattr(imports, "_MAX_IMPORTS", 3)
    recording = recorded(run("import outer; assert outer.two.inner and outer.three"))
    assert drawn(recording) == "outer source\n  one source\n  two source"
    assert (recording.count, recording.dropped) == (3, 2)


def test_a_python_without_these_functions(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the import system has not what is wrapped, nothing is recorded and nothing is touched."""
    shelf.put({"plain.py": ""})
    with monkeypatch.context() as patch:
        patch.setattr(imports, "import_system", lambda: (types.ModuleType("bootstrap"), types.ModuleType("external")))
        recording = Recording()
        assert not recording.open()
        run("import plain")()
        recording.close()
        imports.open_early(1)
        assert imports.take_early() is None
    assert recording.roots == []


def test_an_early_recording(shelf: Shelf, clock: Clock) -> None:
    """What was recorded early is handed over once, closed, and may then be gone on with for as long as it takes."""
    shelf.put({"one.py": "", "two.py": "", "three.py": "", "four.py": ""})
    imports.open_early(1000)
    run("import one")()
    early = imports.take_early()
    assert early is not None
    assert imports.take_early() is None
    run("import two")()
    assert early.open()
    clock.tick(5000)
    run("import three, four")()
    early.close()
    assert [each.name for each in early.walk()] == ["one", "three", "four"]


def test_an_early_recording_ends(shelf: Shelf, clock: Clock) -> None:
    """An early recording that nobody takes ends by itself with the first import after its time."""
    shelf.put({"one.py": "", "two.py": "", "three.py": ""})
    before = import_system()
    imports.open_early(1000)
    run("import one")()
    assert import_system() != before
    clock.tick(1001)
    run("import two")()
    assert import_system() == before
    run("import three")()
    early = imports.take_early()
    assert early is not None
    assert "three" not in [each.name for each in early.walk()]
    assert [each.ended_ns >= each.begun_ns for each in early.walk()] == [True] * early.count


EARLY = {
    "by default": ({"telemetry": ""}, True),
    "telemetry on": ({"telemetry": "ON"}, True),
    "telemetry off": ({"telemetry": " Off"}, False),
    "imports off": ({"telemetry": "on", "imports": "off"}, False),
    "imports full": ({"telemetry": "on", "imports": "full"}, True),
}


@pytest.mark.parametrize(("settings", "is_wrapped"), EARLY.values(), ids=EARLY)
def test_the_door(settings: dict[str, str], is_wrapped: bool, tmp_path: Path) -> None:
    """Whoever asks for ``create_bridge`` imports his app next: that is recorded, unless it is switched off."""
    program = """
import sys
import tracedbridge
bootstrap = sys.modules["_frozen_importlib"]
original = bootstrap._find_and_load
from tracedbridge import create_bridge
print(bootstrap._find_and_load is not original)
"""
    done = run_python("-W", "error", "-c", program, cwd=tmp_path, **settings)
    assert (done.stdout, done.stderr) == (f"{is_wrapped}\n", "")


@pytest.mark.telemetry
def test_between_the_door_and_the_bridge(tmp_path: Path) -> None:
    """What is imported before ``create_bridge(app)`` is in the cold start's record, and so is what comes later."""
    (tmp_path / "fruit.py").write_text("import plum")
    (tmp_path / "plum.py").write_text("")
    (tmp_path / "pear.py").write_text("")
    program = """
from tracedbridge import create_bridge
import fruit

async def app(scope, receive, send):
    assert scope["type"] == "lifespan"
    await receive()
    import pear
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})

bridge = create_bridge(app)
from tracedbridge import boot
record = boot.first_of_process()
for each in record.imports.walk():
    if each.name in ("fruit", "plum", "pear"):
        print(each.name, each.parent and each.parent.name, record.phase_at(each.begun_ns))
"""
    done = run_program(tmp_path, program, OTEL_SDK_DISABLED="true")
    lines = [line for line in done.stdout.splitlines() if not line.startswith("{")]
    assert (lines, done.stderr) == (["fruit None app_import", "plum fruit app_import", "pear None lifespan"], "")


def test_hanging(shelf: Shelf) -> None:
    """Two threads whose modules import each other do not hang, as they would not without the recorder."""
    shelf.put(
        {
            "hen.py": "import meeting; meeting.wait(); import egg",
            "egg.py": "import meeting; meeting.wait(); import hen",
            "meeting.py": "",
        }
    )
    sys.modules["meeting"] = threading.Barrier(2, timeout=10)  # type: ignore[assignment]  # whatever stands here
    threads = [threading.Thread(target=importlib.import_module, args=(name,), daemon=True) for name in ("hen", "egg")]

    def work() -> None:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)

    recording = recorded(lambda: bounded(work))
    assert sorted(drawn(recording).splitlines()) == ["egg source", "hen source"]
