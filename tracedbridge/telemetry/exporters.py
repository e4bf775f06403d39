"""Makes the exporters that the environment names, and the sinks around them."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.metrics.export import AggregationTemporality

from tracedbridge.telemetry.environment import SIGNALS, endpoint_override, exporter_names
from tracedbridge.telemetry.export import NOT_SENT, UNSUPPORTED, Outcome, Sink
from tracedbridge.telemetry.queues import MetricQueue
from tracedbridge.telemetry.variables import entry_point, protocol, timeout_ms

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracedbridge.telemetry.environment import Signal

__all__ = ("make_sinks",)

_logger = logging.getLogger("tracedbridge.telemetry")

# Table strings: what is not asked for is not imported.
_HTTP = {
    "traces": ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "OTLPSpanExporter"),
    "metrics": ("opentelemetry.exporter.otlp.proto.http.metric_exporter", "OTLPMetricExporter"),
    "logs": ("opentelemetry.exporter.otlp.proto.http._log_exporter", "OTLPLogExporter"),
}
_GRPC = {
    "traces": ("opentelemetry.exporter.otlp.proto.grpc.trace_exporter", "OTLPSpanExporter"),
    "metrics": ("opentelemetry.exporter.otlp.proto.grpc.metric_exporter", "OTLPMetricExporter"),
    "logs": ("opentelemetry.exporter.otlp.proto.grpc._log_exporter", "OTLPLogExporter"),
}
_CONSOLE = {
    "traces": ("opentelemetry.sdk.trace.export", "ConsoleSpanExporter"),
    "metrics": ("opentelemetry.sdk.metrics.export", "ConsoleMetricExporter"),
    "logs": ("opentelemetry.sdk._logs.export", "ConsoleLogRecordExporter"),
}


# Source: OpenTelemetry Protocol 1.9, "Failures" of OTLP/HTTP and OTLP/gRPC: these, and no others.
_RETRYABLE_STATUS = frozenset((429, 502, 503, 504))
_RETRYABLE_CODES = frozenset(
    ("ABORTED", "CANCELLED", "DATA_LOSS", "DEADLINE_EXCEEDED", "OUT_OF_RANGE", "RESOURCE_EXHAUSTED", "UNAVAILABLE")
)

# Module and class of the backend's answer, and what it calls the items that it did not take.
_ANSWERS = {
    "traces": ("trace.v1.trace_service_pb2", "ExportTraceServiceResponse", "rejected_spans"),
    "metrics": ("metrics.v1.metrics_service_pb2", "ExportMetricsServiceResponse", "rejected_data_points"),
    "logs": ("logs.v1.logs_service_pb2", "ExportLogsServiceResponse", "rejected_log_records"),
}


def make_sinks(budget_ms: float) -> tuple[list[Sink], list[Any]]:
    """
    Make a sink for each exporter that the environment names.

    What cannot be made is one warning, and its signal goes without it.

    Returns:
        The sinks, and the metric readers that the meter provider is to have.
    """
    sinks: list[Sink] = []
    readers: list[Any] = []
    for signal in SIGNALS:
        for name in exporter_names(signal):
            try:
                made = _make(signal, name, budget_ms)
            except Exception as error:  # noqa: BLE001 - a wrong variable must not cost the other signals
                _logger.warning("no %s exporter %r: %s: %s", signal, name, type(error).__name__, error)
                continue
            if isinstance(made, Sink):
                sinks.append(made)
                if signal == "metrics":
                    reader = MetricQueue(made.wire.exporter)
                    made.collect = reader.take
                    made.collects_delta = AggregationTemporality.DELTA in (reader.temporality or {}).values()
                    readers.append(reader)
            else:
                # A reader that is pulled from, as Prometheus' is.
                readers.append(made)
    return sinks, readers


def _make(signal: Signal, name: str, budget_ms: float) -> Any:
    if name == "otlp" and protocol(signal) == "grpc":
        return Sink(signal, "otlp over grpc", _Grpc(signal, budget_ms))
    if name == "otlp":
        return Sink(signal, name, _Http(signal))
    if name == "console":
        return Sink(signal, name, _Plain(signal, _load(_CONSOLE[signal])()))
    made = entry_point(f"opentelemetry_{signal}_exporter", name)()
    return Sink(signal, name, _Plain(signal, made)) if hasattr(made, "export") else made


class _Plain:
    """An exporter that we know nothing about; implements `tracedbridge.telemetry.export.Wire`."""

    def __init__(self, signal: Signal, exporter: Any) -> None:
        self.exporter = exporter
        self._takes_lists = signal != "metrics"
        self._outcome: Outcome = ""

    @property
    def sends_at_once(self) -> bool:
        return False

    @property
    def is_stale(self) -> bool:
        return False

    def send(self, batch: list[Any], deadline_ns: int) -> None:
        del deadline_ns
        result = self.exporter.export(batch if self._takes_lists else batch[0])
        # Three enums, one for each signal, with SUCCESS in each.
        self._outcome = "" if getattr(result, "name", "") == "SUCCESS" else "failed"

    def outcome(self) -> Outcome:
        return self._outcome

    @property
    def may_send_again(self) -> bool:
        # The SDK's contract: what an exporter says has failed is to be dropped.
        return False

    @property
    def retry_after_s(self) -> float:
        return 0.0

    @property
    def rejected(self) -> int:
        return 0

    def abort(self) -> None:
        pass

    def close(self) -> None:
        self.exporter.shutdown()


class _Http(_Plain):
    """The official OTLP/HTTP exporter, over a session of ours that keeps the deadline."""

    def __init__(self, signal: Signal) -> None:
        from tracedbridge.telemetry.transport import BoundedSession

        self._session = BoundedSession()
        self._signal: Signal = signal
        super().__init__(signal, _load(_HTTP[signal])(endpoint=endpoint_override(signal), session=self._session))
        self._timeout_ns = int(timeout_ms(signal) * 1e6)

    @property
    def sends_at_once(self) -> bool:
        return self._session.is_connected

    @property
    def is_stale(self) -> bool:
        return self._session.is_stale

    def send(self, batch: list[Any], deadline_ns: int) -> None:
        self._session.begin(min(deadline_ns, time.monotonic_ns() + self._timeout_ns))
        try:
            super().send(batch, deadline_ns)
        except Exception:  # noqa: BLE001 - of whatever class an item's fault is: it was not sent, which `outcome` says
            return

    def outcome(self) -> Outcome:
        session = self._session
        session.read()
        if session.error is not None:
            return type(session.error).__name__
        if session.status is None:
            # It failed before it came to sending: the batch cannot be encoded.
            return NOT_SENT
        if 200 <= session.status < 300:
            return ""
        return UNSUPPORTED if session.status in (404, 405) else f"http_{session.status}"

    @property
    def may_send_again(self) -> bool:
        # After a deadline nobody knows whether the batch was taken; OTLP allows to send it twice.
        # But not where it answered what is no HTTP: it may have taken the batch, and would answer so again.
        error = self._session.error
        if error is not None:
            return not isinstance(error, ValueError) or isinstance(error, OSError)
        return self._session.status in _RETRYABLE_STATUS

    @property
    def retry_after_s(self) -> float:
        return self._session.retry_after_s

    @property
    def rejected(self) -> int:
        return _rejected(self._signal, self._session.body) if self._session.body else 0

    def abort(self) -> None:
        self._session.abort()


class _Grpc(_Plain):
    """The official OTLP/gRPC exporter, whose own timeout bounds its retries."""

    def __init__(self, signal: Signal, budget_ms: float) -> None:
        try:
            make = _load(_GRPC[signal])
        except ImportError as error:
            raise ImportError(f"{error}: install tracedbridge[grpc]") from None
        told_ms = timeout_ms(signal)
        self._code = ""
        super().__init__(signal, make(timeout=(min(budget_ms, told_ms) if budget_ms > 0 else told_ms) / 1000))
        filters = logging.getLogger("opentelemetry.exporter.otlp.proto.grpc.exporter").filters
        if _CODES not in filters:
            # First: the exporter's own filter drops a message that it has seen, that of another signal too.
            filters.insert(0, _CODES)

    def outcome(self) -> Outcome:
        if not self._outcome:
            return ""
        self._code = _CODES.taken() or self._outcome
        return UNSUPPORTED if self._code == "UNIMPLEMENTED" else self._code

    @property
    def may_send_again(self) -> bool:
        return self._code in _RETRYABLE_CODES


class _StatusCodes(logging.Filter):
    """
    Keeps the exporter's log lines from the app, and the status code in them for us.

    The exporter tells nobody else; a dead backend is one warning of ours, not three of its own each time.
    """

    def __init__(self) -> None:
        super().__init__()
        self._last = threading.local()

    def taken(self) -> str:
        """Return the last code that was logged on this thread, once."""
        code: str = self._last.__dict__.pop("code", "")
        return code

    def filter(self, record: logging.LogRecord) -> bool:
        if not threading.current_thread().name.startswith("tracedbridge-"):
            return True
        for argument in record.args or ():
            code = getattr(argument, "name", None)
            if isinstance(code, str):
                self._last.code = code
        return False


# One for all signals: the first filter that says no is the last one asked.
_CODES = _StatusCodes()


def _rejected(signal: Signal, body: bytes) -> int:
    """Return how many items an answer says were not taken; 0 where it is no answer of OTLP."""
    module, name, field = _ANSWERS[signal]
    try:
        answer = _load((f"opentelemetry.proto.collector.{module}", name))()
        answer.ParseFromString(body)
        return max(0, int(getattr(answer.partial_success, field)))
    except Exception:  # noqa: BLE001 - protobuf's errors are of no one class; a success with a strange body is one
        return 0


def _load(place: tuple[str, str]) -> Callable[..., Any]:
    from importlib import import_module

    module, name = place
    loaded: Callable[..., Any] = getattr(import_module(module), name)
    return loaded
