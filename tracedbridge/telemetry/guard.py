"""Keeps telemetry's own failures away from the bridge: told on stderr, the first of each kind, and swallowed."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import ParamSpec

    _P = ParamSpec("_P")

__all__ = ("harmless",)

# Where and what; a hook that fails on every invocation must not fill the log.
_told: set[tuple[str, str]] = set()


def harmless(hook: Callable[_P, None]) -> Callable[_P, None]:
    """Return the hook so that no exception leaves it; SystemExit and KeyboardInterrupt do."""

    @functools.wraps(hook)
    def guarded(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            hook(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - telemetry can never break the program
            _tell(hook.__qualname__, error)

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
