"""A listener answers on this machine only, in a bounded number of threads, and ends whatever its clients do."""

from __future__ import annotations

import errno
import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.support import HANG_S, bounded
from tracedbridge.serving import listening
from tracedbridge.serving.listening import HOST, Listener, bound

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

# More than the kernel takes from a server whose client does not read.
LARGE_BYTES = 64_000_000

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"


def echo(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with the body that came."""
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


def large(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with more than a client that does not read can be sent."""
    start_response("200 OK", [("Content-Length", str(LARGE_BYTES))])
    return [bytes(LARGE_BYTES)]


def failing(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer nothing."""
    raise RuntimeError("\x1b[31mplanted")


Listening = Callable[["WSGIApplication"], Listener]


@pytest.fixture(name="listen")
def listening_to_apps() -> Iterator[Listening]:
    """Listen for an app until the test ends."""
    with ExitStack() as stack:

        def listen(app: WSGIApplication) -> Listener:
            listener = Listener(app, bound([0]), name="test-listener", prepare=lambda: None)
            stack.callback(listener.close)
            return listener

        yield listen


def connected(listener: Listener) -> socket.socket:
    """Connect, as a client that would fail rather than hang."""
    return socket.create_connection((HOST, listener.port), timeout=HANG_S)


def posted(listener: Listener, body: bytes) -> bytes:
    """Send a body and return the answer's."""
    connection = http.client.HTTPConnection(HOST, listener.port, timeout=HANG_S)
    try:
        connection.request("POST", "/", body)
        return connection.getresponse().read()
    finally:
        connection.close()


def rest(connection: socket.socket) -> bytes:
    """Return all that comes until the other side hangs up, however it does that."""
    received = b""
    try:
        while chunk := connection.recv(65536):
            received += chunk
    except ConnectionResetError:
        pass
    return received


def test_the_first_free_port_is_taken() -> None:
    """Ports that are taken are passed over, in order; where none is free, the error says so."""
    with bound([0]) as taken:
        port = taken.getsockname()[1]
        assert taken.getsockname()[0] == "127.0.0.1"
        with bound([port, 0]) as other:
            assert other.getsockname()[1] not in (0, port)
        with pytest.raises(OSError) as caught:
            bound([port])
    assert caught.value.errno == errno.EADDRINUSE


def test_a_port_is_free_again_at_once(listen: Listening) -> None:
    """Closing after an answered request leaves nothing that keeps the port from being taken again."""
    listener = listen(echo)
    assert posted(listener, b"hello") == b"hello"
    listener.close()
    with bound([listener.port]) as again:
        assert again.getsockname()[1] == listener.port


@pytest.mark.parametrize(
    ("app", "sent"),
    [
        pytest.param(echo, b"", id="silent"),
        pytest.param(echo, b"POST / HT", id="half a line"),
        pytest.param(echo, HEAD + b"hel", id="half a body"),
        pytest.param(large, HEAD + b"hello", id="reads no answer"),
    ],
)
def test_close_ends_connections(listen: Listening, app: WSGIApplication, sent: bytes) -> None:
    """Soon no thread is left, whatever state the clients are in."""
    before = set(threading.enumerate())
    listener = listen(app)
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(connected(listener)).sendall(sent)
        # Accepted after those before it, and answered: they have been accepted.
        last = stack.enter_context(connected(listener))
        last.sendall(HEAD + b"hello")
        assert last.recv(12) == b"HTTP/1.1 200"
        begun_s = time.monotonic()
        bounded(listener.close)
        listener.close()
        # A second for who does not read; the rest is the machine's noise.
        assert time.monotonic() - begun_s < 3
        assert set(threading.enumerate()) == before
    with pytest.raises(ConnectionRefusedError):
        connected(listener)


def test_a_request_that_came_whole_is_answered(listen: Listening) -> None:
    """close() lets a request that is at work write its answer."""
    at_work, closing = threading.Event(), threading.Event()

    def slow(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        at_work.set()
        assert closing.wait(HANG_S)
        return echo(environ, start_response)

    listener = listen(slow)
    with connected(listener) as connection:
        connection.sendall(HEAD + b"hello")
        assert at_work.wait(HANG_S)
        closer = threading.Thread(target=listener.close)
        closer.start()
        closing.set()
        assert rest(connection).endswith(b"\r\n\r\nhello")
        closer.join(HANG_S)


def test_who_is_refused_while_sending_reads_why(listen: Listening, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that sends on after its answer gets to read it: its connection is not reset."""
    answered = threading.Event()
    linger = listening._linger

    def lingering(connection: socket.socket) -> None:
        answered.set()
        linger(connection)

    def refusing(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("413 Content Too Large", [("Content-Length", "3")])
        return [b"why"]

    monkeypatch.setattr(listening, "_linger", lingering)
    with connected(listen(refusing)) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n")
        assert answered.wait(HANG_S)
        for _ in range(9):
            connection.sendall(bytes(1_000_000))
        assert rest(connection).endswith(b"\r\n\r\nwhy")


def test_silent_clients_are_hung_up_on(listen: Listening, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that says nothing for the time of silence reads the end."""
    monkeypatch.setattr(listening._Handler, "timeout", 0.05)
    with connected(listen(echo)) as connection:
        assert rest(connection) == b""


def test_threads_are_bounded(listen: Listening, monkeypatch: pytest.MonkeyPatch) -> None:
    """More clients than threads are all answered, and never by more threads than allowed."""
    monkeypatch.setattr(listening, "_MAX_CONNECTIONS", 2)
    at_work: list[int] = []
    most: list[int] = []

    def counted(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        at_work.append(1)
        most.append(len(at_work))
        body = echo(environ, start_response)
        at_work.pop()
        return body

    listener = listen(counted)
    answers: list[bytes] = []
    clients = [threading.Thread(target=lambda: answers.append(posted(listener, b"hello"))) for _ in range(12)]
    for client in clients:
        client.start()
    for client in clients:
        client.join(HANG_S)
    assert answers == [b"hello"] * 12
    assert max(most) <= 2


def test_who_holds_a_thread_for_long_must_go(listen: Listening, monkeypatch: pytest.MonkeyPatch) -> None:
    """When all threads are held by clients that never finish, the oldest are hung up on and a good one is answered."""
    monkeypatch.setattr(listening, "_MAX_CONNECTIONS", 2)
    monkeypatch.setattr(listening, "_PATIENCE_S", 0.05)
    listener = listen(echo)
    with connected(listener) as first, connected(listener) as second:
        first.sendall(b"POST")
        second.sendall(b"POST")
        assert posted(listener, b"hello") == b"hello"
        assert rest(first) == b""


def test_close_while_clients_wait(listen: Listening, monkeypatch: pytest.MonkeyPatch) -> None:
    """close() does not wait for a thread to be free."""
    monkeypatch.setattr(listening, "_MAX_CONNECTIONS", 1)
    waits = threading.Event()
    # Asked each time that the accepting thread has waited in vain.
    monkeypatch.setattr(listening._Server, "_hang_up_on_the_oldest", lambda _: waits.set())
    listener = listen(echo)
    with connected(listener) as first, connected(listener) as second:
        second.sendall(HEAD + b"hello")
        assert waits.wait(HANG_S)
        bounded(listener.close, timeout_s=5)
        assert rest(first) == rest(second) == b""


def test_where_no_thread_can_be_made(listen: Listening, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the system has no more threads a client is hung up on, and served again when it has."""
    monkeypatch.setattr(listening, "_MAX_CONNECTIONS", 1)
    listener = listen(echo)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", failing_start)
        with connected(listener) as connection:
            assert rest(connection) == b""
    assert posted(listener, b"hello") == b"hello"


def failing_start(thread: threading.Thread) -> None:
    """Fail as Thread.start() does at the system's limit."""
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize(
    ("app", "sent", "status_line"),
    [
        pytest.param(failing, HEAD + b"hello", b"HTTP/1.1 500 ", id="failing app"),
        pytest.param(echo, b"GET http://[/\x1b[31m HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 ", id="no URL"),
        pytest.param(echo, b"GET / HTTP/9.9\r\n\r\n", b"HTTP/1.1 505 ", id="no such version"),
        pytest.param(echo, b"GET / \x1b[31m nonsense\r\n\r\n", b"HTTP/1.1 400 ", id="no request"),
        pytest.param(echo, b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 101 + b"\r\n", b"HTTP/1.1 431 ", id="many headers"),
        pytest.param(echo, b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n", b"HTTP/1.1 414 ", id="long line"),
        pytest.param(echo, b"GET / HTTP/1.1\r\nx: " + b"\x1b" * 70_000, b"HTTP/1.1 431 ", id="long header"),
    ],
)
def test_nothing_is_printed(
    listen: Listening, capfd: pytest.CaptureFixture[str], app: WSGIApplication, sent: bytes, status_line: bytes
) -> None:
    """Whatever comes is answered with its status, and not a character reaches the terminal."""
    with connected(listen(app)) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        assert rest(connection).startswith(status_line)
    assert capfd.readouterr() == ("", "")
