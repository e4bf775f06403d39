"""
The HTTP side of an export that keeps its deadline: one try, one kept connection, and the true outcome.

The official OTLP exporter takes it as its ``session``, which leaves endpoint, headers, compression and certificates
to it. Its own client would retry past any deadline, count a redirect as success, and wait for a reply that drips
as long as it drips (facts/deferred.md).
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
    """A session that sends by ``deadline_ns`` and keeps what came of it in ``status`` and ``error``."""

    def __init__(self) -> None:
        """Open nothing yet."""
        super().__init__()
        self.deadline_ns = 0
        self.status: int | None = None
        self.error: Exception | None = None
        self._connection: http.client.HTTPConnection | None = None
        self._place: tuple[object, ...] = ()
        self._socket: socket.socket | None = None
        self._aborted = False

    def begin(self, deadline_ns: int) -> None:
        """Start an export that is to end by ``deadline_ns`` (CLOCK_MONOTONIC)."""
        self.deadline_ns = deadline_ns
        self.status = self.error = None
        self._aborted = False

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

    def request(self, method: str | bytes, url: str | bytes, *args: Any, **kwargs: Any) -> requests.Response:
        """Send once and tell the exporter that all is well: `status` and `error` know better."""
        del args
        headers = {**dict(self.headers), **(kwargs.get("headers") or {})}
        try:
            self.status = self._send(str(method), str(url), headers, kwargs.get("data") or b"")
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.error = error
            self._drop()
        response = requests.Response()
        response.status_code, response.reason, response._content = 200, "OK", b""
        return response

    def close(self) -> None:
        """Close the connection."""
        self._drop()
        super().close()

    def _send(self, method: str, url: str, headers: dict[str, Any], body: bytes) -> int:
        kept = self._connection is not None
        try:
            return self._exchange(method, url, headers, body)
        except (http.client.RemoteDisconnected, ConnectionError):
            # A kept connection may have been closed since by a backend that had enough of waiting.
            if not kept or self._aborted:
                raise
            self._drop()
            return self._exchange(method, url, headers, body)

    def _exchange(self, method: str, url: str, headers: dict[str, Any], body: bytes) -> int:
        connection, target = self._connected(url)
        if self._socket is not None:
            self._socket.settimeout(self._left_s())
        connection.request(method, target, body, headers)
        if self._socket is not None:
            self._socket.settimeout(self._left_s())
        reply = connection.getresponse()
        reply.read(_MAX_REPLY_BYTES)
        if reply.will_close or not reply.isclosed():
            self._drop()
        return reply.status

    def _connected(self, url: str) -> tuple[http.client.HTTPConnection, str]:
        parts = urlsplit(url)
        proxy = select_proxy(url, get_environ_proxies(url)) if self.trust_env else None
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        place = (parts.scheme, parts.netloc, proxy)
        if proxy and parts.scheme == "http":
            target = url
        if self._connection is None or self._place != place:
            self._drop()
            self._connection, self._place = self._connect(parts, proxy), place
            self._socket = self._connection.sock
            if self._aborted:
                raise TimeoutError("the deadline passed while connecting")
        return self._connection, target

    def _connect(self, parts: SplitResult, proxy: str | None) -> http.client.HTTPConnection:
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"the OTLP endpoint {parts.scheme}://{parts.hostname or ''} is no http or https URL")
        at = parts
        if proxy:
            at = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        host, port = at.hostname or "", at.port or (443 if at.scheme == "https" else 80)
        timeout_s = self._left_s()
        if parts.scheme == "https":
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, port, timeout=timeout_s, context=self._tls()
            )
            if proxy:
                connection.set_tunnel(parts.hostname, parts.port or 443, _proxy_headers(at))
        else:
            connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
        connection.connect()
        return connection

    def _tls(self) -> ssl.SSLContext:
        told = self.verify if isinstance(self.verify, str) else None
        bundle = told or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
        context = ssl.create_default_context(cafile=bundle or DEFAULT_CA_BUNDLE_PATH)
        if isinstance(self.cert, tuple):
            context.load_cert_chain(*self.cert)
        elif self.cert:
            context.load_cert_chain(self.cert)
        return context

    def _left_s(self) -> float:
        left_s = (self.deadline_ns - time.monotonic_ns()) / 1e9
        if left_s <= 0 or self._aborted:
            raise TimeoutError("the deadline passed before the export was done")
        return left_s

    def _drop(self) -> None:
        connection, self._connection, self._socket = self._connection, None, None
        if connection is not None:
            connection.close()


def _proxy_headers(at: SplitResult) -> dict[str, str]:
    if not at.username:
        return {}
    credentials = f"{unquote(at.username)}:{unquote(at.password or '')}".encode()
    return {"Proxy-Authorization": "Basic " + base64.b64encode(credentials).decode("ascii")}
