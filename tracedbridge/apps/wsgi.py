"""
Calls WSGI apps directly, on the caller's thread.

Source: PEP 3333; header names with underscores are dropped, as by nginx and gunicorn.
"""

from __future__ import annotations

import io
import re
import sys
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from tracedbridge.errors import AppProtocolError
from tracedbridge.messages import Response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from tracedbridge.headers import Layout
    from tracedbridge.messages import Headers, Invocation, Request
    from tracedbridge.protocols import Sink

    ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]

__all__ = ("WsgiApp",)

# "200 OK"; PEP 3333 wants a reason phrase, servers do not insist.
_STATUS = re.compile(r"([1-9][0-9]{2})(?: [^\x00-\x1f\x7f]*)?").fullmatch


class WsgiApp:
    """A WSGI app; implements `tracedbridge.protocols.App`."""

    def __init__(self, app: Callable[..., Any]) -> None:
        """Take an app of ``(environ, start_response)``."""
        self._app = app

    def start(self) -> None:
        """Do nothing: WSGI knows no lifespan."""

    def call(self, request: Request, invocation: Invocation) -> Response:
        """
        Answer one request.

        Raises:
            AppProtocolError: The app broke PEP 3333.
            BaseException: What the app raised.
        """
        exchange = _Exchange(invocation)
        environ = invocation.environ = _environ(request)
        chunks = self._app(environ, exchange.start_response)
        try:
            return exchange.read(chunks)
        finally:
            # Always, also after an exception: PEP 3333, "Specification Details".
            if hasattr(chunks, "close"):
                chunks.close()

    def stream(self, request: Request, invocation: Invocation, sink: Sink) -> None:
        """
        Answer one request, part by part as the app gives them.

        Raises:
            AppProtocolError: The app broke PEP 3333.
            BaseException: What the app, or the sink, raised.
        """
        exchange = _Stream(invocation, sink)
        environ = invocation.environ = _environ(request)
        chunks = self._app(environ, exchange.start_response)
        try:
            exchange.pass_on(chunks)
        finally:
            if hasattr(chunks, "close"):
                chunks.close()

    def stop(self, timeout_s: float) -> None:
        """Do nothing: WSGI knows no lifespan."""


class _Exchange:
    """What the app gives for one request."""

    __slots__ = ("body", "invocation", "limit", "response")

    def __init__(self, invocation: Invocation) -> None:
        self.invocation = invocation
        self.response: Response | None = None
        self.body: list[bytes] = []
        self.limit: int | None = None

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None
    ) -> Callable[[bytes], object]:
        if exc_info is not None:
            # With nothing sent yet the new status replaces the old one. We send nothing before the end, but an error
            # in mid-body goes on to where it becomes a 500: never a 200 with half a body.
            try:
                if self.body and exc_info[1] is not None:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self.response is not None:
            raise AppProtocolError("the app called start_response a second time without exc_info")
        code = _code(status) if isinstance(status, str) else None
        if code is None:
            raise AppProtocolError(f"the app gave the status {status!r}, not a string like '200 OK'")
        # A copy: PEP 3333 lets the app go on using its list.
        self.response = Response(code, list(headers), b"")
        self.limit = _content_length(self.response.headers)
        self.invocation.response_started()
        return self.write

    def write(self, data: bytes) -> None:
        self._check(data)
        self.body.append(data)
        if self.limit is not None and sum(map(len, self.body)) > self.limit:
            raise AppProtocolError(f"the app wrote more than its content-length, {self.limit} bytes")

    def read(self, chunks: Iterable[bytes]) -> Response:
        body = self.body
        size = 0 if self.limit is None else sum(map(len, body))
        for chunk in chunks:
            if self.response is None or type(chunk) is not bytes:
                if not chunk:
                    continue
                self._check(chunk)
            body.append(chunk)
            if self.limit is not None:
                size += len(chunk)
                if size >= self.limit:
                    # PEP 3333: a server stops iterating when it has all that content-length announces.
                    body = [b"".join(body)[: self.limit]]
                    break
        self.invocation.answered_ns = time.monotonic_ns()
        if self.response is None:
            raise AppProtocolError("the app returned without calling start_response")
        self.response.body = b"".join(body)
        return self.response

    def _check(self, data: bytes) -> None:
        if self.response is None:
            raise AppProtocolError("the app gave a body before it called start_response")
        if not isinstance(data, bytes):
            raise AppProtocolError(f"the app gave a body of {type(data).__name__}, not bytes")


class _Stream(_Exchange):
    """What the app gives for one request, passed on at once."""

    __slots__ = ("_sent", "_sink")

    def __init__(self, invocation: Invocation, sink: Sink) -> None:
        super().__init__(invocation)
        self._sink = sink
        # How many bytes of the body; None as long as the head has not been sent.
        self._sent: int | None = None

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None
    ) -> Callable[[bytes], object]:
        if exc_info is not None and exc_info[1] is not None and self._sent is not None:
            try:
                raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        return super().start_response(status, headers, exc_info)

    def write(self, data: bytes) -> None:
        self._check(data)
        if self.limit is not None and (self._sent or 0) + len(data) > self.limit:
            raise AppProtocolError(f"the app wrote more than its content-length, {self.limit} bytes")
        self._pass_on(data)

    def pass_on(self, chunks: Iterable[bytes]) -> None:
        for chunk in chunks:
            if not chunk:
                continue
            self._check(chunk)
            left = None if self.limit is None else self.limit - (self._sent or 0)
            self._pass_on(chunk if left is None else chunk[:left])
            if left is not None and len(chunk) >= left:
                # PEP 3333: a server stops iterating when it has all that content-length announces.
                break
        if self.response is None:
            raise AppProtocolError("the app returned without calling start_response")
        if self._sent is None:
            self._begin()
        if self.limit is not None and (self._sent or 0) < self.limit and self._sink.has_body:
            raise AppProtocolError(f"the app gave less than its content-length, {self.limit} bytes")

    def _begin(self) -> None:
        assert self.response is not None
        self._sent = 0
        self._sink.begin(self.response)

    def _pass_on(self, data: bytes) -> None:
        if self._sent is None:
            self._begin()
        self._sent = (self._sent or 0) + len(data)
        self._sink.write(data)


