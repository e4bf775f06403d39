"""Event formats: one module each, found by asking them in turn."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tracedbridge.errors import EventError

if TYPE_CHECKING:
    from tracedbridge.messages import Event, EventFormat

__all__ = ("FORMATS", "format_of")

# A new format is one module and one line here.
FORMATS = ("tracedbridge.events.vercel",)
_loaded: list[Any] = []


def format_of(event: Event) -> EventFormat:
    """
    Return the format of an event.

    Raises:
        EventError: No format knows the event.
    """
    if not _loaded:
        _loaded.extend(map(import_module, FORMATS))
    for event_format in _loaded:
        if event_format.matches(event):
            found: EventFormat = event_format
            return found
    raise EventError(f"cannot read event {_describe(event)}: expected a Vercel event, {{'body': '<JSON text>'}}")


def _describe(event: Event) -> str:
    # Names only: values may be secrets.
    if isinstance(event, dict):
        return f"with keys {sorted(map(str, event))[:20]}"
    return f"of type {type(event).__name__}"
