"""
What the OTEL_* variables ask of us before the SDK is loaded; `tracedbridge.telemetry.variables` has the rest.

One default differs from the specification's: without an endpoint and without a named exporter nothing is exported,
so that a function that nobody configured makes no network call.

Source: OpenTelemetry, "Environment Variable Specification" and "OTLP Exporter Configuration".
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Literal

    from tracedbridge.settings import Settings

    Signal = Literal["traces", "metrics", "logs"]

__all__ = (
    "PROPAGATORS",
    "SAMPLERS",
    "SIGNALS",
    "endpoint_override",
    "exporter_names",
    "is_disabled",
    "is_eager",
    "known_methods",
    "propagators",
    "sampler",
    "service_name",
    "size",
    "value",
    "warn",
)

SIGNALS: tuple[Signal, ...] = ("traces", "metrics", "logs")

# Of the SDK and the API: each names a component that only they can load.
_COMPONENTS = (
    "OTEL_PYTHON_CONTEXT", "OTEL_PYTHON_ID_GENERATOR", "OTEL_PYTHON_LOGGER_PROVIDER", "OTEL_PYTHON_METER_PROVIDER",
    "OTEL_PYTHON_TRACER_CONFIGURATOR", "OTEL_PYTHON_TRACER_PROVIDER",
)  # fmt: skip

# The specification's own.
SAMPLERS = frozenset(
    ("always_on", "always_off", "traceidratio", "parentbased_always_on", "parentbased_always_off",
     "parentbased_traceidratio")
)  # fmt: skip

# What we know without the API; an app that asks for others has it loaded.
PROPAGATORS = frozenset(("tracecontext", "baggage"))

_METHODS = frozenset(
    ("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE")
)  # fmt: skip


def known_methods() -> frozenset[str]:
    """Return the methods to tell apart: those of the conventions, so that a client cannot make up metrics."""
    asked = os.environ.get("OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS", "")
    return frozenset(method.strip() for method in asked.split(",") if method.strip()) or _METHODS


def service_name() -> str:
    """Return ``OTEL_SERVICE_NAME``, or nothing."""
    return value("OTEL_SERVICE_NAME")


def is_disabled() -> bool:
    """Say whether ``OTEL_SDK_DISABLED`` is true; anything else than "true" is false."""
    return value("OTEL_SDK_DISABLED").lower() == "true"


def exporter_names(signal: Signal) -> list[str]:
    """Return the exporters of a signal, without ``none``; ``otlp`` if there is only an endpoint."""
    named = value(f"OTEL_{signal.upper()}_EXPORTER")
    if named:
        names = [name.strip().lower() for name in named.split(",") if name.strip()]
        return [name for name in dict.fromkeys(names) if name != "none"]
    has_endpoint = _has_endpoint(signal) or endpoint_override(signal) is not None
    return ["otlp"] if has_endpoint else []


def endpoint_override(signal: Signal) -> str | None:
    """
    Return the endpoint of Vercel's local collector, if that is the one to use.

    It takes traces only, and only where the standard variables name no endpoint.

    Source: @vercel/otel.
    """
    if signal != "traces" or _has_endpoint(signal) or not value("VERCEL_OTEL_ENDPOINTS"):
        return None
    return f"http://localhost:{value('VERCEL_OTEL_ENDPOINTS_PORT') or '4318'}/v1/traces"


def sampler() -> str:
    """Return what ``OTEL_TRACES_SAMPLER`` names, in lower case, or the default."""
    return value("OTEL_TRACES_SAMPLER").lower() or "parentbased_always_on"


def propagators() -> frozenset[str]:
    """Return what ``OTEL_PROPAGATORS`` names; none of them is the empty set."""
    named = value("OTEL_PROPAGATORS")
    if not named:
        return PROPAGATORS
    names = frozenset(name.strip().lower() for name in named.split(",") if name.strip())
    return frozenset() if "none" in names else names


def is_eager(settings: Settings) -> bool:
    """Say whether the SDK is needed before the first response; one warning where that was not asked for."""
    if settings.start == "eager" or settings.flush == "before":
        return True
    reason = _sdk_reason(settings)
    if reason and settings.start == "deferred":
        # Not by `warn`: it is told about a variable of ours.
        import logging

        logging.getLogger("tracedbridge").warning(
            "TRACEDBRIDGE_START=deferred is ignored: %s needs the SDK from the start", reason
        )
    return bool(reason)


def size(name: str, default: int) -> int:
    """Return a positive number from the environment; what is none is one warning and the default."""
    text = value(name)
    if not text:
        return default
    if text.isdecimal() and int(text) > 0:
        return int(text)
    warn("%s=%r is ignored: expected a positive number; using the default: %d", name, text, default)
    return default


def _sdk_reason(settings: Settings) -> str:
    """Return what is configured that no stand-in knows, or nothing."""
    if settings.asgi_detail:
        return "TRACEDBRIDGE_ASGI_DETAIL"
    for name in _COMPONENTS:
        if asked := value(name):
            return f"{name}={asked}"
    if sampler() not in SAMPLERS:
        return f"OTEL_TRACES_SAMPLER={sampler()}"
    if others := propagators() - PROPAGATORS:
        return f"OTEL_PROPAGATORS={','.join(sorted(others))}"
    for signal in SIGNALS:
        # Those of somebody else may open a port, as Prometheus' does, or start a ticker.
        if others := frozenset(exporter_names(signal)) - {"otlp", "console"}:
            return f"OTEL_{signal.upper()}_EXPORTER={','.join(sorted(others))}"
    return ""


def warn(message: str, *args: object) -> None:
    """Tell about a variable, formatted as logging does."""
    # Only on this path: this module is loaded in cold starts, and logging costs some of them milliseconds.
    import logging

    logging.getLogger("tracedbridge.telemetry").warning(message, *args)


def _has_endpoint(signal: Signal) -> bool:
    return bool(value("OTEL_EXPORTER_OTLP_ENDPOINT") or value(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT"))


def value(name: str) -> str:
    """Return a variable without the blanks around it, or nothing."""
    return os.environ.get(name, "").strip()
