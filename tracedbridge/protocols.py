"""What event formats, apps, platforms and telemetry owe the bridge: for readers and type checkers, never loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from tracedbridge.messages import Event, Headers, Invocation, Kind, Request, Response

__all__ = ("App", "EventFormat", "Platform", "Sink", "Telemetry")


class EventFormat(Protocol):
    """One wire shape of events: a module of `tracedbridge.events`."""

    def matches(self, event: Event) -> bool:
        """Say whether the event is of this format."""

    def decode(self, event: Event, context: object) -> Request:
        """
        Read the request in an event.

        Raises:
            EventError: The event is not of this format after all.
            BadRequestError: The request in it is no valid HTTP request.
        """

    def encode(self, response: Response, event: Event) -> dict[str, Any]:
        """Write a response as the platform wants it."""


class App(Protocol):
    """One app, called in the way of its kind: a class of `tracedbridge.apps`."""

    def start(self) -> int | None:
        """
        Run what the app wants to run before its first request.

        Returns:
            How many tasks that has left running, or None if the app's kind, or the app, knows no such thing.

        Raises:
            StartupError: The app says that it could not start.
        """

    def call(self, request: Request, invocation: Invocation) -> Response:
        """
        Answer one request.

        Raises:
            AppProtocolError: The app broke the contract of its kind.
            DeadlineError: ``invocation.deadline_ns`` passed before the app had answered.
            BaseException: Whatever the app raised.
        """

    def stop(self, timeout_s: float) -> None:
        """Run what the app wants to run at the end, for at most about ``timeout_s`` seconds."""


class Sink(Protocol):
    """Where the parts of a streamed response go; each call returns when there is room for more."""

    @property
    def has_body(self) -> bool:
        """Whether a body is sent at all: not in the answer to HEAD, nor with 204 and 304."""

    def begin(self, response: Response) -> None:
        """
        Send status and headers, once; the body is to come.

        Raises:
            AppProtocolError: A header could not be sent.
            OSError: The client has gone away.
        """

    def write(self, data: bytes) -> None:
        """
        Send a part of the body.

        Raises:
            OSError: The client has gone away.
        """


class Telemetry(Protocol):
    """Whoever watches the bridge; nothing that it does can change a response."""

    def loading(self) -> AbstractContextManager[None]:
        """Watch the load of the app, from before its import until it is ready."""

    def wrap(self, app: Callable[..., Any], kind: Kind) -> Callable[..., Any]:
        """Return the app object to call, usually ``app`` itself."""

    def watch(self, context: object) -> AbstractContextManager[Invocation]:
        """Watch one invocation, from event to response."""

    def conversing(self, app: Callable[..., Any]) -> Callable[..., Any]:
        """Return the ASGI app to call for WebSockets; may take long, the first time."""

    def settle(self) -> None:
        """Tell and export what waits, now: the response has been taken."""

    def before_snapshot(self) -> None:
        """Tell and export all there is until now: a snapshot of this process is about to be taken."""

    def restored(self) -> None:
        """Begin anew: this process was just restored from a snapshot."""

    def stopping(self) -> AbstractContextManager[None]:
        """Watch the app's lifespan shutdown."""

    def close(self, within_s: float | None = None) -> None:
        """Send what is left, within the configured budget and this one, and put back what was changed."""


class Platform(Protocol):
    """One place where functions run: a module of `tracedbridge.platforms`."""

    def function_name(self, environ: Mapping[str, str], app: str) -> str:
        """Return what the function is called there; ``app`` is its file or module."""

    def resource_attributes(self, environ: Mapping[str, str]) -> dict[str, str | int]:
        """Return the attributes of the function's resource, by the semantic conventions."""

    def cold_start_kind(self, environ: Mapping[str, str]) -> Literal["proactive"] | None:
        """Return what this platform says of its cold start; None where the wait for the first event decides."""

    def invocation_id(self, request: Request, context: object) -> str | None:
        """Return the platform's id of this invocation, if it has one."""

    def remaining_ms(self, context: object) -> float | None:
        """Return how long an invocation may go on, in milliseconds, if the platform says so."""

    def span_attributes(self, environ: Mapping[str, str], request: Request) -> dict[str, str]:
        """Return what only this platform says about an invocation."""

    def carried(self, environ: Mapping[str, str], context: object) -> tuple[Headers, bool]:
        """Return the trace context that came beside a request, as headers, and whether it is the platform's own."""
