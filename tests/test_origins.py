"""Every module has an owner and a source, and every top-level package its sums."""

from __future__ import annotations

import importlib.util
import os
import py_compile
import sys
import zipimport
from importlib.machinery import (
    BuiltinImporter,
    ExtensionFileLoader,
    FrozenImporter,
    ModuleSpec,
    SourceFileLoader,
    SourcelessFileLoader,
)
from pathlib import Path
from typing import Any

import pytest

from tracedbridge import imports, origins
from tracedbridge.imports import Import, Recording
from tracedbridge.origins import Origins, packages_of, source_of

HERE = Path("/srv/function")


def imported(name: str, spec: ModuleSpec | None) -> Import:
    """Return a finished import of a module."""
    each = Import(name, None)
    each.spec = spec
    return each


def from_file(name: str, path: Path) -> Import:
    """Return the import of a module from a file, which need not be there."""
    return imported(name, importlib.util.spec_from_file_location(name, path))


def from_folder(name: str, folder: Path) -> Import:
    """Return the import of a namespace package."""
    spec = ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    return imported(name, spec)


def installed(name: str) -> Import:
    """Return the import of a module of this Python."""
    return imported(name, importlib.util.find_spec(name))


OWNERS = {
    "the app's file": (from_file("index", HERE / "index.py"), "app"),
    "the app's package": (from_file("shop.models", HERE / "shop" / "models.py"), "app"),
    "the app's namespace": (from_folder("shop", HERE / "shop"), "app"),
    "the app's own json": (from_file("json", HERE / "json.py"), "app"),
    "the app's own json package": (from_file("json", HERE / "json" / "__init__.py"), "app"),
    "standard library": (installed("json.decoder"), "stdlib"),
    "standard library, a name that is not listed": (
        from_file("_sysconfigdata__linux", Path(os.__file__).with_name("_sysconfigdata__linux.py")),
        "stdlib",
    ),
    "standard library, frozen": (installed("os"), "stdlib"),
    "standard library, builtin": (installed("_symtable"), "stdlib"),
    "site-packages": (from_file("flask", HERE / "lib" / "site-packages" / "flask" / "__init__.py"), "third_party"),
    "site-packages of this Python": (installed("pytest"), "third_party"),
    # A backport of a standard module.
    "a standard name in site-packages": (from_file("json", HERE / "site-packages" / "json.py"), "third_party"),
    "dist-packages": (from_file("six", Path("/usr/lib/python3/dist-packages/six.py")), "third_party"),
    "_vendor": (from_file("flask.app", HERE / "_vendor" / "flask" / "app.py"), "third_party"),
    "_vendor, a namespace": (from_folder("google", HERE / "_vendor" / "google"), "third_party"),
    "a folder that is called alike": (from_file("shop", HERE / "my_vendor" / "shop.py"), "app"),
    "a layer": (from_file("boto3", Path("/opt/python/boto3/__init__.py")), "third_party"),
    "not found": (imported("soap", None), "third_party"),
    "not found, of the standard library": (imported("winreg", None), "stdlib"),
}


@pytest.mark.parametrize(("each", "owner"), OWNERS.values(), ids=OWNERS)
def test_owners(each: Import, owner: str) -> None:
    """A module is the standard library's, somebody else's or the app's own, by where it came from."""
    assert Origins().owner_of(each) == owner


def test_a_python_among_the_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The standard library of a Python below /opt, as of GitHub's runners, is no layer."""
    monkeypatch.setattr(origins, "_STDLIB_FOLDER", "/opt/hostedtoolcache/Python/lib/python3.13")
    library = Path(origins._STDLIB_FOLDER)
    assert Origins().owner_of(from_file("json", library / "json" / "__init__.py")) == "stdlib"
    assert Origins().owner_of(from_file("flask", library / "site-packages" / "flask.py")) == "third_party"


# "gone" has no RECORD, "broken" one that is no text.
RECORDS = {
    "Flask-3.1.0": b"flask/__init__.py,sha256=x,1\nflask/app.py,,\n../../bin/flask,sha256=x,2\n",
    "six-1.17": b"six.py,sha256=x,1\n__pycache__/six.cpython-313.pyc,,\nsix-1.17.dist-info/RECORD,,\n",
    "fast-1.0": b"_fast.cpython-313-x86_64-linux-gnu.so,sha256=x,1\n",
    "google_cloud-1.0": b"google/cloud/storage/__init__.py,sha256=x,1\n",
    "gone-1.0": None,
    "broken-1.0": b"\xff\xfe",
}


@pytest.mark.parametrize(
    ("name", "file", "owner"),
    [
        ("flask", "flask/__init__.py", "third_party"),
        ("flask.app", "flask/app.py", "third_party"),
        ("six", "six.py", "third_party"),
        ("_fast", "_fast.cpython-313-x86_64-linux-gnu.so", "third_party"),
        ("google.cloud.storage", "google/cloud/storage/__init__.py", "third_party"),
        ("google", "google/", "third_party"),
        ("index", "index.py", "app"),
        ("shop", "shop/", "app"),
        # Its name alone is no proof: in another folder it is somebody's own.
        ("flask", "elsewhere/flask/__init__.py", "app"),
        ("broken", "broken.py", "app"),
    ],
)
def test_installed_beside_the_app(name: str, file: str, owner: str, tmp_path: Path) -> None:
    """In a folder of ``pip install -t .`` what the installers' records name is third party, and the rest the app's."""
    for package, record in RECORDS.items():
        folder = tmp_path / f"{package}.dist-info"
        folder.mkdir()
        if record is not None:
            (folder / "RECORD").write_bytes(record)
    path = tmp_path / file
    each = from_folder(name, path) if file.endswith("/") else from_file(name, path)
    assert Origins().owner_of(each) == owner


