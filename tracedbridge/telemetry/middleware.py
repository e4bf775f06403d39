"""
Watches a bridge from its load to its end; each invocation in between is a `tracedbridge.telemetry.watch.Watch`.

Loaded in every cold start, and so without OpenTelemetry and structlog, and kept to what a first invocation needs: here
is noted what happens; `tracedbridge.telemetry.desk` sees to what comes of it, after the response where it may. Nothing
here can change a response: whatever fails in a hook is told on stderr, and the bridge goes on.
"""

from __future__ import annotations

import _thread
import os
import sys
import threading
import time
from collections import deque
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from tracedbridge.boot import ColdStart
from tracedbridge.platforms import platform_of
from tracedbridge.telemetry import environment, harmless
from tracedbridge.telemetry.awaiting import Awaiting, FirstLine, is_being_imported
from tracedbridge.telemetry.current import running, start_boot, stop_boot
from tracedbridge.telemetry.story import Story
from tracedbridge.telemetry.tracecontext import Sampling, ids_for, random_ids
from tracedbridge.telemetry.watch import Watch

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from tracedbridge.messages import Invocation, Kind, Request
    from tracedbridge.settings import Settings
    from tracedbridge.telemetry.attributes import Attributes
    from tracedbridge.telemetry.desk import Desk
    from tracedbridge.telemetry.pipeline import Pipeline
    from tracedbridge.telemetry.records import LogFacts
    from tracedbridge.telemetry.stacks import Stack
    from tracedbridge.telemetry.stalls import Pulse
    from tracedbridge.telemetry.standins import StandIns
    from tracedbridge.telemetry.story import ColdStartKind
    from tracedbridge.telemetry.telling import Teller
    from tracedbridge.telemetry.watchdog import Watchdog

__all__ = ("QUIET_S", "Middleware", "is_loading")

# The parts of OpenTelemetry's API; each can be the first that an app imports.
_API = ("opentelemetry.trace", "opentelemetry.metrics", "opentelemetry._logs", "opentelemetry.propagate")

# After this long without another response the caller has taken the last one: work that runs any earlier, in a thread
# that shares an interpreter lock with his, would hold him.
QUIET_S = 0.05

# The margin before a deadline is at most such a part of the time that an invocation has.
_MARGIN_PART = 10


