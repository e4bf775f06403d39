"""
Providers that stand in until the SDK is there: they keep what is made through OpenTelemetry's API, and replay it.

Only the API is needed, which the app has loaded by then. Originals and operations are kept, not the state that they
lead to, so that limits, status rules and processors of the SDK see what they would have seen. What they handed out
writes to the SDK from the replay on, and at once to a provider that the app sets itself.
"""

from __future__ import annotations

import copy
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from opentelemetry import context as context_api
from opentelemetry import metrics as metrics_api
from opentelemetry import trace as trace_api
from opentelemetry._logs import LoggerProvider, LogRecord
from opentelemetry.util._decorator import _agnosticcontextmanager

from tracedbridge.telemetry.current import RANDOM, SAMPLED, SCOPE, Ids
from tracedbridge.telemetry.following import (
    FOLLOWING,
    FollowingLogger,
    FollowingMeter,
    FollowingTracer,
    in_charge,
    put_in_place,
    take_away,
)
from tracedbridge.telemetry.ids import span_context_of, start_pinned

if TYPE_CHECKING:
    import types
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from opentelemetry.context import Context
    from opentelemetry.trace import SpanContext, SpanKind, Tracer

    from tracedbridge.telemetry.environment import Signal
    from tracedbridge.telemetry.tracecontext import Sampling

__all__ = ("StandIn", "StandInSpan", "StandIns")

# Of one kind in one cold start: the SDK's queues are of 2,048 items, too.
_MOST = 2048
# Of one span: eight times what the SDK keeps of attributes, and of events.
_MOST_OPERATIONS = 1024

_PLAIN = (str, bool, int, float, bytes, type(None))


class StandIns:
    """The three providers that stand in."""

    def __init__(self, sampling: Sampling, service: str, random_ids: Callable[[], tuple[int, int]]) -> None:
        """
        Put them in place where nobody has set a provider.

        Args:
            sampling: Decides about spans.
            service: The ``service.name`` of the resource to come.
            random_ids: Gives a new trace and a new span id.
        """
        traces = _TracerProvider(sampling, service, random_ids)
        # The app's own tracer provider, and a tracer of it.
        self._others: tuple[Any, Tracer] | None = None
        self._providers: dict[Signal, StandIn] = {
            "traces": traces,
            "metrics": _MeterProvider(),
            "logs": _LoggerProvider(),
        }

    def put_in_place(self, signals: Sequence[Signal]) -> None:
        """Make those of these signals the global ones, where nobody has set one."""
        for signal in signals:
            put_in_place(signal, self._providers[signal])

    def provider(self, signal: Signal) -> Any:
        """Return the one of a signal."""
        return self._providers[signal]

    def others_tracer(self) -> Tracer | None:
        """Return a tracer of the app's own provider, if it has set one."""
        provider = in_charge("traces")
        if provider is None or isinstance(provider, StandIn):
            return None
        if self._others is None or self._others[0] is not provider:
            self._others = (provider, provider.get_tracer(SCOPE, _version()))
        return self._others[1]

    def replay(self) -> dict[Signal, int]:
        """Give everything kept to the providers that are global now; return how much there had been no room for."""
        return {signal: provider.replay() for signal, provider in self._providers.items()}

    def forget(self) -> None:
        """Drop what was kept, and go on."""
        for provider in self._providers.values():
            provider.forget()

    def take_away(self) -> None:
        """Undo `put_in_place`."""
        for signal, provider in self._providers.items():
            take_away(signal, provider)
            provider.end()