def test_a_package_has_one_owner() -> None:
    """What was not found says nothing of its package; what was found says it for all of it."""
    known = Origins()
    assert known.owner_of(imported("shop.soap", None)) == "third_party"
    assert known.owner_of(from_file("shop", HERE / "shop" / "__init__.py")) == "app"
    assert known.owner_of(imported("shop.soap", None)) == "app"


class Loader:
    """Somebody's own."""


SOURCES: dict[str, tuple[Any, str]] = {
    "source": (SourceFileLoader("plain", "plain.py"), "cache"),
    "cache without source": (SourcelessFileLoader("plain", "plain.pyc"), "cache"),
    "extension": (ExtensionFileLoader("plain", "plain.so"), "extension"),
    "builtin": (BuiltinImporter, "builtin"),
    "frozen": (FrozenImporter, "frozen"),
    "namespace": (None, "namespace"),
    "another": (Loader(), "other"),
}


@pytest.mark.parametrize(("loader", "source"), SOURCES.values(), ids=SOURCES)
def test_sources(loader: Any, source: str) -> None:
    """The source is told from the loader."""
    assert source_of(imported("plain", ModuleSpec("plain", loader))) == source


def test_compiled() -> None:
    """Source that took time to compile did not come from the cache; a module without a spec came from nowhere."""
    each = imported("plain", ModuleSpec("plain", SourceFileLoader("plain", "plain.py")))
    each.compile_ns = 1
    assert (source_of(each), source_of(imported("plain", None))) == ("source", "nowhere")


def test_sources_of_real_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the import system really puts into specs is known: compiled files alone, zips, folders."""
    import zipfile

    imports.take_early()
    (tmp_path / "stone.py").write_text("")
    py_compile.compile(str(tmp_path / "stone.py"), cfile=str(tmp_path / "stone.pyc"), doraise=True)
    (tmp_path / "stone.py").unlink()
    (tmp_path / "meadow").mkdir()
    with zipfile.ZipFile(tmp_path / "box.zip", "w") as box:
        box.writestr("boxed.py", "")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path / "box.zip"))
    names = ("stone", "meadow", "boxed")
    recording = Recording()
    assert recording.open()
    try:
        for name in names:
            importlib.import_module(name)
    finally:
        recording.close()
        for name in names:
            sys.modules.pop(name, None)
        zipimport._zip_directory_cache.clear()  # type: ignore[attr-defined]  # else it outlives the file
    assert {each.name: source_of(each) for each in recording.roots} == {
        "stone": "cache",
        "meadow": "namespace",
        "boxed": "zip",
    }
    assert [Origins().owner_of(each) for each in recording.roots] == ["app", "app", "app"]


def node(name: str, self_ns: int, *children: Import, error: str | None = None, found: bool = True) -> Import:
    """Return an import of the app's that took so long without its children."""
    each = Import(name, None)
    each.children = list(children)
    for child in children:
        child.parent = each
    each.nested_ns = sum(child.total_ns for child in children)
    each.ended_ns = each.begun_ns + self_ns + each.nested_ns
    each.error = error
    if found:
        each.spec = importlib.util.spec_from_file_location(name, HERE / f"{name.replace('.', '/')}.py")
    return each


def test_sums() -> None:
    """Self times of a package add up; its total counts each moment once, though it is imported again below itself."""
    fruit = node("fruit", 1, node("plain", 20, node("fruit.plum", 300, node("soap", 4000))), node("fruit.pear", 50_000))
    again = node("fruit.late", 600_000)
    told = [
        (package.name, package.modules, package.self_ns, package.total_ns)
        for package in packages_of([fruit, again], Origins())
    ]
    assert told == [
        ("fruit", 4, 650_301, 654_321),
        ("soap", 1, 4000, 4000),
        ("plain", 1, 20, 4320),
    ]


def test_failures_cost() -> None:
    """An import that failed has taken its time, and is no module; equal times are in order of names."""
    packages = packages_of([node("soap", 5, error="ModuleNotFoundError", found=False), node("plain", 5)], Origins())
    assert [(each.name, each.owner, each.modules, each.self_ns) for each in packages] == [
        ("plain", "app", 1, 5),
        ("soap", "third_party", 0, 5),
    ]


def test_a_missing_submodule() -> None:
    """A package belongs to whom its modules do that were found, also when one that was not found comes first."""
    missing = node("fruit.soap", 5, node("fruit", 7), error="ModuleNotFoundError", found=False)
    (fruit,) = packages_of([missing], Origins())
    assert (fruit.owner, fruit.modules, fruit.total_ns) == ("app", 1, 12)


def test_loaded_by_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An app's package that has loaded the submodule itself that was asked for is still the app's."""
    imports.take_early()
    (tmp_path / "fruit").mkdir()
    (tmp_path / "fruit" / "__init__.py").write_text("from fruit import plum")
    (tmp_path / "fruit" / "plum.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    recording = Recording()
    assert recording.open()
    try:
        importlib.import_module("fruit.plum")
    finally:
        recording.close()
        for name in ("fruit", "fruit.plum"):
            sys.modules.pop(name, None)
    assert [Origins().owner_of(each) for each in recording.walk()] == ["app", "app", "app"]
    assert [package.owner for package in packages_of(recording.roots, Origins())] == ["app"]
