"""What passes between event formats, apps and telemetry: the same for every format and kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from tracedbridge.headers import Layout

__all__ = ("Event", "Headers", "Invocation", "Kind", "Request", "Response")

Event = Any
"""What the platform hands over: JSON, already parsed."""

Headers = list[tuple[str, str]]
"""Names and values in order, repeats kept; each character stands for one byte, latin-1."""

Kind = Literal["asgi", "wsgi", "http_server"]
"""What an app is."""


_NONE: Headers = []


class Request:
    """One HTTP request, decoded from an event."""

    __slots__ = (
        "_headers", "body", "client", "extra", "extras", "host", "http_version", "layout", "method", "mount", "port",
        "query", "raw_path", "scheme", "values",
    )  # fmt: skip

    def __init__(
        self,
        method: str,
        raw_path: str,
        query: str,
        headers: Headers | None,
        body: bytes,
        scheme: str,
        host: str,
        port: int,
        client: str | None,
        http_version: str = "1.1",
        layout: Layout | None = None,
        values: list[str] | None = None,
    ) -> None:
        """
        Args:
            method: As sent, a token; usually upper-case.
            raw_path: Percent-encoded, printable ASCII, without the query; begins with ``/`` unless it is ``*``.
            query: Verbatim, percent-encoded, without the question mark.
            headers: Names lower-case; None where ``layout`` and ``values`` say the same.
            body: Whole, base64 and chunked coding undone.
            scheme: ``"http"`` or ``"https"``.
            host: Without port and brackets.
            port: The port of ``host``.
            client: Address of the client, if known.
            http_version: ``"1.0"`` or ``"1.1"``.
            layout: The headers' names, if the format knows them as one.
            values: The headers' values, in the order of ``layout``.
        """
        self.method = method
        self.raw_path = raw_path
        self.query = query
        self._headers = headers
        self.body = body
        self.scheme = scheme
        self.host = host
        self.port = port
        self.client = client
        self.http_version = http_version
        self.layout = layout
        self.values = values
        # Headers that were not in the event; they follow the others.
        self.extra: Headers = _NONE
        # How ``raw_path`` begins, if that is where the app is mounted: "/prod"; on the boundary of a segment.
        self.mount = ""
        # What scope and environ have besides, by name.
        self.extras: dict[str, Any] | None = None

    @property
    def headers(self) -> Headers:
        """All headers, names lower-case."""
        return self.event_headers + self.extra if self.extra else self.event_headers

    @property
    def event_headers(self) -> Headers:
        """The headers of the event; made of layout and values when they are first asked for."""
        if self._headers is None:
            assert self.layout is not None
            assert self.values is not None
            self._headers = list(zip(self.layout.names, self.values, strict=True))
        return self._headers

    def first(self, name: str) -> str | None:
        """Return the first value of a header of the event, by its lower-case name."""
        if self.layout is not None and self.values is not None:
            place = self.layout.places.get(name)
            return None if place is None else self.values[place]
        return next((value for each, value in self.event_headers if each == name), None)

    def add(self, headers: Headers) -> None:
        """Have headers, names lower-case, as if they had been in the event."""
        self._headers = [*self.event_headers, *headers]
        self.layout = self.values = None

    def has_any(self, names: frozenset[str]) -> bool:
        """Say whether a header of the event has one of these lower-case names."""
        if self.layout is not None:
            return not names.isdisjoint(self.layout.places)
        return any(name in names for name, _ in self.event_headers)


class Response:
    """One whole HTTP response."""

    __slots__ = ("body", "fields", "headers", "status")

    def __init__(self, status: int, headers: Headers, body: bytes) -> None:
        """
        Args:
            status: 100 to 999.
            headers: Names in any case.
            body: Whole, no transfer coding.

        `tracedbridge.answers.checked` sets ``fields``, what leaves the bridge of the headers: lower-case name → values.
        """
        self.status = status
        self.headers = headers
        self.body = body
        self.fields: dict[str, list[str]] = {}


class Invocation:
    """
    The facts of one invocation while it runs.

    The base class keeps them and does nothing else, which is telemetry switched off; the watch of
    `tracedbridge.telemetry` overrides the hooks.
    """

    # Defaults of the class: most invocations set three of these, and each one made pays for what it sets.
    request: Request | None = None
    response: Response | None = None
    error: BaseException | None = None
    timed_out = False
    # What a handler class logged: "GET / HTTP/1.1" 200 -
    notes: list[str] | None = None
    # CLOCK_MONOTONIC: when the app must have answered, and when it gave its last byte.
    deadline_ns: int | None = None
    answered_ns: int | None = None
    # It is told by what passes while it is served, and not by a whole request and response.
    is_streamed = False
    # Of their bodies; None where those are whole.
    bytes_in: int | None = None
    bytes_out: int | None = None
    # The client went away before the last byte.
    is_abandoned = False
    # What the app was called with; frameworks leave the route there.
    scope: dict[str, Any] | None = None
    environ: dict[str, Any] | None = None

    def arrived(self, request: Request) -> Request:
        """Take the decoded request and return the one that the app is to see."""
        self.request = request
        return request

    def came(self, trigger: str) -> None:
        """Note that the event is no request; ``trigger`` is what has caused it, as ``faas.trigger`` has it."""

    def runs_on(self, loop: AbstractEventLoop) -> None:
        """Note on which event loop the app is about to run."""

    def response_started(self) -> None:
        """Note that the app has given status and headers."""

    def tell_trace(self, response: Response) -> None:
        """Have the response's fields say which trace it belongs to."""

    def trace_headers(self, response: Response) -> Headers:
        """Return the headers to be added to a streamed response; ``fields`` are those that it has."""
        del response
        return []

    def last_byte(self) -> None:
        """Note that the last part of a streamed response is about to be sent."""

    def failed(self, error: BaseException) -> None:
        """Note the first error of this invocation."""
        if self.error is None:
            self.error = error
