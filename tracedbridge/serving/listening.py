"""
Listens on 127.0.0.1 for a WSGI app of ours: says nothing on the terminal, and can be ended whatever its clients do.

One request a connection, and one thread: werkzeug closes a connection after its answer.
"""

from __future__ import annotations

import errno
import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from wsgiref.types import WSGIApplication

__all__ = ("HOST", "Listener", "bound")

# The only address: what comes here may hold secrets, and nobody is asked for a password.
HOST = "127.0.0.1"

# A client on this machine that says nothing for so long has died or hangs.
_SILENCE_TIMEOUT_S = 10.0

# How long close() may wait until the accepting thread looks up.
_POLL_S = 0.02

# Threads at a time. More clients wait in the kernel's queue; two hundred functions that flush at once wait for
# milliseconds. A browser opens six connections.
_MAX_CONNECTIONS = 32

# When all threads are taken, whoever has held one for so long must go: it sends a byte now and then.
_PATIENCE_S = 2.0

# How long close() lets running requests write their answers, and after that how long it waits for their threads,
# which by then can only be computing.
_GRACE_S = 1.0
_LAST_GRACE_S = 5.0

# How long a client that was answered may go on sending, and be silent: one that sends faster than it is refused, too,
# must get to read why.
_LINGER_S = 5.0
_LINGER_SILENCE_S = 0.5

# As many as werkzeug has for servers that bind their port themselves.
_BACKLOG = 128


def bound(ports: Iterable[int]) -> socket.socket:
    """
    Return a socket that listens on the first of ``ports`` that is free.

    Args:
        ports: At least one; 0 is any free port.

    Raises:
        OSError: None of them is free, or one may not be used.
    """
    taken = OSError(errno.EADDRINUSE, "no port to listen on")
    for port in ports:
        # Not left to werkzeug, which ends the process where a port is taken.
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            # Else a port is taken for a minute after its last connection.
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((HOST, port))
            listening.listen(_BACKLOG)
        except OSError as error:
            listening.close()
            if error.errno != errno.EADDRINUSE:
                raise
            taken = error
        else:
            return listening
    raise taken


class Listener:
    """Answers the requests that come to a listening socket, from its construction until ``close()``."""

    def __init__(
        self, app: WSGIApplication, listening: socket.socket, *, name: str, prepare: Callable[[], object]
    ) -> None:
        """
        Begin.

        Args:
            app: Called in several threads.
            listening: As ``bound()`` returns it; ours from now on.
            name: Of the threads.
            prepare: Called in the accepting thread before the first request is taken.
        """
        with listening:
            self._server = _Server(app, listening, name)
        self._prepare = prepare
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._server.port

    def close(self) -> None:
        """Let what has been sent whole be answered, end all connections and threads, listen no more; may come twice."""
        if self._thread.is_alive():
            self._server.shutdown()
        self._thread.join()
        self._server.end()

    def _serve(self) -> None:
        self._prepare()
        # Closes the listening socket when it ends.
        self._server.serve_forever(poll_interval=_POLL_S)


class _Handler(WSGIRequestHandler):
    """werkzeug's handler, without its log on stderr."""

    protocol_version = "HTTP/1.1"
    # Else who sends what is no request gets an answer of 1991's kind, without a status.
    default_request_version = "HTTP/1.1"
    timeout = _SILENCE_TIMEOUT_S

    def parse_request(self) -> bool:
        """Read the head of a request and say whether it is one; if not, it has been answered."""
        if not super().parse_request():
            return False
        try:
            urlsplit(self.path)
        except ValueError:
            # Later on it would be no refusal, but a broken connection.
            self.send_error(400)
            return False
        return True

    def log(self, type: str, message: str, *args: object) -> None:  # noqa: A002 - the name it has in werkzeug
        """Say nothing: this is somebody's terminal, and the app knows what it refused."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing; werkzeug would fail on an address that is no URL."""


class _Server(BaseWSGIServer):
    """werkzeug's server with a bounded number of threads, which can all be ended."""

    multithread = True

    def __init__(self, app: WSGIApplication, listening: socket.socket, name: str) -> None:
        self._name = name
        self._free = threading.BoundedSemaphore(_MAX_CONNECTIONS)
        self._ending = False
        # When each connection came, the oldest first.
        self._open: dict[socket.socket, float] = {}
        self._open_lock = threading.Lock()
        # Touched by the accepting thread only, and after its end.
        self._threads: list[threading.Thread] = []
        super().__init__(HOST, 0, app, _Handler, fd=listening.fileno())

    def shutdown(self) -> None:
        """Accept no more."""
        self._ending = True
        super().shutdown()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer one connection in a thread of its own, as soon as there may be another."""
        while not self._free.acquire(timeout=_POLL_S):
            if self._ending:
                # It came too late.
                self.shutdown_request(request)
                return
            self._hang_up_on_the_oldest()
        # Here, not in the thread: once the accepting thread has ended, all connections are known.
        with self._open_lock:
            self._open[request] = time.monotonic()
        # A daemon: whatever an app does, it cannot keep the process from ending.
        thread = threading.Thread(target=self._answer, args=(request, client_address), name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # The system has no more threads; the base class hangs up.
            self._forget(request)
            raise
        self._threads = [other for other in self._threads if other.is_alive()] + [thread]

    def end(self) -> None:
        """Let every connection read what it has got, and then the end; end those that go on."""
        for how, wait_s in ((socket.SHUT_RD, _GRACE_S), (socket.SHUT_RDWR, _LAST_GRACE_S)):
            with self._open_lock:
                for connection in self._open:
                    _shut(connection, how)
            until_s = time.monotonic() + wait_s
            for thread in self._threads:
                thread.join(max(until_s - time.monotonic(), 0))

    def log(self, type: str, message: str, *args: object) -> None:  # noqa: A002 - the name it has in werkzeug
        """Say nothing: this is somebody's terminal."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing about a connection that broke; the base class prints a traceback."""

    def _answer(self, request: Any, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
            _linger(request)
        except Exception:  # noqa: BLE001 - a broken connection must not print, and never end more than itself
            self.handle_error(request, client_address)
        finally:
            # Forgotten before it is closed: after that its descriptor may be another one's, which nobody wants to shut.
            self._forget(request)
            self.shutdown_request(request)

    def _forget(self, request: Any) -> None:
        with self._open_lock:
            del self._open[request]
        self._free.release()

    def _hang_up_on_the_oldest(self) -> None:
        with self._open_lock:
            if self._open:
                connection, came_s = next(iter(self._open.items()))
                if time.monotonic() - came_s > _PATIENCE_S:
                    _shut(connection, socket.SHUT_RDWR)


def _linger(connection: socket.socket) -> None:
    # To close while something is unread would reset the connection, and the answer with it.
    until_s = time.monotonic() + _LINGER_S
    with suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(_LINGER_SILENCE_S)
        while connection.recv(65536) and time.monotonic() < until_s:
            pass


def _shut(connection: socket.socket, how: int) -> None:
    # A client may have gone already.
    with suppress(OSError):
        connection.shutdown(how)
