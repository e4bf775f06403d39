"""When the SDK is loaded: with the app, or after the first response."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tracedbridge.telemetry.environment import SIGNALS, exporter_names
from tracedbridge.telemetry.sampling import SAMPLERS
from tracedbridge.telemetry.tracecontext import PROPAGATORS, propagators

if TYPE_CHECKING:
    from tracedbridge.settings import Settings

__all__ = ("is_eager",)

# Of the SDK and the API: each names a component that only they can load.
_COMPONENTS = (
    "OTEL_PYTHON_CONTEXT", "OTEL_PYTHON_ID_GENERATOR", "OTEL_PYTHON_LOGGER_PROVIDER", "OTEL_PYTHON_METER_PROVIDER",
    "OTEL_PYTHON_TRACER_CONFIGURATOR", "OTEL_PYTHON_TRACER_PROVIDER",
)  # fmt: skip


def is_eager(settings: Settings) -> bool:
    """Say whether the SDK is needed before the first response; one warning where that was not asked for."""
    if settings.start == "eager" or settings.flush == "before":
        return True
    reason = _reason(settings)
    if reason and settings.start == "deferred":
        import logging

        logging.getLogger("tracedbridge").warning(
            "TRACEDBRIDGE_START=deferred is ignored: %s needs the SDK from the start", reason
        )
    return bool(reason)


def _reason(settings: Settings) -> str:
    """Return what is configured that no stand-in knows, or nothing."""
    if settings.asgi_detail:
        return "TRACEDBRIDGE_ASGI_DETAIL"
    for name in _COMPONENTS:
        if value := os.environ.get(name, "").strip():
            return f"{name}={value}"
    sampler = os.environ.get("OTEL_TRACES_SAMPLER", "").strip().lower()
    if sampler and sampler not in SAMPLERS:
        return f"OTEL_TRACES_SAMPLER={sampler}"
    if others := propagators() - PROPAGATORS:
        return f"OTEL_PROPAGATORS={','.join(sorted(others))}"
    for signal in SIGNALS:
        # Those of somebody else may open a port, as Prometheus' does, or start a ticker.
        if others := frozenset(exporter_names(signal)) - {"otlp", "console"}:
            return f"OTEL_{signal.upper()}_EXPORTER={','.join(sorted(others))}"
    return ""
