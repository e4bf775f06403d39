"""Event formats: one module each, found by asking them in turn."""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from tracedbridge.messages import Event
    from tracedbridge.protocols import EventFormat

__all__ = ("FORMATS", "format_of", "load_formats", "trigger_of")

# A new format is one module and one line here. No event is of two of them.
FORMATS = (
    "tracedbridge.events.vercel",
    "tracedbridge.events.apigw_v2",
    "tracedbridge.events.apigw_v1",
    "tracedbridge.events.alb",
)


@cache
def load_formats() -> tuple[EventFormat, ...]:
    """Import the formats that may come here, and return them: on Vercel only its own, elsewhere all."""
    names = FORMATS[:1] if os.environ.get("VERCEL") else FORMATS
    return tuple(cast("EventFormat", import_module(name)) for name in names)


def format_of(event: Event) -> EventFormat:
    """
    Return the format of an event.

    Raises:
        EventError: No format knows the event; the message says what it is, if that is known.
    """
    for event_format in load_formats():
        if event_format.matches(event):
            return event_format
    from tracedbridge.events.others import refusal

    raise refusal(event)


def trigger_of(event: Event) -> str:
    """Return what has caused an event that is no request, as ``faas.trigger`` has it."""
    from tracedbridge.events import others

    return others.trigger_of(event)
