"""Finds the functions of a project: the files that have an app, and where each is served."""

from __future__ import annotations

import ast
import os
import re
import tomllib
from typing import TYPE_CHECKING, Any, NamedTuple

from tracedbridge.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ("Function", "find_functions", "project_table")

_NAMES = frozenset(("app", "application", "handler", "Handler"))

# Of TRACEDBRIDGE_APP.
_DEFAULT = "index.py"

# Where Vercel looks for the app of a project, in this order.
_STEMS = ("app", "index", "server", "main", "wsgi", "asgi")
_PLACES = ("", "src", "app")

# "[id]" in a path below api/ stands for any one segment.
_SEGMENT = re.compile(r"\[([A-Za-z_][A-Za-z0-9_]*)\]")
_PLAIN = re.compile(r"[A-Za-z0-9_.~-]+")


class Function(NamedTuple):
    """One function to build."""

    # Of the output, and of the URL: "index", "api/users", "api/[id]".
    path: str
    # TRACEDBRIDGE_APP: a file relative to the function's folder, or a module, and perhaps its variable.
    app: str
    # That has to be on sys.path for a module; relative to the function's folder.
    folder: str = ""

    @property
    def route(self) -> tuple[str, str] | None:
        """The pattern of its URLs and what they lead to; None if its URL is its path."""
        parts = self.path.split("/")
        names = [match[1] for part in parts if (match := _SEGMENT.fullmatch(part))]
        if not names:
            return None
        pattern = "/".join("([^/]+)" if _SEGMENT.fullmatch(part) else re.escape(part) for part in parts)
        query = "&".join(f"{name}=${number}" for number, name in enumerate(names, 1))
        return f"^/{pattern}$", f"/{self.path}?{query}"


def find_functions(project: Path, entrypoint: str | None) -> list[Function]:
    """
    Return the functions of a project, without importing any of it.

    That is the entrypoint (the one given, else ``[tool.vercel] entrypoint`` of pyproject.toml, else the first of
    Vercel's usual places that has an app) at ``index``, and each file below ``api/`` that has one at its path.

    Args:
        project: Its folder, without symbolic links in its path.
        entrypoint: ``FILE`` or ``FILE:variable``, relative to the project or to the working directory.

    Raises:
        Refusal: There is none, or what was named is none.
    """
    named = None if entrypoint is None else _of_file(project, entrypoint)
    told = _told(project) if named is None else None
    if named is not None:
        return [named]
    if told is not None:
        return [told]
    found = [_usual(project), *_below_api(project)]
    functions = [function for function in found if function is not None]
    if not functions:
        places = ", ".join(f"{stem}.py" for stem in _STEMS)
        raise Refusal(
            f"found no app to build in {str(project)!r}: none of {places} (there, in src/ or in app/) and no file in "
            f"api/ has an app, application, handler or Handler; name it: --entrypoint FILE[:variable], or "
            '[tool.vercel] entrypoint = "package.module:app" in pyproject.toml'
        )
    return functions


def project_table(project: Path) -> dict[str, Any]:
    """
    Return pyproject.toml; empty if there is none.

    Raises:
        Refusal: It cannot be read.
    """
    file = project / "pyproject.toml"
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise Refusal(f"could not read {str(file)!r}: {error}") from None


def _of_file(project: Path, entrypoint: str) -> Function:
    place, colon, variable = entrypoint.partition(":")
    if colon and not _is_variable(variable):
        raise Refusal(f"--entrypoint {entrypoint!r}: expected FILE or FILE:variable", 2)
    for candidate in (project / place, place):
        path = os.path.realpath(candidate)
        if os.path.isfile(path):
            break
    else:
        raise Refusal(f"--entrypoint {entrypoint!r}: no such file in {str(project)!r}", 2)
    if not path.startswith(f"{project}{os.sep}"):
        raise Refusal(f"--entrypoint {entrypoint!r}: {path!r} is not in {str(project)!r}, the folder that is built", 2)
    return _function(project, project / os.path.relpath(path, project), "index", variable)


