"""
Writes what ``vercel deploy --prebuilt`` takes: a Build Output API v3 tree whose functions are served by us.

Source: Vercel's Build Output API v3, as of November 2026.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tracedbridge.building import bytecode, entry, sizes, vendoring
from tracedbridge.building.files import user_files
from tracedbridge.building.functions import find_functions
from tracedbridge.building.tree import new_tree
from tracedbridge.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracedbridge.building.functions import Function
    from tracedbridge.building.sizes import Size
    from tracedbridge.building.vendoring import Target

__all__ = ("Built", "Order", "build")

# Served by the platform itself, as its own builds have it.
_STATIC = "public"


class Order(NamedTuple):
    """What to build."""

    project: Path
    output: Path
    target: Target
    # A file and, after a colon, its variable; None looks for the functions.
    entrypoint: str | None = None
    # "uv" or "pip"; None takes uv where it is present.
    installer: str | None = None
    # What is installed as tracedbridge: a requirement, a wheel, a folder of its source; None is this very one.
    tracedbridge: str | None = None


class Built(NamedTuple):
    """What was built."""

    functions: dict[Function, Size]
    installer: str
    # By which interpreter; None where there is no bytecode.
    compiled_by: str | None


def build(order: Order, say: Callable[[str], None]) -> Built:
    """
    Build all functions of a project, and put them in the place of the output that was there.

    Args:
        order: What to build. Nothing outside its ``output`` is written.
        say: Is told, one line at a time, what the user should know.

    Raises:
        Refusal: It cannot be built; the message says what to do. The old output stays.
    """
    project, output = Path(os.path.realpath(order.project)), Path(os.path.abspath(order.output))
    functions = find_functions(project, order.entrypoint)
    with new_tree(project, output) as tree:
        files = user_files(project, leave_out=(output, tree))
        _refuse_our_names(files)
        static = [file for file in files if file.parts[0] == _STATIC]
        _copy(project, static, tree / "static", drop=1)
        files = [file for file in files if file.parts[0] != _STATIC]
        # Once for all functions, and linked into each.
        shared = tree / ".shared"
        shared.mkdir()
        _copy(project, files, shared)
        used = vendoring.vendor(order, project, shared / entry.VENDOR, say)
        compiled_by = bytecode.compile_all(shared, order.target, say)
        for function in functions:
            folder = _folder_of(tree, function)
            shutil.copytree(shared, folder, copy_function=_link)
            entry.write(folder, function, order.target)
        shutil.rmtree(shared)
        if compiled_by is not None:
            bytecode.compile_by(compiled_by, tree, sorted(tree.rglob(f"{entry.MODULE}.py")), say)
        built = {function: sizes.size_of(_folder_of(tree, function)) for function in functions}
        entry.write_routes(tree, functions)
    return Built(built, used, compiled_by)


def _folder_of(tree: Path, function: Function) -> Path:
    return tree / "functions" / f"{function.path}.func"


def _copy(project: Path, files: list[Path], into: Path, drop: int = 0) -> None:
    for file in files:
        place = into.joinpath(*file.parts[drop:])
        place.parent.mkdir(parents=True, exist_ok=True)
        # What a link within the project points at; with its mode and time.
        shutil.copy2(project / file, place)


def _refuse_our_names(files: list[Path]) -> None:
    for name in (entry.VENDOR, entry.MODULE + ".py"):
        if any(file.parts[0] == name for file in files):
            raise Refusal(
                f"could not build: the project has a {name!r}, which is the name of what is built here; rename it, or "
                "leave it out by .vercelignore"
            )


def _link(source: str, place: str) -> str:
    try:
        os.link(source, place)
    except OSError:
        # Not every file system has hard links.
        shutil.copy2(source, place)
    return place
