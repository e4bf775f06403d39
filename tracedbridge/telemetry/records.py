"""Facts of a log line, and the OpenTelemetry record that they become when they are exported."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from tracedbridge.telemetry.current import Ids
from tracedbridge.telemetry.failures import encodable

if TYPE_CHECKING:
    from opentelemetry._logs import LogRecord
    from opentelemetry.context import Context

__all__ = ("LogFacts",)

# Source: OpenTelemetry, "Logs Data Model", severity numbers; INFO for what is none of these.
_SEVERITY = {"debug": 5, "info": 9, "warning": 13, "error": 17, "critical": 21}

# They are fields of the record itself.
_IDS = ("trace_id", "span_id")


# What the conventions call it: OpenTelemetry semantic conventions 1.44, "Exceptions in logs".
_RENAMED = {"exception": "exception.stacktrace"}


class LogFacts:
    """What one log line says."""

    __slots__ = ("attributes", "body", "context", "level", "observed_ns", "timestamp_ns")

    def __init__(
        self, timestamp_ns: int, level: str, body: str, attributes: dict[str, Any], context: Context | Ids | None
    ) -> None:
        """
        Args:
            timestamp_ns: Since the epoch.
            level: ``"debug"`` to ``"critical"``.
            body: The event or message.
            attributes: Strings, numbers and booleans; whoever gives them lets them be.
            context: With the span that the line belongs to, or that span's ids where there is no context.
        """
        self.timestamp_ns = timestamp_ns
        self.observed_ns = time.time_ns()
        self.level = level
        self.body = body
        self.attributes = attributes
        self.context = context

    def record(self) -> LogRecord:
        """Return the record of OpenTelemetry's API, which is loaded by now."""
        from opentelemetry._logs import LogRecord, SeverityNumber

        return LogRecord(
            timestamp=self.timestamp_ns,
            observed_timestamp=self.observed_ns,
            context=_context_of(self.context),
            severity_text=self.level.upper(),
            severity_number=SeverityNumber(_SEVERITY.get(self.level, 9)),
            body=encodable(self.body),
            attributes={
                _RENAMED.get(key, key): encodable(value) if isinstance(value, str) else value
                for key, value in self.attributes.items()
                if key not in _IDS
            },
        )


def _context_of(told: Context | Ids | None) -> Context | None:
    if not isinstance(told, Ids):
        return told
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, set_span_in_context

    from tracedbridge.telemetry.ids import span_context_of

    return set_span_in_context(NonRecordingSpan(span_context_of(told)), Context())