def _told(project: Path) -> Function | None:
    tool = project_table(project).get("tool")
    vercel = tool.get("vercel") if isinstance(tool, dict) else None
    told = vercel.get("entrypoint") if isinstance(vercel, dict) else None
    if told is None:
        return None
    where = f"[tool.vercel] entrypoint = {told!r} in pyproject.toml"
    module, _, variable = str(told).partition(":")
    parts = module.split(".")
    if not all(part.isidentifier() for part in parts) or not _is_variable(variable):
        raise Refusal(f'{where}: expected "package.module:variable"')
    for base in (project, project / "src"):
        for file in (base.joinpath(*parts).with_suffix(".py"), base.joinpath(*parts, "__init__.py")):
            if file.is_file():
                return _function(project, file, "index", variable)
    raise Refusal(f"{where}: there is no such module in {str(project)!r}, nor in its src/")


def _usual(project: Path) -> Function | None:
    for place in _PLACES:
        for stem in _STEMS:
            file = project / place / f"{stem}.py"
            if file.is_file() and _has_app(file):
                return _function(project, file, "index", "")
    return None


def _below_api(project: Path) -> Iterator[Function]:
    for file in sorted((project / "api").rglob("*.py")):
        parts = file.relative_to(project).with_suffix("").parts
        if any(part.startswith(("_", ".")) for part in parts) or not _has_app(file):
            continue
        for part in parts:
            if not (_PLAIN.fullmatch(part) or _SEGMENT.fullmatch(part)):
                raise Refusal(
                    f"{str(file.relative_to(project))!r} has an app, but {part!r} is no part of a URL that a function "
                    "can have: letters, digits, . _ ~ - or one [name]; rename it"
                )
        yield _function(project, file, "/".join(parts), "")


def _function(project: Path, file: Path, path: str, variable: str) -> Function:
    if _is_ours(file):
        return Function(path, _app_of_ours(project, file))
    relative = file.relative_to(project)
    suffix = f":{variable}" if variable else ""
    if not (file.parent / "__init__.py").is_file():
        return Function(path, relative.as_posix() + suffix)
    # A file of a package may import its neighbours by a leading dot.
    top = file.parent
    while top != project and (top / "__init__.py").is_file():
        top = top.parent
    parts = file.relative_to(top).with_suffix("").parts
    module = ".".join(part for part in parts if part != "__init__")
    if not all(part.isidentifier() for part in module.split(".")):
        return Function(path, relative.as_posix() + suffix)
    folder = top.relative_to(project).as_posix()
    return Function(path, module + suffix, "" if folder == "." else folder)


def _is_ours(file: Path) -> bool:
    """Say whether a module is an entry of ours, which names no app: ``from tracedbridge import vc_handler``."""
    return any(
        isinstance(node, ast.ImportFrom)
        and node.module == "tracedbridge"
        and any(alias.name == "vc_handler" for alias in node.names)
        for node in _body(file)
    )


def _app_of_ours(project: Path, file: Path) -> str:
    if not (project / _DEFAULT).is_file():
        raise Refusal(
            f"{str(file)!r} imports vc_handler, which serves {_DEFAULT!r} by default, and there is none in "
            f"{str(project)!r}; name the app: --entrypoint FILE[:variable]"
        )
    return _DEFAULT


def _body(file: Path) -> list[ast.stmt]:
    try:
        return ast.parse(file.read_bytes(), str(file)).body
    except (SyntaxError, ValueError) as error:
        raise Refusal(f"could not read {str(file)!r}: {error}") from None


def _has_app(file: Path) -> bool:
    """Say whether a module defines an app at its top level, or below an ``if`` or ``try`` there, or imports one."""
    waiting: list[ast.AST] = list(_body(file))
    while waiting:
        node = waiting.pop()
        if not _NAMES.isdisjoint(_bound_by(node)):
            return True
        if isinstance(node, ast.If | ast.Try | ast.With | ast.ExceptHandler):
            waiting.extend(ast.iter_child_nodes(node))
    return False


def _bound_by(node: ast.AST) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign) and node.value is not None:
        targets = [node.target]
    return {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}


def _is_variable(text: str) -> bool:
    return bool(text) and all(part.isidentifier() for part in text.split("."))
