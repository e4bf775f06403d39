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

    from tracedbridge.messages import Headers, Invocation, Request

    ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]

__all__ = ("WsgiApp",)

# "200 OK"; PEP 3333 wants a reason phrase, servers do not insist.
_STATUS = re.compile(r"([1-9][0-9]{2})(?: [^\x00-\x1f\x7f]*)?").fullmatch


class WsgiApp:
    """A WSGI app; implements `tracedbridge.messages.App`."""

    def __init__(self, app: Callable[..., Any]) -> None:
        """Take an app of ``(environ, start_response)``."""
        self._app = app

    def start(self) -> bool:
        """Do nothing: WSGI knows no lifespan."""
        return False

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
            exchange.read(chunks)
        finally:
            # Always, also after an exception: PEP 3333, "Specification Details".
            if hasattr(chunks, "close"):
                chunks.close()
        return exchange.response()

    def stop(self, timeout_s: float) -> None:
        """Do nothing: WSGI knows no lifespan."""


class _Exchange:
    """What the app gives for one request."""

    __slots__ = ("body", "headers", "invocation", "limit", "size", "status", "writing")

    def __init__(self, invocation: Invocation) -> None:
        self.invocation = invocation
        self.status: int | None = None
        self.headers: Headers = []
        self.body: list[bytes] = []
        self.size = 0
        self.limit: int | None = None
        self.writing = False

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None
    ) -> Callable[[bytes], object]:
        if self.status is not None and exc_info is None:
            raise AppProtocolError("the app called start_response a second time without exc_info")
        # With exc_info and nothing sent yet, the new status replaces the old one; we send nothing before the end,
        # so that an error in mid-body is never a 200 with half a body.
        if exc_info is not None and self.writing and exc_info[1] is not None:
            try:
                raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        code = _code(status) if isinstance(status, str) else None
        if code is None:
            raise AppProtocolError(f"the app gave the status {status!r}, not a string like '200 OK'")
        try:
            self.headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        except (TypeError, ValueError, AttributeError):
            raise AppProtocolError("the app gave headers that are no list of pairs of latin-1 strings") from None
        self.status = code
        self.limit = _content_length(self.headers)
        self.invocation.response_started()
        return self.write

    def write(self, data: bytes) -> None:
        self.writing = True
        self._take(data)
        if self.limit is not None and self.size > self.limit:
            raise AppProtocolError(f"the app wrote {self.size} bytes, but its content-length is {self.limit}")

    def read(self, chunks: Iterable[bytes]) -> None:
        for chunk in chunks:
            if chunk:
                self.writing = True
                self._take(chunk)
                if self.limit is not None and self.size >= self.limit:
                    # PEP 3333: a server stops iterating when it has all that content-length announces.
                    self.body = [b"".join(self.body)[: self.limit]]
                    break
        self.invocation.answered_ns = time.monotonic_ns()

    def _take(self, data: bytes) -> None:
        if self.status is None:
            raise AppProtocolError("the app gave a body before it called start_response")
        if not isinstance(data, bytes):
            raise AppProtocolError(f"the app gave a body of {type(data).__name__}, not bytes")
        self.body.append(data)
        self.size += len(data)

    def response(self) -> Response:
        if self.status is None:
            raise AppProtocolError("the app returned without calling start_response")
        return Response(self.status, self.headers, b"".join(self.body))


@lru_cache(maxsize=128)
def _code(status: str) -> int | None:
    parts = _STATUS(status)
    return None if parts is None else int(parts[1])


def _content_length(headers: Headers) -> int | None:
    for name, value in headers:
        if len(name) == _LENGTH_OF_NAME and name.lower() == b"content-length" and value.isdigit():
            return int(value)
    return None


_LENGTH_OF_NAME = len(b"content-length")


def _environ(request: Request) -> dict[str, Any]:
    raw_path = request.raw_path.decode("ascii")
    query = request.query.decode("ascii")
    target = f"{raw_path}?{query}" if query else raw_path
    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        # latin-1 of the bytes: PEP 3333, "Unicode Issues".
        "PATH_INFO": _path_info(raw_path),
        "QUERY_STRING": query,
        # Not of PEP 3333, but what gunicorn and werkzeug give, verbatim.
        "REQUEST_URI": target,
        "RAW_URI": target,
        "SERVER_NAME": request.host,
        "SERVER_PORT": str(request.port),
        "SERVER_PROTOCOL": f"HTTP/{request.http_version}",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": request.scheme,
        "wsgi.input": io.BytesIO(request.body),
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    if request.client is not None:
        environ["REMOTE_ADDR"] = request.client
    for raw_name, raw_value in request.headers:
        key = _keys.get(raw_name) or _key(raw_name)
        if key not in environ:
            environ[key] = raw_value.decode("latin-1")
        elif key.startswith("HTTP_"):
            environ[key] += ("; " if key == "HTTP_COOKIE" else ",") + raw_value.decode("latin-1")
    environ.pop(_SHADOW, None)
    if "HTTP_TRANSFER_ENCODING" in environ:
        del environ["HTTP_TRANSFER_ENCODING"]
        # The platform has undone it; the whole body's length is known.
        environ["CONTENT_LENGTH"] = str(len(request.body))
    return environ


def _path_info(raw_path: str) -> str:
    if raw_path == "*":
        # `OPTIONS *` asks about the server: there is no path, and PATH_INFO must begin with a slash or be empty.
        return ""
    return unquote_to_bytes(raw_path).decode("latin-1") if "%" in raw_path else raw_path


# The same few names come with every event.
_keys: dict[bytes, str] = {}
_MAX_KEYS = 512

# Where headers go that have no key: `x_y` would become HTTP_X_Y, which is `x-y`.
_SHADOW = "tracedbridge.shadow"


def _key(raw_name: bytes) -> str:
    key = raw_name.decode("latin-1").upper().replace("-", "_")
    if b"_" in raw_name:
        key = _SHADOW
    elif raw_name not in (b"content-type", b"content-length"):
        key = "HTTP_" + key
    if len(_keys) < _MAX_KEYS:
        _keys[raw_name] = key
    return key