class Middleware:
    """The telemetry of one bridge; implements `tracedbridge.protocols.Telemetry`."""

    def __init__(self, settings: Settings, cold_start: ColdStart, app: str) -> None:
        """Begin to watch, before the app is imported."""
        self.settings = settings
        self.platform = platform_of(os.environ)
        self.function = environment.service_name() or self.platform.function_name(os.environ, app)
        self.known_methods = environment.known_methods()
        self.sampling = Sampling()
        self.is_traced = not environment.is_disabled()
        # Signals that are exported: an app sees providers where it would see some with the SDK configured.
        self.exported = [each for each in environment.SIGNALS if self.is_traced and environment.exporter_names(each)]
        self.stand_ins: StandIns | None = None
        # Modules that need the API: looked up once, and not for each invocation.
        self._serverspan: Any = None
        self._attributes: Any = None
        self._structlog_bind: Callable[..., Any] | None = None
        self._is_arriving = self._is_loading = False
        # Log lines until there is somebody to tell them, and how many found no room.
        self.lines: deque[LogFacts] = deque()
        self.lost_lines = 0
        self._most_lines = environment.size("OTEL_BLRP_MAX_QUEUE_SIZE", 2048)
        # Invocations that have ended and are still to be told.
        self.waiting: deque[Watch] = deque()
        self._is_coming = False
        self._desk: Desk | None = None
        # Reentrant: SIGTERM may come while it is held, and its handler closes the bridge on this very thread.
        self._making = threading.RLock()
        # Who tells, once the SDK is loaded.
        self.teller: Teller | None = None
        self.watchdog: Any = None
        # When the first response was returned, CLOCK_MONOTONIC, and what was loaded then.
        self.answered_ns = 0
        self.modules_at_answer: frozenset[str] = frozenset()
        # Whether an invocation was known to have an end.
        self.has_deadlines = False
        # Whether the app has run a lifespan startup.
        self.has_lifespan = False
        self.begin(cold_start, self.platform.cold_start_kind(os.environ))
        self.awaiting: Awaiting | None = None
        self._first_line: FirstLine | None = None
        if environment.is_eager(settings):
            self.desk.arm_now()
        self.listen()
        _all.append(self)
        _watch_forks()

    @property
    def pipeline(self) -> Pipeline | None:
        """What exports, once it is there."""
        return None if self.teller is None else self.teller.pipeline

    @property
    def desk(self) -> Desk:
        """Who sees to what was noted."""
        if self._desk is None:
            # What is loaded from here on is no import of the app's.
            self.story.end()
            from tracedbridge.telemetry.desk import Desk

            with self._making:
                self._desk = self._desk or Desk(self)
        return self._desk

    def begin(self, cold_start: ColdStart, kind: ColdStartKind | None) -> None:
        """Begin to tell a cold start; the first invocation from now on owns it."""
        self.story = Story(cold_start, self.settings, kind, sampled=self.sampling(cold_start.trace_id, None))
        self.untold = [self.story]
        if self.is_traced:
            start_boot(self.story.boot)

    def listen(self) -> None:
        """Be told when the app has loaded what we do not load ourselves."""
        if self.teller is not None:
            from tracedbridge.telemetry import applines, structlines

            if self._first_line is not None:
                self._first_line.close()
            applines.watch(self)
            structlines.watch(self)
            self._structlog_bind = sys.modules["structlog"].contextvars.bind_contextvars
            if self.is_traced:
                self._api_arrived()
            return
        told: dict[str, Callable[[], None]] = {
            "logging": self._logging_arrived,
            "structlog": self._structlog_arrived,
        }
        if self.is_traced:
            told |= {name: partial(self._api_arrived, name) for name in _API}
        self.awaiting = Awaiting(told)

    @harmless
    def _logging_arrived(self) -> None:
        # What takes lines down is loaded with the first of them.
        self._first_line = FirstLine(self._line_arrived)

    @harmless
    def _line_arrived(self, notes: list[Callable[[Any], None]]) -> None:
        from tracedbridge.telemetry import applines

        if applines.watch(self):
            notes.append(applines.note)

    @harmless
    def _structlog_arrived(self) -> None:
        from tracedbridge.telemetry import structlines

        structlines.watch(self)
        self._structlog_bind = sys.modules["structlog"].contextvars.bind_contextvars
        if (watch := running.get()) is not None:
            self.bind(watch)
        elif self._is_loading and self.is_traced:
            sys.modules["structlog"].contextvars.bind_contextvars(**self.story.boot.fields())

    @harmless
    def _api_arrived(self, arrived: str = "") -> None:
        if self.stand_ins is not None or self._is_arriving:
            # What follows loads the rest of the API, and comes by here again.
            return
        if any(name != arrived and is_being_imported(name) for name in _API):
            # One that imports another: it comes by when it is whole.
            return
        self._is_arriving = True
        from tracedbridge.telemetry import attributes, serverspan
        from tracedbridge.telemetry.propagation import mend_no_propagation
        from tracedbridge.telemetry.standins import StandIns

        mend_no_propagation()
        self.stand_ins = StandIns(self.sampling, self.function, random_ids)
        self._serverspan, self._attributes = serverspan, attributes
        if self.teller is None:
            self.stand_ins.put_in_place(self.exported)
            serverspan.catch_up(self, running.get(), self.story.boot if self._is_loading else None)

    def take_cold_start(self) -> Story | None:
        """Return the cold start to its first caller, None to all others; of threads that race, one gets it."""
        if not self.untold:
            # Nearly always; an exception costs ten times as much.
            return None
        try:
            return self.untold.pop()
        except IndexError:
            return None

    def first_event(self, story: Story, watch: Watch) -> None:
        """Note that the first event has come."""
        stop_boot(story.boot)
        story.first_event(watch.begun_ns, watch.begun_wall_ns)

    def open(self, watch: Watch, request: Request) -> None:
        """Choose the ids of an invocation's span, and make it current where the app has loaded OpenTelemetry's API."""
        if not self.is_traced:
            return
        if request.extras is not None:
            # Only formats that hand the platform's own context on have anything beside the request.
            self._carry(watch, request)
        if self._serverspan is not None:
            self._serverspan.open_span(watch, request, self, self._tracer_now())
            return
        story = watch.story
        trace_id = story.boot.trace_id if story is not None and story.kind == "on_demand" else None
        watch.ids, watch.request = ids_for(request, watch.worth or self.settings.parent, self.sampling, trace_id)

    def _carry(self, watch: Watch, request: Request) -> None:
        """Have a request that names no trace be of the one that the platform names beside it."""
        if request.first("traceparent") is not None:
            return
        headers, is_platforms = self.platform.carried(os.environ, watch.platform_context)
        if headers:
            request.add(headers)
            watch.worth = self.settings.xray if is_platforms else None

    def leave(self, watch: Watch) -> None:
        """Undo what `open` did to the context."""
        if self._serverspan is not None:
            self._serverspan.leave(watch)

    def tell_joined(self, watch: Watch) -> None:
        """Have the span of somebody else's that an invocation has joined know what there is to know of it."""
        self._serverspan.tell_joined(watch)

    def bind(self, watch: Watch) -> Any:
        """
        Have the app's structlog lines in this context carry the invocation's ids; return what `unbind` takes.

        By structlog's own context variables, so that an app that configured structlog itself has them, too.
        """
        bind = self._structlog_bind
        if bind is None:
            return None
        return bind(invocation_id=watch.id) if watch.ids is None else bind(invocation_id=watch.id, **watch.ids.fields())

    def unbind(self, tokens: Any) -> None:
        """Undo `bind`."""
        try:
            sys.modules["structlog"].contextvars.reset_contextvars(**tokens)
        except ValueError:
            # A server has closed the response in another context, which has none of them.
            return

    def attributes_of(self, request: Request) -> Attributes:
        """Return what a request says, as attributes of its span."""
        method = self._serverspan.method_of(request, self.known_methods)
        attributes: Attributes = self._attributes.request_attributes(request, method)
        if self.teller is not None:
            attributes.update(self.teller.captured.of_request(request))
        attributes.update(self.platform.span_attributes(os.environ, request))
        return attributes

    def _tracer_now(self) -> Any:
        """Return the tracer that must make a SERVER span at once; None where a stand-in will do."""
        if self.teller is not None:
            # A stand-in is cheaper while the caller waits, and dearer where he waits for its telling, too.
            return self.teller.live_tracer(always=self.settings.flush != "after")
        assert self.stand_ins is not None
        return self.stand_ins.others_tracer()

    def guard(self, watch: Watch, context: object) -> None:
        """Have an invocation told before its time is over."""
        left_ms = self.platform.remaining_ms(context)
        if left_ms is not None:
            watch.platform_deadline_ns = watch.begun_ns + int(left_ms * 1e6)
        margin_ns = self.settings.timeout_margin_ms * 1e6
        if margin_ns and (end_by_ns := watch.end_by_ns) is not None:
            # Of a short time only a part: what runs that long is not late yet.
            watch.alarm_ns = end_by_ns - int(min(margin_ns, (end_by_ns - watch.begun_ns) / _MARGIN_PART))
            if not self.has_deadlines:
                self.has_deadlines = True
                if self.teller is not None:
                    self.teller.note_open_spans()
            self.load_watchdog()
            self.watchdog.begin(watch)

    @harmless
    def load_watchdog(self) -> None:
        """Load who watches, if the first response was returned, which does not wait for it, or has a deadline."""
        if not (self.answered_ns or self.has_deadlines):
            return
        if self.watchdog is None:
            self.watchdog = _watchdog(self.settings)

    def pulse_of(self, loop: AbstractEventLoop) -> Pulse | None:
        """Return what feels a loop, if it can be felt."""
        from tracedbridge.telemetry.stalls import pulse_of

        return pulse_of(loop)

    def alarmed(self, watch: Watch, stacks: list[Stack]) -> None:
        """Tell and export an invocation that still runs, whose time is nearly over."""
        self.desk.alarmed(watch, stacks)

    def answered(self, watch: Watch) -> None:
        """Note the first response."""
        if not self.answered_ns:
            self.answered_ns = watch.ended_ns
            # A few microseconds, once: what the first response has waited for.
            self.modules_at_answer = frozenset(sys.modules)

    @harmless
    def ended(self, watch: Watch) -> None:
        """Tell an invocation, now or later."""
        if not self.answered_ns:
            self.answered(watch)
        if self._desk is not None:
            self._desk.ended(watch)
            return
        self.waiting.append(watch)
        mode = self.settings.flush
        if (mode == "after" and self._comes_later()) or (mode == "auto" and watch.begun_ns <= self.answered_ns):
            # Nothing may run after the first response, and it is not to wait for the SDK.
            return
        self.desk.work(watch)

    def _comes_later(self) -> bool:
        """Have a thread see to what waits once it is quiet; False if there is none, and there can be none."""
        with self._making:
            if not self._is_coming:
                try:
                    # Not a threading.Thread: its start() waits until it runs, and the first response would wait, too.
                    _thread.start_new_thread(self._come, ())
                except RuntimeError:
                    # The interpreter is ending: close() comes next.
                    return False
                self._is_coming = True
        # It may have come just now, and have found nothing.
        return self._desk is None or self._desk.hand_over()

    @harmless
    def _come(self) -> None:
        # As little as possible: `threading` does not know this thread, and would keep a dummy of it for ever.
        time.sleep(QUIET_S)
        self.desk.hand_over()

    def log(self, facts: LogFacts) -> None:
        """Take a log line of the app."""
        if self.teller is not None:
            self.teller.log(facts)
        elif self.is_traced and len(self.lines) < self._most_lines:
            self.lines.append(facts)
            self._take_lines()
        else:
            self.lost_lines += 1

    def _take_lines(self) -> None:
        # It may have come just now, and have taken what there was before.
        if self.teller is not None:
            self.teller.take_lines()

    def settle(self) -> None:
        """Tell and export what waits, now: the caller has taken the response."""
        self.desk.settle()

    def before_snapshot(self) -> None:
        """Tell and export all there is, the cold start included."""
        self.desk.before_snapshot()

    def restored(self) -> None:
        """Begin anew after a snapshot was restored."""
        self.desk.restored()

    def forked(self) -> None:
        """Begin anew in the child of a fork."""
        # Whoever held it is not in this process.
        self._making = threading.RLock()
        self._is_coming = False
        self.desk.forked()

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Watch the load: the app's early spans and lines carry the boot trace; a failure is exported."""
        attached: list[Any] = []
        self._enter_boot(attached)
        self._is_loading = True
        recording = self.story.record_imports()
        if recording is not None and self.awaiting is not None:
            self.awaiting.leave_to(recording)
        try:
            yield
        except BaseException as error:
            self.desk.load_failed(error)
            raise
        finally:
            self._is_loading = False
            self.has_lifespan = self.story.has_lifespan
            self._leave_boot(attached)

    def wrap(self, app: Callable[..., Any], kind: Kind) -> Callable[..., Any]:
        """Put the contrib ASGI middleware around an ASGI app, if ``TRACEDBRIDGE_ASGI_DETAIL`` asks for it."""
        if kind != "asgi" or not self.settings.asgi_detail or not self.is_traced:
            return app
        wrapped = [app]
        self._add_detail(wrapped)
        return wrapped[-1]

    def watch(self, context: object) -> AbstractContextManager[Invocation]:
        """Watch one invocation."""
        return Watch(self, context)

    def conversing(self, app: Callable[..., Any]) -> Callable[..., Any]:
        """Put the contrib ASGI middleware around an ASGI app, for its WebSockets; loads the SDK, if nobody has."""
        wrapped = [app]
        if self.is_traced:
            self._add_conversations(wrapped)
        return wrapped[-1]

    @harmless
    def _add_conversations(self, wrapped: list[Callable[..., Any]]) -> None:
        self.desk.settle()
        from tracedbridge.telemetry.detail import with_conversations

        wrapped.append(with_conversations(wrapped[0]))

    def stopping(self) -> AbstractContextManager[None]:
        """Watch lifespan shutdown, where there was a startup."""
        return self.desk.stopping()

    def close(self, within_s: float | None = None) -> None:
        """Send what is left, and put back what was changed."""
        self.desk.close(within_s)

    # The hooks of a load.

    @harmless
    def _enter_boot(self, attached: list[Any]) -> None:
        if self._serverspan is not None:
            attached.append(self._serverspan.enter_boot(self.story.boot))
        if self.is_traced and "structlog" in sys.modules:
            contextvars = sys.modules["structlog"].contextvars
            attached.append(contextvars.bind_contextvars(**self.story.boot.fields()))

    @harmless
    def _leave_boot(self, attached: list[Any]) -> None:
        if self._serverspan is not None:
            has_token = bool(attached) and not isinstance(attached[0], dict)
            self._serverspan.leave_boot(attached.pop(0) if has_token else None, self.story.boot)
        if attached:
            self.unbind(attached[0])
        elif "structlog" in sys.modules and self.is_traced:
            sys.modules["structlog"].contextvars.unbind_contextvars("trace_id", "span_id")

    @harmless
    def _add_detail(self, wrapped: list[Callable[..., Any]]) -> None:
        from tracedbridge.telemetry.detail import with_detail

        wrapped.append(with_detail(wrapped[0]))

    @harmless
    def put_back(self) -> None:
        """Put back what was changed in this process."""
        if self in _all:
            _all.remove(self)
        if not _all and _dog:
            _dog[0].close()
        if self.awaiting is not None:
            self.awaiting.close()
        if self._first_line is not None:
            self._first_line.close()
        if self.stand_ins is not None:
            self.stand_ins.take_away()
        for name in ("applines", "structlines"):
            module = sys.modules.get(f"tracedbridge.telemetry.{name}")
            if module is not None:
                module.unwatch(self)


def is_loading() -> bool:
    """Say whether an app is being loaded, by somebody who watches it from then on."""
    return any(middleware._is_loading for middleware in _all)


# For all bridges of the process.
_dog: list[Watchdog] = []


def _watchdog(settings: Settings) -> Watchdog:
    if not _dog:
        from tracedbridge.telemetry.watchdog import Watchdog

        _dog.append(Watchdog(int(settings.stall_ms * 1e6)))
    return _dog[0]


# Of the open bridges.
_all: list[Middleware] = []
_watches_forks = False


def _watch_forks() -> None:
    global _watches_forks
    if not _watches_forks and hasattr(os, "register_at_fork"):
        _watches_forks = True
        os.register_at_fork(after_in_child=_forked)


def _forked() -> None:
    for middleware in _all:
        middleware.forked()
