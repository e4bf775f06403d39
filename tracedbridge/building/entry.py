"""What the platform reads of a function: its entry module and its configuration, and the routes to all of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tracedbridge.building.functions import Function
    from tracedbridge.building.vendoring import Target

__all__ = ("MODULE", "VENDOR", "write", "write_routes")

MODULE = "tracedbridge_entry"
VENDOR = "_vendor"

# Both modes by one import: where VERCEL_IPC_PATH is set it serves and does not return.
_ENTRY = '''\
"""Made by `tracedbridge build`: what the platform imports, and calls where it talks by events."""

import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))
# The function's own files come before what it depends on.
for _folder in {folders!r}:
    _folder = os.path.join(_HERE, _folder) if _folder else _HERE
    if _folder in sys.path:
        sys.path.remove(_folder)
    sys.path.insert(0, _folder)
os.environ.setdefault("TRACEDBRIDGE_APP", {app})

from tracedbridge import vc_handler

__all__ = ("vc_handler",)
'''


def write(folder: Path, function: Function, target: Target) -> None:
    """Write a function's entry module and its ``.vc-config.json``."""
    # A file is where this one is, whatever the working directory, from which its name is told; a module is looked for.
    is_file = function.app.partition(":")[0].endswith(".py")
    app = f"os.path.relpath(os.path.join(_HERE, {function.app!r}))" if is_file else repr(function.app)
    folders = [VENDOR, "", *([function.folder] if function.folder else [])]
    folder.joinpath(f"{MODULE}.py").write_text(_ENTRY.format(folders=folders, app=app))
    config = {
        "runtime": f"python{target.python}",
        "handler": f"{MODULE}.vc_handler",
        "architecture": target.arch,
        "environment": {"PYTHONPATH": VENDOR, "PYTHONDONTWRITEBYTECODE": "1"},
        # Selects the mode that talks over a socket.
        "supportsResponseStreaming": True,
    }
    folder.joinpath(".vc-config.json").write_text(json.dumps(config, indent=2) + "\n")


def write_routes(tree: Path, functions: Sequence[Function]) -> None:
    """Write ``config.json``: files and functions by their paths, then patterns, then the app for all the rest."""
    routes: list[dict[str, Any]] = [{"handle": "filesystem"}]
    for function in functions:
        if (route := function.route) is not None:
            pattern, to = route
            routes.append({"src": pattern, "dest": to})
    paths = {function.path for function in functions}
    # api/index.py alone is an app of many routes, too.
    for path in ("index", "api/index"):
        if path in paths:
            routes.append({"src": "/(.*)", "dest": f"/{path}"})
            break
    tree.joinpath("config.json").write_text(json.dumps({"version": 3, "routes": routes}, indent=2) + "\n")
