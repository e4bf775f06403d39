"""
The app's own lines by structlog, while a bridge is open: the ids of the current invocation on each, and a copy by OTLP.

Structlog is configured only where nobody has. Loaded once the app has loaded structlog, or our own lines need it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import structlog

from tracedbridge.telemetry.applines import plain
from tracedbridge.telemetry.current import context_now, ids_now
from tracedbridge.telemetry.records import LogFacts
from tracedbridge.telemetry.stdout import Stdout, is_terminal, serialize

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from tracedbridge.telemetry.middleware import Middleware

    EventDict = MutableMapping[str, Any]

__all__ = ("renderer", "unwatch", "watch")

# Of the open bridges, in order; the first one takes the copies, as its providers are the global ones.
_watching: list[Middleware] = []
_configured = False


def watch(taker: Middleware) -> None:
    """Begin, unless that was done; ``taker`` takes the copies."""
    global _configured
    if taker in _watching:
        return
    _watching.append(taker)
    if len(_watching) > 1:
        return
    _configured = not structlog.is_configured()
    if _configured:
        structlog.configure(
            processors=[
                # First: of the current span, and not of the invocation's, which the context variables hold.
                _add_ids,
                structlog.contextvars.merge_contextvars,
                structlog.processors.add_log_level,
                structlog.processors.StackInfoRenderer(),
                structlog.processors.format_exc_info,
                structlog.processors.TimeStamper("iso"),
                _copy,
                renderer(),
            ],
            logger_factory=lambda *_: Stdout(),
            # A logger that caches would keep our processors after the app has configured its own.
            cache_logger_on_first_use=False,
        )


def unwatch(taker: Middleware) -> None:
    """End what `watch` began."""
    if taker in _watching:
        _watching.remove(taker)
        if not _watching and _configured and _copy in structlog.get_config()["processors"]:
            structlog.reset_defaults()


def renderer() -> Any:
    """Return the last processor of a chain: for people if stdout is a terminal, else JSON."""
    if is_terminal():
        # The traceback is text already; another formatter would warn about it.
        return structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    return structlog.processors.JSONRenderer(serializer=serialize)


def _add_ids(logger: Any, method: str, event: EventDict) -> EventDict:
    del logger, method
    if (ids := ids_now()) is not None:
        for name, value in ids.fields().items():
            event.setdefault(name, value)
    return event


def _copy(logger: Any, method: str, event: EventDict) -> EventDict:
    """Send a copy of an event of structlog."""
    del logger
    if _watching:
        level = str(event.get("level", method))
        attributes = {
            key: plain(value)
            for key, value in event.items()
            if key not in ("event", "timestamp", "level") and value is not None
        }
        _watching[0].log(LogFacts(time.time_ns(), level, str(event.get("event", "")), attributes, context_now()))
    return event
