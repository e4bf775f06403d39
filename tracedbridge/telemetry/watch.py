"""Watches one invocation: takes down facts while it runs; `tracedbridge.telemetry.telling` tells them later."""

from __future__ import annotations

import os
import sys
import time
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Self

from tracedbridge.errors import DeadlineError
from tracedbridge.messages import Invocation, Request
from tracedbridge.telemetry import harmless
from tracedbridge.telemetry.current import Ids, invocation_now, running

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable, Sequence
    from contextvars import Context
    from types import TracebackType

    from tracedbridge.messages import Headers, Response
    from tracedbridge.settings import Parent
    from tracedbridge.telemetry.middleware import Middleware
    from tracedbridge.telemetry.stacks import Stack
    from tracedbridge.telemetry.stalls import Pulse, Stall
    from tracedbridge.telemetry.story import Story

__all__ = ("Watch", "load_resource")


class Watch(Invocation):
    """One invocation, watched; a context manager. What it has noted is public."""

    # Defaults of the class, as in `Invocation`: most invocations set half of them.
    id = ""
    # Of its span; None where nothing is traced, and before the request is known.
    ids: Ids | None = None
    # The request as it came: the app sees other trace headers.
    asked: Request | None = None
    # Its cold start, if it is the one that tells it.
    story: Story | None = None
    route: str | None = None
    # It ended in an exception.
    escaped = False
    # CLOCK_MONOTONIC; zero while it runs.
    begun_ns = started_ns = ended_ns = 0
    begun_wall_ns = 0
    cpu_s = 0.0
    peak_bytes = 0
    # Where the app has loaded OpenTelemetry's API: its span, the tracer that made it if it is no stand-in, the contexts
    # around and inside of it, and what it links to.
    span: Any = None
    tracer: Any = None
    parent: Any = None
    context: Any = None
    link: Any = None
    attached: Any = None
    # When it is to be told although it still runs, CLOCK_MONOTONIC; when its platform ends it.
    alarm_ns: int | None = None
    platform_deadline_ns: int | None = None
    # The loop that its app runs on, what is felt of it, and the longest that it stood still.
    loop: AbstractEventLoop | None = None
    pulse: Pulse | None = None
    stall: Stall | None = None
    # What all threads and tasks did when its time was nearly over.
    stacks: Sequence[Stack] = ()
    # It was told before its end.
    is_told = False
    # What has caused it, as ``faas.trigger`` has it.
    trigger = "http"
    # What the trace that came with it is worth, where that is not what the settings say.
    worth: Parent | None = None
    # Its span is somebody else's, who traces around the app, and ends it; whether that knows of the first byte.
    is_joined = False
    has_told_start = False
    # While it opens: the invocation that this context belonged to before, which may have ended.
    outer: Watch | None = None
    # The same request is watched already, further out: nothing of this is told.
    is_inner = False
    # While it is told: its cold start, and the context with the span of that.
    told: Any = None
    cold_context: Any = None
    # Where it began; None if its telling has nothing to do with that.
    surroundings: Context | None = None
    _bound: Any = None
    _running: Any = None

    def __init__(self, middleware: Middleware, context: object) -> None:
        """
        Args:
            middleware: Of the bridge.
            context: The platform's.
        """
        self._middleware = middleware
        self.platform_context = context

    def __enter__(self) -> Self:
        """Take the time, and the cold start if nobody has it."""
        self._begun_cpu_s = time.process_time()
        self.begun_wall_ns = time.time_ns()
        self.begun_ns = time.monotonic_ns()
        story = self._middleware.take_cold_start()
        if story is not None:
            self.story = story
            self._begin(story)
        return self

    def arrived(self, request: Request) -> Request:
        """Choose the span's ids as the request's headers say, make it current, and hand its ids on to the app."""
        self.request = self.asked = request
        self._open(request)
        return self.request

    def came(self, trigger: str) -> None:
        """Choose the span's ids, and make it current, for an event that is no request."""
        self.trigger = trigger
        self._open(Request("", "/", "", [], b"", "https", "localhost", 443, None))
        self.request = None

    def runs_on(self, loop: AbstractEventLoop) -> None:
        """Have the watchdog look."""
        if self._middleware.watchdog is None:
            self._middleware.load_watchdog()
        watchdog = self._middleware.watchdog
        if watchdog is not None:
            self.loop = loop
            watchdog.begin(self)

    def slow(self, since_ns: int) -> None:
        """Begin to feel the loop's pulse, on the watchdog's thread: it has been at work since then; 0 if it waits."""
        assert self.loop is not None
        pulse = self._middleware.pulse_of(self.loop)
        if pulse is not None:
            pulse.begin(since_ns)
            self.pulse = pulse

    def alarm(self, stacks: list[Stack]) -> None:
        """Tell it now, on the watchdog's thread: its time is nearly over, and the app still runs."""
        self._middleware.alarmed(self, stacks)

    def response_started(self) -> None:
        """Note the time, and the route where it can be read only now."""
        if not self.started_ns:
            self.started_ns = time.monotonic_ns()
            if self.environ is not None:
                self._read_wsgi_route(self.environ)

    @harmless
    def tell_trace(self, response: Response) -> None:
        """Have the response's fields say which trace it belongs to, and what its cold start took."""
        # Not loaded where nobody asks for it.
        from tracedbridge.telemetry.traceresponse import add_to

        add_to(response.fields, self.ids, self.story)

    def trace_headers(self, response: Response) -> Headers:
        """Return what `tell_trace` would add, where the settings ask for it; the response's fields stay."""
        if not self._middleware.settings.trace_response:
            return []
        before = {name: list(values) for name, values in response.fields.items()}
        self.tell_trace(response)
        told = [
            (name, value) for name, values in response.fields.items() for value in values[len(before.get(name, ())) :]
        ]
        response.fields = before
        return told

    @harmless
    def last_byte(self) -> None:
        """Tell whose span it is what is known, while he has not ended it."""
        if self.is_joined:
            if self.scope is not None:
                self.route = _asgi_route(self.scope)
            self._middleware.tell_joined(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the time, leave the span's context, and have all this told."""
        # What the app does after its last byte, nobody has waited for.
        ended_ns = (self.is_streamed and self.answered_ns) or time.monotonic_ns()
        if error is not None:
            self.failed(error)
            self.escaped = True
        self._leave(ended_ns)
        if self.is_inner:
            return
        if self.is_told:
            self._middleware.answered(self)
        else:
            self._middleware.ended(self)

    @property
    def ended_wall_ns(self) -> int:
        """When it ended, in nanoseconds since the epoch."""
        return self.begun_wall_ns + (self.ended_ns - self.begun_ns)

    @property
    def size_in(self) -> int:
        """Of the request's body, in bytes."""
        whole = 0 if self.asked is None else len(self.asked.body)
        return whole if self.bytes_in is None else self.bytes_in

    @property
    def size_out(self) -> int:
        """Of the response's body, in bytes."""
        whole = 0 if self.response is None else len(self.response.body)
        return whole if self.bytes_out is None else self.bytes_out

    def bytes_held(self) -> int:
        """Return how much memory its bodies take."""
        held = 0 if self.asked is None else len(self.asked.body)
        return held if self.response is None else held + len(self.response.body)

    @harmless
    def _begin(self, story: Story) -> None:
        self._middleware.first_event(story, self)

    @harmless
    def _open(self, request: Request) -> None:
        if self.is_streamed:
            if _is_same(invocation_now(), request):
                self.is_inner = True
                return
            # It is told on another thread, and its line belongs here.
            self.surroundings = copy_context()
            self.outer = running.get()
        self._running = running.set(self)
        middleware = self._middleware
        self.id = middleware.platform.invocation_id(request, self.platform_context) or os.urandom(16).hex()
        middleware.open(self, request)
        self.outer = None
        self._bound = middleware.bind(self)
        if self.deadline_ns is not None or self.platform_context is not None:
            middleware.guard(self, self.platform_context)

    def snapshot(self, stacks: Sequence[Stack]) -> Watch:
        """Return what is known of it now, as if it ended now, for lack of time."""
        # Not before it is needed: this module is loaded in every cold start.
        from copy import copy

        copied = copy(self)
        copied.ended_ns = time.monotonic_ns()
        copied.cpu_s = time.process_time() - self._begun_cpu_s
        copied.peak_bytes = _peak_memory_bytes()
        copied.timed_out = True
        copied.stacks = stacks
        left_ms = ((self.end_by_ns or copied.ended_ns) - copied.ended_ns) / 1e6
        copied.error = DeadlineError(f"the app still runs, and its time is over in {left_ms:.0f} ms")
        return copied

    @property
    def end_by_ns(self) -> int | None:
        """When it must be over, by the platform's word or ours; CLOCK_MONOTONIC."""
        ours, theirs = self.deadline_ns, self.platform_deadline_ns
        if ours is None or theirs is None:
            return theirs if ours is None else ours
        return min(ours, theirs)

    @harmless
    def _read_wsgi_route(self, environ: dict[str, Any]) -> None:
        self.route = _wsgi_route(environ)

    @harmless
    def _leave(self, ended_ns: int) -> None:
        if self.loop is not None or self.alarm_ns is not None:
            # It waits for an alarm that is under way.
            self._middleware.watchdog.end(self)
            self.loop = None
            if self.pulse is not None:
                self.stall = self.pulse.end()
                self.pulse = None
        self.ended_ns = ended_ns
        self.cpu_s = time.process_time() - self._begun_cpu_s
        self.peak_bytes = _peak_memory_bytes()
        # They may hold all that the app has.
        if self.scope is not None:
            if (route := _asgi_route(self.scope)) is not None:
                self.route = route
            self.scope = None
        if self.environ is not None:
            self.environ = None
        if self.is_joined:
            self._middleware.tell_joined(self)
        if not self.id:
            self.id = os.urandom(16).hex()
        if self.story is not None:
            self.story.first_byte(self.started_ns or ended_ns)
            self.story.end()
        if self._bound is not None:
            self._middleware.unbind(self._bound)
        if self._running is not None:
            self._middleware.leave(self)
            try:
                running.reset(self._running)
            except ValueError:
                # A server closed the response in another context than it had called the app in.
                if running.get() is self:
                    running.set(None)


def _is_same(outer: Watch | None, request: Request) -> bool:
    """Say whether an invocation that is under way is of this very request: an instrumented app in a watched one."""
    if outer is None or outer.asked is None:
        return False
    known = outer.asked
    if known.method != request.method or known.query != request.query:
        return False
    # Not loaded where one is enough; a server that tells no raw path has it decoded and encoded again.
    from urllib.parse import unquote_to_bytes

    return unquote_to_bytes(known.raw_path) == unquote_to_bytes(request.raw_path)


# To ask the kernel by it takes a microsecond, and to load it ten times as long as to read a file.
_getrusage: Callable[[int], Any] | None = None


def load_resource() -> None:
    """Have peak memory asked for by `resource` from now on, which the first invocation does not wait for."""
    global _getrusage
    from resource import getrusage

    _getrusage = getrusage


def _peak_memory_bytes() -> int:
    if _getrusage is None:
        try:
            with open("/proc/self/status", "rb") as status:
                return int(status.read().partition(b"VmHWM:")[2].split(None, 1)[0]) * 1024
        except (OSError, ValueError, IndexError):
            load_resource()
            return _peak_memory_bytes()
    # RUSAGE_SELF.
    peak = _getrusage(0).ru_maxrss
    # Kilobytes, but on macOS bytes: getrusage(2).
    return int(peak if sys.platform == "darwin" else peak * 1024)


# The route template that a framework matched; never the raw path, which would make each URL a metric of its own.
# Frameworks leave it where the app was called with it, and only while they answer (Flask) or after (Starlette).


def _asgi_route(scope: dict[str, Any]) -> str | None:
    """Return the route that Starlette, FastAPI, Litestar or Quart left in the scope, after the app ran."""
    route = scope.get("route")
    path = getattr(route, "path", None)
    if isinstance(path, str):
        # A mounted app's prefix moves into root_path, which was empty when we called; a mount that found nothing
        # below it has left itself as the route, and is there already.
        prefix = str(scope.get("root_path") or "")
        return prefix or path if hasattr(route, "routes") else prefix + path
    template = scope.get("path_template")
    if isinstance(template, str):
        return template
    return _django_route(str(scope.get("path", "")))


def _wsgi_route(environ: dict[str, Any]) -> str | None:
    """Return the route that Flask left in the environ, or that Django resolves; readable inside start_response."""
    request = environ.get("werkzeug.request")
    rule = getattr(getattr(request, "url_rule", None), "rule", None)
    if isinstance(rule, str):
        return str(environ.get("SCRIPT_NAME", "")) + rule
    rule = getattr(environ.get("bottle.route"), "rule", None)
    if isinstance(rule, str):
        return rule
    try:
        path = str(environ.get("PATH_INFO", "")).encode("latin-1").decode()
    except UnicodeError:
        return None
    return _django_route(path)


def _django_route(path: str) -> str | None:
    # Only where Django serves: it has loaded its resolver by now.
    urls = sys.modules.get("django.urls")
    if urls is None:
        return None
    try:
        return "/" + str(urls.resolve(path).route)
    except Exception:  # noqa: BLE001 - Resolver404, or settings of a Django that is not the app here
        return None
