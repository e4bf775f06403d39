"""
Drives a ``BaseHTTPRequestHandler`` class over memory: no socket, no thread, no listening port.

The handler gets the bytes that an HTTP client would send and its bytes are read as an HTTP client would read them.
"""

from __future__ import annotations

import http.client
import io
import re
import time
from typing import TYPE_CHECKING, Any

from tracedbridge.errors import AppProtocolError
from tracedbridge.messages import Response

if TYPE_CHECKING:
    from collections.abc import Callable
    from http.server import BaseHTTPRequestHandler

    from tracedbridge.messages import Invocation, Request
    from tracedbridge.protocols import Sink

__all__ = ("HttpServerApp",)

# Without it http.client takes what there is for all headers.
_END_OF_HEAD = re.compile(rb"\n\r?\n").search


class HttpServerApp:
    """A handler class; implements `tracedbridge.protocols.App`."""

    def __init__(self, app: Callable[..., Any]) -> None:
        """Take a subclass of ``http.server.BaseHTTPRequestHandler``."""
        self._handler: type[BaseHTTPRequestHandler] = app  # type: ignore[assignment]  # `kinds` has looked

    def start(self) -> None:
        """Do nothing: a handler class knows no lifespan."""

    def call(self, request: Request, invocation: Invocation) -> Response:
        """
        Answer one request.

        Raises:
            AppProtocolError: What the handler wrote is no HTTP response, or only a part of one.
            BaseException: What the handler raised.
        """
        connection = _Connection(_to_bytes(request), invocation)
        self._handle(connection, request, invocation)
        response = _from_bytes(b"".join(connection.written), request.method)
        invocation.answered_ns = time.monotonic_ns()
        return response

    def stream(self, request: Request, invocation: Invocation, sink: Sink) -> None:
        """
        Answer one request, part by part as the handler writes them.

        Raises:
            AppProtocolError: What the handler wrote is no HTTP response, or only a part of one.
            BaseException: What the handler, or the sink, raised.
        """
        connection = _Stream(_to_bytes(request), invocation, request.method, sink)
        self._handle(connection, request, invocation)
        connection.over()

    def _handle(self, connection: _Connection, request: Request, invocation: Invocation) -> None:
        handler = self._handler.__new__(self._handler)
        if _is_stock(handler, "log_message"):
            # The stock one writes to stderr; these lines belong to the invocation's line in our log.
            handler.log_message = _to(invocation)  # type: ignore[method-assign]
        if _is_stock(handler, "handle"):
            # One event is one request: a body left unread must not be taken for the next.
            handler.close_connection = True
            handler.handle = handler.handle_one_request  # type: ignore[method-assign]
        server = _Server(request)
        # All of it happens in the constructor: setup(), handle(), finish().
        handler.__init__(connection, (request.client or "", 0), server)  # type: ignore[misc]  # seen as a socket and a server

    def stop(self, timeout_s: float) -> None:
        """Do nothing: a handler class knows no lifespan."""


class _Connection:
    """What the handler takes for a socket."""

    def __init__(self, sent: bytes, invocation: Invocation) -> None:
        self._reader = io.BytesIO(sent)
        self._invocation = invocation
        self.written: list[bytes] = []

    def makefile(self, mode: str = "r", *_: object, **__: object) -> io.BufferedIOBase:
        # A handler with wbufsize > 0 asks for a file to write to, and closes it.
        return _Keep(self) if "w" in mode else self._reader

    def sendall(self, data: bytes, flags: int = 0) -> None:
        del flags
        if not self.written:
            self._invocation.response_started()
        self.written.append(bytes(data))

    def send(self, data: bytes, flags: int = 0) -> int:
        self.sendall(data, flags)
        return len(data)

    def recv(self, size: int, flags: int = 0) -> bytes:
        del flags
        return self._reader.read(size)

    def getpeername(self) -> tuple[str, int]:
        return ("", 0)

    def getsockname(self) -> tuple[str, int]:
        return ("", 0)

    def fileno(self) -> int:
        raise io.UnsupportedOperation("this request came as an event, not over a socket")

    def settimeout(self, seconds: float | None) -> None:
        del seconds

    def setsockopt(self, *_: object) -> None:
        pass

    def shutdown(self, how: int) -> None:
        del how

    def close(self) -> None:
        pass


