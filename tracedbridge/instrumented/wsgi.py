"""
A WSGI app with our telemetry around it, for any server that speaks WSGI.

Source: PEP 3333.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from tracedbridge import ending
from tracedbridge.errors import AppProtocolError
from tracedbridge.instrumented.requests import environ_with, request_of_environ
from tracedbridge.instrumented.threads import must_settle
from tracedbridge.messages import Response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tracedbridge.messages import Invocation
    from tracedbridge.protocols import Telemetry

__all__ = ("TracedWsgi",)


class TracedWsgi:
    """A WSGI app."""

    def __init__(self, app: Callable[..., Any], telemetry: Telemetry) -> None:
        """
        Args:
            app: WSGI.
            telemetry: Of this app, closed with it.
        """
        self._app = app
        self._telemetry = telemetry
        self._is_closed = False
        ending.close_at_end(self)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request; PEP 3333."""
        return self.serve(environ, start_response)

    def serve(
        self, environ: dict[str, Any], start_response: Callable[..., Any], context: object = None
    ) -> Iterable[bytes]:
        """
        Answer one request.

        Args:
            environ: As in PEP 3333.
            start_response: As in PEP 3333.
            context: The platform's, as event formats have it; knows its id and its deadline.
        """
        exchange = _Exchange(self._telemetry, context, start_response)
        try:
            exchange.arrived(environ)
            chunks = self._app(environ, exchange.start_response)
        except BaseException as error:
            exchange.over(error)
            raise
        # wsgiref takes the length of a body with one part for its content-length.
        return _SizedBody(chunks, exchange) if hasattr(chunks, "__len__") else _Body(chunks, exchange)

    def settle(self) -> None:
        """Export what has been told; see `tracedbridge.bridge.Bridge.settle`."""
        self._telemetry.settle()

    def close(self) -> None:
        """Send what is left; once."""
        if not self._is_closed:
            self._is_closed = True
            ending.forget(self)
            self._telemetry.close()


class _Exchange:
    """One request, as its parts pass."""

    def __init__(self, telemetry: Telemetry, context: object, start_response: Callable[..., Any]) -> None:
        self._telemetry = telemetry
        self._start_response = start_response
        self._watch = telemetry.watch(context)
        self._invocation: Invocation = self._watch.__enter__()
        self._invocation.is_streamed = True
        self._invocation.bytes_out = 0
        self._is_over = False

    def arrived(self, environ: dict[str, Any]) -> None:
        asked = request_of_environ(environ)
        length = asked.first("content-length") or ""
        self._invocation.bytes_in = int(length) if length.isdecimal() else 0
        environ_with(environ, asked, self._invocation.arrived(asked))
        self._invocation.environ = environ

    def start_response(self, status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Callable[[bytes], Any]:
        write: Callable[[bytes], Any] = self._start_response(status, headers, *exc_info)
        code = status[:3]
        response = self._invocation.response = Response(int(code) if code.isdecimal() else 500, list(headers), b"")
        for name, value in headers:
            response.fields.setdefault(name.lower(), []).append(value)
        self._invocation.response_started()

        def counted(data: bytes) -> Any:
            self.passed(data)
            return write(data)

        return counted

    def passed(self, chunk: bytes) -> None:
        """Note a part of the body."""
        self._invocation.bytes_out = (self._invocation.bytes_out or 0) + len(chunk)

    def complete(self) -> None:
        """Note that the last part of the body has passed."""
        self._invocation.answered_ns = time.monotonic_ns()

    def over(self, error: BaseException | None) -> None:
        """Note how the app ended; the first time counts."""
        if self._is_over:
            return
        self._is_over = True
        invocation = self._invocation
        if isinstance(error, GeneratorExit):
            error = None
        if error is not None:
            invocation.failed(error)
        elif invocation.response is None:
            invocation.failed(AppProtocolError("the app returned without calling start_response"))
        elif invocation.answered_ns is None:
            # close() before the last part: the client has gone away.
            invocation.is_abandoned = True
        if invocation.response is None:
            invocation.response = Response(500, [], b"")
        self._watch.__exit__(None, None, None)
        if must_settle():
            self._telemetry.settle()


class _Body:
    """The app's body, whose end is the end of its invocation."""

    def __init__(self, chunks: Iterable[bytes], exchange: _Exchange) -> None:
        self._chunks = chunks
        self._iterator: Iterator[bytes] | None = None
        self._exchange = exchange

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            if self._iterator is None:
                self._iterator = iter(self._chunks)
            chunk = next(self._iterator)
        except StopIteration:
            self._exchange.complete()
            raise
        except BaseException as error:
            self._exchange.over(error)
            raise
        self._exchange.passed(chunk)
        return chunk

    def close(self) -> None:
        """End; PEP 3333 has every server call it."""
        error: BaseException | None = None
        try:
            if hasattr(self._chunks, "close"):
                self._chunks.close()
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._exchange.over(error)


class _SizedBody(_Body):
    def __len__(self) -> int:
        return len(self._chunks)  # type: ignore[arg-type]  # only made of what has a length
