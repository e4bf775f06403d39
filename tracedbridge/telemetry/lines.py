"""Our own log lines, by structlog: JSON on stdout, in colour on a terminal, and the same by OTLP."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any

import structlog

from tracedbridge.telemetry.records import LogFacts
from tracedbridge.telemetry.stdout import Stdout, is_terminal, serialize
from tracedbridge.telemetry.structlines import renderer

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from opentelemetry.context import Context

__all__ = ("Lines",)


class Lines:
    """The lines of one bridge, whatever the app makes of structlog's configuration."""

    def __init__(self) -> None:
        """Write to stdout."""
        self._logger = structlog.wrap_logger(
            Stdout(),
            processors=[_stamp, renderer()] if is_terminal() else [_stamped_json],
            wrapper_class=structlog.make_filtering_bound_logger(0),
            cache_logger_on_first_use=True,
        ).bind()

    def write(
        self, level: str, event: str, fields: dict[str, Any], context: Context | None, at_ns: int | None = None
    ) -> LogFacts:
        """
        Write one line, and return what is to be exported of it.

        Args:
            level: ``"info"``, ``"warning"`` or ``"error"``.
            event: What happened.
            fields: Not changed afterwards.
            context: With the span that it belongs to.
            at_ns: When that was, in nanoseconds since the epoch; None is now.
        """
        at_ns = time.time_ns() if at_ns is None else at_ns
        getattr(self._logger, level)(event, level=level, timestamp=at_ns, **fields)
        return LogFacts(at_ns, level, event, fields, context)

    def say(self, level: str, event: str, fields: dict[str, Any]) -> None:
        """Write one line of now."""
        self.write(level, event, fields, None)


def _stamped_json(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
    """Write the time, and all as JSON; in one step, as this is done for each invocation."""
    return serialize(_stamp(logger, method, event))


def _stamp(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Write the time as structlog's TimeStamper does, which knows no other than now."""
    del logger, method
    seconds, rest_ns = divmod(event.pop("timestamp"), 1_000_000_000)
    # Last, where it was always.
    event["timestamp"] = f"{_second(seconds)}.{rest_ns // 1000:06d}Z"
    return event


@functools.lru_cache(maxsize=4)
def _second(seconds: int) -> str:
    # Of many lines, under load.
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
