"""
The six samplers of the specification, as functions of id and parent, without the SDK.

Source: OpenTelemetry, "Environment Variable Specification", OTEL_TRACES_SAMPLER; the bound is the Python SDK's.
"""

from __future__ import annotations

import os

__all__ = ("SAMPLERS", "Sampling")

SAMPLERS = frozenset(
    ("always_on", "always_off", "traceidratio", "parentbased_always_on", "parentbased_always_off",
     "parentbased_traceidratio")
)  # fmt: skip

_LOW_64_BITS = (1 << 64) - 1


class Sampling:
    """What ``OTEL_TRACES_SAMPLER`` asks for, if it is one of SAMPLERS."""

    __slots__ = ("_below", "_is_parent_based")

    def __init__(self) -> None:
        """Read the variables; the specification's default where they say nothing."""
        name = os.environ.get("OTEL_TRACES_SAMPLER", "").strip().lower() or "parentbased_always_on"
        self._is_parent_based = name.startswith("parentbased_")
        # A trace is sampled if the lower half of its id is less than this.
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


def _ratio() -> float:
    try:
        ratio = float(os.environ.get("OTEL_TRACES_SAMPLER_ARG", ""))
    except ValueError:
        return 1.0
    return ratio if 0.0 <= ratio <= 1.0 else 1.0
