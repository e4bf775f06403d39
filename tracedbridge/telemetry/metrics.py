"""
INSTRUMENTS: every metric, declared once.

Source: OpenTelemetry semantic conventions 1.44, "FaaS metrics" and "HTTP server metrics"; the buckets are theirs. The
helpers of the semantic-conventions package pass no buckets, which would put seconds into millisecond buckets.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from opentelemetry.sdk.metrics.view import DropAggregation, View

from tracedbridge.telemetry.current import SCOPE

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.metrics import Meter

Labels = Mapping[str, Any] | tuple[tuple[str, Any], ...]
"""Attributes of a point; as pairs where they are always the same, which saves to look at them again."""

__all__ = ("BY_NAME", "INSTRUMENTS", "Instrument", "Labels", "Metrics", "views")

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_MIB = 1024 * 1024
_BYTES = tuple(size * _MIB for size in (16, 32, 64, 128, 256, 512, 768, 1024, 2048, 3072, 4096, 6144, 8192))

_MODULES = (50.0, 100.0, 200.0, 300.0, 400.0, 500.0, 750.0, 1000.0, 1500.0, 2000.0, 3000.0, 5000.0)


class Instrument:
    """One metric."""

    __slots__ = ("attributes", "buckets", "description", "kind", "name", "unit")

    def __init__(
        self,
        name: str,
        kind: Literal["histogram", "counter"],
        unit: str,
        description: str,
        buckets: tuple[float, ...] = (),
        attributes: tuple[str, ...] = (),
    ) -> None:
        """
        Args:
            name: With dots, as in the semantic conventions.
            kind: ``"histogram"`` or ``"counter"``.
            unit: UCUM.
            description: One sentence.
            buckets: Upper bounds, in ``unit``; of histograms only.
            attributes: What its points may carry besides ``faas.name``, which all of them do.
        """
        self.name = name
        self.kind = kind
        self.unit = unit
        self.description = description
        self.buckets = buckets
        self.attributes = attributes


_INVOCATION = ("faas.trigger",)
_COLDSTART = ("faas.trigger", "tracedbridge.coldstart.kind")
_HTTP = (
    "http.request.method", "url.scheme", "http.route", "http.response.status_code", "error.type",
    "network.protocol.version",
)  # fmt: skip

INSTRUMENTS = (
    Instrument("faas.invoke_duration", "histogram", "s", "Duration of an invocation, from its event to its response.",
               _SECONDS, (*_INVOCATION, "faas.coldstart")),
    Instrument("faas.init_duration", "histogram", "s", "Duration of a cold start, from process start to ready.",
               _SECONDS, _COLDSTART),
    Instrument("faas.coldstarts", "counter", "{coldstart}", "Cold starts.", (), _COLDSTART),
    Instrument("faas.errors", "counter", "{error}",
               "Invocations that failed: an exception, a 5xx, a failed load, an event that is none.", (),
               (*_INVOCATION, "error.type")),
    Instrument("faas.invocations", "counter", "{invocation}", "Invocations that succeeded.", (), _INVOCATION),
    Instrument("faas.timeouts", "counter", "{timeout}", "Invocations that missed their deadline.", (), _INVOCATION),
    Instrument("faas.cpu_usage", "histogram", "s", "CPU time of the process during an invocation.", _SECONDS,
               _INVOCATION),
    Instrument("faas.mem_usage", "histogram", "By", "Peak memory of the process up to the end of an invocation.",
               _BYTES, _INVOCATION),
    Instrument("http.server.request.duration", "histogram", "s",
               "Duration of an HTTP request, until the app has given its last byte.", _SECONDS, _HTTP),
    Instrument("tracedbridge.coldstart.phase.duration", "histogram", "s", "Duration of each phase of a cold start.",
               _SECONDS, ("phase", "tracedbridge.coldstart.kind")),
    Instrument("tracedbridge.coldstart.modules", "histogram", "{module}",
               "Modules that were loaded when the app was ready.", _MODULES, ("tracedbridge.coldstart.kind",)),
    Instrument("tracedbridge.import.duration", "histogram", "s",
               "Time a cold start spent in the modules of one top-level package, without what they import.", _SECONDS,
               ("package", "owner")),
    Instrument("tracedbridge.lifespan.duration", "histogram", "s", "Duration of lifespan startup and shutdown.",
               _SECONDS, ("phase", "error.type")),
    Instrument("tracedbridge.export.duration", "histogram", "s", "Time an invocation waited for its export.",
               _SECONDS),
    Instrument("tracedbridge.export.items", "counter", "{item}",
               "Spans, metric points and log records that were sent or dropped.", (), ("signal", "outcome")),
    Instrument("tracedbridge.export.pauses", "counter", "{pause}",
               "Times that a backend was left alone for a while, as it had failed.", (), ("signal", "outcome")),
    Instrument("tracedbridge.export.produced", "counter", "{item}",
               "Spans, metric points and log records that were made for export; sent, dropped or still waiting.", (),
               ("signal",)),
    Instrument("tracedbridge.loop_stall", "histogram", "s",
               "Longest stall of an event loop in an invocation, if longer than TRACEDBRIDGE_STALL_MS.", _SECONDS,
               _INVOCATION),
    Instrument("tracedbridge.time_left", "histogram", "s", "Time left before the deadline when an invocation ended.",
               _SECONDS, _INVOCATION),
)  # fmt: skip


BY_NAME = {each.name: each for each in INSTRUMENTS}


def views() -> list[View]:
    """
    Return the views that drop the HTTP server metrics of others.

    FastAPI and instrumentation libraries record ``http.server.*`` too; a backend that forgets the scope, as
    Prometheus does, would count each request twice. A stream that matches two views is kept by the one that keeps.
    """
    # Two dropped streams of one name are no conflict, but the SDK warns about them.
    logging.getLogger("opentelemetry.sdk.metrics._internal.metric_reader_storage").addFilter(_no_conflict)
    return [_DROPPED, View(instrument_name="http.server.request.duration", meter_name=SCOPE)]


_DROPPED = View(instrument_name="http.server.*", aggregation=DropAggregation())


def _no_conflict(record: logging.LogRecord) -> bool:
    return not (isinstance(record.args, tuple) and _DROPPED in record.args)


class Metrics:
    """Our instruments, on somebody's meter."""

    def __init__(self, meter: Meter, function: str) -> None:
        """Create them all; ``function`` is the ``faas.name`` on every point."""
        self._function = function
        self._write = {each.name: _write_of(meter, each) for each in INSTRUMENTS}

    def record(
        self, name: str, value: float, context: Context | None, attributes: Mapping[str, Any] | None = None
    ) -> None:
        """
        Record one value.

        Args:
            name: Of an entry in INSTRUMENTS.
            value: In the unit of that entry.
            context: With the span that an exemplar is to point to.
            attributes: Besides ``faas.name``.
        """
        self._write[name](value, {"faas.name": self._function, **(attributes or {})}, context)

    def record_all(self, values: list[tuple[str, float, Labels]], context: Context | None) -> None:
        """Record values that belong together: name, value and attributes of each, as for `record`."""
        for name, value, attributes in values:
            self.record(name, value, context, dict(attributes))


def _write_of(meter: Meter, instrument: Instrument) -> Any:
    if instrument.kind == "counter":
        return meter.create_counter(instrument.name, instrument.unit, instrument.description).add
    histogram = meter.create_histogram(
        instrument.name, instrument.unit, instrument.description,
        explicit_bucket_boundaries_advisory=list(instrument.buckets),
    )  # fmt: skip
    return histogram.record
