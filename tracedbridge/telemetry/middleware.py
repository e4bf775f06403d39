"""
Watches a bridge from its load to its end; each invocation in between is a `tracedbridge.telemetry.watch.Watch`.

Nothing here can change a response: whatever fails in a hook is told on stderr, and the bridge goes on.
"""

from __future__ import annotations

import os
import random
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from opentelemetry import context as context_api
from opentelemetry import trace as trace_api

from tracedbridge.boot import ColdStart
from tracedbridge.platforms import platform_of
from tracedbridge.telemetry import applines, environment
from tracedbridge.telemetry.attributes import CapturedHeaders, known_methods
from tracedbridge.telemetry.coldstart import ColdStartStory
from tracedbridge.telemetry.export import UNSUPPORTED
from tracedbridge.telemetry.failures import message_of, type_of
from tracedbridge.telemetry.guard import harmless
from tracedbridge.telemetry.ids import start_boot, stop_boot
from tracedbridge.telemetry.lines import Lines
from tracedbridge.telemetry.pipeline import Pipeline
from tracedbridge.telemetry.resource import function_name, resource_of
from tracedbridge.telemetry.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from tracedbridge.messages import Invocation, Kind
    from tracedbridge.settings import Settings
    from tracedbridge.telemetry.coldstart import ColdStartKind

__all__ = ("Middleware",)

# At close(), where nothing may be exported in a call: what waited gets the default budget, once.
_LAST_BUDGET_MS = 500.0


