"""
The trace context of a request where the app has not loaded OpenTelemetry's API: the caller's in, ours on to the app.

Source: W3C Trace Context, 3.2 and 4; what its propagator in the API makes of the same headers.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tracedbridge.messages import Request
from tracedbridge.telemetry.current import RANDOM, SAMPLED, Ids

if TYPE_CHECKING:
    from tracedbridge.messages import Headers
    from tracedbridge.settings import Parent
    from tracedbridge.telemetry.sampling import Sampling

__all__ = ("PROPAGATORS", "ids_for", "propagators", "random_ids", "with_headers")

# What we know without the API; an app that asks for others has it loaded.
PROPAGATORS = frozenset(("tracecontext", "baggage"))
_HEX = frozenset("0123456789abcdef")
# The API's propagator's own.
_MAX_LENGTH = 512


def propagators() -> frozenset[str]:
    """Return what ``OTEL_PROPAGATORS`` names; none of them is the empty set."""
    named = os.environ.get("OTEL_PROPAGATORS", "").strip() or "tracecontext,baggage"
    names = frozenset(name.strip().lower() for name in named.split(",") if name.strip())
    return frozenset() if "none" in names else names


def random_ids() -> tuple[int, int]:
    """Return a new trace id and a new span id."""
    some = os.urandom(24)
    return int.from_bytes(some[:16], "big") or 1, int.from_bytes(some[16:], "big") or 1


def ids_for(request: Request, worth: Parent, sampling: Sampling, trace_id: int | None) -> tuple[Ids, Request]:
    """
    Choose the ids of a request's span, and return the request with them in place of the caller's.

    Args:
        request: As it came.
        worth: What a remote parent is worth.
        sampling: Decides whether the span is sampled.
        trace_id: Of the span if it has no parent; None is a new one.
    """
    known = propagators()
    parent = None
    if worth == "parent" and "tracecontext" in known:
        parent = _parsed(",".join(value for name, value in request.event_headers if name == "traceparent"))
    new_trace_id, span_id = random_ids()
    flags = RANDOM
    if parent is None:
        trace_id = trace_id or new_trace_id
        is_sampled = sampling(trace_id, None)
    else:
        trace_id, flags = parent.trace_id, parent.flags & RANDOM
        is_sampled = sampling(trace_id, bool(parent.flags & SAMPLED))
    ids = Ids(trace_id, span_id, flags | (SAMPLED if is_sampled else 0))
    replaced: set[str] = set()
    ours: Headers = []
    if "tracecontext" in known:
        replaced.add("traceparent")
        ours = [("traceparent", f"00-{ids.trace_id:032x}-{ids.span_id:016x}-{ids.flags:02x}")]
        if parent is None:
            # The state belongs to the caller's trace.
            replaced.add("tracestate")
    if worth == "ignore" and "baggage" in known:
        replaced.add("baggage")
    return ids, with_headers(request, frozenset(replaced), ours)


def with_headers(request: Request, replaced: frozenset[str], ours: Headers) -> Request:
    """Return the request with our headers in place of those named, lower-case; it may be the same one."""
    if not request.has_any(replaced):
        request.extra = ours
        return request
    headers = [pair for pair in request.event_headers if pair[0] not in replaced]
    return Request(
        request.method, request.raw_path, request.query, headers + ours, request.body, request.scheme, request.host,
        request.port, request.client, request.http_version,
    )  # fmt: skip


def _parsed(header: str) -> Ids | None:
    if len(header) > _MAX_LENGTH:
        return None
    version, *parts = header.strip(" \t").split("-", 4)
    if len(parts) < 3 or not _is_hex(version, 2) or version == "ff" or (version == "00" and len(parts) > 3):
        return None
    trace_id, span_id, flags = parts[:3]
    if not (_is_hex(trace_id, 32) and _is_hex(span_id, 16) and _is_hex(flags, 2)):
        return None
    ids = Ids(int(trace_id, 16), int(span_id, 16), int(flags, 16))
    return ids if ids.trace_id and ids.span_id else None


def _is_hex(text: str, length: int) -> bool:
    return len(text) == length and _HEX.issuperset(text)
