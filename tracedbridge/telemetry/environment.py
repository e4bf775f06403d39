"""
What the OTEL_* variables ask for, where the SDK does not read them itself.

One default differs from the specification's: without an endpoint and without a named exporter nothing is exported,
so that a function that nobody configured makes no network call.

Source: OpenTelemetry, "Environment Variable Specification" and "OTLP Exporter Configuration".
"""

from __future__ import annotations

import logging
import os
from typing import Any, Literal

__all__ = ("SIGNALS", "Signal", "endpoint_override", "entry_point", "exporter_names", "is_disabled", "protocol", "size")

Signal = Literal["traces", "metrics", "logs"]
SIGNALS: tuple[Signal, ...] = ("traces", "metrics", "logs")

_logger = logging.getLogger("tracedbridge.telemetry")


def is_disabled() -> bool:
    """Say whether ``OTEL_SDK_DISABLED`` is true; anything else than "true" is false."""
    return _value("OTEL_SDK_DISABLED").lower() == "true"


def exporter_names(signal: Signal) -> list[str]:
    """Return the exporters of a signal, without ``none``; ``otlp`` if there is only an endpoint."""
    named = _value(f"OTEL_{signal.upper()}_EXPORTER")
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
    if signal != "traces" or _has_endpoint(signal) or not _value("VERCEL_OTEL_ENDPOINTS"):
        return None
    return f"http://localhost:{_value('VERCEL_OTEL_ENDPOINTS_PORT') or '4318'}/v1/traces"


def protocol(signal: Signal) -> str:
    """Return ``"http/protobuf"`` or ``"grpc"``; what we cannot speak is one warning and the former."""
    asked = _value(f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL") or _value("OTEL_EXPORTER_OTLP_PROTOCOL")
    if asked in ("", "http/protobuf") or endpoint_override(signal) is not None:
        return "http/protobuf"
    if asked == "grpc":
        return "grpc"
    _logger.warning("OTLP protocol %r for %s is not supported: using http/protobuf", asked, signal)
    return "http/protobuf"


def size(name: str, default: int) -> int:
    """Return a positive number from the environment; what is none is one warning and the default."""
    text = _value(name)
    if not text:
        return default
    if text.isdecimal() and int(text) > 0:
        return int(text)
    _logger.warning("%s=%r is ignored: expected a positive number; using the default: %d", name, text, default)
    return default


def entry_point(group: str, name: str) -> Any:
    """
    Load a component that an installed package offers.

    Raises:
        LookupError: None has that name.
    """
    from importlib.metadata import entry_points

    for found in entry_points(group=group, name=name):
        return found.load()
    raise LookupError(f"no installed package offers {name!r} in {group!r}")


def _has_endpoint(signal: Signal) -> bool:
    return bool(_value("OTEL_EXPORTER_OTLP_ENDPOINT") or _value(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT"))


def _value(name: str) -> str:
    return os.environ.get(name, "").strip()
