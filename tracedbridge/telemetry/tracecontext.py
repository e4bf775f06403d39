"""
The trace context of a request where the app has not loaded OpenTelemetry's API: the caller's in, ours on to the app.

Source: W3C Trace Context, 3.2 and 4; what its propagator in the API makes of the same headers. OpenTelemetry,
"Environment Variable Specification", OTEL_TRACES_SAMPLER.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tracedbridge.messages import Request
from tracedbridge.telemetry.current import RANDOM, SAMPLED, Ids
from tracedbridge.telemetry.environment import propagators, sampler

if TYPE_CHECKING:
    from tracedbridge.messages import Headers
    from tracedbridge.settings import Parent

__all__ = ("Sampling", "ids_for", "random_ids", "with_headers")

_HEX = frozenset("0123456789abcdef")
# The API's propagator's own.
_MAX_LENGTH = 512
_LOW_64_BITS = (1 << 64) - 1


class Sampling:
    """What ``OTEL_TRACES_SAMPLER`` asks for, if it is one of the specification's six; as the SDK's would decide."""

    __slots__ = ("_below", "_is_parent_based")

    def __init__(self) -> None:
        """Read the variables; the specification's default where they say nothing."""
        name = sampler()
        self._is_parent_based = name.startswith("parentbased_")
        # A trace is sampled if the lower half of its id is less than this; the bound is the Python SDK's.
        self._below = _LOW_64_BITS + 1
        if name.endswith("always_off"):
            self._below = 0
        elif name.endswith("traceidratio"):
            self._below = round(_ratio() * (_LOW_64_BITS + 1))

    def __call__(self, trace_id: int, parent_sampled: bool | None) -> bool:
        """Say whether a span is sampled; ``parent_sampled`` is None for a root."""
        if self._is_parent_based and parent_sampled is not None:
            return parent_sampled
        return (trace_id & _LOW_64_BITS) < self._below


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
    changed = Request(
        request.method, request.raw_path, request.query, headers + ours, request.body, request.scheme, request.host,
        request.port, request.client, request.http_version,
    )  # fmt: skip
    changed.mount, changed.extras = request.mount, request.extras
    return changed


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


def _ratio() -> float:
    try:
        ratio = float(os.environ.get("OTEL_TRACES_SAMPLER_ARG", ""))
    except ValueError:
        return 1.0
    return ratio if 0.0 <= ratio <= 1.0 else 1.0
