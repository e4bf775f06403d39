"""
Telemetry: the only folder that may import opentelemetry or structlog.

`tracedbridge.create` asks for it by name, when it is on; nobody else does. What fails in here stays in here: it is
told on stderr, the first of each kind, and swallowed.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import ParamSpec

    from tracedbridge.boot import ColdStart
    from tracedbridge.protocols import Telemetry
    from tracedbridge.settings import Settings

    _P = ParamSpec("_P")

__all__ = ("create", "harmless")

# Where and what; a hook that fails on every invocation must not fill the log.
_told: set[tuple[str, str]] = set()


def create(settings: Settings, cold_start: ColdStart, app: str) -> Telemetry:
    """
    Return what watches a bridge.

    Args:
        settings: Read already.
        cold_start: The bridge's boot record, which goes on being written.
        app: The app's file or module, without its variable.
    """
    from tracedbridge.telemetry.middleware import Middleware

    return Middleware(settings, cold_start, app)


def harmless(hook: Callable[_P, None]) -> Callable[_P, None]:
    """Return the hook so that no exception leaves it; SystemExit and KeyboardInterrupt do."""

    def guarded(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            hook(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - telemetry can never break the program
            _tell(hook.__qualname__, error)

    # Not functools.wraps: a dozen of these are made in each cold start.
    guarded.__name__, guarded.__qualname__, guarded.__doc__ = hook.__name__, hook.__qualname__, hook.__doc__
    return guarded


def _tell(where: str, error: Exception) -> None:
    # Not before it is needed: this module is loaded in every cold start.
    from tracedbridge.telemetry.failures import message_of

    what = (where, type(error).__name__)
    if what in _told:
        return
    _told.add(what)
    try:
        sys.stderr.write(f"tracedbridge: telemetry failed in {where}: {type(error).__name__}: {message_of(error)}\n")
    except (OSError, ValueError, AttributeError):
        # stderr is closed, broken or None: nobody is left to tell.
        return
