"""Without the SDK the six samplers of the specification decide as the SDK's own do."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
from opentelemetry.context import Context
from opentelemetry.sdk.trace import sampling as sdk
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from tracedbridge.telemetry.environment import SAMPLERS
from tracedbridge.telemetry.tracecontext import Sampling
from tracedbridge.telemetry.variables import without_bad_values

pytestmark = pytest.mark.telemetry

# Good ones, those at the edges, and such as mean nothing.
ARGUMENTS = (
    None, "", "0", "1", "0.5", " 0.25 ", "1e-9", "0.999999999", "5e-20", "-0.0", "1_0e-1", "\u0661",
    "half", "50%", "-0.1", "1.0000001", "2", "nan", "inf", "-inf", "0,5", "1e400",
)  # fmt: skip

RATIOS = (0.0, 5e-20, 1e-9, 0.25, 0.5, 0.999999999, 1.0)

# Flags of a parent, and whether it is remote; None is a root.
PARENTS = (None, *product((TraceFlags.DEFAULT, TraceFlags.SAMPLED), (False, True)))


def trace_ids() -> Iterator[int]:
    """Give ids at and beside the bound of each ratio, and random ones."""
    chance = random.Random(4)
    for ratio in RATIOS:
        bound = round(ratio * (1 << 64))
        for low in range(bound - 2, bound + 3):
            if 0 <= low < 1 << 64:
                yield (chance.getrandbits(64) or 1) << 64 | low
    for _ in range(60):
        yield chance.getrandbits(128) or 1


IDS = tuple(trace_ids())


def set_sampler(monkeypatch: pytest.MonkeyPatch, name: str | None, argument: str | None) -> None:
    """Configure a sampler; None is what is not set."""
    for variable, value in (("OTEL_TRACES_SAMPLER", name), ("OTEL_TRACES_SAMPLER_ARG", argument)):
        if value is None:
            monkeypatch.delenv(variable, raising=False)
        else:
            monkeypatch.setenv(variable, value)


def decided_by_sdk(sampler: sdk.Sampler, trace_id: int, parent: tuple[int, bool] | None) -> bool:
    """Ask a sampler of the SDK."""
    context = Context()
    if parent is not None:
        flags, is_remote = parent
        remote = SpanContext(trace_id, 1, is_remote, TraceFlags(flags))
        context = set_span_in_context(NonRecordingSpan(remote), context)
    decision: Any = sampler.should_sample(context, trace_id, "GET").decision
    return bool(decision.is_sampled())


@pytest.mark.parametrize("argument", ARGUMENTS, ids=repr)
@pytest.mark.parametrize("name", [None, "", *sorted(SAMPLERS), "Always_OFF", "TRACEIDRATIO"])
def test_decisions(name: str | None, argument: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """For every id and every parent both decide the same, whatever the argument is."""
    set_sampler(monkeypatch, name, argument)
    ours = Sampling()
    # To the SDK an empty name is one that it does not know; the specification says that it is none.
    set_sampler(monkeypatch, name or None, argument)
    # As it is made here: of a bad argument some versions make an exception.
    with without_bad_values():
        theirs = sdk._get_from_env_or_default()
    for trace_id, parent in product(IDS, PARENTS):
        is_sampled = None if parent is None else bool(parent[0])
        decided = ours(trace_id, is_sampled)
        assert decided is decided_by_sdk(theirs, trace_id, parent), (hex(trace_id), parent)


def test_both_happen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the ids of this file a ratio takes some and leaves some: neither sampler says the same to all."""
    set_sampler(monkeypatch, "traceidratio", "0.5")
    sampling = Sampling()
    assert {sampling(trace_id, None) for trace_id in IDS} == {True, False}


def test_names() -> None:
    """The samplers that need no SDK are those that the SDK knows without an installed component."""
    assert set(SAMPLERS) == set(sdk._KNOWN_SAMPLERS)
