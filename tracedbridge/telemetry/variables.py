"""
What the OTEL_* variables ask of the SDK and its exporters, where these do not read them themselves, or wrongly.

Source: OpenTelemetry, "Environment Variable Specification" and "OTLP Exporter Configuration".
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tracedbridge.telemetry.environment import endpoint_override, sampler, value, warn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tracedbridge.telemetry.environment import Signal

__all__ = ("entry_point", "protocol", "timeout_ms", "without_bad_values")


def protocol(signal: Signal) -> str:
    """Return ``"http/protobuf"`` or ``"grpc"``; what we cannot speak is one warning and the former."""
    asked = value(f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL") or value("OTEL_EXPORTER_OTLP_PROTOCOL")
    if asked in ("", "http/protobuf") or endpoint_override(signal) is not None:
        return "http/protobuf"
    if asked == "grpc":
        return "grpc"
    warn("OTLP protocol %r for %s is not supported: using http/protobuf", asked, signal)
    return "http/protobuf"


def timeout_ms(signal: Signal) -> float:
    """
    Return ``OTEL_EXPORTER_OTLP_TIMEOUT`` of a signal, in milliseconds.

    The specification counts in milliseconds; the official Python exporters take the number for seconds.
    """
    text = value(f"OTEL_EXPORTER_OTLP_{signal.upper()}_TIMEOUT") or value("OTEL_EXPORTER_OTLP_TIMEOUT")
    return float(text) if _is_duration(text) and float(text) > 0 else 10_000.0


@contextmanager
def without_bad_values() -> Iterator[None]:
    """
    Hide what means nothing while the SDK reads its variables; each is one warning.

    The specification wants such a value to be as if it were not set; the SDK raises on some of them, and a function
    would be without telemetry for a typing error.
    """
    bad = {name: os.environ[name] for name, is_good in _checks().items() if value(name) and not is_good(value(name))}
    for name, text in bad.items():
        warn("%s=%r is ignored: it is no value that the OpenTelemetry specification knows", name, text)
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


def _is_sampler_argument(text: str) -> bool:
    if not sampler().endswith("traceidratio"):
        # An installed component's own.
        return True
    try:
        return 0.0 <= float(text) <= 1.0
    except ValueError:
        return False


def _checks() -> dict[str, Callable[[str], bool]]:
    return {
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
        # Of which some versions of the SDK make an exception, and others the default.
        "OTEL_TRACES_SAMPLER_ARG": _is_sampler_argument,
    }  # fmt: skip
