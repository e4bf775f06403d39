"""Sleeps, and notes how long that really was."""

from __future__ import annotations

import time

__all__ = ("NOTES", "sleep")

NOTES: dict[str, int] = {}
"""Nanoseconds that each sleep took."""


def sleep(name: str, for_ms: float) -> None:
    """Sleep in this place."""
    begun_ns = time.monotonic_ns()
    time.sleep(for_ms / 1e3)
    NOTES[name] = time.monotonic_ns() - begun_ns
