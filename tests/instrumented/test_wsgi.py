"""An instrumented WSGI app keeps to PEP 3333 as far as the app does, and what is told is what happened."""

from __future__ import annotations

import contextvars
import inspect
import io
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from wsgiref.util import FileWrapper, setup_testing_defaults
from wsgiref.validate import validator

import pytest

from tests.support import bounded
from tests.telemetry.received import Received
from tracedbridge import instrument

pytestmark = pytest.mark.telemetry

PLAIN = [("content-type", "text/plain")]


@contextmanager
def instrumented(app: Any) -> Iterator[Any]:
    """Give the app instrumented; exports all at the end."""
    traced = instrument(app)
    try:
        yield traced
    finally:
        traced.close()


def environ(path: str = "/", method: str = "GET", body: bytes = b"", **more: object) -> dict[str, Any]:
    """Return an environ as a server makes it."""
    made: dict[str, Any] = {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": "", "SCRIPT_NAME": ""}
    setup_testing_defaults(made)
    return {**made, "wsgi.input": io.BytesIO(body), **more}


class Server:
    """Calls an app once, as a server does; what it was told is public."""

    def __init__(self) -> None:
        self.begun: list[tuple[Any, ...]] = []
        self.written: list[bytes] = []

    def start_response(self, *args: Any) -> Callable[[bytes], Any]:
        """Take down what was said; see PEP 3333."""
        self.begun.append(args)
        return self.written.append

    def serve(self, app: Any, told: dict[str, Any] | None = None) -> bytes:
        """Return the whole body; closes it whatever happens."""
        chunks = app(told or environ(), self.start_response)
        try:
            return b"".join(self.written) + b"".join(chunks)
        finally:
            if hasattr(chunks, "close"):
                chunks.close()


class Body:
    """An app's iterable that notes what is done to it."""

    def __init__(self, *chunks: bytes) -> None:
        self._chunks = chunks
        self.done: list[str] = []

    def __iter__(self) -> Iterator[bytes]:
        self.done.append("iter")
        return iter(self._chunks)

    def close(self) -> None:
        """Note it."""
        self.done.append("close")


def answering(chunks: Iterable[bytes]) -> Any:
    """Return an app whose body is that."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", list(PLAIN))
        return chunks

    return app


def test_its_shape(received: Received) -> None:
    """It takes two positional parameters: what Vercel's runtime asks for."""
    with instrumented(answering([])) as traced:
        assert len(inspect.signature(traced).parameters) == 2
        assert not inspect.iscoroutinefunction(type(traced).__call__)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_the_validator(method: str, received: Received) -> None:
    """``wsgiref.validate`` has nothing to say, before it or behind it."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", list(PLAIN))
        environ["wsgi.input"].read(3)
        return [] if method == "HEAD" else [b"ok"]

    with instrumented(validator(app)) as traced:
        told = environ("/a b", method, b"abc", CONTENT_LENGTH="3", **{"wsgi.version": (1, 0)})
        assert Server().serve(validator(traced), told) == (b"" if method == "HEAD" else b"ok")
    assert received.server().attributes["http.response.status_code"] == 200


@pytest.mark.parametrize(("chunks", "length"), [([b"one"], 1), ((b"one", b"two"), 2), (iter([b"one"]), None)])
def test_the_length(chunks: Any, length: int | None, received: Received) -> None:
    """A body has a length if the app's has: a server may take that of a single part for the content-length."""
    with instrumented(answering(chunks)) as traced:
        body = traced(environ(), Server().start_response)
        assert (len(body) if hasattr(body, "__len__") else None) == length
        body.close()


def test_a_body(received: Received) -> None:
    """It is asked for once, when the server wants it, and closed once."""
    chunks = Body(b"one,", b"two")
    with instrumented(answering(chunks)) as traced:
        body = traced(environ(), Server().start_response)
        assert chunks.done == []
        assert b"".join(body) == b"one,two"
        assert chunks.done == ["iter"]
        body.close()
        assert chunks.done == ["iter", "close"]
    assert received.log("invocation").attributes["bytes_out"] == 7


def test_a_late_start(received: Received) -> None:
    """An app may begin its response when its first part is asked for."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("201 Created", list(PLAIN))
        yield b"ok"

    with instrumented(app) as traced:
        assert Server().serve(traced) == b"ok"
    assert received.server().attributes["http.response.status_code"] == 201


def test_write(received: Received) -> None:
    """What an app writes is the server's, and counted."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        write = start_response("200 OK", list(PLAIN))
        write(b"one,")
        write(b"two,")
        return [b"three"]

    with instrumented(app) as traced:
        assert Server().serve(traced) == b"one,two,three"
    assert received.log("invocation").attributes["bytes_out"] == 13


def test_a_second_start(received: Received) -> None:
    """An error's response replaces the first one, by the same arguments."""
    server = Server()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", list(PLAIN))
        try:
            raise KeyError("x")
        except KeyError:
            start_response("503 Busy", [], sys.exc_info())
        return [b"busy"]

    with instrumented(app) as traced:
        server.serve(traced)
    (first, second) = server.begun
    assert first == ("200 OK", PLAIN)
    assert second[:2] == ("503 Busy", [])
    assert second[2][0] is KeyError
    assert received.server().attributes["http.response.status_code"] == 503


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param((), id="none"),
        pytest.param((200, []), id="a number for a status"),
        pytest.param(("OK", []), id="a status without its number"),
        pytest.param(("200 OK", None), id="no headers"),
        pytest.param(("200 OK", [("a",)]), id="half a header"),
    ],
)
def test_malformed_starts(arguments: tuple[Any, ...], received: Received) -> None:
    """The server gets them as they are: what is wrong with them it says."""
    server = Server()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response(*arguments)
        return []

    with instrumented(app) as traced:
        server.serve(traced)
    assert server.begun == [arguments]
    assert len(received.servers()) == 1


