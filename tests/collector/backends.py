"""OTLP backends that misbehave, one way each, on free ports of 127.0.0.1; each is a context manager."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from typing import Any

import grpc

__all__ = (
    "Backend",
    "answers",
    "answers_grpc",
    "closes_mid_answer",
    "closes_without_answer",
    "drips",
    "is_silent",
    "refuses",
    "talks_nonsense",
)

# Between two bytes of a backend that drips: far below any timeout of a socket, and it goes on for ever.
_DRIP_S = 0.02

_GRPC_SERVICES = {
    "traces": "opentelemetry.proto.collector.trace.v1.TraceService",
    "metrics": "opentelemetry.proto.collector.metrics.v1.MetricsService",
    "logs": "opentelemetry.proto.collector.logs.v1.LogsService",
}


class Backend:
    """A backend as a test sees it."""

    def __init__(self, endpoint: str) -> None:
        """Know its URL; no request has come yet."""
        self.endpoint = endpoint
        # Signal → how many whole requests came; of backends that read requests.
        self.requests: Counter[str] = Counter()
        # Of those that take connections by themselves.
        self.connections = 0


@contextmanager
def refuses() -> Iterator[Backend]:
    """Refuse every connection."""
    # Bound and not listening: nobody else can take the port, and the kernel refuses.
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield Backend(f"http://127.0.0.1:{bound.getsockname()[1]}")


@contextmanager
def is_silent() -> Iterator[Backend]:
    """Take every connection, read what is sent, and never say a word."""
    with _tcp(lambda connection, closing: _read_on(connection)) as backend:
        yield backend


@contextmanager
def talks_nonsense() -> Iterator[Backend]:
    """Answer with what is neither HTTP nor HTTP/2."""

    def talk(connection: socket.socket, closing: threading.Event) -> None:
        connection.recv(1)
        connection.sendall(b"220 mail.test ESMTP\r\n")
        _read_on(connection)

    with _tcp(talk) as backend:
        yield backend


@contextmanager
def answers(status: int, *, but: dict[str, int] | None = None, **headers: str) -> Iterator[Backend]:
    """
    Answer every HTTP request with one status.

    Args:
        status: Of the answers.
        but: Signal → another status.
        headers: Of the answers; ``retry_after="30"`` is ``Retry-After: 30``.
    """

    def answer(handler: BaseHTTPRequestHandler, closing: threading.Event) -> None:
        handler.send_response((but or {}).get(_signal_of(handler), status))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    with _http(answer) as backend:
        yield backend


@contextmanager
def drips() -> Iterator[Backend]:
    """Begin an answer, and go on with a byte now and then for as long as somebody listens."""

    def answer(handler: BaseHTTPRequestHandler, closing: threading.Event) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while not closing.wait(_DRIP_S):
            handler.wfile.write(b"z")

    with _http(answer) as backend:
        yield backend


@contextmanager
def closes_mid_answer() -> Iterator[Backend]:
    """Promise a longer answer than comes before the connection is closed."""

    def answer(handler: BaseHTTPRequestHandler, closing: threading.Event) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        handler.close_connection = True

    with _http(answer) as backend:
        yield backend


@contextmanager
def closes_without_answer() -> Iterator[Backend]:
    """Close the connection when the request is there."""

    def answer(handler: BaseHTTPRequestHandler, closing: threading.Event) -> None:
        handler.close_connection = True

    with _http(answer) as backend:
        yield backend


@contextmanager
def answers_grpc(code: str) -> Iterator[Backend]:
    """Answer every gRPC call with one status, by its name."""
    backend = Backend("")

    def service(signal: str, name: str) -> Any:
        def refuse(request: bytes, context: Any) -> None:
            backend.requests[signal] += 1
            context.abort(grpc.StatusCode[code], "not here")

        return grpc.method_handlers_generic_handler(name, {"Export": grpc.unary_unary_rpc_method_handler(refuse)})

    handlers = [service(signal, name) for signal, name in _GRPC_SERVICES.items()]
    with ThreadPoolExecutor(len(handlers)) as threads:
        server = grpc.server(threads, handlers=handlers)
        backend.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        try:
            yield backend
        finally:
            server.stop(grace=None).wait()


@contextmanager
def _tcp(serve: Callable[[socket.socket, threading.Event], None]) -> Iterator[Backend]:
    """Give every connection to ``serve``, in a thread of its own; all of them end with the block."""
    closing = threading.Event()
    connections: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def serve_one(connection: socket.socket) -> None:
        # Whoever has enough first, the client or the test, breaks the other's connection.
        with connection, suppress(OSError):
            serve(connection, closing)

    def accept(listening: socket.socket, backend: Backend) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            backend.connections += 1
            connections.append(connection)
            threads.append(threading.Thread(target=serve_one, args=(connection,), daemon=True))
            threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        backend = Backend(f"http://127.0.0.1:{listening.getsockname()[1]}")
        accepting = threading.Thread(target=accept, args=(listening, backend), daemon=True)
        accepting.start()
        try:
            yield backend
        finally:
            closing.set()
            # Wakes accept(), which closing alone would not.
            listening.shutdown(socket.SHUT_RDWR)
            accepting.join()
            for connection in connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()


@contextmanager
def _http(answer: Callable[[BaseHTTPRequestHandler, threading.Event], None]) -> Iterator[Backend]:
    """Read whole requests and let ``answer`` write what comes back."""

    def serve(connection: socket.socket, closing: threading.Event) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                backend.requests[_signal_of(self)] += 1
                answer(self, closing)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in http.server
                """Say nothing."""

        Handler(connection, ("127.0.0.1", 0), None)  # type: ignore[arg-type]  # it asks its server for nothing

    with _tcp(serve) as backend:
        yield backend


def _signal_of(handler: BaseHTTPRequestHandler) -> str:
    return handler.path.removeprefix("/v1/")


def _read_on(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass
