"""The extension speaks to whatever answers it, and what it hears there ends nothing but itself."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from tests.support import HANG_S
from tracedbridge.extension import Extension, registered

REGISTERED = b"HTTP/1.1 200 OK\r\nLambda-Extension-Identifier: x\r\nContent-Length: 2\r\n\r\n{}"


def invoke(number: str) -> bytes:
    """Return the answer that tells of an invocation."""
    body = json.dumps({"eventType": "INVOKE", "requestId": number, "deadlineMs": 9e15}).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


@contextmanager
def answering(*answers: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """Answer one connection after the other with these bytes; gives the place, and what was asked."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            for answer in answers:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    asked.append(connection.recv(65_536))
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}", asked
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(HANG_S)


def test_it_registers() -> None:
    """It asks for INVOKE, the only event that an internal extension gets."""
    with answering(REGISTERED) as (place, asked):
        assert registered({"AWS_LAMBDA_RUNTIME_API": place}) is not None
    (request,) = asked
    assert request.startswith(b"POST /2020-01-01/extension/register HTTP/1.1\r\n")
    assert b"lambda-extension-name: tracedbridge\r\n" in request
    assert request.endswith(b'\r\n\r\n{"events":["INVOKE"]}')


@pytest.mark.parametrize(
    ("environ", "answer"),
    [
        pytest.param({}, b"", id="nowhere"),
        pytest.param({"AWS_LAMBDA_MAX_CONCURRENCY": "4"}, REGISTERED, id="managed instances"),
        pytest.param({}, b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", id="refused"),
        pytest.param({}, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", id="no identifier"),
        pytest.param({}, b"SSH-2.0-x\r\n\r\n", id="no HTTP"),
        pytest.param({}, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", id="half an answer"),
    ],
)
def test_where_it_cannot(environ: dict[str, str], answer: bytes) -> None:
    """There is none, and nothing else is wrong."""
    with answering(answer) as (place, _):
        told = environ if environ == {} and not answer else {"AWS_LAMBDA_RUNTIME_API": place, **environ}
        assert registered(told) is None


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(REGISTERED, id="with a length"),
        pytest.param(REGISTERED.replace(b"Content-Length: 2\r\n", b""), id="until the end"),
        pytest.param(
            REGISTERED.replace(b"Content-Length: 2", b"Transfer-Encoding: chunked").replace(
                b"{}", b"2\r\n{}\r\n0\r\n\r\n"
            ),
            id="chunked",
        ),
    ],
)
def test_any_answer_of_http(answer: bytes) -> None:
    """However the body's length is told, it is read."""
    with answering(answer) as (place, _):
        assert registered({"AWS_LAMBDA_RUNTIME_API": place}) is not None


def followed(answers: Sequence[bytes], done: Callable[[Extension], None]) -> tuple[int, bool]:
    """Follow until the answers are over; return how often it settled, and whether it said that it was lost."""
    settled: list[None] = []
    lost = threading.Event()
    with answering(*answers) as (place, _):
        host, _, port = place.partition(":")
        extension = Extension(host, int(port))
        done(extension)
        extension.follow(lambda: settled.append(None), lost.set)
        came = lost.wait(HANG_S)
    return len(settled), came


def test_it_settles_when_the_handler_is_done() -> None:
    """Once for each invocation; what comes after the last answer ends it."""

    def done(extension: Extension) -> None:
        extension.begun()
        assert extension.done()

    ends = b"HTTP/1.1 500 Error\r\nContent-Length: 0\r\n\r\n"
    assert followed([invoke("1"), ends], done) == (1, True)


def test_a_handler_that_does_not_ask_the_bridge() -> None:
    """It is not waited for until its deadline; whoever asks after that settles by himself."""
    extensions: list[Extension] = []
    ends = b"HTTP/1.1 500 Error\r\nContent-Length: 0\r\n\r\n"
    assert followed([invoke("1"), ends], extensions.append) == (0, True)
    extensions[0].begun()
    assert not extensions[0].done()


def test_a_connection_that_breaks() -> None:
    """It asks once more: connections do not outlive a snapshot."""

    def done(extension: Extension) -> None:
        extension.begun()
        assert extension.done()

    ends = b"HTTP/1.1 500 Error\r\nContent-Length: 0\r\n\r\n"
    assert followed([b"", invoke("1"), ends], done) == (1, True)
