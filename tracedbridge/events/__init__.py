"""Event formats: one module each, found by asking them in turn."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, cast

from tracedbridge.errors import EventError

if TYPE_CHECKING:
    from tracedbridge.messages import Event
    from tracedbridge.protocols import EventFormat

__all__ = ("FORMATS", "format_of", "load_formats")

# A new format is one module and one line here.
FORMATS = ("tracedbridge.events.vercel",)


@cache
def load_formats() -> tuple[EventFormat, ...]:
    """Import all formats and return them."""
    return tuple(cast("EventFormat", import_module(name)) for name in FORMATS)


def format_of(event: Event) -> EventFormat:
    """
    Return the format of an event.

    Raises:
        EventError: No format knows the event.
    """
    for event_format in load_formats():
        if event_format.matches(event):
            return event_format
    raise EventError(f"cannot read event {_describe(event)}: expected a Vercel event, {{'body': '<JSON text>'}}")


def _describe(event: Event) -> str:
    # Names only: values may be secrets.
    if isinstance(event, dict):
        return f"with keys {sorted(map(str, event))[:20]}"
    return f"of type {type(event).__name__}"
