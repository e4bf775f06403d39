"""
What the platform shows of a cold start: it reads that from the first response, in a header of its own.

Source: vercel-runtime 0.24.1, ``x-vercel-internal-timing``.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tracedbridge.boot import ColdStart

__all__ = ("HEADER", "durations_ms", "header_value")

HEADER = b"x-vercel-internal-timing"


def durations_ms(cold_start: ColdStart) -> dict[str, int]:
    """Return how long each part of a cold start took that ends now; they follow one another."""
    total_ns = time.monotonic_ns() - cold_start.begun_ns
    took = cold_start.durations_ns()
    app_ns = took.get("app_import", 0) + took.get("app_resolve", 0)
    before_ns = sum(took.get(phase, 0) for phase in ("interpreter", "bridge", "telemetry"))
    after_ns = max(total_ns - before_ns - app_ns, 0)
    parts = {"bootstrap": before_ns, "import-fn": app_ns, "server-ready": after_ns}
    return {name: part_ns // 1_000_000 for name, part_ns in parts.items()}


def header_value(durations: dict[str, int]) -> bytes:
    """Return the header's value, in the syntax of ``Server-Timing``."""
    entries: list[str] = []
    begins_ms = 0
    for name, took_ms in durations.items():
        entries.append(f'{name};dur={took_ms};desc="{name}_{begins_ms}+{took_ms}";offset={begins_ms}')
        begins_ms += took_ms
    return ",".join(entries).encode()
