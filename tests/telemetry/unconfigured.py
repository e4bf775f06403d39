"""Logging as in a process that nobody configured, and an app that logs there."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ("CHATTY", "unconfigured_logging")

# An ``index.py``.
CHATTY = """
import logging
import sys
import structlog

log = structlog.get_logger()

async def app(scope, receive, send):
    assert scope["type"] == "http"
    if scope["path"] == "/crash":
        raise ValueError("first\\nsecond \\x1b[31mred")
    log.info("sold", item="a b")
    logging.getLogger("shop").warning("%s left", 3)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
"""


@contextmanager
def unconfigured_logging() -> Iterator[None]:
    """Take pytest's handlers off the root logger: logging as in a process that nobody configured."""
    # Around the test itself: pytest puts its handlers there between fixtures and test.
    handlers, logging.root.handlers = logging.root.handlers, []
    # A framework of another test may have left its own level there.
    level = logging.root.level
    logging.root.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logging.root.handlers = handlers
        logging.root.setLevel(level)
