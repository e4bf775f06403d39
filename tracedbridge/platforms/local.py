"""Anywhere else: a laptop, a test, a host that we do not know."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracedbridge.platforms.initialization import cold_start_kind, remaining_ms

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tracedbridge.messages import Request

__all__ = (
    "cold_start_kind",
    "function_name",
    "invocation_id",
    "matches",
    "remaining_ms",
    "resource_attributes",
    "span_attributes",
)


def matches(environ: Mapping[str, str]) -> bool:
    """Say yes."""
    del environ
    return True


def function_name(environ: Mapping[str, str], app: str) -> str:
    """Return ``index`` for ``api/index.py`` and ``pkg.mod`` for ``pkg.mod``."""
    del environ
    return app.rpartition("/")[2].removesuffix(".py")


def resource_attributes(environ: Mapping[str, str]) -> dict[str, str | int]:
    """Return nothing: an unknown host says nothing."""
    del environ
    return {}


def invocation_id(request: Request, context: object) -> str | None:
    """Return None: an unknown host gives no id."""
    del request, context
    return None


def span_attributes(environ: Mapping[str, str], request: Request) -> dict[str, str]:
    """Return nothing."""
    del environ, request
    return {}
