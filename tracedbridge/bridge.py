"""ONE invocation, top to bottom: decode, call, encode, watched by telemetry."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Self

from tracedbridge import ending
from tracedbridge.answers import answer_to, checked
from tracedbridge.errors import AppProtocolError, BadRequestError, BridgeClosedError, DeadlineError, EventError
from tracedbridge.events import format_of, trigger_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from tracedbridge.messages import Event, Invocation, Request, Response
    from tracedbridge.protocols import App, Telemetry
    from tracedbridge.settings import Settings

__all__ = ("Bridge",)

# Lifespan shutdown at close(): long enough to give back connections, short enough for every platform's grace.
_STOP_TIMEOUT_S = 3.0


class Bridge:
    """Answers events with one app; call it with ``(event, context)`` from any thread."""

    # What the platform leaves, of which the app gets half at most; None where it leaves enough.
    _closes_within_s: float | None = None

    def __init__(
        self, app: App, telemetry: Telemetry, settings: Settings, on_event: Callable[[Event, Any], Any] | None = None
    ) -> None:
        """Take a started app; `tracedbridge.create_bridge` makes one from an app object."""
        self._on_event = on_event
        self._app = app
        self._telemetry = telemetry
        self._raise_errors = settings.raise_errors
        self._tells_trace = settings.trace_response
        self._deadline_ns = None if settings.deadline_ms is None else int(settings.deadline_ms * 1e6)
        self._closed = False

    def __call__(self, event: Event, context: object = None) -> Any:
        """
        Answer one event.

        Args:
            event: What the platform hands over, parsed JSON.
            context: The platform's own, or None.

        Returns:
            The response in the event's format. An app that fails gives 500, a broken request 400, a missed
            deadline 504. What ``on_event`` returns, if the event is no request.

        Raises:
            EventError: The event is of no format that we know.
            BridgeClosedError: ``close()`` was called before.
            Exception: The app's own, if ``TRACEDBRIDGE_RAISE_ERRORS`` is on.
            SystemExit, KeyboardInterrupt: The app's own, always.
        """
        if self._closed:
            raise BridgeClosedError("cannot answer the event: the bridge is closed")
        with self._telemetry.watch(context) as invocation:
            try:
                event_format = format_of(event)
            except EventError:
                if self._on_event is None:
                    raise
                invocation.came(trigger_of(event))
                return self._on_event(event, context)
            if self._deadline_ns is not None:
                invocation.deadline_ns = time.monotonic_ns() + self._deadline_ns
            try:
                request = event_format.decode(event, context)
            except BadRequestError as error:
                invocation.failed(error)
                invocation.response = checked(answer_to(error), "")
            else:
                invocation.response = self._answer(invocation.arrived(request), invocation)
            if self._tells_trace:
                invocation.tell_trace(invocation.response)
            try:
                return event_format.encode(invocation.response, event)
            except AppProtocolError as error:
                # More than the platform passes on.
                invocation.failed(error)
                invocation.response = checked(answer_to(error), "")
                return event_format.encode(invocation.response, event)

    def _answer(self, request: Request, invocation: Invocation) -> Response:
        try:
            response = self._app.call(request, invocation)
            if invocation.answered_ns is None:
                invocation.answered_ns = time.monotonic_ns()
            return checked(response, request.method)
        except DeadlineError as error:
            invocation.timed_out = True
            invocation.failed(error)
            return checked(answer_to(error), request.method)
        except Exception as error:
            invocation.failed(error)
            if self._raise_errors:
                raise
            return checked(answer_to(error), request.method)

    def settle(self) -> None:
        """
        Do now, on this thread, what telemetry has put off: for a server that has sent the response and goes on working.

        Bounded by the flush timeout, but for the first time, which loads the SDK.
        """
        self._telemetry.settle()

    def before_snapshot(self) -> None:
        """
        Note that a snapshot of this process is about to be taken; for a platform's before-snapshot hook.

        What there is until now is told and exported, the cold start included: no process that is restored has it.
        """
        self._telemetry.before_snapshot()

    def restored(self) -> None:
        """
        Note that this process was just restored from a snapshot; for a platform's after-restore hook.

        Telemetry begins anew, with ids, an instance and connections of its own. The next invocation has a cold start
        of kind ``restored``, which is the restore and nothing from before the snapshot.
        """
        self._telemetry.restored()

    def close(self) -> None:
        """Run the app's lifespan shutdown and send what telemetry still holds, both bounded in time; once."""
        if self._closed:
            return
        self._closed = True
        ending.forget(self)
        begun_s, within_s = time.monotonic(), self._closes_within_s
        try:
            with self._telemetry.stopping():
                self._app.stop(_STOP_TIMEOUT_S if within_s is None else within_s / 2)
        finally:
            spent_s = time.monotonic() - begun_s
            self._telemetry.close(None if within_s is None else max(within_s - spent_s, 0.0))

    def __enter__(self) -> Self:
        """Return the bridge itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()
