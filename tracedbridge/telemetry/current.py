"""
Which ids are current: of the current span, of the running invocation, or, before the first event, of the boot trace.

Without OpenTelemetry: where an app has not loaded its API, there is no span that could be current.
"""

from __future__ import annotations

import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tracedbridge.telemetry.watch import Watch

__all__ = ("Ids", "context_now", "ids_now", "invocation_now", "running", "start_boot", "stop_boot")

# The scope of our spans, metrics and log records.
SCOPE = "tracedbridge"

# Trace flags, W3C Trace Context level 2: recorded, and made at random.
SAMPLED, RANDOM = 0x01, 0x02


class Ids:
    """The ids of a span, and its trace flags."""

    __slots__ = ("_fields", "flags", "span_id", "trace_id")

    def __init__(self, trace_id: int, span_id: int, flags: int) -> None:
        """
        Args:
            trace_id: 128 bits, not zero.
            span_id: 64 bits, not zero.
            flags: 8 bits.
        """
        self.trace_id = trace_id
        self.span_id = span_id
        self.flags = flags
        self._fields: dict[str, str] | None = None

    def fields(self) -> dict[str, str]:
        """Return them as log lines have them: hex, by name; not to be changed."""
        if self._fields is None:
            self._fields = {"trace_id": f"{self.trace_id:032x}", "span_id": f"{self.span_id:016x}"}
        return self._fields


# The invocation that this context belongs to, as long as it runs.
running: ContextVar[Watch | None] = ContextVar("tracedbridge.running", default=None)

# Ids of the boot trace, until the first event comes; threads that the app starts while it is imported have no
# context of ours, but their log lines belong to it all the same.
_boot: list[Ids] = []


def start_boot(ids: Ids) -> None:
    """Have what has no span of its own carry these ids."""
    _boot.append(ids)


def stop_boot(ids: Ids) -> None:
    """Have it carry none again."""
    if ids in _boot:
        _boot.remove(ids)


def _boot_ids() -> Ids | None:
    """Return the ids of the boot trace, until the first event has come."""
    return _boot[-1] if _boot else None


def invocation_now() -> Watch | None:
    """Return the invocation that runs in this context."""
    watch = running.get()
    # A task that outlives its invocation keeps its context.
    return watch if watch is not None and not watch.ended_ns else None


def ids_now() -> Ids | None:
    """Return the ids that a log line of this moment carries."""
    api = _api()
    if api is not None:
        span_context = api.get_current_span().get_span_context()
        if span_context.is_valid:
            return Ids(span_context.trace_id, span_context.span_id, int(span_context.trace_flags))
    watch = running.get()
    if watch is not None and watch.ids is not None:
        return watch.ids
    return _boot_ids()


def context_now() -> Any:
    """Return the OpenTelemetry context of this moment; `ids_now` where there is none, or no span in it."""
    api = _api()
    if api is not None and api.get_current_span().get_span_context().is_valid:
        return sys.modules["opentelemetry.context"].get_current()
    return ids_now()


def _api() -> Any:
    api = sys.modules.get("opentelemetry.trace")
    # Not while it is being imported: this is the last name that it defines.
    return api if hasattr(api, "use_span") else None
