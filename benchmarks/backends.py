"""An OTLP/HTTP backend that works until it is told to fail; its threads are those of `flush.py`, which only waits."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Literal, Self

__all__ = ("Backend", "Fault", "refused_endpoint")

Fault = Literal["refusing", "silent", "slow"]
"""Nobody listens any more; it takes all and answers nothing; it answers a byte each 100 ms."""

_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n"
_DRIP_S = 0.1


class Backend:
    """Answers until it is told to fail."""

    def __init__(self) -> None:
        """Listen at a free port."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._fault: Fault | None = None
        # How many requests have come since.
        self.failed = 0
        self._ended = threading.Event()
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def fail(self, fault: Fault) -> None:
        """Be like that from now on; open connections are lost only where nobody listens any more."""
        self._fault = fault
        if fault == "refusing":
            self._stop_listening()
            for connection in self._connections:
                _shut(connection)

    def __enter__(self) -> Self:
        """Return the backend itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all threads."""
        self._ended.set()
        self._stop_listening()
        for connection in self._connections:
            _shut(connection)
        for thread in self._threads:
            thread.join(10)
        for connection in self._connections:
            connection.close()

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _stop_listening(self) -> None:
        # Not close() alone: a thread that waits in accept() keeps the port open.
        _shut(self._listener)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._connections.append(connection)
                self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        # A connection that the other side gives up on has no more to say.
        with contextlib.suppress(OSError), connection.makefile("rb") as requests:
            while requests.readline():
                headers = {}
                while (line := requests.readline().strip()) != b"":
                    name, _, value = line.partition(b":")
                    headers[name.lower()] = value.strip()
                requests.read(int(headers.get(b"content-length", b"0")))
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        if self._fault is None:
            connection.sendall(_ANSWER)
            return
        self.failed += 1
        if self._fault == "slow":
            for place in range(len(_ANSWER)):
                connection.sendall(_ANSWER[place : place + 1])
                if self._ended.wait(_DRIP_S):
                    return


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def refused_endpoint() -> Iterator[str]:
    """Return an endpoint that nobody listens at, for as long as the block takes."""
    # Bound, so that nobody else gets the port.
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"