@lru_cache(maxsize=128)
def _code(status: str) -> int | None:
    parts = _STATUS(status)
    return None if parts is None else int(parts[1])


def _content_length(headers: Headers) -> int | None:
    """Check that the headers are pairs of strings and return the content-length if there is one."""
    # What the strings hold is checked with the whole response.
    limit = None
    try:
        for name, value in headers:
            if not isinstance(name, str) or not isinstance(value, str):
                raise TypeError(f"found {type(name).__name__} and {type(value).__name__}")
            if len(name) == _LENGTH_OF_NAME and name.lower() == "content-length" and value.isdecimal():
                limit = int(value)
    except (TypeError, ValueError) as error:
        raise AppProtocolError(f"the app gave headers that are not pairs of strings: {error}") from None
    return limit


_LENGTH_OF_NAME = len("content-length")

# Every key that each request has. One copy is half the work of setting them one by one.
_BLANK: dict[str, Any] = {
    "REQUEST_METHOD": "",
    "SCRIPT_NAME": "",
    "PATH_INFO": "",
    "QUERY_STRING": "",
    # Not of PEP 3333, but what gunicorn and werkzeug give, verbatim.
    "REQUEST_URI": "",
    "RAW_URI": "",
    "REMOTE_ADDR": "",
    "SERVER_NAME": "",
    "SERVER_PORT": "",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "wsgi.version": (1, 0),
    "wsgi.url_scheme": "https",
    "wsgi.input": None,
    "wsgi.input_terminated": True,
    "wsgi.errors": None,
    "wsgi.multithread": True,
    "wsgi.multiprocess": True,
    "wsgi.run_once": False,
}


def _environ(request: Request) -> dict[str, Any]:
    layout = request.layout
    if layout is None:
        environ = _BLANK.copy()
        environ.update(_joined(request))
    else:
        environ = (layout.environ or _blank_of(layout)).copy()
        if layout.environ_keys and request.values is not None:
            # strict=False: they are as long as each other, and the check is as long as the rest.
            environ.update(zip(layout.environ_keys, request.values, strict=False))
            if request.extra:
                environ.update((_key(name), value) for name, value in request.extra)
        else:
            environ.update(_joined(request))
    raw_path = request.raw_path
    target = environ["PATH_INFO"] = raw_path
    if request.query:
        environ["QUERY_STRING"] = request.query
        target = f"{raw_path}?{request.query}"
    if "%" in raw_path or raw_path == "*":
        environ["PATH_INFO"] = _path_info(raw_path)
    environ["REQUEST_METHOD"] = request.method
    environ["REQUEST_URI"] = environ["RAW_URI"] = target
    environ["SERVER_NAME"] = request.host
    environ["SERVER_PORT"] = str(request.port)
    environ["wsgi.url_scheme"] = request.scheme
    environ["wsgi.input"] = io.BytesIO(request.body)
    environ["wsgi.errors"] = sys.stderr
    if request.http_version != "1.1":
        environ["SERVER_PROTOCOL"] = "HTTP/1.0"
    if request.client is None:
        del environ["REMOTE_ADDR"]
    else:
        environ["REMOTE_ADDR"] = request.client
    if request.mount:
        environ["SCRIPT_NAME"] = _path_info(request.mount)
        environ["PATH_INFO"] = _path_info(raw_path.removeprefix(request.mount))
    if request.extras is not None:
        environ.update(request.extras)
    return environ


def _blank_of(layout: Layout) -> dict[str, Any]:
    layout.environ_keys = _keys_of(layout)
    layout.environ = _BLANK | dict.fromkeys(layout.environ_keys)
    return layout.environ


def _keys_of(layout: Layout) -> tuple[str, ...]:
    """Return a key for each name, or none at all if one has no key of its own."""
    if any("_" in name or name == "transfer-encoding" for name in layout.names):
        return ()
    return tuple(map(_key, layout.names))


def _key(name: str) -> str:
    key = name.upper().replace("-", "_")
    return key if name in ("content-type", "content-length") else "HTTP_" + key


def _joined(request: Request) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in request.headers:
        if "_" in name:
            # `x_y` would become HTTP_X_Y, which is `x-y`.
            continue
        key = _key(name)
        if key not in headers:
            headers[key] = value
        elif key.startswith("HTTP_"):
            headers[key] += ("; " if key == "HTTP_COOKIE" else ",") + value
    if headers.pop("HTTP_TRANSFER_ENCODING", None) is not None:
        # The platform has undone it; the whole body's length is known.
        headers["CONTENT_LENGTH"] = str(len(request.body))
    return headers


def _path_info(raw_path: str) -> str:
    if raw_path == "*":
        # `OPTIONS *` asks about the server: there is no path, and PATH_INFO must begin with a slash or be empty.
        return ""
    # latin-1 of the bytes: PEP 3333, "Unicode Issues".
    return unquote_to_bytes(raw_path).decode("latin-1")
