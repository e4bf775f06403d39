"""Lines on stdout, whole, and the JSON in them."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import MutableMapping

__all__ = ("Stdout", "is_terminal", "serialize")


class Stdout:
    """Writes a line to whatever sys.stdout is now, whole, and never raises."""

    def msg(self, message: str) -> None:
        """Write one line."""
        try:
            sys.stdout.write(message + "\n")
            sys.stdout.flush()
        except Exception:  # noqa: BLE001 - closed, broken, None: a lost line must not cost a response
            return

    log = debug = info = warn = warning = error = critical = exception = fatal = msg


def is_terminal() -> bool:
    """Say whether people read stdout as it is written."""
    try:
        return sys.stdout.isatty()
    except (AttributeError, ValueError):
        return False


def serialize(event: MutableMapping[str, Any], **_: Any) -> str:
    """Return a line's fields as JSON."""
    return _encode(event)


def _shown(value: Any) -> Any:
    # As structlog's own: what JSON does not know is shown all the same.
    shown = getattr(value, "__structlog__", None)
    return repr(value) if shown is None else shown()


# json.dumps() with a `default` makes an encoder each time, a third of what the line costs.
_encode = json.JSONEncoder(default=_shown).encode
