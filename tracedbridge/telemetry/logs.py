"""
Log lines: one wide event for each invocation, and the ids of the current invocation on every line of the app.

Lines go to stdout as JSON, to a terminal in colour; the same records go out by OTLP. What the app has configured,
structlog or logging, stays as it is.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import TYPE_CHECKING, Any

import structlog

from tracedbridge.telemetry.ids import context_now, current_ids
from tracedbridge.telemetry.records import LogFacts

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from opentelemetry.context import Context

    from tracedbridge.telemetry.pipeline import Pipeline

    EventDict = MutableMapping[str, Any]

__all__ = ("Lines",)

_LEVELS = ((50, "critical"), (40, "error"), (30, "warning"), (20, "info"), (0, "debug"))

# Of every LogRecord; what else is on one came by `extra=`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

_STOCK_LAST_RESORT = logging.lastResort

# Of the exporters themselves: a line of theirs must not become a record that they fail to export.
_OWN_LOGGERS = ("opentelemetry.", "urllib3.", "tracedbridge.telemetry")


class _Stdout:
    """Writes a line to whatever sys.stdout is now, whole, and never raises."""

    def msg(self, message: str) -> None:
        try:
            sys.stdout.write(message + "\n")
            sys.stdout.flush()
        except (OSError, ValueError, AttributeError):
            # Closed, broken or None: a lost line must not cost a response.
            return

    log = debug = info = warn = warning = error = critical = exception = fatal = msg


class Lines:
    """The log of one bridge."""

    def __init__(self, pipeline: Pipeline | None) -> None:
        """
        Args:
            pipeline: Takes the records; None if there are to be none.
        """
        self._pipeline = pipeline
        self._renderer = _renderer()
        self._own = structlog.wrap_logger(
            _Stdout(),
            processors=[structlog.processors.TimeStamper("iso"), self._renderer],
            wrapper_class=structlog.BoundLogger,
            cache_logger_on_first_use=True,
        ).bind()
        self._was_configured = structlog.is_configured()
        self._call_handlers: Any = None
        self._ours: Any = None
        self._last_resort: logging.Handler | None = None

    def install(self) -> None:
        """Give the app's structlog and logging lines their ids; before the app is imported."""
        if not self._was_configured:
            structlog.configure(
                processors=[
                    # First: of the current span, and not of the invocation's, which the context variables hold.
                    self._add_ids,
                    structlog.contextvars.merge_contextvars,
                    structlog.processors.add_log_level,
                    structlog.processors.StackInfoRenderer(),
                    structlog.processors.format_exc_info,
                    structlog.processors.TimeStamper("iso"),
                    self._to_otlp,
                    self._renderer,
                ],
                logger_factory=lambda *_: _Stdout(),
                # A logger that caches would keep our processors after the app has configured its own.
                cache_logger_on_first_use=False,
            )
        # Not a handler on the root: with one there, the app's basicConfig() would do nothing.
        self._call_handlers = previous = logging.Logger.callHandlers
        note = self._note

        def call_handlers(logger: logging.Logger, record: logging.LogRecord) -> None:
            note(record)
            previous(logger, record)

        self._ours = call_handlers
        setattr(logging.Logger, "callHandlers", call_handlers)  # noqa: B010 - to mypy a method is no variable
        # What logging uses where nobody has configured a handler: plain text on stderr, without ids.
        self._last_resort = logging.lastResort
        if self._last_resort is _STOCK_LAST_RESORT:
            logging.lastResort = _Structured(self._add_ids, self._renderer)

    def uninstall(self) -> None:
        """Put back what `install` changed, where nobody has changed it since."""
        if logging.Logger.callHandlers is self._ours:
            setattr(logging.Logger, "callHandlers", self._call_handlers)  # noqa: B010 - as above
        if isinstance(logging.lastResort, _Structured):
            logging.lastResort = self._last_resort
        if not self._was_configured and self._is_ours():
            structlog.reset_defaults()

    def bind(self, **ids: str) -> Any:
        """
        Have the app's structlog lines in this context carry these ids; return what `unbind` takes.

        By structlog's own context variables, so that an app that configured structlog itself has them, too.
        """
        return structlog.contextvars.bind_contextvars(**ids)

    def unbind(self, tokens: Any) -> None:
        """Undo `bind`."""
        structlog.contextvars.reset_contextvars(**tokens)

    def write(self, level: str, event: str, fields: dict[str, Any], context: Context | None) -> None:
        """Write one line of our own; ``context`` is that of the span it belongs to."""
        if self._pipeline is not None:
            self._pipeline.log(LogFacts(time.time_ns(), level, event, fields, context))
        getattr(self._own, level)(event, level=level, **fields)

    def _is_ours(self) -> bool:
        processors = structlog.get_config()["processors"]
        return any(getattr(each, "__self__", None) is self for each in processors)

    def _add_ids(self, logger: Any, method: str, event: EventDict) -> EventDict:
        del logger, method
        if (ids := current_ids()) is not None:
            event.setdefault("trace_id", ids[0])
            event.setdefault("span_id", ids[1])
        return event

    def _to_otlp(self, logger: Any, method: str, event: EventDict) -> EventDict:
        del logger
        if self._pipeline is None:
            return event
        attributes = {
            key: value if isinstance(value, (str, bool, int, float)) else str(value)
            for key, value in event.items()
            if key not in ("event", "timestamp", "level", "trace_id", "span_id") and value is not None
        }
        level = str(event.get("level", method))
        facts = LogFacts(time.time_ns(), level, str(event.get("event", "")), attributes, context_now())
        self._pipeline.log(facts)
        return event

    def _note(self, record: logging.LogRecord) -> None:
        """Put the ids on a record of stdlib logging and send it by OTLP; never raise."""
        try:
            bound = structlog.contextvars.get_contextvars()
            if (ids := current_ids()) is not None:
                record.__dict__.setdefault("trace_id", ids[0])
                record.__dict__.setdefault("span_id", ids[1])
            if "invocation_id" in bound:
                record.__dict__.setdefault("invocation_id", bound["invocation_id"])
            if self._pipeline is None or record.name.startswith(_OWN_LOGGERS):
                return
            attributes: dict[str, Any] = {"logger": record.name}
            for key, value in vars(record).items():
                if key not in _STANDARD and key not in ("trace_id", "span_id"):
                    attributes[key] = value if isinstance(value, (str, bool, int, float)) else str(value)
            if record.exc_info and record.exc_info[0] is not None:
                attributes["exception.type"] = record.exc_info[0].__qualname__
                attributes["exception.message"] = str(record.exc_info[1])
                attributes["exception.stacktrace"] = logging.Formatter().formatException(record.exc_info)
            level = next(name for number, name in _LEVELS if record.levelno >= number)
            facts = LogFacts(int(record.created * 1e9), level, record.getMessage(), attributes, context_now())
            self._pipeline.log(facts)
        except Exception:  # noqa: BLE001 - a line that we cannot read is still the app's to write
            return


