"""
What Lambda's environment says about how it was started; Vercel's functions run there, too.

Source: AWS, "Defined runtime environment variables".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ("cold_start_kind",)


def cold_start_kind(environ: Mapping[str, str]) -> Literal["proactive"] | None:
    """Return ``"proactive"`` where the process was started ahead of any event, None where nobody says so."""
    is_provisioned = environ.get("AWS_LAMBDA_INITIALIZATION_TYPE", "") == "provisioned-concurrency"
    return "proactive" if is_provisioned else None
