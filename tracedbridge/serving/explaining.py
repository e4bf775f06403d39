"""
Says why an app could not be started, or did not answer, as its developer wants to read it.

At its top it imports only what every Python has loaded: the children of our commands load it before the app.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ("explanation",)

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def explanation(error: BaseException, what: str) -> str:
    """
    Return the app's traceback, if it has one, and the reason in a line.

    Args:
        error: What was raised; KeyboardInterrupt is raised again.
        what: What could not be done, as a sentence begins.
    """
    from tracedbridge.errors import LoadError, TracedBridgeError

    if isinstance(error, KeyboardInterrupt):
        raise error
    shown = ""
    if isinstance(error, TracedBridgeError):
        if error.__cause__ is not None:
            shown = _traceback_of(error.__cause__)
        # A LoadError begins with what could not be done, too.
        reason = str(error) if isinstance(error, LoadError) else f"{what}: {error}"
    elif isinstance(error, SystemExit):
        reason = f"{what}: the app called sys.exit({error.code!r})"
    else:
        shown = _traceback_of(error)
        reason = f"{what}: the app raised {type(error).__name__}; see the traceback above"
    return f"{shown}tracedbridge: {reason}\n"


def _traceback_of(error: BaseException) -> str:
    """Return an app's exception as Python shows it, without the frames that are ours or the import system's."""
    import traceback

    first = error.__traceback__
    entry: TracebackType | None = first
    while entry is not None:
        if entry.tb_frame.f_code.co_filename.startswith(_PACKAGE):
            first = entry.tb_next
        entry = entry.tb_next
    while first is not None and first.tb_frame.f_code.co_filename.startswith("<frozen importlib"):
        first = first.tb_next
    return "".join(traceback.format_exception(error.with_traceback(first)))
