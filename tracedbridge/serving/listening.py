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

from tracedbridge.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from wsgiref.types import WSGIApplication, WSGIEnvironment

__all__ = ("HEADERS", "HOST", "TARGET", "Listener", "bound", "bound_from")

HOST = "127.0.0.1"
"""Where everything listens that nobody asked for elsewhere: what comes may hold secrets, and needs no password."""

HEADERS = "tracedbridge.headers"
"""In the environ: names and values of the request's headers as they came, in order, repeats kept."""

TARGET = "tracedbridge.target"
"""In the environ: the request's target as it came."""

# Who has so many servers open has forgotten to close them.
_MORE_PORTS = 50

_LAST_PORT = 65_535

# A client on this machine that says nothing for so long has died or hangs.
_SILENCE_TIMEOUT_S = 10.0

# How long close() may wait until the accepting thread looks up.
_POLL_S = 0.02

# Threads at a time. More clients wait in the kernel's queue; two hundred functions that flush at once wait for
# milliseconds. A browser opens six connections.
_MAX_CONNECTIONS = 32

# An exporter that has held a thread for so long, when all are taken, sends a byte now and then.
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


def bound_from(port: int, host: str = HOST) -> socket.socket:
    """
    Return a socket that listens on a port, or the next free one of the fifty after it; for the user of a command.

    Args:
        port: 0 is any free port.
        host: An address of this machine.

    Raises:
        Refusal: No port is free or allowed, or the address is none of this machine's.
    """
    if not 0 <= port <= _LAST_PORT:
        raise Refusal(f"could not listen on {host}:{port}: ports end at {_LAST_PORT}", 2)
    last = min(port + _MORE_PORTS, _LAST_PORT) if port else port
    try:
        return bound(range(port, last + 1), host)
    except OSError as error:
        reason = f"{error.strerror}; choose another address or port"
        if error.errno == errno.EADDRINUSE:
            reason = f"ports {port} to {last} are all taken; end what listens there, or choose another port"
        raise Refusal(f"could not listen on {host}:{port}: {reason}") from error


def bound(ports: Iterable[int], host: str = HOST) -> socket.socket:
    """
    Return a socket that listens on the first of ``ports`` that is free.

    Args:
        ports: At least one; 0 is any free port.
        host: An address of this machine.

    Raises:
        OSError: None of them is free, or one may not be used.
    """
    taken = OSError(errno.EADDRINUSE, "no port to listen on")
    for port in ports:
        # Not left to werkzeug, which ends the process where a port is taken.
        listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        try:
            # Else a port is taken for a minute after its last connection.
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((host, port))
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
        self,
        app: WSGIApplication,
        listening: socket.socket,
        *,
        name: str,
        host: str = HOST,
        prepare: Callable[[], object] = bool,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        """
        Begin.

        Args:
            app: Called in several threads; its environ has `HEADERS` and `TARGET`.
            listening: As ``bound()`` returns it; ours from now on.
            name: Of the threads.
            host: As ``bound()`` was told.
            prepare: Called in the accepting thread before the first request is taken.
            patience_s: When all threads are taken, whoever has held one for so long must go.
        """
        with listening:
            self._server = _Server(app, listening, name, host, patience_s)
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

    def make_environ(self) -> WSGIEnvironment:
        """Make werkzeug's environ, and add what that leaves out or joins."""
        environ = super().make_environ()
        environ[HEADERS] = list(self.headers.items())
        environ[TARGET] = self.path
        return environ

    def log(self, type: str, message: str, *args: object) -> None:  # noqa: A002 - the name it has in werkzeug
        """Say nothing: this is somebody's terminal, and the app knows what it refused."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing; werkzeug would fail on an address that is no URL."""


class _Server(BaseWSGIServer):
    """werkzeug's server with a bounded number of threads, which can all be ended."""

    multithread = True

    def __init__(self, app: WSGIApplication, listening: socket.socket, name: str, host: str, patience_s: float) -> None:
        self._name = name
        self._patience_s = patience_s
        self._free = threading.BoundedSemaphore(_MAX_CONNECTIONS)
        self._ending = False
        # When each connection came, the oldest first.
        self._open: dict[socket.socket, float] = {}
        self._open_lock = threading.Lock()
        # Touched by the accepting thread only, and after its end.
        self._threads: list[threading.Thread] = []
        super().__init__(host, 0, app, _Handler, fd=listening.fileno())

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
                if time.monotonic() - came_s > self._patience_s:
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
