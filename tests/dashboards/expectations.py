"""What each panel and rule must say of the demo, reckoned from its facts: no Prometheus, no query."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from tests.dashboards.simulation import Fact
from tracedbridge.telemetry.metrics import BY_NAME

__all__ = ("PANELS", "RULES", "Between", "Expected", "Window", "agrees", "count", "quantile")

Key = frozenset[tuple[str, str]]


class Window(NamedTuple):
    """What an expectation is about: facts after ``begun_s`` and until ``ended_s``."""

    facts: list[Fact]
    begun_s: float
    ended_s: float
    # Of the whole range shown, which this window may be a step of.
    range_begun_s: float
    range_ended_s: float

    def told(self) -> list[Fact]:
        """Return the facts of this window."""
        return [fact for fact in self.facts if self.begun_s < fact.at_s <= self.ended_s]

    def whole(self) -> Window:
        """Return the window that is the range shown."""
        return self._replace(begun_s=self.range_begun_s, ended_s=self.range_ended_s)


class Between(NamedTuple):
    """A quantile, known as well as its bucket is narrow."""

    least: float
    most: float


Result = Mapping[Key, float | Between]
Expected = Callable[[Window], Result]
Where = Callable[[Mapping[str, str]], bool]


def agrees(said: Mapping[Key, float], expected: Result) -> str:
    """Return how a query disagrees, or nothing; a count of nothing may be 0 or no series, a quantile must be there."""
    faults = []
    for key in {*said, *expected}:
        value, true = said.get(key), expected.get(key, 0.0)
        if isinstance(true, Between):
            # What lies past the last bound is told as that bound.
            if value is None or not true.least * (1 - 1e-9) <= value <= true.most * (1 + 1e-9):
                faults.append(f"{dict(key)}: {value} is not between {true.least} and {true.most}")
        elif not math.isclose(value or 0.0, true, rel_tol=1e-6, abs_tol=1e-9):
            faults.append(f"{dict(key)}: {value} is not {true}")
    return "; ".join(faults)


def _any(_labels: Mapping[str, str]) -> bool:
    return True


def _is(**wanted: str) -> Where:
    return lambda labels: all(labels.get(key) == value for key, value in wanted.items())


def _key(fact: Fact, by: Iterable[str]) -> Key:
    return frozenset((label, fact.labels[label]) for label in by if label in fact.labels)


def _grouped(facts: Iterable[Fact], name: str, by: Iterable[str], where: Where) -> dict[Key, list[float]]:
    groups: dict[Key, list[float]] = {}
    for fact in facts:
        if fact.name == name and where(fact.labels):
            groups.setdefault(_key(fact, by), []).append(fact.value)
    return groups


def count(name: str, by: tuple[str, ...] = (), where: Where = _any) -> Expected:
    """Expect how much a counter gained, or how many values a histogram."""
    is_counter = BY_NAME[name].kind == "counter"
    return lambda window: {
        key: sum(values) if is_counter else float(len(values))
        for key, values in _grouped(window.told(), name, by, where).items()
    }


def total(name: str, by: tuple[str, ...] = ()) -> Expected:
    """Expect the sum of the values of a histogram."""
    return lambda window: {key: sum(values) for key, values in _grouped(window.told(), name, by, _any).items()}


def quantile(q: float, name: str, by: tuple[str, ...] = (), where: Where = _any) -> Expected:
    """Expect the bucket that the true quantile lies in."""
    bounds = BY_NAME[name].buckets

    def bucket(values: list[float]) -> Between:
        true = sorted(values)[max(math.ceil(q * len(values)) - 1, 0)]
        index = bisect_left(bounds, true)
        if index == len(bounds):
            return Between(bounds[-1], bounds[-1])
        return Between(bounds[index - 1] if index else 0.0, bounds[index])

    return lambda window: {key: bucket(values) for key, values in _grouped(window.told(), name, by, where).items()}


def buckets(name: str, by: tuple[str, ...] = ()) -> Expected:
    """Expect how many values were at most each bound."""
    bounds = (*BY_NAME[name].buckets, math.inf)

    def cumulated(window: Window) -> Result:
        return {
            key | {("le", "+Inf" if bound == math.inf else str(float(bound)))}: float(sum(v <= bound for v in values))
            for key, values in _grouped(window.told(), name, by, _any).items()
            for bound in bounds
        }

    return cumulated


def per_second(amount: Expected) -> Expected:
    """Expect an amount by the seconds of the window."""
    return lambda window: {
        key: _number(value) / (window.ended_s - window.begun_s) for key, value in amount(window).items()
    }


def share(part: Expected, whole: Expected) -> Expected:
    """Expect one amount by another, of the same labels or of none."""

    def divided(window: Window) -> Result:
        parts, wholes = part(window), whole(window)
        return {key: _number(parts.get(key, 0.0)) / _number(value) for key, value in wholes.items()}

    return divided


def share_of_all(part: Expected, whole: Expected) -> Expected:
    """Expect each amount by one that has no labels."""

    def divided(window: Window) -> Result:
        all_of_them = whole(window)
        return {key: _number(value) / _number(all_of_them[frozenset()]) for key, value in part(window).items()
                if all_of_them}  # fmt: skip

    return divided


def added(*amounts: Expected) -> Expected:
    """Expect the sum of amounts."""

    def summed(window: Window) -> Result:
        sums: dict[Key, float] = {}
        for amount in amounts:
            for key, value in amount(window).items():
                sums[key] = sums.get(key, 0.0) + _number(value)
        return sums

    return summed


def labelled(label: str, **amounts: Expected) -> Expected:
    """Expect amounts side by side, told apart by a label; ``_`` stands for a blank in its values."""
    return lambda window: {
        key | {(label, text.replace("_", " "))}: value
        for text, amount in amounts.items()
        for key, value in amount(window).items()
    }


def most(limit: int, result: Expected, ranked: Expected | None = None) -> Expected:
    """Expect the largest only: of the result itself, or of another amount in the whole range."""

    def chosen(window: Window) -> Result:
        found = result(window)
        order = ranked(window.whole()) if ranked is not None else found
        kept = sorted(order, key=lambda key: -_number(order[key]))[:limit]
        return {key: value for key, value in found.items() if key in kept}

    return chosen


def waiting(window: Window) -> Result:
    """Expect what the instances that spoke in the window had made and neither sent nor dropped until then."""
    spoke = {fact.labels["instance"] for fact in window.told()}
    sums: dict[Key, float] = {}
    for name, sign in (("tracedbridge.export.produced", 1), ("tracedbridge.export.items", -1)):
        for fact in window.facts:
            if fact.name == name and fact.at_s <= window.ended_s and fact.labels["instance"] in spoke:
                key = _key(fact, ("signal",))
                sums[key] = sums.get(key, 0.0) + sign * fact.value
    return sums


def _number(value: float | Between) -> float:
    assert isinstance(value, float | int)
    return value


def _ended(by: tuple[str, ...] = ()) -> Expected:
    return added(*(count(f"faas.{counter}", by) for counter in ("invocations", "errors", "timeouts")))


_KIND = "tracedbridge_coldstart_kind"
_VERSION = ("faas_name", "service_version")
_COLD, _WARM = _is(faas_coldstart="true"), _is(faas_coldstart="false")
_INIT, _INVOKE, _PHASE = "faas.init_duration", "faas.invoke_duration", "tracedbridge.coldstart.phase.duration"
_IMPORT, _HTTP = "tracedbridge.import.duration", "http.server.request.duration"
_ITEMS, _PRODUCED = "tracedbridge.export.items", "tracedbridge.export.produced"
_SENT = _is(outcome="sent")
_COLDSTARTS = count("faas.coldstarts")
_COLD_SHARE = share(count(_INVOKE, (), _COLD), count(_INVOKE))
_OUTCOMES = labelled("outcome", succeeded=count("faas.invocations"), failed=count("faas.errors"),
                     timed_out=count("faas.timeouts"))  # fmt: skip


def _is_not_sent(labels: Mapping[str, str]) -> bool:
    return labels["outcome"] != "sent"


def _is_lost(labels: Mapping[str, str]) -> bool:
    return labels["outcome"] not in ("sent", "superseded")


def _lost(by: tuple[str, ...] = ("signal",)) -> Expected:
    return share(count(_ITEMS, by, _is_lost), count(_ITEMS, by))


def _three(name: str) -> tuple[Expected, ...]:
    return tuple(quantile(q, name) for q in (0.5, 0.95, 0.99))


PANELS: dict[str, dict[str, tuple[Expected, ...]]] = {
    "coldstarts": {
        "Cold starts": (_COLDSTARTS,),
        "Cold share": (_COLD_SHARE,),
        "Init": _three(_INIT),
        "Modules": (quantile(0.5, "tracedbridge.coldstart.modules"),),
        "Cold starts by kind": (count("faas.coldstarts", (_KIND,)),),
        "Cold share over time": (_COLD_SHARE,),
        "Init duration": _three(_INIT),
        "Phases of a cold start": (share_of_all(total(_PHASE, ("phase",)), _COLDSTARTS),),
        "Phases, quantiles": (quantile(0.5, _PHASE, ("phase",)), quantile(0.95, _PHASE, ("phase",))),
        "Lifespan": (quantile(0.95, "tracedbridge.lifespan.duration", ("phase",)),),
        "Versions": (count("faas.coldstarts", _VERSION), *(quantile(q, _INIT, _VERSION) for q in (0.5, 0.95, 0.99))),
        "Init by version": (quantile(0.95, _INIT, _VERSION),),
        # There are fewer than 15 packages.
        "Slowest imports": (quantile(0.95, _IMPORT, ("package", "owner")),),
        "Imports over time": (most(10, total(_IMPORT, ("package",)), total(_IMPORT, ("package",))),),
        "Cold against warm": tuple(quantile(q, _INVOKE, (), where) for where in (_COLD, _WARM) for q in (0.5, 0.95)),
        "Init by kind": (quantile(0.95, _INIT, (_KIND,)),),
        "Share by kind": (share_of_all(count("faas.coldstarts", (_KIND,)), _COLDSTARTS),),
    },
    "invocations": {
        "Invocations": (count(_INVOKE),),
        "Errors": (count("faas.errors"),),
        "Timeouts": (count("faas.timeouts"),),
        "Duration": _three(_INVOKE),
        "Rate": (per_second(count(_INVOKE, ("faas_name",))),),
        "Outcomes": (_OUTCOMES,),
        "Duration, all of it": (buckets(_INVOKE),),
        "Duration quantiles": _three(_INVOKE),
        "Duration by route": (quantile(0.95, _HTTP, ("http_request_method", "http_route")),),
        "Error share": (share(count("faas.errors"), _ended()), share(count("faas.timeouts"), _ended())),
        "Errors by type": (count("faas.errors", ("error_type",)),),
        "Answers by status": (count(_HTTP, ("http_response_status_code",)),),
        "Failed": (share(added(count("faas.errors"), count("faas.timeouts")), _ended()),),
        "Memory": _three("faas.mem_usage"),
        "CPU": _three("faas.cpu_usage"),
        "Time left": tuple(quantile(q, "tracedbridge.time_left") for q in (0.01, 0.05, 0.5)),
        "Event loop stalls": (count("tracedbridge.loop_stall", ("faas_name",)),),
        "Longest stalls": (quantile(0.95, "tracedbridge.loop_stall", ("faas_name",)),),
    },
    "telemetry": {
        "Sent": (count(_ITEMS, ("signal",), _SENT),),
        "Lost": (_lost(),),
        "Exported": (per_second(count(_ITEMS, ("signal",), _SENT)),),
        "Dropped by reason": (count(_ITEMS, ("signal", "outcome"), _is_not_sent),),
        "Breaker: pauses": (count("tracedbridge.export.pauses", ("signal", "outcome")),),
        "Breaker: what waits": (waiting,),
        "Produced": (per_second(count(_PRODUCED, ("signal",))),),
        "Flush": _three("tracedbridge.export.duration"),
        "Lost over time": (_lost(),),
    },
}  # fmt: skip
"""Dashboard → panel → what each of its queries must say."""

_FUNCTION = ("faas_name", "service_version", "deployment_environment_name")
# What alerts are told apart by.
_WHOSE = ("faas_name", "deployment_environment_name")


def _minutes(minutes: float, expected: Expected) -> Expected:
    """Expect something of the minutes before the end of a window."""
    return lambda window: expected(window._replace(begun_s=window.ended_s - 60 * minutes))


def _above(value: Expected, least: float, base: Expected, least_base: float) -> Expected:
    """Expect what is more than ``least``, where there is enough to say so."""

    def found(window: Window) -> Result:
        bases = base(window)
        return {
            key: each for key, each in value(window).items()
            if _number(bases.get(key, 0.0)) >= least_base
            and (each.least >= least if isinstance(each, Between) else each > least)
        }  # fmt: skip

    return found


def _quantile_below(expected: Expected, least: float, base: Expected, least_base: float) -> Expected:
    def found(window: Window) -> Result:
        bases = base(window)
        return {
            key: each for key, each in expected(window).items()
            if isinstance(each, Between) and each.most <= least and _number(bases.get(key, 0.0)) >= least_base
        }  # fmt: skip

    return found


_ALL_OF_SIGNAL = count(_ITEMS, (*_WHOSE, "signal"))

RULES: dict[str, Expected] = {
    "function:faas_outcomes:made1m": labelled(
        "outcome", succeeded=count("faas.invocations", _FUNCTION), failed=count("faas.errors", _FUNCTION),
        timed_out=count("faas.timeouts", _FUNCTION),
    ),
    "function:faas_invocations:made1m": count(_INVOKE, (*_FUNCTION, "faas_coldstart")),
    "function:faas_coldstarts:made1m": count("faas.coldstarts", (*_FUNCTION, _KIND)),
    "function:faas_errors:made1m": count("faas.errors", (*_FUNCTION, "error_type")),
    "function:faas_timeouts:made1m": count("faas.timeouts", _FUNCTION),
    "function:faas_init_duration_seconds_bucket:made1m": buckets(_INIT, _FUNCTION),
    "function:faas_invoke_duration_seconds_bucket:made1m": buckets(_INVOKE, _FUNCTION),
    "function:tracedbridge_time_left_seconds_bucket:made1m": buckets("tracedbridge.time_left", _FUNCTION),
    "function:tracedbridge_export_items:made1m": count(_ITEMS, (*_FUNCTION, "signal", "outcome")),
    "FunctionErrors": _minutes(15, _above(share(count("faas.errors", _WHOSE), _ended(_WHOSE)), 0.05,
                                          _ended(_WHOSE), 20)),
    "FunctionTimeouts": _minutes(15, _above(count("faas.timeouts", _WHOSE), 2, count("faas.timeouts", _WHOSE), 3)),
    "FunctionInitSlow": _minutes(60, _above(quantile(0.95, _INIT, _WHOSE), 2.5, count("faas.coldstarts", _WHOSE), 10)),
    "FunctionColdShareHigh": _minutes(60, _above(share(count(_INVOKE, _WHOSE, _COLD), count(_INVOKE, _WHOSE)), 0.3,
                                                 count(_INVOKE, _WHOSE), 30)),
    "FunctionTimeLeftShort": _minutes(15, _quantile_below(quantile(0.05, "tracedbridge.time_left", _WHOSE), 1,
                                                          count(_INVOKE, _WHOSE), 20)),
    "FunctionTelemetryLost": _minutes(15, _above(_lost((*_WHOSE, "signal")), 0.05, _ALL_OF_SIGNAL, 1)),
}  # fmt: skip
"""Rule → what it must say at each of its evaluations; of an alert, for whom its expression holds."""
