"""
What Lambda's environment says about how it was started; Vercel's functions run there, too.

Source: AWS, "Defined runtime environment variables" and "Runtime hooks for Lambda SnapStart".
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ("after_restore", "cold_start_kind", "remaining_ms")


def cold_start_kind(environ: Mapping[str, str]) -> Literal["proactive"] | None:
    """Return ``"proactive"`` where the process was started ahead of any event, None where nobody says so."""
    is_provisioned = environ.get("AWS_LAMBDA_INITIALIZATION_TYPE", "") == "provisioned-concurrency"
    return "proactive" if is_provisioned else None


def remaining_ms(context: object) -> float | None:
    """Return how long the platform lets an invocation go on, in milliseconds, if its context knows; as AWS's does."""
    ask = getattr(context, "get_remaining_time_in_millis", None)
    if not callable(ask):
        return None
    told = ask()
    return float(told) if isinstance(told, (int, float)) else None


def after_restore(hook: Callable[[], None], environ: Mapping[str, str]) -> None:
    """Have ``hook`` called after each restore, if snapshots are taken of this process."""
    if environ.get("AWS_LAMBDA_INITIALIZATION_TYPE", "") != "snap-start":
        return
    try:
        # In AWS's image, and in none other.
        hooks: Any = import_module("snapshot_restore_py")
    except ImportError:
        return
    hooks.register_after_restore(hook)
