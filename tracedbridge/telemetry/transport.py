"""
The HTTP side of an export that keeps its deadline: one try, one kept connection, and the true outcome.

The official OTLP exporter takes it as its ``session``, which leaves encoding, endpoint, headers, compression and
certificates to it. Its own client would retry past any deadline, count a redirect as success, and wait for a reply that
drips for as long as it drips.

Sending and reading the reply are two steps, so that one thread has all signals under way at the same time.
"""

from __future__ import annotations

import base64
import http.client
import os
import socket
import ssl
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import requests
from requests.utils import DEFAULT_CA_BUNDLE_PATH, get_environ_proxies, select_proxy

if TYPE_CHECKING:
    from urllib.parse import SplitResult

__all__ = ("BoundedSession",)

# An export response is a few bytes; who sends more is no OTLP backend.
_MAX_REPLY_BYTES = 1 << 20


class BoundedSession(requests.Session):
    """A session that sends by a deadline; after `read` it knows what came of it by ``status`` and ``error``."""

    def __init__(self) -> None:
        """Open nothing yet."""
        super().__init__()
        self.status: int | None = None
        self.error: Exception | None = None
        # Of the reply: its body, and how long it asks to be left alone.
        self.body = b""
        self.retry_after_s = 0.0
        # Nothing of the reply has come on a connection that was kept: the backend may have closed it long ago.
        self.is_stale = False
        self._deadline_ns = 0
        self._connection: http.client.HTTPConnection | None = None
        self._socket: socket.socket | None = None
        self._place: tuple[object, ...] = ()
        self._was_kept = self._is_awaited = self._aborted = False

    @property
    def is_connected(self) -> bool:
        """Whether there is a kept connection, so that sending waits for no name server and no handshake."""
        return self._socket is not None

    def begin(self, deadline_ns: int) -> None:
        """Start an export that is to end by ``deadline_ns`` (CLOCK_MONOTONIC)."""
        self._deadline_ns = deadline_ns
        self.status = self.error = None
        self.body, self.retry_after_s = b"", 0.0
        self.is_stale = self._is_awaited = self._aborted = False

    def request(self, method: str | bytes, url: str | bytes, *args: Any, **kwargs: Any) -> requests.Response:
        """Send, wait for no reply, and tell the exporter that all is well: it would only try again."""
        del args
        headers = {**dict(self.headers), **(kwargs.get("headers") or {})}
        try:
            # Exporters before 1.45 pass the certificates with each request.
            tls = (kwargs.get("verify") or self.verify, kwargs.get("cert") or self.cert)
            self._send(str(method), str(url), headers, kwargs.get("data") or b"", tls)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._failed(error)
        response = requests.Response()
        response.status_code, response.reason, response._content = 200, "OK", b""
        return response

    def read(self) -> None:
        """Read the reply to what was sent."""
        if not self._is_awaited:
            return
        self._is_awaited = False
        try:
            self.status = self._read_reply()
        except (OSError, ValueError) as error:
            self._failed(error)

    def abort(self) -> None:
        """End what is under way, from another thread."""
        self._aborted = True
        current = self._socket
        if current is not None:
            try:
                current.shutdown(socket.SHUT_RDWR)
            except OSError:
                # It was closed already.
                return

    def close(self) -> None:
        """Close the connection."""
        self._drop()
        super().close()

    def _failed(self, error: Exception) -> None:
        # A socket that was shut down at the deadline looks closed by the backend.
        self.error = TimeoutError("the deadline passed") if self._aborted else error
        if self._was_kept and isinstance(error, ConnectionError) and not self._aborted:
            self.is_stale = True
        self._drop()

    def _send(self, method: str, url: str, headers: dict[str, Any], body: bytes, tls: tuple[Any, Any]) -> None:
        parts = urlsplit(url)
        proxy = select_proxy(url, get_environ_proxies(url)) if self.trust_env and _has_proxies() else None
        place = (parts.scheme, parts.netloc, proxy)
        self._was_kept = self._socket is not None and self._place == place
        if not self._was_kept:
            self._drop()
            connection = self._connect(parts, proxy, tls)
            self._connection, self._socket, self._place = connection, connection.sock, place
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        target = url if proxy and parts.scheme == "http" else path
        lines = [f"{method} {target} HTTP/1.1", f"Host: {parts.netloc.rpartition('@')[2]}"]
        lines += [f"{name}: {_text(value)}" for name, value in headers.items()]
        if proxy and parts.scheme == "http":
            lines += [f"{name}: {value}" for name, value in _proxy_headers(urlsplit(proxy)).items()]
        lines += [f"Content-Length: {len(body)}", "", ""]
        assert self._socket is not None
        self._socket.settimeout(self._left_s())
        self._socket.sendall("\r\n".join(lines).encode("latin-1") + body)
        self._is_awaited = True

    def _read_reply(self) -> int:
        received = b""
        while True:
            while b"\r\n\r\n" not in received:
                received += self._receive()
            head, _, received = received.partition(b"\r\n\r\n")
            version, status, headers = _parsed_head(head)
            if status >= 200:
                break
        is_kept = version == b"HTTP/1.1" and headers.get(b"connection", b"").lower() != b"close"
        if b"chunked" in headers.get(b"transfer-encoding", b"").lower():
            while not received.endswith(b"0\r\n\r\n"):
                received += self._receive()
            received = _unchunked(received)
        elif b"content-length" in headers:
            while len(received) < int(headers[b"content-length"]):
                received += self._receive()
        elif status not in (204, 304):
            # The body ends with the connection; nobody needs to wait for that.
            is_kept = False
        self.body = received
        if headers.get(b"retry-after", b"").isdigit():
            # The other form is a date, and clocks differ.
            self.retry_after_s = float(headers[b"retry-after"])
        if not is_kept:
            self._drop()
        return status

    def _receive(self) -> bytes:
        if self._socket is None:
            raise ConnectionResetError("the connection is closed")
        if self._aborted:
            raise TimeoutError("the deadline passed before the export was done")
        # Anew for each piece: a reply that drips has one deadline, not one for each drop. With none left, what has come
        # already is still read: another backend's silence may have taken the time.
        self._socket.settimeout(max((self._deadline_ns - time.monotonic_ns()) / 1e9, 0.0))
        try:
            data = self._socket.recv(65536)
        except (BlockingIOError, ssl.SSLWantReadError):
            raise TimeoutError("the backend gave no answer before the deadline") from None
        if not data:
            raise ConnectionResetError("the backend closed the connection before it had answered")
        self._was_kept = False
        return data

    def _connect(self, parts: SplitResult, proxy: str | None, tls: tuple[Any, Any]) -> http.client.HTTPConnection:
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"the OTLP endpoint {parts.scheme}://{parts.hostname or ''} is no http or https URL")
        at = urlsplit(proxy if "://" in proxy else f"http://{proxy}") if proxy else parts
        host, port = at.hostname or "", at.port or (443 if at.scheme == "https" else 80)
        timeout_s = self._left_s()
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            connection = http.client.HTTPSConnection(host, port, timeout=timeout_s, context=_context(*tls))
            if proxy:
                connection.set_tunnel(parts.hostname, parts.port or 443, _proxy_headers(at))
        else:
            connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
        connection.connect()
        if self._aborted:
            connection.close()
            raise TimeoutError("the deadline passed while connecting")
        return connection

    def _left_s(self) -> float:
        left_s = (self._deadline_ns - time.monotonic_ns()) / 1e9
        if left_s <= 0 or self._aborted:
            raise TimeoutError("the deadline passed before the export was done")
        return left_s

    def _drop(self) -> None:
        connection, self._connection, self._socket = self._connection, None, None
        if connection is not None:
            connection.close()


