"""Writes a request as the event that a platform's front makes of it."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ("FRONTS", "vercel_event")

_CLIENT = "127.0.0.1"


def vercel_event(
    method: str, target: str, headers: Mapping[str, Sequence[str]], body: bytes | None, client: str = _CLIENT
) -> dict[str, str]:
    """
    Write the event that ``vc_handler`` gets on Vercel.

    Args:
        method: As sent.
        target: Path and query, percent-encoded.
        headers: Lower-case name → values in order. Those of Vercel's own proxy are added where they are missing:
            there, everything comes through it.
        body: None for a request without one.
        client: Who asks.
    """
    proxied = {"x-forwarded-proto": ["http"], "x-forwarded-for": [client], "x-real-ip": [client]}
    request: dict[str, Any] = {"method": method, "path": target}
    if body is not None:
        try:
            request["body"] = body.decode()
        except UnicodeDecodeError:
            request.update(body=base64.b64encode(body).decode(), encoding="base64")
    request["headers"] = {
        name: values[0] if len(values) == 1 else list(values) for name, values in {**proxied, **headers}.items()
    }
    return {"Action": "Invoke", "body": json.dumps(request)}


FRONTS: dict[str, Callable[[str, str, Mapping[str, Sequence[str]], bytes | None, str], Any]] = {"vercel": vercel_event}
"""By platform; each as `vercel_event`."""
