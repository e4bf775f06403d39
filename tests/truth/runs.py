"""Runs Python to be timed, and takes the best of several runs: noise alone may break a bound, but not every time."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import tracedbridge

__all__ = ("best_of", "plain_environ")


def best_of(runs: int, attempt: Callable[[], Sequence[str]]) -> None:
    """Fail with what was wrong each time, unless one of so many attempts found nothing wrong."""
    told: list[str] = []
    for run in range(runs):
        wrong = attempt()
        if not wrong:
            return
        told += (f"run {run + 1}: {each}" for each in wrong)
    raise AssertionError("\n".join(told))


def plain_environ(**more: str) -> dict[str, str]:
    """Return an environment without settings, development mode and coverage: they cost time of their own."""
    dropped = ("TRACEDBRIDGE_", "OTEL_", "VERCEL", "__VC_", "AWS_", "COVERAGE_", "PYTHONDEVMODE")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
    return {**kept, "PYTHONPATH": str(Path(tracedbridge.__file__).parents[1]), **more}