class _Structured(logging.Handler):
    """The handler of last resort: JSON on stdout, with the ids; from WARNING on, as logging's own."""

    def __init__(self, add_ids: Any, renderer: Any) -> None:
        super().__init__(logging.WARNING)
        self._add_ids = add_ids
        self._renderer = renderer
        self._stdout = _Stdout()

    def emit(self, record: logging.LogRecord) -> None:
        level = record.levelname.lower()
        event: EventDict = {"event": record.getMessage(), "level": level, "logger": record.name}
        event["timestamp"] = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z"
        for key, value in vars(record).items():
            if key not in _STANDARD:
                event[key] = value
        if record.exc_info and record.exc_info[0] is not None:
            event["exception"] = logging.Formatter().formatException(record.exc_info)
        self._stdout.msg(str(self._renderer(None, level, self._add_ids(None, level, event))))


def _renderer() -> Any:
    try:
        is_terminal = sys.stdout.isatty()
    except (AttributeError, ValueError):
        is_terminal = False
    if is_terminal:
        return structlog.dev.ConsoleRenderer()
    return structlog.processors.JSONRenderer(serializer=_serialize)


def _shown(value: Any) -> Any:
    # As structlog's own: what JSON does not know is shown all the same.
    shown = getattr(value, "__structlog__", None)
    return repr(value) if shown is None else shown()


# json.dumps() with a `default` makes an encoder each time, a third of what the line costs.
_encode = json.JSONEncoder(default=_shown).encode


def _serialize(event: EventDict, **_: Any) -> str:
    return _encode(event)