class OwnError(Exception):
    """An app's own."""


@pytest.mark.parametrize(
    ("place", "events"),
    [
        ("call", ["exception"]),
        ("first part", ["first byte", "exception"]),
        ("second part", ["first byte", "exception"]),
        ("close", ["first byte", "exception"]),
    ],
)
def test_an_exception(place: str, events: list[str], received: Received) -> None:
    """It reaches the server wherever it comes from, and the span has it."""

    class Failing(Body):
        def __iter__(self) -> Iterator[bytes]:
            for number in ("first", "second"):
                if place == f"{number} part":
                    raise OwnError
                yield b"x"

        def close(self) -> None:
            super().close()
            if place == "close":
                raise OwnError

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if place == "call":
            raise OwnError
        start_response("200 OK", list(PLAIN))
        return chunks

    chunks = Failing()
    with instrumented(app) as traced, pytest.raises(OwnError):
        Server().serve(traced)
    assert chunks.done == ([] if place == "call" else ["close"])
    span = received.server()
    assert span.attributes["error.type"] == "OwnError"
    assert [event.name for event in span.events] == events


def test_no_start(received: Received) -> None:
    """An app that never begins a response is an error in its telemetry; the server says so to the client."""
    with instrumented(lambda environ, start_response: []) as traced:
        assert Server().serve(traced) == b""
    assert received.server().attributes["error.type"] == "AppProtocolError"


def test_a_client_that_goes_away(received: Received) -> None:
    """A body that is closed before its end was nobody's any more."""
    with instrumented(answering(Body(b"one", b"two"))) as traced:
        body = traced(environ(), Server().start_response)
        assert next(iter(body)) == b"one"
        body.close()
    span = received.server()
    assert "client disconnected" in [event.name for event in span.events]
    assert span.status == "unset"


def test_a_body_that_another_thread_closes(received: Received) -> None:
    """Its invocation ends there, and the next one of the thread that called the app is not below it."""

    def serve() -> None:
        body = traced(environ(), Server().start_response)
        list(body)
        bounded(body.close)
        Server().serve(traced)

    with instrumented(answering(Body(b"one"))) as traced:
        # What is left in the context of the caller, nobody else can take away.
        contextvars.copy_context().run(serve)
    assert [span.parent_id for span in received.servers()] == ["", ""]


def test_a_file(received: Received) -> None:
    """A server's own file wrapper stays what it is, so that the server can send it by itself."""
    served: list[FileWrapper] = []

    def app(environ: dict[str, Any], start_response: Any) -> FileWrapper:
        start_response("200 OK", [("content-length", "4")])
        served.append(environ["wsgi.file_wrapper"](io.BytesIO(b"file")))
        return served[0]

    with instrumented(app) as traced:
        body = traced(environ() | {"wsgi.file_wrapper": FileWrapper}, Server().start_response)
        assert body is served[0]
        body.close()
    assert received.log("invocation").attributes["bytes_out"] == 4


def test_many_threads(received: Received) -> None:
    """Requests on many threads at once are told one by one, each with its own parent."""
    with instrumented(answering([b"ok"])) as traced:

        def serve(number: int) -> None:
            parent = f"00-{number + 1:032x}-{number + 1:016x}-01"
            for _ in range(5):
                Server().serve(traced, environ(HTTP_TRACEPARENT=parent))

        threads = [threading.Thread(target=serve, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    told = [(int(span.trace_id, 16), int(span.parent_id, 16)) for span in received.servers()]
    assert sorted(told) == sorted((number + 1, number + 1) for number in range(8) for _ in range(5))


def test_telemetry_off() -> None:
    """The app gets the server's own environ and function, and the server the app's own body."""
    seen: list[Any] = []
    chunks = [b"ok"]

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.extend((environ, start_response))
        return chunks

    told, begin = environ(), Server().start_response
    traced: Any = instrument(app, telemetry=False)
    assert traced(told, begin) is chunks
    assert seen[0] is told
    assert seen[1] is begin
