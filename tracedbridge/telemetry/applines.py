"""
The app's own log lines, while a bridge is open: the ids of the current invocation on each, and a copy by OTLP.

What the app has configured, structlog or logging, stays as it is: nothing here is a handler, and structlog is
configured only where nobody has. One patch for all bridges of the process, undone when the last one closes.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import structlog

from tracedbridge.telemetry.failures import message_of, type_of
from tracedbridge.telemetry.ids import context_now, current_ids
from tracedbridge.telemetry.lines import Stdout, renderer
from tracedbridge.telemetry.records import LogFacts

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    from tracedbridge.telemetry.pipeline import Pipeline

    EventDict = MutableMapping[str, Any]

__all__ = ("unwatch", "watch")

_LEVELS = ((50, "critical"), (40, "error"), (30, "warning"), (20, "info"), (0, "debug"))

# Of every LogRecord; what else is on one came by `extra=`, or from us.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

# Of the exporters themselves: a line of theirs must not become a record that they fail to export.
_OWN_LOGGERS = ("opentelemetry.", "urllib3.", "tracedbridge.telemetry")

# Pipelines of the open bridges, in order; the first one takes the records, as its providers are the global ones.
_watching: list[Pipeline | None] = []
# What was there when our patch was put in place, and None while it is not.
_call_handlers: Callable[[logging.Logger, logging.LogRecord], None] | None = None
_last_resort = logging.lastResort
_configured = False


def watch(pipeline: Pipeline | None) -> None:
    """Begin; ``pipeline`` takes the copies, None if there are to be none."""
    _watching.append(pipeline)
    if len(_watching) == 1:
        _install()


def unwatch(pipeline: Pipeline | None) -> None:
    """End what `watch` began."""
    if pipeline in _watching:
        _watching.remove(pipeline)
        if not _watching:
            _uninstall()


def _install() -> None:
    global _call_handlers, _last_resort, _configured
    # Not a handler on the root: with one there, the app's basicConfig() would do nothing.
    if _call_handlers is None:
        _call_handlers = logging.Logger.callHandlers
        setattr(logging.Logger, "callHandlers", _call_handlers_noted)  # noqa: B010 - to mypy a method is no variable
    # What logging uses where nobody has configured a handler: plain text on stderr, without ids.
    _last_resort = logging.lastResort
    if _last_resort is _STOCK_LAST_RESORT:
        logging.lastResort = _Structured()
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


def _uninstall() -> None:
    global _call_handlers
    # Only where nobody has changed it since: below another patch, as Sentry's, ours stays, and does nothing.
    if logging.Logger.callHandlers is _call_handlers_noted:
        setattr(logging.Logger, "callHandlers", _call_handlers)  # noqa: B010 - as above
        _call_handlers = None
    if isinstance(logging.lastResort, _Structured):
        logging.lastResort = _last_resort
    if _configured and _copy in structlog.get_config()["processors"]:
        structlog.reset_defaults()


def _call_handlers_noted(logger: logging.Logger, record: logging.LogRecord) -> None:
    if _watching:
        _note(record)
    if _call_handlers is not None:
        _call_handlers(logger, record)


def _note(record: logging.LogRecord) -> None:
    """Put the ids on a record of stdlib logging and send a copy; never raise."""
    try:
        if (ids := current_ids()) is not None:
            record.__dict__.setdefault("trace_id", ids[0])
            record.__dict__.setdefault("span_id", ids[1])
        invocation_id = structlog.contextvars.get_contextvars().get("invocation_id")
        if invocation_id is not None:
            record.__dict__.setdefault("invocation_id", invocation_id)
        pipeline = _watching[0] if _watching else None
        if pipeline is None or record.name.startswith(_OWN_LOGGERS):
            return
        attributes: dict[str, Any] = {"logger": record.name}
        attributes.update((key, _plain(value)) for key, value in vars(record).items() if key not in _STANDARD)
        if record.exc_info and record.exc_info[1] is not None:
            attributes["exception.type"] = type_of(record.exc_info[1])
            attributes["exception.message"] = message_of(record.exc_info[1])
            attributes["exception.stacktrace"] = logging.Formatter().formatException(record.exc_info)
        level = next(name for number, name in _LEVELS if record.levelno >= number)
        body = record.getMessage()
        pipeline.log(LogFacts(int(record.created * 1e9), level, body, attributes, context_now()))
    except Exception:  # noqa: BLE001 - a line that we cannot read is still the app's to write
        return


def _add_ids(logger: Any, method: str, event: EventDict) -> EventDict:
    del logger, method
    if (ids := current_ids()) is not None:
        event.setdefault("trace_id", ids[0])
        event.setdefault("span_id", ids[1])
    return event


def _copy(logger: Any, method: str, event: EventDict) -> EventDict:
    """Send a copy of an event of structlog."""
    del logger
    pipeline = _watching[0] if _watching else None
    if pipeline is not None:
        level = str(event.get("level", method))
        attributes = {
            key: _plain(value)
            for key, value in event.items()
            if key not in ("event", "timestamp", "level") and value is not None
        }
        pipeline.log(LogFacts(time.time_ns(), level, str(event.get("event", "")), attributes, context_now()))
    return event


def _plain(value: Any) -> str | bool | int | float:
    # As it is now: the app may change what it logged before the copy goes out.
    return value if isinstance(value, (str, bool, int, float)) else str(value)


class _Structured(logging.Handler):
    """The handler of last resort: one line on stdout as all others, with the ids; from WARNING on, as logging's own."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._renderer = renderer()
        self._stdout = Stdout()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._stdout.msg(self._line(record))
        except Exception:  # noqa: BLE001 - as every handler: logging's own way to tell
            self.handleError(record)

    def _line(self, record: logging.LogRecord) -> str:
        level = record.levelname.lower()
        # First: an extra field named like one of ours must not take its place.
        event: EventDict = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        event.update({"event": record.getMessage(), "level": level, "logger": record.name})
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        event["timestamp"] = f"{seconds}.{int(record.msecs):03d}Z"
        if record.exc_info and record.exc_info[0] is not None:
            event["exception"] = logging.Formatter().formatException(record.exc_info)
        return str(self._renderer(None, level, event))


_STOCK_LAST_RESORT = logging.lastResort
