"""
Two hours of 200 function instances, always the same: what happened, and what they pushed.

Values are recorded by the product's own `Points`; what it makes of them is what an instance pushes. The facts beside
them are the values themselves, each with the time of the push that first told it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from opentelemetry import trace as trace_api
from opentelemetry.context import Context
from opentelemetry.sdk.metrics.export import Metric
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from tests.dashboards.openmetrics import labels_of
from tracedbridge.telemetry.metrics import BY_NAME
from tracedbridge.telemetry.points import Points

__all__ = ("BEGUN_S", "ENDED_S", "INSTANCES", "Demo", "Fact", "Instance", "Push", "simulate")

# 2026-03-02 08:00 UTC: Prometheus cuts its blocks at even hours.
BEGUN_S = 1_772_438_400.0
ENDED_S = BEGUN_S + 7200.0
INSTANCES = 200

# The deploy of "api" that makes its cold starts slower.
_DEPLOYED_S = BEGUN_S + 3600.0
# When "worker" fails and runs late, and when the backend of "api" refuses spans.
_TROUBLE_S = (BEGUN_S + 2400.0, BEGUN_S + 3900.0)
_REFUSED_S = (BEGUN_S + 4200.0, BEGUN_S + 5400.0)

_PACKAGES = {
    "api": (("fastapi", "third_party"), ("pydantic", "third_party"), ("sqlalchemy", "third_party"), ("shop", "app"),
            ("email", "stdlib"), ("asyncio", "stdlib")),
    "worker": (("pandas", "third_party"), ("numpy", "third_party"), ("jobs", "app"), ("asyncio", "stdlib")),
    "cron": (("django", "third_party"), ("reports", "app"), ("decimal", "stdlib")),
}  # fmt: skip
_ROUTES = {
    "api": (("GET", "/items/{item_id}"), ("POST", "/orders")),
    "worker": (("POST", "/jobs"),),
    "cron": (("GET", "/cron"),),
}


class Fact(NamedTuple):
    """One value that was recorded."""

    at_s: float
    name: str
    value: float
    labels: Mapping[str, str]


class Push(NamedTuple):
    """All that an instance has counted, as it pushes it."""

    at_s: float
    resource: Mapping[str, Any]
    metrics: list[Metric]


class Demo(NamedTuple):
    """What happened, and what of it was pushed."""

    facts: list[Fact]
    pushes: list[Push]


class Instance:
    """One process of a function."""

    def __init__(self, number: int, function: str, version: str | None, environment: str | None) -> None:
        """Start with nothing counted; ``number`` makes its ids."""
        self.resource: dict[str, str] = {
            "service.name": function, "service.instance.id": f"{number:08x}", "faas.name": function,
        }  # fmt: skip
        if version is not None:
            self.resource["service.version"] = version
        if environment is not None:
            self.resource["deployment.environment.name"] = environment
        self.facts: list[Fact] = []
        self.pushes: list[Push] = []
        self._waiting: list[tuple[str, float, dict[str, Any]]] = []
        self._points = Points(Resource(self.resource), InstrumentationScope("tracedbridge"), function, None)
        self._traces = number * 1000

    def trace(self) -> Context:
        """Return the context of a new sampled span; the ids of its exemplars say which instance it was."""
        self._traces += 1
        span = SpanContext(self._traces, self._traces, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
        return trace_api.set_span_in_context(NonRecordingSpan(span), Context())

    def record(self, name: str, value: float, context: Context | None = None, **attributes: object) -> None:
        """Record a value; ``_`` in the name of an attribute stands for a dot where INSTRUMENTS has one."""
        known = {each.replace(".", "_"): each for each in BY_NAME[name].attributes}
        dotted = {known[key]: value for key, value in attributes.items()}
        self._points.record(name, value, context, dotted)
        self._waiting.append((name, value, dotted))

    def push(self, at_s: float) -> None:
        """Push everything that was counted until now."""
        data = self._points.add_to(None)
        assert data is not None
        metrics = [metric for scope in data.resource_metrics[0].scope_metrics for metric in scope.metrics]
        self.pushes.append(Push(at_s, self.resource, metrics))
        for name, value, attributes in self._waiting:
            labels = labels_of({**attributes, "faas.name": self.resource["faas.name"]}, self.resource)
            self.facts.append(Fact(at_s, name, value, labels))
        self._waiting.clear()


def simulate() -> Demo:
    """Let it happen."""
    facts: list[Fact] = []
    pushes: list[Push] = []
    for number in range(INSTANCES):
        instance = _live(number)
        facts += instance.facts
        pushes += instance.pushes
    return Demo(facts, pushes)


def _live(number: int) -> Instance:
    """Return an instance that has lived: started, answered, pushed after each answer, and died without a word."""
    chance = random.Random(number)
    born_s = BEGUN_S + 20 + number * 35
    # Nine of twenty are "api", six "worker", five "cron", which says neither version nor environment.
    function = "api" if number % 20 < 9 else "worker" if number % 20 < 15 else "cron"
    version = {"api": "v2" if born_s >= _DEPLOYED_S else "v1", "worker": "v7", "cron": None}[function]
    environment = None if function == "cron" else "preview" if number % 20 == 8 else "production"
    instance = Instance(number + 1, function, version, environment)
    fails_to_load = number in (70, 71, 130)
    _start(instance, chance, function, version, failed=fails_to_load)
    if fails_to_load:
        instance.record("faas.errors", 1, faas_trigger="http", error_type="AppImportError")
        instance.push(_moment(born_s))
        return instance
    moments = list(_moments(born_s, chance, function))
    # What may be stopped at any time tells its first invocation with the second one.
    is_deferred = len(moments) > 1 and chance.random() < 0.2
    for turn, at_s in enumerate(moments):
        _answer(instance, chance, function, at_s, is_cold=turn == 0)
        if not (turn == 0 and is_deferred):
            instance.push(at_s)
            _flush(instance, chance, function, at_s)
    return instance


def _moments(born_s: float, chance: random.Random, function: str) -> Iterator[float]:
    """Yield when it answers; a third of them once only, and one in twelve pauses is longer than half an hour."""
    turns = 1 if function == "cron" or chance.random() < 0.33 else chance.randint(2, 10)
    at_s = born_s
    for _ in range(turns):
        # Nothing that comes after the two hours is told.
        if at_s >= ENDED_S - 2:
            return
        yield _moment(at_s)
        at_s += chance.uniform(1900, 3400) if chance.random() < 0.08 else 2 + chance.expovariate(1 / 70)


def _moment(at_s: float) -> float:
    # Half seconds: never on the edge of a window, which one version of Prometheus counts in and another does not.
    return float(int(at_s)) + 0.5


def _start(instance: Instance, chance: random.Random, function: str, version: str | None, *, failed: bool) -> None:
    kind = chance.choices(("on_demand", "proactive", "restored"), (7, 2, 1))[0]
    usual_s = {"v1": 0.5, "v2": 1.3, "v7": 0.25, None: 4.0}[version] * (0.2 if kind == "restored" else 1)
    shares = {"interpreter": 0.05, "bridge": 0.04, "telemetry": 0.06, "app_import": 0.6, "app_resolve": 0.01,
              "lifespan": 0.24}  # fmt: skip
    phases = {phase: usual_s * share * chance.lognormvariate(0, 0.3) for phase, share in shares.items()}
    context, told = instance.trace(), {"tracedbridge_coldstart_kind": kind}
    instance.record("faas.coldstarts", 1, context, faas_trigger="http", **told)
    instance.record("faas.init_duration", sum(phases.values()), context, faas_trigger="http", **told)
    instance.record("tracedbridge.coldstart.modules", chance.randint(150, 1200), context, **told)
    if kind == "on_demand":
        phases |= {"wait": 0.0005, "first_byte": chance.uniform(0.002, 0.02)}
    for phase, seconds in phases.items():
        instance.record("tracedbridge.coldstart.phase.duration", seconds, context, phase=phase, **told)
    outcome = {"error_type": "ImportError"} if failed else {}
    instance.record("tracedbridge.lifespan.duration", phases["lifespan"], context, phase="startup", **outcome)
    for package, owner in _PACKAGES[function]:
        seconds = phases["app_import"] * chance.uniform(0.02, 0.3)
        instance.record("tracedbridge.import.duration", seconds, context, package=package, owner=owner)


def _answer(instance: Instance, chance: random.Random, function: str, at_s: float, *, is_cold: bool) -> None:
    is_trouble = function == "worker" and _TROUBLE_S[0] <= at_s < _TROUBLE_S[1]
    took_s = chance.lognormvariate(-3 if function == "api" else -1.5, 0.8) * (2 if is_cold else 1)
    roll = chance.random()
    ending = "timed out" if roll < 0.03 else "failed" if roll < (0.3 if is_trouble else 0.05) else "succeeded"
    limit_s = 10.0
    took_s = limit_s if ending == "timed out" else 9.5 if is_trouble and chance.random() < 0.5 else took_s
    context, trigger = instance.trace(), {"faas_trigger": "http"}
    error_type = chance.choice(("ValueError", "500"))
    instance.record("faas.invoke_duration", took_s, context, faas_coldstart=is_cold, **trigger)
    instance.record("faas.cpu_usage", took_s * chance.uniform(0.1, 0.9), context, **trigger)
    instance.record("faas.mem_usage", chance.randint(60, 900) * 1024 * 1024, context, **trigger)
    instance.record("tracedbridge.time_left", max(limit_s - took_s, 0), context, **trigger)
    if chance.random() < 0.1:
        instance.record("tracedbridge.loop_stall", chance.uniform(0.1, 2.0), context, **trigger)
    counter = {"succeeded": "faas.invocations", "failed": "faas.errors", "timed out": "faas.timeouts"}[ending]
    failure = {"error_type": error_type} if ending == "failed" else {}
    instance.record(counter, 1, context, **trigger, **failure)
    method, route = chance.choice(_ROUTES[function])
    status = {"succeeded": 200, "failed": 500, "timed out": 504}[ending]
    instance.record(
        "http.server.request.duration", took_s, context, http_request_method=method, url_scheme="https",
        http_route=route, http_response_status_code=status, network_protocol_version="1.1", **failure,
    )  # fmt: skip


def _flush(instance: Instance, chance: random.Random, function: str, at_s: float) -> None:
    """Record what came of a push; it goes out with the next one."""
    instance.record("tracedbridge.export.duration", chance.uniform(0.004, 0.4))
    is_refused = function == "api" and _REFUSED_S[0] <= at_s < _REFUSED_S[1]
    for signal, items in (("traces", chance.randint(3, 50)), ("metrics", 30), ("logs", chance.randint(1, 9))):
        # Some wait for another try.
        waiting = chance.randint(0, 2)
        instance.record("tracedbridge.export.produced", items, signal=signal)
        outcome = "http_400" if is_refused and signal == "traces" else "sent"
        instance.record("tracedbridge.export.items", items - waiting, signal=signal, outcome=outcome)
        if outcome != "sent":
            instance.record("tracedbridge.export.pauses", 1, signal=signal, outcome=outcome)
    if chance.random() < 0.2:
        instance.record("tracedbridge.export.produced", 30, signal="metrics")
        instance.record("tracedbridge.export.items", 30, signal="metrics", outcome="superseded")
