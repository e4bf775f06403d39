"""Facts of a log line, and the OpenTelemetry record that they become when they are exported."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from opentelemetry._logs import LogRecord, SeverityNumber

from tracedbridge.telemetry.failures import encodable

if TYPE_CHECKING:
    from opentelemetry.context import Context

__all__ = ("LogFacts",)

_SEVERITY = {
    "debug": SeverityNumber.DEBUG,
    "info": SeverityNumber.INFO,
    "warning": SeverityNumber.WARN,
    "error": SeverityNumber.ERROR,
    "critical": SeverityNumber.FATAL,
}

# They are fields of the record itself.
_IDS = ("trace_id", "span_id")


# What the conventions call it: OpenTelemetry semantic conventions 1.44, "Exceptions in logs".
_RENAMED = {"exception": "exception.stacktrace"}


class LogFacts:
    """What one log line says."""

    __slots__ = ("attributes", "body", "context", "level", "observed_ns", "timestamp_ns")

    def __init__(
        self, timestamp_ns: int, level: str, body: str, attributes: dict[str, Any], context: Context | None
    ) -> None:
        """
        Args:
            timestamp_ns: Since the epoch.
            level: ``"debug"`` to ``"critical"``.
            body: The event or message.
            attributes: Strings, numbers and booleans; whoever gives them lets them be.
            context: With the span that the line belongs to.
        """
        self.timestamp_ns = timestamp_ns
        self.observed_ns = time.time_ns()
        self.level = level
        self.body = body
        self.attributes = attributes
        self.context = context

    def record(self) -> LogRecord:
        """Return the record."""
        return LogRecord(
            timestamp=self.timestamp_ns,
            observed_timestamp=self.observed_ns,
            context=self.context,
            severity_text=self.level.upper(),
            severity_number=_SEVERITY.get(self.level, SeverityNumber.INFO),
            body=encodable(self.body),
            attributes={
                _RENAMED.get(key, key): encodable(value) if isinstance(value, str) else value
                for key, value in self.attributes.items()
                if key not in _IDS
            },
        )
