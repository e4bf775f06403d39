"""
What the OTEL_* variables ask for, where the SDK does not read them itself.

One default differs from the specification's: without an endpoint and without a named exporter nothing is exported,
so that a function that nobody configured makes no network call.

Source: OpenTelemetry, "Environment Variable Specification" and "OTLP Exporter Configuration".
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = (
    "SIGNALS",
    "Signal",
    "endpoint_override",
    "entry_point",
    "exporter_names",
    "is_disabled",
    "known_methods",
    "protocol",
    "service_name",
    "size",
    "timeout_ms",
    "without_bad_values",
)

Signal = Literal["traces", "metrics", "logs"]
SIGNALS: tuple[Signal, ...] = ("traces", "metrics", "logs")


_METHODS = frozenset(
    ("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE")
)  # fmt: skip


def known_methods() -> frozenset[str]:
    """Return the methods to tell apart: those of the conventions, so that a client cannot make up metrics."""
    asked = os.environ.get("OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS", "")
    return frozenset(method.strip() for method in asked.split(",") if method.strip()) or _METHODS


def service_name() -> str:
    """Return ``OTEL_SERVICE_NAME``, or nothing."""
    return _value("OTEL_SERVICE_NAME")


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
    _warn("OTLP protocol %r for %s is not supported: using http/protobuf", asked, signal)
    return "http/protobuf"


def size(name: str, default: int) -> int:
    """Return a positive number from the environment; what is none is one warning and the default."""
    text = _value(name)
    if not text:
        return default
    if text.isdecimal() and int(text) > 0:
        return int(text)
    _warn("%s=%r is ignored: expected a positive number; using the default: %d", name, text, default)
    return default


def timeout_ms(signal: Signal) -> float:
    """
    Return ``OTEL_EXPORTER_OTLP_TIMEOUT`` of a signal, in milliseconds.

    The specification counts in milliseconds; the official Python exporters take the number for seconds.
    """
    text = _value(f"OTEL_EXPORTER_OTLP_{signal.upper()}_TIMEOUT") or _value("OTEL_EXPORTER_OTLP_TIMEOUT")
    return float(text) if _is_duration(text) and float(text) > 0 else 10_000.0


@contextmanager
def without_bad_values() -> Iterator[None]:
    """
    Hide what means nothing while the SDK reads its variables; each is one warning.

    The specification wants such a value to be as if it were not set; the SDK raises on some of them, and a function
    would be without telemetry for a typing error.
    """
    bad = {name: os.environ[name] for name, is_good in _CHECKS.items() if _value(name) and not is_good(_value(name))}
    for name, value in bad.items():
        _warn("%s=%r is ignored: it is no value that the OpenTelemetry specification knows", name, value)
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(bad)


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


def _is_duration(text: str) -> bool:
    try:
        return 0 <= float(text) < float("inf")
    except ValueError:
        return False


def _one_of(*choices: str) -> Callable[[str], bool]:
    return lambda text: text.lower() in choices


_CHECKS: dict[str, Callable[[str], bool]] = {
    **{
        f"OTEL_{name}_LIMIT": str.isdecimal
        for name in (
            "ATTRIBUTE_COUNT", "ATTRIBUTE_VALUE_LENGTH", "EVENT_ATTRIBUTE_COUNT", "LINK_ATTRIBUTE_COUNT",
            "LOGRECORD_ATTRIBUTE_COUNT", "LOGRECORD_ATTRIBUTE_VALUE_LENGTH", "SPAN_ATTRIBUTE_COUNT",
            "SPAN_ATTRIBUTE_VALUE_LENGTH", "SPAN_EVENT_COUNT", "SPAN_LINK_COUNT",
        )
    },
    **{
        f"OTEL_EXPORTER_OTLP_{signal}{name}": is_good
        for signal in ("", "TRACES_", "METRICS_", "LOGS_")
        for name, is_good in (("TIMEOUT", _is_duration), ("COMPRESSION", _one_of("none", "gzip", "deflate")))
    },
    "OTEL_METRICS_EXEMPLAR_FILTER": _one_of("always_on", "always_off", "trace_based"),
}  # fmt: skip


def _warn(message: str, *args: object) -> None:
    # Only on this path: this module is loaded in cold starts, and logging costs some of them milliseconds.
    import logging

    logging.getLogger("tracedbridge.telemetry").warning(message, *args)


def _has_endpoint(signal: Signal) -> bool:
    return bool(_value("OTEL_EXPORTER_OTLP_ENDPOINT") or _value(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT"))


def _value(name: str) -> str:
    return os.environ.get(name, "").strip()