class StandIn:
    """What all three have: a bounded list of what is to be replayed, and the setters of the SDK's providers."""

    signal = ""

    def __init__(self) -> None:
        # Reentrant: a replayed span may log, and so come back here.
        self.lock = threading.RLock()
        self.kept: list[Any] | None = []
        self._calls: list[tuple[str, tuple[Any, ...]]] = []
        self._dropped = 0

    def keep(self, item: Any) -> bool:
        """Keep something for the replay; False if that is over."""
        with self.lock:
            if self.kept is None:
                return False
            if len(self.kept) < _MOST:
                self.kept.append(item)
            else:
                self._dropped += 1
            return True

    def forget(self) -> None:
        """Drop what was kept, and go on."""
        self.lock = threading.RLock()
        if self.kept is not None:
            self.kept = []

    def end(self) -> None:
        """Keep nothing from now on."""
        with self.lock:
            self.kept = None

    def replay(self) -> int:
        provider = in_charge(self.signal)
        if provider is self:
            return 0
        with self.lock:
            kept, self.kept = self.kept or [], None
        for name, args in self._calls:
            if hasattr(provider, name):
                getattr(provider, name)(*args)
        for item in kept:
            try:
                self.replay_one(item)
            except Exception:  # noqa: BLE001 - one that nobody takes must not cost all others
                self._dropped += 1
        return self._dropped

    def replay_one(self, item: Any) -> None:
        raise NotImplementedError

    def call_later(self, name: str, *args: Any) -> None:
        """Have the provider that comes be called so, too."""
        provider = in_charge(self.signal)
        with self.lock:
            if self.kept is not None:
                self._calls.append((name, args))
                return
        getattr(provider, name, lambda *_: None)(*args)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Do nothing, as the SDK's provider with our queue: the flush is ours."""
        del timeout_millis
        return True

    def shutdown(self) -> None:
        """Do nothing: what is kept is the bridge's to send."""


# Traces.


class _TracerProvider(StandIn, trace_api.TracerProvider):
    signal = "traces"

    def __init__(self, sampling: Sampling, service: str, random_ids: Callable[[], tuple[int, int]]) -> None:
        super().__init__()
        self.sampling = sampling
        self.random_ids = random_ids
        self.resource = _Resource({"service.name": service})

    def get_tracer(self, *args: Any, **kwargs: Any) -> Tracer:
        def elsewhere(provider: Any) -> Any:
            return provider.get_tracer(*args, **kwargs)

        return FollowingTracer(self, _Tracer(self, elsewhere), elsewhere)

    def add_span_processor(self, span_processor: Any) -> None:
        self.call_later("add_span_processor", span_processor)

    def replay_one(self, item: Any) -> None:
        span, elsewhere = item
        span.replay(elsewhere(_sdk_of(in_charge("traces"))))


class _Resource:
    """What people read of a provider's resource."""

    def __init__(self, attributes: Mapping[str, Any]) -> None:
        self.attributes = attributes
        self.schema_url = ""


class _Tracer(trace_api.Tracer):
    def __init__(self, provider: _TracerProvider, elsewhere: Callable[[Any], Any]) -> None:
        self._provider = provider
        self._elsewhere = elsewhere

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = trace_api.SpanKind.INTERNAL,
        attributes: Any = None,
        links: Sequence[trace_api.Link] | None = (),
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> trace_api.Span:
        provider = self._provider
        context = context_api.get_current() if context is None else context
        parent = trace_api.get_current_span(context).get_span_context()
        trace_id, span_id = provider.random_ids()
        flags, state = RANDOM, None
        if parent.is_valid:
            trace_id, flags, state = parent.trace_id, parent.trace_flags & RANDOM, parent.trace_state
        is_sampled = provider.sampling(trace_id, parent.trace_flags.sampled if parent.is_valid else None)
        span_context = span_context_of(Ids(trace_id, span_id, flags | (SAMPLED if is_sampled else 0)), state)
        if not is_sampled:
            return trace_api.NonRecordingSpan(span_context)
        span = StandInSpan(
            name, span_context, context, kind, _copied(attributes), tuple(links or ()),
            time.time_ns() if start_time is None else start_time, record_exception, set_status_on_exception,
            parent if parent.is_valid else None, provider.resource,
        )  # fmt: skip
        if not provider.keep((span, self._elsewhere)):
            span.replay(self._elsewhere(_sdk_of(in_charge("traces"))))
        return span

    @_agnosticcontextmanager  # what the SDK's own is: it works on coroutine functions, too
    def start_as_current_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = trace_api.SpanKind.INTERNAL,
        attributes: Any = None,
        links: Sequence[trace_api.Link] | None = (),
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
        end_on_exit: bool = True,
    ) -> Iterator[trace_api.Span]:
        span = self.start_span(
            name, context, kind, attributes, links, start_time, record_exception, set_status_on_exception
        )
        with trace_api.use_span(span, end_on_exit, record_exception, set_status_on_exception) as current:
            yield current


