"""What the shops do in a request and before the first one: spans, stdlib lines and structlog lines."""

from __future__ import annotations

import logging

import structlog
from opentelemetry import trace

__all__ = ("look_up", "open_shop")

_tracer = trace.get_tracer("shop")
_lines = structlog.get_logger("shop")
_logger = logging.getLogger("shop")


def open_shop() -> None:
    """Make a span and a line; for lifespan startup."""
    with _tracer.start_as_current_span("open the shop"):
        _logger.warning("the shop opens")


def look_up(item: int) -> dict[str, int]:
    """
    Make a span with an attribute, an event and two lines.

    Raises:
        ValueError: The item is 0.
    """
    with _tracer.start_as_current_span("look up", attributes={"shop.item": item}) as span:
        _logger.warning("looking up %d", item)
        _lines.info("looked up", item=item)
        span.add_event("found", {"shop.shelf": "A"})
    if not item:
        raise ValueError("no such item")
    return {"item": item}
