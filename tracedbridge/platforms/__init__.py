"""
Platforms: where the function runs, and what that says about it; and what Lambda says, on which others run, too.

Source: AWS, "Defined runtime environment variables" and "Runtime hooks for Lambda SnapStart".
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Literal

    from tracedbridge.messages import Headers, Request
    from tracedbridge.protocols import Platform

__all__ = ("PLATFORMS", "Elsewhere", "around_snapshot", "carried", "cold_start_kind", "platform_of", "remaining_ms")

# A new platform is one module and one line here, with the variable that shows it. Vercel comes before AWS, whose
# variables are set there, too.
PLATFORMS = (
    ("VERCEL", "tracedbridge.platforms.vercel"),
    ("AWS_LAMBDA_FUNCTION_NAME", "tracedbridge.platforms.aws_lambda"),
)


def platform_of(environ: Mapping[str, str]) -> Platform:
    """Return the platform of a process with this environment; only that one is loaded."""
    for variable, name in PLATFORMS:
        if environ.get(variable):
            return cast("Platform", import_module(name))
    return Elsewhere()


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


def around_snapshot(before: Callable[[], None], after: Callable[[], None], environ: Mapping[str, str]) -> None:
    """Have ``before`` called before a snapshot is taken of this process, if any is, ``after`` after each restore."""
    if environ.get("AWS_LAMBDA_INITIALIZATION_TYPE", "") != "snap-start":
        return
    try:
        # In AWS's image, and in none other.
        hooks: Any = import_module("snapshot_restore_py")
    except ImportError:
        return
    hooks.register_before_snapshot(before)
    hooks.register_after_restore(after)


def carried(environ: Mapping[str, str], context: object) -> tuple[Headers, bool]:
    """Return nothing: a request has its trace context in its own headers."""
    del environ, context
    return [], False


class Elsewhere:
    """Anywhere else: a laptop, a test, a host that we do not know; implements `tracedbridge.protocols.Platform`."""

    cold_start_kind = staticmethod(cold_start_kind)
    remaining_ms = staticmethod(remaining_ms)

    def function_name(self, environ: Mapping[str, str], app: str) -> str:
        """Return ``index`` for ``api/index.py`` and ``pkg.mod`` for ``pkg.mod``."""
        del environ
        return app.rpartition("/")[2].removesuffix(".py")

    def resource_attributes(self, environ: Mapping[str, str]) -> dict[str, str | int]:
        """Return nothing: an unknown host says nothing."""
        del environ
        return {}

    def invocation_id(self, request: Request, context: object) -> str | None:
        """Return None: an unknown host gives no id."""
        del request, context
        return None

    def span_attributes(self, environ: Mapping[str, str], request: Request) -> dict[str, str]:
        """Return nothing."""
        del environ, request
        return {}

    carried = staticmethod(carried)