def _context(verify: Any, cert: Any) -> ssl.SSLContext:
    told = verify if isinstance(verify, str) else None
    bundle = told or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    context = ssl.create_default_context(cafile=bundle or DEFAULT_CA_BUNDLE_PATH)
    if isinstance(cert, tuple):
        context.load_cert_chain(*cert)
    elif cert:
        context.load_cert_chain(cert)
    return context


def _parsed_head(head: bytes) -> tuple[bytes, int, dict[bytes, bytes]]:
    first, *lines = head.split(b"\r\n")
    version, _, rest = first.partition(b" ")
    if not version.startswith(b"HTTP/1.") or not rest[:3].isdigit() or len(head) > _MAX_REPLY_BYTES:
        raise ValueError("the backend's reply is no HTTP response")
    headers = {}
    for line in lines:
        name, _, value = line.partition(b":")
        headers[name.strip().lower()] = value.strip()
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or int(length) > _MAX_REPLY_BYTES:
        raise ValueError("the backend's reply is longer than any OTLP response")
    return version, int(rest[:3]), headers


def _unchunked(data: bytes) -> bytes:
    body = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size.partition(b";")[0], 16)
        body, data = body + data[:length], data[length + 2 :]
        if not length:
            break
    return body


def _has_proxies() -> bool:
    # get_environ_proxies() takes as long as the rest of a request; most processes have no such variable.
    return any(
        name in os.environ
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    )


def _text(value: Any) -> str:
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
    if "\r" in text or "\n" in text:
        raise ValueError("a header of OTEL_EXPORTER_OTLP_HEADERS has a line break")
    return text


def _proxy_headers(at: SplitResult) -> dict[str, str]:
    if not at.username:
        return {}
    credentials = f"{unquote(at.username)}:{unquote(at.password or '')}".encode()
    return {"Proxy-Authorization": "Basic " + base64.b64encode(credentials).decode("ascii")}
