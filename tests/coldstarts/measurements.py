"""Measurements as `tracedbridge coldstart` writes them, made up."""

from __future__ import annotations

from collections.abc import Sequence

from tracedbridge.coldstarts.runs import Import, Measured, Run

__all__ = ("import_of", "measured", "run_of")


def import_of(name: str, total_ms: float, self_ms: float, parent: int | None = None) -> Import:
    """Return an import of the app's own, from the cache."""
    return {
        "name": name,
        "parent": parent,
        "phase": "app_import",
        "begin_ms": 20.0,
        "total_ms": total_ms,
        "self_ms": self_ms,
        "find_ms": 0.0,
        "compile_ms": 0.0,
        "source": "cache",
        "owner": "app",
    }


def run_of(imports: Sequence[Import] = (), **phases: float) -> Run:
    """Return a run of these imports and phases, in milliseconds; the total is their sum."""
    total_ms = sum(phases.values())
    return {
        "phases": {**phases, "wait": 1.0, "first_byte": 5.0},
        "total_ms": total_ms,
        "spawn_ms": total_ms + 1,
        "begins_with": "process",
        "status": 200,
        "modules": 300,
        "dropped": 0,
        "imports": list(imports),
    }


def measured(runs: Sequence[Run], app: str = "index.py") -> Measured:
    """Return a measurement with these runs."""
    return {
        "version": 1,
        "app": app,
        "method": "GET",
        "path": "/",
        "python": "3.13.1",
        "platform": "Linux x86_64",
        "tracedbridge": "0.1.0",
        "telemetry": "off",
        "runs": list(runs),
    }
