"""
The entrypoint of a Python function: loads an app, answers the platform's events, and traces what happens.

    from tracedbridge import vc_handler

AWS Lambda is told ``tracedbridge.handler``, which is the same. Names are resolved when they are first asked for; asking
for one of these loads the app of ``TRACEDBRIDGE_APP``.
"""

from __future__ import annotations

import os as _os
import threading
from importlib import import_module
from typing import TYPE_CHECKING, Any

# First: its import is the first mark of the cold start.
from tracedbridge import boot as _boot

if TYPE_CHECKING:
    from tracedbridge.bridge import Bridge
    from tracedbridge.create import create_bridge
    from tracedbridge.errors import (
        AppImportError,
        AppKindError,
        AppNotFoundError,
        AppProtocolError,
        BadRequestError,
        BridgeClosedError,
        DeadlineError,
        EventError,
        LoadError,
        SelfLoadError,
        ShutdownError,
        StartupError,
        TracedBridgeError,
    )
    from tracedbridge.instrumented import instrument

    vc_handler: Bridge
    handler: Bridge

__version__ = "0.1.0"

# Without vc_handler and handler: a star import starts nothing.
__all__ = (
    "AppImportError",
    "AppKindError",
    "AppNotFoundError",
    "AppProtocolError",
    "BadRequestError",
    "Bridge",
    "BridgeClosedError",
    "DeadlineError",
    "EventError",
    "LoadError",
    "SelfLoadError",
    "ShutdownError",
    "StartupError",
    "TracedBridgeError",
    "create_bridge",
    "instrument",
)

_HOMES = {
    "Bridge": "tracedbridge.bridge",
    "create_bridge": "tracedbridge.create",
    "instrument": "tracedbridge.instrumented",
    **{name: "tracedbridge.errors" for name in __all__ if name.endswith("Error")},
}

# Reentrant: an app that asks for vc_handler while it is loaded by it gets an error, not a deadlock.
_loading = threading.RLock()


def __getattr__(name: str) -> Any:
    if name in ("vc_handler", "handler"):
        if "VERCEL_IPC_PATH" in _os.environ:
            # Whoever asks for it there wants the server, and nothing after it.
            import_module("tracedbridge.serving.ipc").serve()
        with _loading:
            if name not in globals():
                bridge = import_module("tracedbridge.create").load_bridge()
                globals().update(vc_handler=bridge, handler=bridge)
        return globals()[name]
    if name in _HOMES:
        value = globals()[name] = getattr(import_module(_HOMES[name]), name)
        if name in ("create_bridge", "instrument"):
            _record_imports()
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _record_imports() -> None:
    """Record from now on what is imported: whoever asks for one of these imports his app next."""
    off = ("off", "0", "false", "no")
    asked = (_os.environ.get(f"TRACEDBRIDGE_{name}", "").strip().lower() for name in ("TELEMETRY", "IMPORTS"))
    if _boot.is_young() and not any(each in off for each in asked):
        import_module("tracedbridge.imports").open_early(_boot.MAX_LOAD_NS)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