class Middleware:
    """The telemetry of one bridge; implements `tracedbridge.messages.Telemetry`."""

    def __init__(self, settings: Settings, cold_start: ColdStart, app: str) -> None:
        """Set up providers and log lines, before the app is imported."""
        self.settings = settings
        self.platform = platform_of(os.environ)
        self.function = function_name(self.platform, app)
        self.captured = CapturedHeaders()
        self.known_methods = known_methods()
        # Whether the app has run a lifespan startup.
        self._has_lifespan = False
        self._connect()
        self._begin(cold_start, self.platform.cold_start_kind(os.environ))

    def _connect(self) -> None:
        """Set up what exports, with ids and connections of its own."""
        self.pipeline: Pipeline | None = None
        if not environment.is_disabled():
            with environment.without_bad_values():
                resource = resource_of(self.platform, self.function)
                self.pipeline = Pipeline(resource, self.function, self.settings.flush_timeout_ms)
        self.lines = Lines(self.pipeline)
        applines.watch(self.pipeline)

    def _begin(self, cold_start: ColdStart, kind: ColdStartKind | None) -> None:
        """Begin to tell a cold start; the first invocation from now on owns it."""
        sampled = self.pipeline is not None and self.pipeline.is_sampled(cold_start.trace_id)
        self._story = ColdStartStory(cold_start, self.settings, kind, sampled=sampled)
        self._untold = [self._story]
        if self.pipeline is not None:
            start_boot(self._story.boot)

    def take_cold_start(self) -> ColdStartStory | None:
        """Return the cold start to its first caller, None to all others; of threads that race, one gets it."""
        if not self._untold:
            # Nearly always; an exception costs ten times as much.
            return None
        try:
            return self._untold.pop()
        except IndexError:
            return None

    @harmless
    def restored(self) -> None:
        """
        Begin anew after a snapshot was restored: ids, instance, connections, and a cold start that is the restore.

        What had not been sent before the snapshot is dropped: each process that is restored from it would send it.
        """
        cold_start = ColdStart.of_restore()
        before = self.pipeline
        self._story.end()
        stop_boot(self._story.boot)
        # The SDK's ids come from here, and every restored process would have the same.
        random.seed()
        if before is not None:
            before.close()
        self._connect()
        applines.unwatch(before)
        cold_start.mark("restore")
        cold_start.ready()
        self._begin(cold_start, "restored")

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Watch the load: the app's early spans and lines carry the boot trace; a failure is exported."""
        attached: list[Any] = []
        self._enter_boot(attached)
        self._story.record_imports()
        try:
            yield
        except BaseException as error:
            self._load_failed(error)
            raise
        finally:
            self._has_lifespan = self._story.has_lifespan
            self._leave_boot(attached)

    def wrap(self, app: Callable[..., Any], kind: Kind) -> Callable[..., Any]:
        """Put the contrib ASGI middleware around an ASGI app, if ``TRACEDBRIDGE_ASGI_DETAIL`` asks for it."""
        if kind != "asgi" or not self.settings.asgi_detail or self.pipeline is None:
            return app
        wrapped = [app]
        self._add_detail(wrapped)
        return wrapped[-1]

    def watch(self, context: object) -> AbstractContextManager[Invocation]:
        """Watch one invocation."""
        return Watch(self, context)

    @contextmanager
    def stopping(self) -> Iterator[None]:
        """Watch lifespan shutdown, where there was a startup."""
        begun_wall_ns, begun_ns = time.time_ns(), time.monotonic_ns()
        error: BaseException | None = None
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._stopped(begun_wall_ns, time.monotonic_ns() - begun_ns, error)

    def close(self) -> None:
        """Send what is left, and put back what was changed."""
        self._send_rest()
        applines.unwatch(self.pipeline)

    @harmless
    def _enter_boot(self, attached: list[Any]) -> None:
        if self.pipeline is not None:
            boot = self._story.boot
            attached.append(context_api.attach(trace_api.set_span_in_context(trace_api.NonRecordingSpan(boot))))
            attached.append(self.lines.bind(trace_id=f"{boot.trace_id:032x}", span_id=f"{boot.span_id:016x}"))

    @harmless
    def _leave_boot(self, attached: list[Any]) -> None:
        if attached:
            context_api.detach(attached[0])
            self.lines.unbind(attached[1])

    @harmless
    def _add_detail(self, wrapped: list[Callable[..., Any]]) -> None:
        from tracedbridge.telemetry.detail import with_detail

        wrapped.append(with_detail(wrapped[0]))

    @harmless
    def _load_failed(self, error: BaseException) -> None:
        self._untold.clear()
        self._story.failed()
        error_type = type_of(error.__cause__ or error)
        fields: dict[str, Any] = {"function": self.function, "cold_start": True, **self._story.log_fields()}
        fields |= {"error": error_type, "error_message": message_of(error)}
        context = None
        if self.pipeline is not None:
            boot = self._story.boot
            fields |= {"trace_id": f"{boot.trace_id:032x}", "span_id": f"{boot.span_id:016x}"}
            context = self._story.draw_failure(self.pipeline.tracer(), error)
            if (metrics := self.pipeline.metrics()) is not None:
                self._story.measure(metrics, context, error_type)
                metrics.record("faas.errors", 1, context, {"faas.trigger": "http", "error.type": error_type})
        self.lines.write("error", "cold start failed", fields, context)

    @harmless
    def _stopped(self, begun_wall_ns: int, took_ns: int, error: BaseException | None) -> None:
        if self.pipeline is None or not self._has_lifespan:
            return
        context = self._story.draw_shutdown(self.pipeline.tracer(), begun_wall_ns, took_ns, error)
        if (metrics := self.pipeline.metrics()) is not None:
            attributes = {"phase": "shutdown"}
            if error is not None:
                attributes["error.type"] = type_of(error.__cause__ or error)
            metrics.record("tracedbridge.lifespan.duration", took_ns / 1e9, context, attributes)

    @harmless
    def _send_rest(self) -> None:
        # Whatever came of it, nothing of the interpreter stays patched.
        self._story.end()
        if self.pipeline is not None:
            stop_boot(self._story.boot)
            if (story := self.take_cold_start()) is not None:
                # No event has come: what the app did until then would have no root.
                story.unasked()
                context = story.draw(self.pipeline.tracer(), None, own_id=True)
                if (metrics := self.pipeline.metrics()) is not None:
                    story.measure(metrics, context)
            try:
                self.pipeline.flush(self.settings.flush_timeout_ms or _LAST_BUDGET_MS, is_last=True)
                self._tell_losses(self.pipeline)
            finally:
                self.pipeline.close()

    def _tell_losses(self, pipeline: Pipeline) -> None:
        lost: dict[str, int] = {}
        for account in pipeline.accounts():
            for reason, items in {**account.dropped, "unsent": account.pending}.items():
                # A point that a newer one stands for is no loss, nor is what the backend never wanted.
                if items and reason not in ("superseded", UNSUPPORTED):
                    lost[f"{account.signal}_{reason}"] = lost.get(f"{account.signal}_{reason}", 0) + items
        if lost:
            # On stdout only: there is nobody left to send it.
            self.lines.say("warning", "telemetry was lost", {"function": self.function, **lost})
