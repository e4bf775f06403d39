"""Makes the exporters that the environment names, and the sinks around them."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from tracedbridge.telemetry.environment import SIGNALS, endpoint_override, entry_point, exporter_names, protocol
from tracedbridge.telemetry.export import UNSUPPORTED, MetricQueue, Outcome, Sink

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
                    reader = MetricQueue(made.exporter)
                    made.collect = reader.take
                    readers.append(reader)
            else:
                # A reader that is pulled from, as Prometheus' is.
                readers.append(made)
    return sinks, readers


def _make(signal: Signal, name: str, budget_ms: float) -> Any:
    if name == "console":
        exporter = _load(_CONSOLE[signal])()
    elif name == "otlp":
        return _otlp_grpc(signal, budget_ms) if protocol(signal) == "grpc" else _otlp_http(signal)
    else:
        made = entry_point(f"opentelemetry_{signal}_exporter", name)()
        if not hasattr(made, "export"):
            return made
        exporter = made

    def export(batch: list[Any], deadline_ns: int) -> Outcome:
        del deadline_ns
        return _ok(exporter.export(batch[0] if signal == "metrics" else batch))

    return Sink(signal, name, exporter, export, lambda: None)


def _otlp_http(signal: Signal) -> Sink:
    from tracedbridge.telemetry.transport import BoundedSession

    session = BoundedSession()
    exporter = _load(_HTTP[signal])(endpoint=endpoint_override(signal), session=session)
    timeout_ns = _timeout_ns(exporter)

    def export(batch: list[Any], deadline_ns: int) -> Outcome:
        session.begin(min(deadline_ns, time.monotonic_ns() + timeout_ns))
        sent = _ok(exporter.export(batch[0] if signal == "metrics" else batch))
        if session.error is not None:
            return type(session.error).__name__
        if session.status is None:
            # It failed before it came to sending: the batch cannot be encoded, or is too large.
            return sent or "not_sent"
        if 200 <= session.status < 300:
            return ""
        return UNSUPPORTED if session.status in (404, 405) else f"http_{session.status}"

    return Sink(signal, "otlp", exporter, export, session.abort)


def _otlp_grpc(signal: Signal, budget_ms: float) -> Sink:
    try:
        make = _load(_GRPC[signal])
    except ImportError as error:
        raise ImportError(f"{error}: install tracedbridge[grpc]") from None
    codes = _StatusCodes()
    # Its own timeout bounds its retries; it ends about when we stop waiting for it.
    exporter = make(timeout=budget_ms / 1000 if budget_ms > 0 else None)
    logging.getLogger("opentelemetry.exporter.otlp.proto.grpc.exporter").addFilter(codes)

    def export(batch: list[Any], deadline_ns: int) -> Outcome:
        del deadline_ns
        codes.last.code = ""
        outcome = _ok(exporter.export(batch[0] if signal == "metrics" else batch))
        if not outcome:
            return ""
        code: str = codes.last.code or outcome
        return UNSUPPORTED if code == "UNIMPLEMENTED" else code

    return Sink(signal, "otlp over grpc", exporter, export, lambda: None)


class _StatusCodes(logging.Filter):
    """
    Keeps the exporter's log lines from the app, and the status code in them for us.

    The exporter tells nobody else; a dead backend is one warning of ours, not three of its own each time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.last = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        if not threading.current_thread().name.startswith("tracedbridge-"):
            return True
        for argument in record.args or ():
            code = getattr(argument, "name", None)
            if isinstance(code, str):
                self.last.code = code
        return False


def _load(place: tuple[str, str]) -> Callable[..., Any]:
    from importlib import import_module

    module, name = place
    loaded: Callable[..., Any] = getattr(import_module(module), name)
    return loaded


def _ok(result: Any) -> Outcome:
    # Three enums, one for each signal, with SUCCESS in each.
    return "" if getattr(result, "name", "") == "SUCCESS" else "failed"


def _timeout_ns(exporter: Any) -> int:
    # OTEL_EXPORTER_OTLP_TIMEOUT as the exporter read it, in seconds.
    client = getattr(exporter, "_client", exporter)
    timeout_s = getattr(client, "_timeout", 10.0)
    return int(float(timeout_s) * 1e9)
