"""
What the platform tells with a request, in headers that are not the app's to see.

Source: vercel-runtime 0.24.1, and its headers: ``x-vercel-internal-*`` and ``x-vercel-sc-*``.
"""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from typing import Any

from tracedbridge.headers import is_number
from tracedbridge.serving.ipc.channel import Ids

__all__ = ("Internal", "taken_from")

_PREFIX = "x-vercel-internal-"
_CACHE_PREFIX = "x-vercel-sc-"

_HEX = frozenset("0123456789abcdef")


class Internal:
    """What one request came with; the context of its invocation, as event formats have it."""

    def __init__(self, told: dict[str, str]) -> None:
        """Take the internal headers, without their prefix."""
        number = told.get("request-id", "")
        self.ids = Ids(told.get("invocation-id", "") or "0", int(number) if is_number(number, 18) else 0)
        self._ends_s = _deadline_s(told.get("deadline", ""))
        self.traceparent = _traceparent_of(told.get("trace-id", "").lower(), told.get("span-id", "").lower())
        self.oidc_token = told.get("oidc-token", "")

    @property
    def aws_request_id(self) -> str:
        """The id of the invocation."""
        return "" if self.ids.invocation_id == "0" else self.ids.invocation_id

    def get_remaining_time_in_millis(self) -> int | None:
        """Return how long the invocation may go on, if the platform said so."""
        return None if self._ends_s is None else max(0, int((self._ends_s - time.monotonic()) * 1e3))


def taken_from(scope: dict[str, Any]) -> tuple[Internal, dict[str, Any]]:
    """
    Take the internal headers out of an ASGI scope; return what they say, and the scope that the app is to see.

    The caller's trace is that of the platform, if there is no ``traceparent``; a token that only the platform has told,
    or ``VERCEL_OIDC_TOKEN``, gets its public name.
    """
    told: dict[str, str] = {}
    headers: list[tuple[bytes, bytes]] = []
    names: set[str] = set()
    for raw_name, raw_value in scope["headers"]:
        name = raw_name.decode("latin-1").lower()
        if name.startswith(_PREFIX):
            told.setdefault(name.removeprefix(_PREFIX), raw_value.decode("latin-1").strip())
        elif not name.startswith(_CACHE_PREFIX):
            names.add(name)
            headers.append((raw_name, raw_value))
    internal = Internal(told)
    if internal.traceparent and "traceparent" not in names:
        headers.append((b"traceparent", internal.traceparent.encode()))
    token = internal.oidc_token or os.environ.get("VERCEL_OIDC_TOKEN", "")
    if token and "x-vercel-oidc-token" not in names:
        headers.append((b"x-vercel-oidc-token", token.encode("latin-1", "ignore")))
    return internal, {**scope, "headers": headers}


def _deadline_s(text: str) -> float | None:
    """Return a time in RFC 3339 by CLOCK_MONOTONIC, in seconds; None if it is none."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    if at.tzinfo is None:
        return None
    return time.monotonic() + (at - datetime.now(UTC)).total_seconds()


def _traceparent_of(trace_id: str, span_id: str) -> str:
    if not (_is_id(trace_id, 32) and _is_id(span_id, 16)):
        return ""
    return f"00-{trace_id}-{span_id}-01"


def _is_id(text: str, length: int) -> bool:
    return len(text) == length and _HEX.issuperset(text) and set(text) != {"0"}