class _Stream(_Connection):
    """What the handler takes for a socket; what it writes after the head is passed on at once."""

    def __init__(self, sent: bytes, invocation: Invocation, method: str, sink: Sink) -> None:
        super().__init__(sent, invocation)
        self._method = method
        self._sink = sink
        self._has_begun = False
        # How much of the body is to come; None for as much as there is.
        self._left: int | None = None

    def sendall(self, data: bytes, flags: int = 0) -> None:
        if self._has_begun:
            self._pass_on(bytes(data))
            return
        super().sendall(data, flags)
        self._begin()

    def over(self) -> None:
        """Note that the handler has written all that it wanted to."""
        if not self._has_begun:
            # No head, half a head, or one that has to be read with its body.
            response = _from_bytes(b"".join(self.written), self._method)
            self._sink.begin(response)
            if response.body:
                self._sink.write(response.body)
        elif self._left and self._sink.has_body:
            raise AppProtocolError("the handler wrote less of a body than its headers announce")

    def _begin(self) -> None:
        written = b"".join(self.written)
        end = _END_OF_HEAD(written)
        if end is None or written[:1] != b"H":
            # HTTP/0.9 has no head.
            return
        wire = _Wire(written[: end.end()])
        answer = http.client.HTTPResponse(wire, method=self._method)  # type: ignore[arg-type]  # all it calls is there
        try:
            answer.begin()
        except (http.client.HTTPException, ValueError, OSError):
            return
        if answer.chunked or answer.status < 200:
            # Chunks of the handler's own, or more heads: read as a whole, at the end.
            return
        self._has_begun = True
        self._left = answer.length if self._sink.has_body else 0
        self._sink.begin(Response(answer.status, answer.getheaders(), b""))
        self._pass_on(written[end.end() :])

    def _pass_on(self, data: bytes) -> None:
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
        if data:
            self._sink.write(data)


class _Keep(io.RawIOBase, io.BufferedIOBase):  # type: ignore[misc]  # both declare readinto and write
    """A file that writes to the connection and leaves it open."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._connection.sendall(bytes(data))
        return len(data)


class _Server:
    """What the handler takes for the server it belongs to."""

    def __init__(self, request: Request) -> None:
        self.server_address = (request.host, request.port)
        self.server_name = request.host
        self.server_port = request.port


def _is_stock(handler: object, method: str) -> bool:
    from http.server import BaseHTTPRequestHandler

    return getattr(type(handler), method) is getattr(BaseHTTPRequestHandler, method)


def _to(invocation: Invocation) -> Callable[..., None]:
    def log_message(format: str, *args: object) -> None:  # noqa: A002 - the name it has in http.server
        invocation.notes = [*(invocation.notes or ()), format % args]

    return log_message


def _to_bytes(request: Request) -> bytes:
    target = f"{request.raw_path}?{request.query}" if request.query else request.raw_path
    lines = [f"{request.method} {target} HTTP/{request.http_version}"]
    lines += [f"{name}: {value}" for name, value in request.headers]
    body = request.body
    if any(name == "transfer-encoding" and value.lower() == "chunked" for name, value in request.headers):
        # The platform has undone it; a handler that reads chunks finds one.
        body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
    return "\r\n".join((*lines, "", "")).encode("latin-1") + body


def _from_bytes(written: bytes, method: str) -> Response:
    if not written:
        raise AppProtocolError("the handler wrote no response")
    wire = _Wire(written)
    try:
        while True:
            if not _END_OF_HEAD(written, wire.tell()):
                raise AppProtocolError("the handler wrote half a head: no empty line ends it")
            answer = http.client.HTTPResponse(wire, method=method)  # type: ignore[arg-type]  # all it calls is there
            answer.begin()
            if answer.status >= 200:
                break
        body = answer.read()
    except http.client.IncompleteRead as error:
        raise AppProtocolError("the handler wrote less of a body than its headers announce") from error
    except (http.client.HTTPException, ValueError) as error:
        raise AppProtocolError(
            f"what the handler wrote is no HTTP response: {type(error).__name__}: {error}"
        ) from error
    return Response(answer.status, answer.getheaders(), body)


class _Wire(io.BytesIO):
    """What ``http.client`` takes for socket and file at once; stays open, as more may follow a 1xx response."""

    def makefile(self, *_: object) -> _Wire:
        return self

    def close(self) -> None:
        pass
