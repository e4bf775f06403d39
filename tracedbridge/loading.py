"""Finds and imports the user's app, and says clearly what is wrong when that fails."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

from tracedbridge.errors import AppImportError, AppKindError, AppNotFoundError, SelfLoadError
from tracedbridge.imports import import_system, importing
from tracedbridge.kinds import is_handler_class, kind_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from tracedbridge.messages import Kind

__all__ = ("import_app", "resolve_app")

_FORMS = "'path/to/file.py', 'path/to/file.py:variable' or 'package.module:variable'"


def import_app(name: str) -> tuple[ModuleType, str | None]:
    """
    Import the module that a ``TRACEDBRIDGE_APP`` names.

    Args:
        name: ``path/to/file.py``, ``path/to/file.py:variable`` or ``package.module:variable``.

    Returns:
        The module, and the variable if one was named.

    Raises:
        AppNotFoundError: There is no such file or module, or the name is of no such form.
        AppImportError: The module raised; that exception is the cause.
        SelfLoadError: The file is being imported right now: it is the one that asks.
    """
    place, variable = _split(name)
    if place.endswith(".py") or os.sep in place:
        return _import_file(name, place), variable
    if not all(part.isidentifier() for part in place.split(".")):
        raise AppNotFoundError(f"could not load app {name!r}: it is none of {_FORMS}; set TRACEDBRIDGE_APP")
    return _import_module(name, place), variable


def resolve_app(name: str, module: ModuleType, variable: str | None) -> tuple[Callable[..., Any], Kind]:
    """
    Find the app in its module, and its kind.

    Without a variable: ``handler`` or ``Handler`` if it is a ``BaseHTTPRequestHandler`` class, then ``app``,
    ``application``, then ``handler`` if it is ASGI or WSGI.

    Raises:
        AppNotFoundError: There is no such variable.
        AppKindError: What was found is no app.
    """
    if variable is not None:
        found: Any = module
        for part in variable.split("."):
            try:
                found = getattr(found, part)
            except AttributeError:
                raise AppNotFoundError(
                    f"could not load app {name!r}: {module.__name__!r} has no attribute {variable!r} "
                    f"(found: {_candidates(module)})"
                ) from None
        return found, kind_of(found)
    for attribute in ("handler", "Handler"):
        if is_handler_class(vars(module).get(attribute)):
            return vars(module)[attribute], "http_server"
    refused: AppKindError | None = None
    for attribute in ("app", "application", "handler"):
        if (found := getattr(module, attribute, None)) is not None:
            try:
                return found, kind_of(found)
            except AppKindError as error:
                refused = refused or AppKindError(f"could not load app {name!r}: {attribute!r}: {error}")
    if refused is not None:
        raise refused
    raise AppNotFoundError(
        f"could not load app {name!r}: {module.__name__!r} has no 'app', 'application', 'handler' or 'Handler' "
        f"(found: {_candidates(module)}); name it: TRACEDBRIDGE_APP={name}:variable"
    )


def _split(name: str) -> tuple[str, str | None]:
    place, colon, variable = name.rpartition(":")
    if not colon:
        return name, None
    if not place or not variable or not all(part.isidentifier() for part in variable.split(".")):
        raise AppNotFoundError(f"could not load app {name!r}: it is none of {_FORMS}; set TRACEDBRIDGE_APP")
    return place, variable


def _import_file(name: str, place: str) -> ModuleType:
    path = os.path.realpath(place)
    if not os.path.isfile(path):
        raise AppNotFoundError(
            f"could not load app {name!r}: no file {path!r}; set TRACEDBRIDGE_APP to one of {_FORMS}"
        )
    _refuse_own_import(name, path)
    # By name first: to resolve the links of 600 files takes 8 ms.
    file_names = (os.path.basename(place), os.path.basename(path))
    for loaded in list(sys.modules.values()):
        file = getattr(loaded, "__file__", None)
        if isinstance(file, str) and file.endswith(file_names) and os.path.realpath(file) == path:
            # Somebody has loaded it whole: a second copy would be a second app.
            return loaded
    folder, stem = os.path.dirname(path), os.path.basename(path).removesuffix(".py")
    _put_on_path(folder)
    # "index" for api/index.py, as it would be imported; another name where that one is taken.
    is_taken = stem in sys.modules or stem in sys.stdlib_module_names
    module_name = f"{stem} of {folder}" if is_taken else stem
    # What importlib.util offers as its own; to import that takes as long as three modules of ours.
    bootstrap, external = import_system()
    spec = external.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise AppNotFoundError(f"could not load app {name!r}: {path!r} is no Python file")
    module: ModuleType = bootstrap.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        with importing(module_name, spec):
            spec.loader.exec_module(module)
    except BaseException as error:
        sys.modules.pop(module_name, None)
        if isinstance(error, Exception) and not isinstance(error, SelfLoadError):
            raise _import_failure(name, error) from error
        # SystemExit and KeyboardInterrupt go through.
        raise
    # A module may put another object in its place, as `import` allows.
    return sys.modules.get(module_name, module)


def _import_module(name: str, place: str) -> ModuleType:
    _put_on_path(os.getcwd())
    loaded = sys.modules.get(place)
    if loaded is not None and (file := getattr(loaded, "__file__", None)):
        _refuse_own_import(name, os.path.realpath(file))
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name and (place == error.name or place.startswith(error.name + ".")):
            raise AppNotFoundError(
                f"could not load app {name!r}: no module {error.name!r} in {os.getcwd()!r} or on sys.path; "
                f"set TRACEDBRIDGE_APP to one of {_FORMS}"
            ) from None
        raise _import_failure(name, error) from error
    except SelfLoadError:
        raise
    except Exception as error:
        raise _import_failure(name, error) from error


def _import_failure(name: str, error: Exception) -> AppImportError:
    return AppImportError(f"could not load app {name!r}: its import raised {type(error).__name__}: {error}")


def _refuse_own_import(name: str, path: str) -> None:
    # Whoever imports it (a platform's loader, `python index.py`) runs its module frame below us.
    frame = sys._getframe()
    while frame is not None:
        code = frame.f_code
        if (
            code.co_name == "<module>"
            and code.co_filename.endswith(".py")
            and os.path.realpath(code.co_filename) == path
        ):
            stem = os.path.basename(path)
            raise SelfLoadError(
                f"could not load app {name!r}: {stem!r} is being imported right now and is the one that imports "
                f"vc_handler; write 'vc_handler = tracedbridge.create_bridge(app)' at its end instead, or move the "
                f"import to a file of its own and set TRACEDBRIDGE_APP={stem}"
            )
        frame = frame.f_back  # type: ignore[assignment]  # None ends the loop


def _put_on_path(folder: str) -> None:
    # First and for good, as Python does for a script: requests import lazily, too.
    if folder not in sys.path:
        sys.path.insert(0, folder)


def _candidates(module: ModuleType) -> str:
    names = [key for key, value in vars(module).items() if not key.startswith("_") and callable(value)]
    return ", ".join(names[:12]) or "nothing that can be called"
