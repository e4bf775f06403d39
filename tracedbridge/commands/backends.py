"""Where the telemetry of a child process goes: to a backend that the environment names, or to one of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ("elsewhere", "switch", "towards", "unconfigured")

# Half a second is for production. Here the backend is on this machine, and the spans are what one came for.
_FLUSH_TIMEOUT_MS = "5000"

_SIGNALS = ("TRACES", "METRICS", "LOGS")
_EXPORTERS = tuple(f"OTEL_{signal}_EXPORTER" for signal in _SIGNALS)


def switch(environ: Mapping[str, str]) -> str:
    """Return ``TRACEDBRIDGE_TELEMETRY`` as the bridge reads it: a bad value is one warning, not one a process."""
    from tracedbridge.settings import Settings

    given = {"TRACEDBRIDGE_TELEMETRY": environ.get("TRACEDBRIDGE_TELEMETRY", "")}
    return "on" if Settings(given).telemetry else "off"


def elsewhere(environ: Mapping[str, str]) -> str | None:
    """Return where the spans go without our receiver, ``""`` if there are none, or None if the receiver takes them."""

    def told(name: str) -> str:
        return environ.get(name, "").strip()

    if told("TRACEDBRIDGE_TELEMETRY") == "off" or told("OTEL_SDK_DISABLED").lower() == "true":
        return ""
    endpoints = ["OTEL_EXPORTER_OTLP_ENDPOINT", *(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT" for signal in _SIGNALS)]
    chosen = [name for name in (*endpoints, *_EXPORTERS) if told(name)]
    if not chosen:
        return None
    exporter = told("OTEL_TRACES_EXPORTER")
    if exporter and "otlp" not in exporter.replace(" ", "").split(","):
        return f"no spans over OTLP, no waterfall: OTEL_TRACES_EXPORTER={exporter}"
    for name in ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        if told(name):
            return f"the spans went to {_host(told(name))} ({name}), no waterfall"
    if exporter:
        protocol = told("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or told("OTEL_EXPORTER_OTLP_PROTOCOL")
        return f"the spans went to localhost:{4317 if protocol == 'grpc' else 4318}, the default endpoint, no waterfall"
    return f"no spans, no waterfall: {chosen[0]} is set, but no endpoint for traces"


def unconfigured(environ: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return the environment without what says where telemetry goes and how to get in, and the names of that."""
    dropped = sorted(
        name
        for name, value in environ.items()
        if value.strip() and (name.startswith("OTEL_EXPORTER_OTLP_") or name in _EXPORTERS)
    )
    return {name: value for name, value in environ.items() if name not in dropped}, dropped


def towards(endpoint: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a child that is to export to ``endpoint``, by http/protobuf."""
    overruled = {f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL" for signal in _SIGNALS}
    environ = {name: value for name, value in environ.items() if name not in overruled}
    for name in ("no_proxy", "NO_PROXY"):
        # Where a proxy is configured, it cannot reach our 127.0.0.1.
        environ[name] = ",".join(filter(None, (environ.get(name), "127.0.0.1")))
    return {
        "TRACEDBRIDGE_FLUSH_TIMEOUT_MS": _FLUSH_TIMEOUT_MS,
        **environ,
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    }


def _host(url: str) -> str:
    """Return host and port of an endpoint: a path or a user may be a secret."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url if "//" in url else "//" + url)
        host = parts.hostname or "an endpoint without a host"
        return f"{host}:{parts.port}" if parts.port else host
    except ValueError:
        return "an endpoint that is no URL"
