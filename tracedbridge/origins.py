"""Where imported modules come from: whose they are, and from what they were loaded; asked after the imports."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tracedbridge.imports import Import

    Owner = Literal["app", "third_party", "stdlib"]
    Source = Literal["source", "cache", "extension", "builtin", "frozen", "namespace", "zip", "other", "nowhere"]

__all__ = ("Origins", "Package", "packages_of", "source_of")

_STDLIB_FOLDER = os.path.dirname(os.path.realpath(os.__file__))
# Where installers put what is not the app's own: pip, Debian, Vercel's and other builders' vendoring, Lambda's layers.
_FOLDERS_OF_OTHERS = frozenset(("site-packages", "dist-packages", "_vendor", "__pypackages__"))
_LAYERS = "/opt/python/"

_BY_LOADER: dict[str, Source] = {
    "BuiltinImporter": "builtin",
    "FrozenImporter": "frozen",
    "ExtensionFileLoader": "extension",
    "AppleFrameworkLoader": "extension",
    "NamespaceLoader": "namespace",
    "_NamespaceLoader": "namespace",
    "SourcelessFileLoader": "cache",
    "zipimporter": "zip",
}


class Package:
    """What one top-level package cost."""

    __slots__ = ("modules", "name", "owner", "self_ns", "total_ns")

    def __init__(self, name: str, owner: Owner) -> None:
        """Count nothing yet."""
        self.name = name
        self.owner = owner
        self.modules = 0
        # Its own modules; and everything that they imported, each moment counted once.
        self.self_ns = self.total_ns = 0


class Origins:
    """Tells whose modules are; looks at each package once."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._owners: dict[str, Owner] = {}
        self._installed: dict[str, frozenset[str]] = {}

    def owner_of(self, each: Import) -> Owner:
        """Return whose the module's top-level package is."""
        package = each.package
        owner = self._owners.get(package)
        if owner is None:
            owner = self._look(each)
            if each.spec is not None:
                # Without one the module was not found: another of its package may tell.
                self._owners[package] = owner
        return owner

    def _look(self, each: Import) -> Owner:
        place = _place_of(each.spec)
        if place is None:
            return "stdlib" if each.package in sys.stdlib_module_names else "third_party"
        if not _FOLDERS_OF_OTHERS.isdisjoint(place.split(os.sep)):
            return "third_party"
        # By place: an app may have a json.py of its own, and not every module there has a name that is listed.
        if place.startswith(_STDLIB_FOLDER + os.sep):
            return "stdlib"
        if place.startswith(_LAYERS):
            return "third_party"
        folder = _folder_of_package(place, each.name)
        if folder not in self._installed:
            self._installed[folder] = frozenset(_installed_in(folder))
        return "third_party" if each.package in self._installed[folder] else "app"


def source_of(each: Import) -> Source:
    """Return from what a module was loaded; source that had to be compiled is told from what was in the cache."""
    spec = each.spec
    if spec is None:
        return "nowhere"
    loader = getattr(spec, "loader", None)
    if loader is None:
        return "namespace"
    name = loader.__name__ if isinstance(loader, type) else type(loader).__name__
    if name == "SourceFileLoader":
        return "source" if each.compile_ns else "cache"
    return _BY_LOADER.get(name, "other")


def packages_of(imports: Iterable[Import], origins: Origins) -> list[Package]:
    """Return what each top-level package cost, the dearest first; ``imports`` are the outermost ones."""
    packages: dict[str, Package] = {}
    waiting: list[tuple[Import, frozenset[str]]] = [(each, frozenset()) for each in imports]
    while waiting:
        each, above = waiting.pop()
        package = packages.get(each.package)
        if package is None or (each.spec is not None and not package.modules):
            # The first of its modules that was found tells whose it is; one that was not found may come before.
            owner = origins.owner_of(each)
            if package is None:
                package = packages[each.package] = Package(each.package, owner)
            package.owner = owner
        package.modules += each.error is None
        package.self_ns += each.self_ns
        if each.package not in above:
            package.total_ns += each.total_ns
            above |= {each.package}
        waiting.extend((child, above) for child in each.children)
    return sorted(packages.values(), key=lambda package: (-package.self_ns, package.name))


def _place_of(spec: Any) -> str | None:
    origin = getattr(spec, "origin", None)
    if getattr(spec, "has_location", False) and isinstance(origin, str):
        return os.path.realpath(origin)
    # A namespace package has folders only.
    for folder in getattr(spec, "submodule_search_locations", None) or ():
        return os.path.join(os.path.realpath(folder), "__init__.py")
    return None


def _folder_of_package(place: str, name: str) -> str:
    """Return the folder that the top-level package of a module is in."""
    folder = os.path.dirname(place) if os.path.basename(place).startswith("__init__.") else place
    for _ in name.split("."):
        folder = os.path.dirname(folder)
    return folder


def _installed_in(folder: str) -> Iterator[str]:
    """Yield the packages that an installer put into a folder: `pip install -t .` mixes them with the app."""
    try:
        entries = os.listdir(folder)
    except OSError:
        return
    for entry in entries:
        if not entry.endswith(".dist-info"):
            continue
        try:
            with open(os.path.join(folder, entry, "RECORD"), encoding="utf-8") as record:
                lines = record.readlines()
        except (OSError, ValueError):
            continue
        for line in lines:
            # "flask/app.py,sha256=…,123", "six.py,…"; the first part is the top-level name.
            yield line.partition(",")[0].partition("/")[0].removesuffix(".py").partition(".")[0]
