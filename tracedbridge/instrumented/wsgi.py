"""
A WSGI app with our telemetry around it, for any server that speaks WSGI.

What passes is noted when it has passed: whatever is wrong with it, the server says so, and not this.

Source: PEP 3333.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from tracedbridge import ending
from tracedbridge.errors import AppProtocolError
from tracedbridge.instrumented.requests import environ_with, read_environ, with_fields
from tracedbridge.instrumented.threads import Settling, must_settle
from tracedbridge.messages import Response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tracedbridge.messages import Invocation
    from tracedbridge.protocols import Telemetry

__all__ = ("TracedWsgi",)


class TracedWsgi:
    """A WSGI app."""

    def __init__(self, app: Callable[..., Any], telemetry: Telemetry, *, is_off: bool = False) -> None:
        """
        Args:
            app: WSGI.
            telemetry: Of this app, closed with it.
            is_off: The app is called as if this were not there.
        """
        self._app = app
        self._telemetry = telemetry
        # Nobody watches, or nobody does so any more.
        self._is_off = is_off
        self._settling = Settling(telemetry.settle)
        self._pid = os.getpid()
        if not is_off:
            ending.settle_at_end(self)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request; PEP 3333."""
        if self._is_off:
            chunks: Iterable[bytes] = self._app(environ, start_response)
            return chunks
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
        if os.getpid() != self._pid:
            # A worker that was forked when the app was loaded already.
            self._pid = os.getpid()
            ending.settle_at_end(self)
        exchange = _Exchange(self._telemetry.watch(context), self._settling, start_response)
        try:
            exchange.arrived(environ)
            chunks = self._app(environ, exchange.start_response)
        except BaseException as error:
            exchange.over(error)
            raise
        if _is_file(chunks, environ) and exchange.ends_with(chunks):
            # As it is: the server may send it by itself.
            return chunks  # type: ignore[no-any-return]  # the app's
        # wsgiref takes the length of a body with one part for its content-length.
        return _SizedBody(chunks, exchange) if hasattr(chunks, "__len__") else _Body(chunks, exchange)

    def settle(self) -> None:
        """Export what has been told; see `tracedbridge.bridge.Bridge.settle`."""
        self._settling()

    def close(self) -> None:
        """Send what is left; once. The app is served on, unwatched, if it is at all."""
        if not self._is_off:
            self._is_off = True
            ending.forget(self)
            self._telemetry.close()


class _Exchange:
    """One request, as its parts pass."""

    def __init__(self, watch: Any, settle: Callable[[], None], start_response: Callable[..., Any]) -> None:
        self._start_response = start_response
        self._settle = settle
        self._watch = watch
        self._invocation: Invocation = watch.__enter__()
        self._invocation.is_streamed = True
        self._invocation.bytes_out = 0
        # A body that the server drops is none.
        self._has_body = True
        self._is_over = False

    def arrived(self, environ: dict[str, Any]) -> None:
        asked = read_environ(environ)
        self._invocation.environ = environ
        if asked is None:
            return
        length = asked.first("content-length") or ""
        self._invocation.bytes_in = int(length) if length.isdecimal() else 0
        self._has_body = asked.method != "HEAD"
        environ_with(environ, asked, self._invocation.arrived(asked))

    def start_response(self, *args: Any, **kwargs: Any) -> Any:
        """Begin a response; whatever the arguments are, the server gets them."""
        response = _response_of(args)
        if response is not None and (ours := self._invocation.trace_headers(response)):
            status, headers, *rest = args
            args = (status, [*headers, *ours], *rest)
        write = self._start_response(*args, **kwargs)
        if response is not None:
            self._invocation.response = response
            self._has_body = self._has_body and response.status not in (204, 304)
            self._invocation.response_started()

        def counted(data: bytes) -> Any:
            written = write(data)
            self.passed(data)
            return written

        return counted

    def passed(self, chunk: bytes) -> None:
        """Note a part of the body."""
        if self._has_body and isinstance(chunk, bytes):
            self._invocation.bytes_out = (self._invocation.bytes_out or 0) + len(chunk)

    def complete(self) -> None:
        """Note that the last part of the body has passed."""
        self._invocation.last_byte()
        self._invocation.answered_ns = time.monotonic_ns()

    def ends_with(self, chunks: Any) -> bool:
        """Have a file's end be the end of its invocation; False if its ``close`` cannot be watched."""
        close = getattr(chunks, "close", None)

        def closed() -> None:
            self.complete()
            response = self._invocation.response
            told = "" if response is None else "".join(response.fields.get("content-length", ())[:1])
            # The server has sent it by itself, and nobody else tells how much.
            if self._has_body and told.isdecimal():
                self._invocation.bytes_out = int(told)
            self.close(close)

        try:
            chunks.close = closed
        except AttributeError:
            return False
        return True

    def close(self, close: Callable[[], None] | None) -> None:
        """Close the app's body, if it is to be closed, and end."""
        error: BaseException | None = None
        try:
            if close is not None:
                close()
        except BaseException as raised:
            error = raised
            raise
        finally:
            self.over(error)

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
            self._settle()


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
        self._exchange.close(getattr(self._chunks, "close", None))


class _SizedBody(_Body):
    def __len__(self) -> int:
        return len(self._chunks)  # type: ignore[arg-type]  # only made of what has a length


def _response_of(args: tuple[Any, ...]) -> Response | None:
    """Return the response that these arguments of start_response begin; None if they are malformed."""
    try:
        status, headers = args[:2]
        return with_fields(int(status[:3]), list(headers))
    except Exception:  # noqa: BLE001 - whatever is wrong with them
        return None


def _is_file(chunks: object, environ: dict[str, Any]) -> bool:
    wrapper = environ.get("wsgi.file_wrapper")
    return isinstance(wrapper, type) and isinstance(chunks, wrapper)
