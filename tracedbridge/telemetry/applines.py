"""
The app's own lines by logging, while a bridge is open: the ids of the current invocation on each, and a copy by OTLP.

What the app has configured stays as it is: nothing here is a handler. One patch for all bridges of the process, undone
when the last one closes. `tracedbridge.telemetry.structlines` does the same for structlog.
"""

from __future__ import annotations

import functools
import logging
import time
from typing import TYPE_CHECKING, Any

from tracedbridge.telemetry.awaiting import dig_up
from tracedbridge.telemetry.current import context_now, ids_now, invocation_now

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    from tracedbridge.telemetry.middleware import Middleware

__all__ = ("note", "plain", "unwatch", "watch")

_LEVELS = ((50, "critical"), (40, "error"), (30, "warning"), (20, "info"), (0, "debug"))

# Of the exporters themselves: a line of theirs must not become a record that they fail to export.
_OWN_LOGGERS = ("opentelemetry.", "urllib3.", "tracedbridge.telemetry")

# Of the open bridges, in order; the first one takes the records, as its providers are the global ones.
_watching: list[Middleware] = []
# What was there when our patch was put in place, and None while it is not.
_call_handlers: Callable[[logging.Logger, logging.LogRecord], None] | None = None
_last_resort = logging.lastResort


def watch(taker: Middleware) -> bool:
    """Begin, unless that was done; ``taker`` takes the copies. Say whether it is the first."""
    if taker in _watching:
        return False
    _watching.append(taker)
    if len(_watching) > 1:
        return False
    _install()
    return True


def unwatch(taker: Middleware) -> None:
    """End what `watch` began."""
    if taker in _watching:
        _watching.remove(taker)
        if not _watching:
            _uninstall()


def _install() -> None:
    global _call_handlers, _last_resort
    # Not a handler on the root: with one there, the app's basicConfig() would do nothing.
    if _call_handlers is None:
        _call_handlers = logging.Logger.callHandlers
        setattr(logging.Logger, "callHandlers", _call_handlers_noted)  # noqa: B010 - to mypy a method is no variable
    # What logging uses where nobody has configured a handler: plain text on stderr, without ids.
    _last_resort = logging.lastResort
    if _last_resort is getattr(logging, "_defaultLastResort", None):
        logging.lastResort = _Structured()


def _uninstall() -> None:
    global _call_handlers
    # Only where nobody has changed it since: below another patch, as Sentry's, ours stays, and does nothing.
    if logging.Logger.callHandlers is _call_handlers_noted:
        setattr(logging.Logger, "callHandlers", _call_handlers)  # noqa: B010 - as above
        _call_handlers = None
        dig_up()
    if isinstance(logging.lastResort, _Structured):
        logging.lastResort = _last_resort


def _call_handlers_noted(logger: logging.Logger, record: logging.LogRecord) -> None:
    if _watching:
        note(record)
    if _call_handlers is not None:
        _call_handlers(logger, record)


def note(record: logging.LogRecord) -> None:
    """Put the ids on a record of stdlib logging and send a copy; never raise."""
    # Not before the app logs something: where it does not, its cold start does not wait for these.
    from tracedbridge.telemetry.failures import message_of, type_of
    from tracedbridge.telemetry.records import LogFacts

    try:
        if (ids := ids_now()) is not None:
            for name, value in ids.fields().items():
                record.__dict__.setdefault(name, value)
        if (invocation := invocation_now()) is not None and invocation.id:
            record.__dict__.setdefault("invocation_id", invocation.id)
        taker = _watching[0] if _watching else None
        if taker is None or record.name.startswith(_OWN_LOGGERS):
            return
        attributes: dict[str, Any] = {"logger": record.name}
        attributes.update((key, plain(value)) for key, value in vars(record).items() if key not in _standard())
        if record.exc_info and record.exc_info[1] is not None:
            attributes["exception.type"] = type_of(record.exc_info[1])
            attributes["exception.message"] = message_of(record.exc_info[1])
            attributes["exception.stacktrace"] = logging.Formatter().formatException(record.exc_info)
        level = next(name for number, name in _LEVELS if record.levelno >= number)
        body = record.getMessage()
        taker.log(LogFacts(int(record.created * 1e9), level, body, attributes, context_now()))
    except Exception:  # noqa: BLE001 - a line that we cannot read is still the app's to write
        return


@functools.cache
def _standard() -> frozenset[str]:
    """Return what every LogRecord has; what else is on one came by `extra=`, or from us."""
    return frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def plain(value: Any) -> str | bool | int | float:
    """Return an attribute's value as it is now: the app may change what it logged before the copy goes out."""
    return value if isinstance(value, (str, bool, int, float)) else str(value)


class _Structured(logging.Handler):
    """The handler of last resort: one line on stdout as all others, with the ids; from WARNING on, as logging's own."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        from tracedbridge.telemetry.stdout import Stdout

        try:
            Stdout().msg(self._line(record))
        except Exception:  # noqa: BLE001 - as every handler: logging's own way to tell
            self.handleError(record)

    def _line(self, record: logging.LogRecord) -> str:
        level = record.levelname.lower()
        # First: an extra field named like one of ours must not take its place.
        event: MutableMapping[str, Any] = {key: value for key, value in vars(record).items() if key not in _standard()}
        event.update({"event": record.getMessage(), "level": level, "logger": record.name})
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        event["timestamp"] = f"{seconds}.{int(record.msecs):03d}Z"
        if record.exc_info and record.exc_info[0] is not None:
            event["exception"] = logging.Formatter().formatException(record.exc_info)
        from tracedbridge.telemetry.stdout import is_terminal, serialize

        if not is_terminal():
            return serialize(event)
        # For people, who can wait for its import.
        from tracedbridge.telemetry.structlines import renderer

        return str(renderer()(None, level, event))
