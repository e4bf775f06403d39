"""
Takes over from Vercel's own runtime, where that has imported us: as the entrypoint of a project that Vercel builds.

It has connected to the platform by then, which hears one connection, and has put its own hands on the output.

Source: vercel-runtime 0.24.1, ``vc_init.py``.
"""

from __future__ import annotations

import builtins
import logging
import socket
import sys
from typing import Any

__all__ = ("taken_over",)

_RUNTIME = "vercel_runtime.vc_init"


def taken_over() -> socket.socket | None:
    """Return the connection of Vercel's runtime to its platform, which is ours from now on; None if it has none."""
    runtime: Any = sys.modules.get(_RUNTIME)
    connection = getattr(runtime, "_ipc_sock", None)
    if not isinstance(connection, socket.socket):
        return None
    try:
        connection.getpeername()
    except OSError:
        # It tries once, and says nothing where that fails.
        return None
    # It sends nothing without one.
    runtime._ipc_sock = None
    _give_output_back(runtime)
    return connection


def _give_output_back(runtime: Any) -> None:
    for handler in list(logging.root.handlers):
        if type(handler).__module__ == _RUNTIME:
            logging.root.removeHandler(handler)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if type(stream).__module__ == _RUNTIME:
            setattr(sys, name, stream.stream)
    code = getattr(builtins.print, "__code__", None)
    if code is not None and code.co_filename == runtime.__file__:
        builtins.print = builtins.print.__wrapped__  # type: ignore[attr-defined]  # functools.wraps left it there
