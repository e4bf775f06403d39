"""Event formats: one module each, found by asking them in turn."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from tracedbridge.messages import Event
    from tracedbridge.protocols import EventFormat

__all__ = ("FORMATS", "format_of", "load_likely", "trigger_of")

# A new format is one module and one line here. No event is of two of them.
FORMATS = (
    "tracedbridge.events.vercel",
    "tracedbridge.events.apigw_v2",
    "tracedbridge.events.apigw_v1",
    "tracedbridge.events.alb",
)

# By name; these are asked before the others are loaded.
_loaded: dict[str, EventFormat] = {}


def load_likely() -> None:
    """Import the format that is likely to come here, before the app: the others wait for the first event of theirs."""
    is_lambda = "AWS_LAMBDA_FUNCTION_NAME" in os.environ and not os.environ.get("VERCEL")
    _load(FORMATS[1 if is_lambda else 0])


def format_of(event: Event) -> EventFormat:
    """
    Return the format of an event.

    Raises:
        EventError: No format knows the event; the message says what it is, if that is known.
    """
    for event_format in _loaded.values():
        if event_format.matches(event):
            return event_format
    for name in FORMATS:
        if name not in _loaded and _load(name).matches(event):
            return _loaded[name]
    from tracedbridge.events.others import refusal

    raise refusal(event)


def _load(name: str) -> EventFormat:
    event_format = cast("EventFormat", import_module(name))
    # Anew, and not changed: another thread may be going through it.
    global _loaded
    _loaded = {**_loaded, name: event_format}
    return event_format


def trigger_of(event: Event) -> str:
    """Return what has caused an event that is no request, as ``faas.trigger`` has it."""
    from tracedbridge.events import others

    return others.trigger_of(event)
