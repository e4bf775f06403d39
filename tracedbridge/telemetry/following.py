"""
The places of the global providers, and tracers, meters and loggers that write to whichever provider is there.

The API lets a provider be set once. Ours are put in place without using that up, so that an app's
``set_tracer_provider`` (or meter, or logger provider) succeeds, whenever it comes; what our providers handed out
before looks at each call who is in charge now.

Source: opentelemetry-api 1.45, ``trace/__init__.py``, ``metrics/_internal/__init__.py``, ``_logs/_internal``: the
module variable is what ``get_tracer_provider`` reads and what ``set_tracer_provider`` writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import opentelemetry._logs._internal as logs_place
import opentelemetry.metrics._internal as metrics_place
from opentelemetry import metrics as metrics_api
from opentelemetry import trace as trace_api
from opentelemetry._logs import Logger
from opentelemetry.metrics import Meter
from opentelemetry.metrics import _Gauge as ApiGauge
from opentelemetry.util._decorator import _agnosticcontextmanager

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

__all__ = (
    "FOLLOWING",
    "FollowingLogger",
    "FollowingMeter",
    "FollowingTracer",
    "in_charge",
    "put_in_place",
    "take_away",
)

_PLACES: dict[str, tuple[ModuleType, str]] = {
    "traces": (trace_api, "_TRACER_PROVIDER"),
    "metrics": (metrics_place, "_METER_PROVIDER"),
    "logs": (logs_place, "_LOGGER_PROVIDER"),
}


_PROXIES = metrics_place._PROXY_METER_PROVIDER


def in_charge(signal: str) -> Any:
    """Return the provider that is global now, or None; never loads one, as asking the API would."""
    module, name = _PLACES[signal]
    return getattr(module, name)


def put_in_place(signal: str, provider: Any, instead_of: Any = None) -> bool:
    """Make ``provider`` the global one of its signal, unless somebody has set another; say whether it is now."""
    module, name = _PLACES[signal]
    if getattr(module, name) is not instead_of:
        return False
    setattr(module, name, provider)
    if signal == "metrics":
        # Instruments that the app made before: tracers and loggers look by themselves, these are told.
        _PROXIES.on_set_meter_provider(provider)
    return True


def take_away(signal: str, provider: Any) -> None:
    """Undo `put_in_place`, unless somebody has set another provider since."""
    module, name = _PLACES[signal]
    if getattr(module, name) is provider:
        setattr(module, name, None)
        if signal == "metrics" and _PROXIES._real_meter_provider is provider:
            # Or meters that are asked for from now on would be ours, which nobody reads any more.
            _PROXIES._real_meter_provider = None


class _Follower:
    """Something of ours and, once another provider is in charge, its counterpart over there."""

    _signal: str

    def _follow(self, home: Any, ours: Any, theirs: Callable[[Any], Any]) -> None:
        self._home = home
        self._ours = ours
        self._theirs = theirs
        self._seen: Any = None
        self._counterpart: Any = None

    def _now(self) -> Any:
        module, name = _PLACES[self._signal]
        provider = getattr(module, name)
        # None: put away at close(); what is handed out goes on with what it has.
        if provider is self._home or provider is None:
            return self._ours
        if provider is not self._seen:
            self._counterpart, self._seen = self._theirs(provider), provider
        return self._counterpart


class FollowingTracer(_Follower, trace_api.Tracer):
    """A tracer that writes to whichever provider is global when a span starts."""

    _signal = "traces"

    def __init__(self, home: Any, ours: Any, theirs: Callable[[Any], Any]) -> None:
        self._follow(home, ours, theirs)

    def start_span(self, *args: Any, **kwargs: Any) -> trace_api.Span:
        span: trace_api.Span = self._now().start_span(*args, **kwargs)
        return span

    @_agnosticcontextmanager  # what the SDK's own is: it works on coroutine functions, too
    def start_as_current_span(self, *args: Any, **kwargs: Any) -> Iterator[trace_api.Span]:
        with self._now().start_as_current_span(*args, **kwargs) as span:
            yield span

    def __getattr__(self, name: str) -> Any:
        # Instrumentations read SDK attributes such as `id_generator`.
        return getattr(self._ours, name)


class FollowingLogger(_Follower, Logger):
    """A logger that writes to whichever provider is global when a record is emitted."""

    _signal = "logs"

    def __init__(self, home: Any, ours: Any, theirs: Callable[[Any], Any]) -> None:
        super().__init__(ours._name, ours._version, ours._schema_url, ours._attributes)
        self._follow(home, ours, theirs)

    def emit(self, *args: Any, **kwargs: Any) -> None:
        self._now().emit(*args, **kwargs)

    def enabled(self, *args: Any, **kwargs: Any) -> bool:
        # Not of every version of the API that we allow.
        enabled = getattr(self._now(), "enabled", None)
        return enabled is None or bool(enabled(*args, **kwargs))


class FollowingMeter(_Follower, Meter):
    """A meter whose instruments write to whichever provider is global when they are used."""

    _signal = "metrics"

    def __init__(self, home: Any, ours: Any, theirs: Callable[[Any], Any]) -> None:
        super().__init__(ours.name, ours.version, ours.schema_url)
        self._follow(home, ours, theirs)

    def _make(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        ours = getattr(self._ours, method)(*args, **kwargs)
        base = FOLLOWING[method]
        return base(self._home, ours, lambda other: getattr(self._theirs(other), method)(*args, **kwargs))

    def create_counter(self, *args: Any, **kwargs: Any) -> metrics_api.Counter:
        made: metrics_api.Counter = self._make("create_counter", args, kwargs)
        return made

    def create_up_down_counter(self, *args: Any, **kwargs: Any) -> metrics_api.UpDownCounter:
        made: metrics_api.UpDownCounter = self._make("create_up_down_counter", args, kwargs)
        return made

    def create_histogram(self, *args: Any, **kwargs: Any) -> metrics_api.Histogram:
        made: metrics_api.Histogram = self._make("create_histogram", args, kwargs)
        return made

    def create_gauge(self, *args: Any, **kwargs: Any) -> Any:
        return self._make("create_gauge", args, kwargs)

    # Callbacks run where the instrument was made: a provider that comes later asks for instruments of its own.
    def create_observable_counter(self, *args: Any, **kwargs: Any) -> metrics_api.ObservableCounter:
        made: metrics_api.ObservableCounter = self._now().create_observable_counter(*args, **kwargs)
        return made

    def create_observable_up_down_counter(self, *args: Any, **kwargs: Any) -> metrics_api.ObservableUpDownCounter:
        made: metrics_api.ObservableUpDownCounter = self._now().create_observable_up_down_counter(*args, **kwargs)
        return made

    def create_observable_gauge(self, *args: Any, **kwargs: Any) -> metrics_api.ObservableGauge:
        made: metrics_api.ObservableGauge = self._now().create_observable_gauge(*args, **kwargs)
        return made


class _Instrument(_Follower):
    _signal = "metrics"

    def __init__(self, home: Any, ours: Any, theirs: Callable[[Any], Any]) -> None:
        self._follow(home, ours, theirs)


class _Counter(_Instrument, metrics_api.Counter):
    def add(self, *args: Any, **kwargs: Any) -> None:
        self._now().add(*args, **kwargs)


class _UpDownCounter(_Instrument, metrics_api.UpDownCounter):
    def add(self, *args: Any, **kwargs: Any) -> None:
        self._now().add(*args, **kwargs)


class _Histogram(_Instrument, metrics_api.Histogram):
    def record(self, *args: Any, **kwargs: Any) -> None:
        self._now().record(*args, **kwargs)


class _Gauge(_Instrument, ApiGauge):
    def set(self, *args: Any, **kwargs: Any) -> None:
        self._now().set(*args, **kwargs)


FOLLOWING: dict[str, type[_Instrument]] = {
    "create_counter": _Counter,
    "create_up_down_counter": _UpDownCounter,
    "create_histogram": _Histogram,
    "create_gauge": _Gauge,
}