class StandInSpan(trace_api.Span):
    """A span that keeps what is done to it, until it can be done to one of the SDK."""

    __slots__ = (
        "_attributes", "_begun", "_calls", "_context", "_lock", "_name", "_parent_context", "_real",
        "_record_exception", "_set_status_on_exception", "_status", "end_time", "kind", "links", "parent", "resource",
        "start_time",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        span_context: SpanContext,
        context: Context,
        kind: SpanKind,
        attributes: dict[str, Any] | None,
        links: tuple[trace_api.Link, ...],
        start_time: int,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
        parent: SpanContext | None = None,
        resource: Any = None,
    ) -> None:
        """
        Args:
            name: Of the span.
            span_context: Its own.
            context: The one that it was started in.
            kind: As in the API.
            attributes: Copied already.
            links: As in the API.
            start_time: Nanoseconds since the epoch.
            record_exception: As in the API, for when the span is used as a context manager.
            set_status_on_exception: The same.
            parent: Of ``context``, if it has a span.
            resource: For those who read it.
        """
        self._begun = self._name = name
        self._context = span_context
        self._parent_context = context
        self.kind = kind
        self._attributes = attributes
        self.links = links
        self.start_time = start_time
        self.end_time: int | None = None
        self.parent = parent
        self.resource = resource
        self._record_exception = record_exception
        self._set_status_on_exception = set_status_on_exception
        self._status: Any = None
        # Method and arguments, in order.
        self._calls: list[tuple[str, tuple[Any, ...]]] = []
        self._real: Any = None
        self._lock = threading.RLock()

    # What people read, although it is not the API's.

    @property
    def name(self) -> str:
        """Its name now."""
        return self._name if self._real is None else str(getattr(self._real, "name", self._name))

    @property
    def context(self) -> SpanContext:
        """Its own span context."""
        return self._context

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Its attributes now."""
        if self._real is not None:
            return getattr(self._real, "attributes", None) or {}
        attributes = dict(self._attributes or {})
        for method, args in list(self._calls):
            if method == "set_attributes":
                attributes.update(args[0])
        return attributes

    @property
    def status(self) -> Any:
        """Its status now."""
        return trace_api.Status() if self._status is None else self._status

    # The API.

    def get_span_context(self) -> SpanContext:
        """Return its own span context."""
        return self._context

    def is_recording(self) -> bool:
        """Say whether it has not ended."""
        return self.end_time is None

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """As in the API."""
        if copied := _copied(attributes):
            self._do("set_attributes", copied)

    def set_attribute(self, key: str, value: Any) -> None:
        """As in the API."""
        self._do("set_attributes", {key: _as_now(value)})

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        """As in the API."""
        self._do("add_event", name, _copied(attributes), time.time_ns() if timestamp is None else timestamp)

    def add_link(self, context: SpanContext, attributes: Any = None) -> None:
        """As in the API."""
        self._do("add_link", context, _copied(attributes))

    def update_name(self, name: str) -> None:
        """As in the API."""
        self._name = name
        self._do("update_name", name)

    def set_status(self, status: Any, description: str | None = None) -> None:
        """As in the API."""
        told = status if isinstance(status, trace_api.Status) else trace_api.Status(status, description)
        current = trace_api.StatusCode.UNSET if self._status is None else self._status.status_code
        if told.status_code is not trace_api.StatusCode.UNSET and current is not trace_api.StatusCode.OK:
            self._status = told
        self._do("set_status", status, description)

    def record_exception(
        self, exception: BaseException, attributes: Any = None, timestamp: int | None = None, escaped: bool = False
    ) -> None:
        """As in the API; its text is taken now, while its frames are what they are."""
        import traceback

        module, name = type(exception).__module__, type(exception).__qualname__
        # As the SDK's own, which would do it later, and in another thread.
        told = {
            "exception.type": f"{module}.{name}" if module and module != "builtins" else name,
            "exception.message": str(exception),
            "exception.stacktrace": "".join(traceback.format_exception(exception)),
            "exception.escaped": str(escaped),
            **(attributes or {}),
        }
        self.add_event("exception", told, timestamp)

    def end(self, end_time: int | None = None) -> None:
        """As in the API."""
        with self._lock:
            if self.end_time is None:
                self.end_time = time.time_ns() if end_time is None else end_time
                if self._real is not None:
                    self._real.end(self.end_time)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        """End it, with the exception that has left its block."""
        if error is not None and self.is_recording():
            if self._record_exception:
                self.record_exception(error, escaped=True)
            if self._set_status_on_exception:
                told = f"{type(error).__name__}: {error}"
                self.set_status(trace_api.Status(trace_api.StatusCode.ERROR, told))
        self.end()

    def replay(self, tracer: Any, begin: Callable[..., trace_api.Span] | None = None) -> trace_api.Span:
        """
        Make a span of somebody else's like this one, and do all to it that is done to this one, from now on.

        Args:
            tracer: Makes it, with this one's ids if it is the SDK's.
            begin: Makes it instead.
        """
        with self._lock:
            if self._real is None:
                make = begin or self._make
                real: Any = make(tracer)
                for method, args in self._calls:
                    # Whoever gave it has gone on long since: the SDK's refusal costs this and no more.
                    with suppress(Exception):
                        getattr(real, method)(*args)
                self._calls.clear()
                if self.end_time is not None:
                    real.end(self.end_time)
                self._real = real
            replayed: trace_api.Span = self._real
            return replayed

    def _make(self, tracer: Any) -> trace_api.Span:
        return start_pinned(
            tracer, self._begun, trace_id=self._context.trace_id, span_id=self._context.span_id,
            context=self._parent_context, kind=self.kind, attributes=self._attributes, links=self.links,
            start_time=self.start_time, record_exception=self._record_exception,
            set_status_on_exception=self._set_status_on_exception,
        )  # fmt: skip

    def _do(self, method: str, *args: Any) -> None:
        with self._lock:
            if self.end_time is not None:
                return
            if self._real is not None:
                getattr(self._real, method)(*args)
            elif len(self._calls) < _MOST_OPERATIONS:
                self._calls.append((method, args))


def _copied(attributes: Any) -> dict[str, Any] | None:
    """Return the attributes as they are now: the app may change the lists in them."""
    if not attributes:
        return None
    return {key: _as_now(value) for key, value in dict(attributes).items()}


def _as_now(value: Any) -> Any:
    if isinstance(value, _PLAIN):
        return value
    try:
        return copy.deepcopy(value)
    except Exception:  # noqa: BLE001 - what cannot be copied is no attribute: the SDK says so, and leaves it out
        return value


# Metrics.


class _MeterProvider(StandIn, metrics_api.MeterProvider):
    signal = "metrics"

    def get_meter(self, *args: Any, **kwargs: Any) -> metrics_api.Meter:
        def elsewhere(provider: Any) -> Any:
            return provider.get_meter(*args, **kwargs)

        return _Meter(self, _RecordingMeter(self, elsewhere, *args, **kwargs), elsewhere)

    def replay_one(self, item: Any) -> None:
        item()


class _Meter(FollowingMeter):
    def _make(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        def elsewhere(provider: Any) -> Any:
            return getattr(self._theirs(provider), method)(*args, **kwargs)

        ours = _RecordingInstrument(self._home)
        ours.follower = FOLLOWING[method](self._home, ours, elsewhere)
        # Made again when the SDK is there, even if nothing is recorded: a counter that was never used is no point.
        return ours.follower


class _RecordingInstrument:
    """Keeps the values of one instrument."""

    def __init__(self, provider: _MeterProvider) -> None:
        self._provider = provider
        self.follower: Any = None

    def add(self, amount: float, attributes: Any = None, context: Context | None = None) -> None:
        self._keep("add", amount, attributes, context)

    def record(self, amount: float, attributes: Any = None, context: Context | None = None) -> None:
        self._keep("record", amount, attributes, context)

    def set(self, amount: float, attributes: Any = None, context: Context | None = None) -> None:
        self._keep("set", amount, attributes, context)

    def _keep(self, method: str, amount: float, attributes: Any, context: Context | None) -> None:
        told = (amount, _copied(attributes), context_api.get_current() if context is None else context)

        def replay() -> None:
            now = self.follower._now()
            # Nobody has come in our place: there is nobody to tell.
            if now is not self:
                getattr(now, method)(*told)

        if not self._provider.keep(replay):
            replay()


class _RecordingMeter:
    """Stands for the meter to come where an observable instrument is made."""

    def __init__(
        self,
        provider: _MeterProvider,
        elsewhere: Callable[[Any], Any],
        name: str,
        version: str | None = None,
        schema_url: str | None = None,
        attributes: Any = None,
    ) -> None:
        del attributes
        self.name, self.version, self.schema_url = name, version, schema_url
        self._provider = provider
        self._elsewhere = elsewhere

    def create_observable_counter(self, *args: Any, **kwargs: Any) -> Any:
        return self._later(metrics_api.NoOpObservableCounter, "create_observable_counter", args, kwargs)

    def create_observable_up_down_counter(self, *args: Any, **kwargs: Any) -> Any:
        return self._later(metrics_api.NoOpObservableUpDownCounter, "create_observable_up_down_counter", args, kwargs)

    def create_observable_gauge(self, *args: Any, **kwargs: Any) -> Any:
        return self._later(metrics_api.NoOpObservableGauge, "create_observable_gauge", args, kwargs)

    def _later(self, placeholder: Any, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        def replay() -> None:
            getattr(self._elsewhere(in_charge("metrics")), method)(*args, **kwargs)

        if not self._provider.keep(replay):
            replay()
        # The app has no use for it but to keep it: the callbacks are what counts.
        return placeholder(*args, **kwargs)


# Logs.


class _LoggerProvider(StandIn, LoggerProvider):
    signal = "logs"

    def get_logger(self, *args: Any, **kwargs: Any) -> Any:
        def elsewhere(provider: Any) -> Any:
            return provider.get_logger(*args, **kwargs)

        return FollowingLogger(self, _Logger(self, elsewhere, *args, **kwargs), elsewhere)

    def add_log_record_processor(self, log_record_processor: Any) -> None:
        self.call_later("add_log_record_processor", log_record_processor)

    def replay_one(self, item: Any) -> None:
        record, elsewhere = item
        elsewhere(in_charge("logs")).emit(record)


class _Logger:
    """Keeps records; what `FollowingLogger` reads of a logger is here."""

    def __init__(
        self,
        provider: _LoggerProvider,
        elsewhere: Callable[[Any], Any],
        name: str,
        version: str | None = None,
        schema_url: str | None = None,
        attributes: Any = None,
    ) -> None:
        self._name, self._version, self._schema_url, self._attributes = name, version, schema_url, attributes
        self._provider = provider
        self._elsewhere = elsewhere

    def emit(self, record: LogRecord | None = None, **fields: Any) -> None:
        # Made now, with the time and the context of now.
        made = LogRecord(**fields) if record is None else copy.copy(record)
        if not self._provider.keep((made, self._elsewhere)):
            self._elsewhere(in_charge("logs")).emit(made)

    def enabled(self, **_: Any) -> bool:
        return True


def _sdk_of(provider: Any) -> Any:
    """Return our provider without its followers, whose ids cannot be chosen; another as it is."""
    return getattr(provider, "own", provider)


def _version() -> str:
    from tracedbridge import __version__

    return __version__
