"""Platforms: where the function runs, and what that says about it; the first that matches."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Literal, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tracedbridge.messages import Request

__all__ = ("PLATFORMS", "Platform", "platform_of")

# A new platform is one module and one line here. Vercel comes before AWS, whose variables are set there, too.
PLATFORMS = ("tracedbridge.platforms.vercel", "tracedbridge.platforms.local")


class Platform(Protocol):
    """One place where functions run: a module of `tracedbridge.platforms`."""

    def matches(self, environ: Mapping[str, str]) -> bool:
        """Say whether this process runs there."""

    def function_name(self, environ: Mapping[str, str], app: str) -> str:
        """Return what the function is called there; ``app`` is its file or module."""

    def resource_attributes(self, environ: Mapping[str, str]) -> dict[str, str | int]:
        """Return the attributes of the function's resource, by the semantic conventions."""

    def cold_start_kind(self, environ: Mapping[str, str]) -> Literal["proactive"] | None:
        """Return what this platform says of its cold start; None where the wait for the first event decides."""

    def invocation_id(self, request: Request, context: object) -> str | None:
        """Return the platform's id of this invocation, if it has one."""

    def remaining_ms(self, context: object) -> float | None:
        """Return how long an invocation may go on, in milliseconds, if the platform says so."""

    def span_attributes(self, environ: Mapping[str, str], request: Request) -> dict[str, str]:
        """Return what only this platform says about an invocation."""


def platform_of(environ: Mapping[str, str]) -> Platform:
    """Return the platform of a process with this environment."""
    for name in PLATFORMS[:-1]:
        platform = cast("Platform", import_module(name))
        if platform.matches(environ):
            return platform
    return cast("Platform", import_module(PLATFORMS[-1]))
