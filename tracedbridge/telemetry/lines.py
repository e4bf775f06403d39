"""Our own log lines, by structlog: JSON on stdout, in colour on a terminal, and the same by OTLP."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

import structlog

from tracedbridge.telemetry.records import LogFacts

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from opentelemetry.context import Context

    from tracedbridge.telemetry.pipeline import Pipeline

__all__ = ("Lines", "Stdout", "renderer")


class Stdout:
    """Writes a line to whatever sys.stdout is now, whole, and never raises."""

    def msg(self, message: str) -> None:
        """Write one line."""
        try:
            sys.stdout.write(message + "\n")
            sys.stdout.flush()
        except Exception:  # noqa: BLE001 - closed, broken, None: a lost line must not cost a response
            return

    log = debug = info = warn = warning = error = critical = exception = fatal = msg


class Lines:
    """The lines of one bridge, whatever the app makes of structlog's configuration."""

    def __init__(self, pipeline: Pipeline | None) -> None:
        """Write to stdout, and to ``pipeline`` unless it is None."""
        self._pipeline = pipeline
        self._logger = structlog.wrap_logger(
            Stdout(),
            processors=[structlog.processors.TimeStamper("iso"), renderer()],
            wrapper_class=structlog.make_filtering_bound_logger(0),
            cache_logger_on_first_use=True,
        ).bind()

    def write(self, level: str, event: str, fields: dict[str, Any], context: Context | None) -> None:
        """
        Write one line.

        Args:
            level: ``"info"``, ``"warning"`` or ``"error"``.
            event: What happened.
            fields: Not changed afterwards.
            context: With the span that it belongs to.
        """
        if self._pipeline is not None:
            self._pipeline.log(LogFacts(time.time_ns(), level, event, fields, context))
        self.say(level, event, fields)

    def say(self, level: str, event: str, fields: dict[str, Any]) -> None:
        """Write one line to stdout, and nowhere else."""
        getattr(self._logger, level)(event, level=level, **fields)

    def bind(self, **ids: str) -> Any:
        """
        Have the app's structlog lines in this context carry these ids; return what `unbind` takes.

        By structlog's own context variables, so that an app that configured structlog itself has them, too.
        """
        return structlog.contextvars.bind_contextvars(**ids)

    def unbind(self, tokens: Any) -> None:
        """Undo `bind`."""
        structlog.contextvars.reset_contextvars(**tokens)


def renderer() -> Any:
    """Return the last processor of a chain: for people if stdout is a terminal, else JSON."""
    try:
        is_terminal = sys.stdout.isatty()
    except (AttributeError, ValueError):
        is_terminal = False
    if is_terminal:
        # The traceback is text already; another formatter would warn about it.
        return structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    return structlog.processors.JSONRenderer(serializer=_serialize)


def _shown(value: Any) -> Any:
    # As structlog's own: what JSON does not know is shown all the same.
    shown = getattr(value, "__structlog__", None)
    return repr(value) if shown is None else shown()


# json.dumps() with a `default` makes an encoder each time, a third of what the line costs.
_encode = json.JSONEncoder(default=_shown).encode


def _serialize(event: MutableMapping[str, Any], **_: Any) -> str:
    return _encode(event)
