"""
An ASGI app that exports one signal by itself: ``CHOOSER_SIGNAL``, from ``CHOOSER_MOMENT`` on.

What it exports goes to ``CHOOSER_FILE``, a JSON line an item. In each request it makes a span, a count and a record
before that moment could come, and others after it.
"""

from __future__ import annotations

import atexit
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opentelemetry import _logs, metrics, trace

_file = Path(os.environ["CHOOSER_FILE"])
_tracer = trace.get_tracer("chooser")
_counter = metrics.get_meter("chooser").create_counter("chooser.count")
_logger = _logs.get_logger("chooser")
_requests = 0


def _write(**told: Any) -> None:
    with _file.open("a") as lines:
        lines.write(json.dumps(told) + "\n")


def _choose(moment: str) -> None:
    if moment == os.environ["CHOOSER_MOMENT"]:
        {"traces": _choose_traces, "metrics": _choose_metrics, "logs": _choose_logs}[os.environ["CHOOSER_SIGNAL"]]()


def _choose_traces() -> None:
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

    class Exporter(SpanExporter):
        """Writes names and ids."""

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            """Write."""
            for span in spans:
                assert span.context is not None
                _write(name=span.name, id=f"{span.context.span_id:016x}")
            return SpanExportResult.SUCCESS

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(Exporter()))
    trace.set_tracer_provider(provider)


def _choose_metrics() -> None:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import (
        MetricExporter,
        MetricExportResult,
        MetricsData,
        PeriodicExportingMetricReader,
    )

    class Exporter(MetricExporter):
        """Writes names and values."""

        def export(self, metrics_data: MetricsData, timeout_millis: float = 0, **kwargs: Any) -> MetricExportResult:
            """Write."""
            for resource in metrics_data.resource_metrics:
                for scope in resource.scope_metrics:
                    for metric in scope.metrics:
                        for point in metric.data.data_points:
                            value = getattr(point, "value", None)
                            _write(name=metric.name, value=getattr(point, "count", value))
            return MetricExportResult.SUCCESS

        def force_flush(self, timeout_millis: float = 0) -> bool:
            """Do nothing."""
            return True

        def shutdown(self, timeout_millis: float = 0, **kwargs: Any) -> None:
            """Do nothing."""

    provider = MeterProvider([PeriodicExportingMetricReader(Exporter(), math.inf)])
    metrics.set_meter_provider(provider)
    # Once, and before it shuts itself down.
    atexit.register(provider.force_flush)


def _choose_logs() -> None:
    from opentelemetry.sdk._logs import LoggerProvider, ReadableLogRecord
    from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult, SimpleLogRecordProcessor

    class Exporter(LogRecordExporter):
        """Writes bodies."""

        def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
            """Write."""
            for record in batch:
                _write(name=str(record.log_record.body), id=f"{record.log_record.span_id or 0:016x}")
            return LogRecordExportResult.SUCCESS

        def force_flush(self, timeout_millis: float = 0) -> bool:
            """Do nothing."""
            return True

        def shutdown(self) -> None:
            """Do nothing."""

    provider = LoggerProvider()
    provider.add_log_record_processor(SimpleLogRecordProcessor(Exporter()))
    _logs.set_logger_provider(provider)


def _do(when: str) -> None:
    with _tracer.start_as_current_span(when):
        _counter.add(1, {"when": when})
        _logger.emit(_logs.LogRecord(body=when, severity_number=_logs.SeverityNumber.WARN))


_choose("import")


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Serve lifespan and everything else."""
    global _requests
    if scope["type"] == "lifespan":
        await receive()
        _choose("lifespan")
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    _requests += 1
    _do(f"early {_requests}")
    _choose(f"request {_requests}")
    _do(f"late {_requests}")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
