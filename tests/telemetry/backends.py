"""OTLP/HTTP backends that answer as they are told: well, wrongly, slowly or never."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, cast

from tracedbridge.telemetry.otlp import Record, decode

__all__ = ("Backend", "Behaviour", "Exchange", "Seen", "answering", "dripping", "hanging_up", "in_turn", "silent")

# Longer than any test lets a connection rest.
_SILENCE_TIMEOUT_S = 30.0

_DRIP_EVERY_S = 0.02


class Seen(NamedTuple):
    """One request."""

    path: str
    headers: dict[str, str]
    """Names lower-case."""
    body: bytes

    def records(self) -> Sequence[Record]:
        """Decode what was sent."""
        signal = cast("Literal['traces', 'metrics', 'logs']", self.path.rpartition("/")[2])
        encoding = self.headers.get("content-encoding", "")
        return decode(signal, self.body, content_type=self.headers["content-type"], content_encoding=encoding)


class Exchange(BaseHTTPRequestHandler):
    """One connection; a behaviour gives its answers."""

    protocol_version = "HTTP/1.1"
    timeout = _SILENCE_TIMEOUT_S
    server: _Server

    def do_POST(self) -> None:
        """Keep the request, then behave."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        backend = self.server.backend
        backend.keep(Seen(self.path, {name.lower(): value for name, value in self.headers.items()}, body))
        # A client that has given up breaks the connection.
        with suppress(OSError):
            backend.behave(self)

    def answer(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        """Send a whole answer."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def wait_for_end(self, timeout_s: float | None = None) -> bool:
        """Wait until the backend is closed and say whether it is."""
        return self.server.backend.closing.wait(timeout_s)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name that it has in http.server
        """Say nothing."""


Behaviour = Callable[[Exchange], None]
"""Answers one request, or does not."""


def answering(status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> Behaviour:
    """Answer always with that."""
    return lambda exchange: exchange.answer(status, headers, body)


def hanging_up(exchange: Exchange) -> None:
    """Answer well and end the connection without having said so."""
    exchange.answer(200)
    exchange.close_connection = True


def silent(exchange: Exchange) -> None:
    """Take everything and say nothing."""
    exchange.wait_for_end()
    exchange.close_connection = True


def dripping(exchange: Exchange) -> None:
    """Answer well, but a byte at a time, so that no single wait of the client is long."""
    exchange.send_response(200)
    exchange.send_header("Content-Length", "100000")
    exchange.end_headers()
    while not exchange.wait_for_end(_DRIP_EVERY_S):
        exchange.wfile.write(b" ")
    exchange.close_connection = True


def in_turn(*behaviours: Behaviour) -> Behaviour:
    """Behave as the first at the first request, as the second at the second one, and so on; then as the last."""
    left = list(behaviours)
    lock = threading.Lock()

    def behave(exchange: Exchange) -> None:
        with lock:
            current = left.pop(0) if len(left) > 1 else left[0]
        current(exchange)

    return behave


class Backend:
    """Listens on a free port of 127.0.0.1 from its construction to ``close()``."""

    def __init__(self, behave: Behaviour, tls: ssl.SSLContext | None = None) -> None:
        """
        Args:
            behave: For each request.
            tls: Of the server; plain HTTP if None.
        """
        self.behave = behave
        self.closing = threading.Event()
        # How often a client connected.
        self.accepted = 0
        self._seen: list[Seen] = []
        self._lock = threading.Lock()
        self._scheme = "http" if tls is None else "https"
        self._server = _Server(self)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        """The base URL, as ``OTEL_EXPORTER_OTLP_ENDPOINT`` wants it."""
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}"

    @property
    def seen(self) -> list[Seen]:
        """All requests that came, in their order."""
        with self._lock:
            return list(self._seen)

    def names(self) -> list[str]:
        """Return the names of the spans that came."""
        return [getattr(record, "name", "") for seen in self.seen if "trace" in seen.path for record in seen.records()]

    def keep(self, seen: Seen) -> None:
        """Keep one request."""
        with self._lock:
            self._seen.append(seen)

    def close(self) -> None:
        """End all connections and threads."""
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.hang_up()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    # Joined at the end.
    daemon_threads = False

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), Exchange)

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        self.backend.accepted += 1
        with self._open_lock:
            self._open.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        with self._open_lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        with self._open_lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that gave up breaks its connection."""
