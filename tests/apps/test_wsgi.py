"""Contract of `tracedbridge.apps.wsgi`: PEP 3333 to the letter."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.validate import validator

import pytest
from werkzeug.middleware.lint import LintMiddleware

from tests.support import answer, bounded, event, serve
from tracedbridge import Bridge

Environ = dict[str, Any]
StartResponse = Callable[..., Callable[[bytes], object]]
Wsgi = Callable[[Environ, StartResponse], Iterable[bytes]]


class Body:
    """An iterable of a WSGI app that notes whether it was closed, and fails in mid-body if told to."""

    def __init__(self, *chunks: bytes, fails: bool = False) -> None:
        self.chunks = chunks
        self.fails = fails
        self.read = 0
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self.chunks:
            self.read += 1
            yield chunk
        if self.fails:
            raise ZeroDivisionError("secret")

    def close(self) -> None:
        self.closed += 1


class Recorder:
    """A WSGI app that keeps its environ and the body in it, and answers 200."""

    def __init__(self) -> None:
        self.environ: Environ = {}
        self.body = b""

    def __call__(self, environ: Environ, start_response: StartResponse) -> list[bytes]:
        self.environ = environ
        self.body = environ["wsgi.input"].read()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"ok"]


def careful(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Answer as a well-behaved app does: no body and no type where there must be none."""
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    status = environ["PATH_INFO"][1:4] or "200"
    if status in ("204", "304"):
        # Werkzeug wants to be told that nothing has no length.
        start_response(f"{status} Without Body", [("Content-Length", "0")] if status == "204" else [])
        return []
    body = b"" if environ["REQUEST_METHOD"] == "HEAD" else b"hello"
    start_response(f"{status} Fine", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


REQUESTS: dict[str, dict[str, str]] = {
    "GET": event(),
    "path and query": event(path="/200?a=%20b&c"),
    "encoded path": event(path="/200%C3%A9"),
    "HEAD": event("HEAD"),
    "DELETE": event("DELETE"),
    "OPTIONS *": event("OPTIONS", "*"),
    "empty POST": event("POST"),
    "text": event("POST", body="hello", headers={"content-type": "text/plain", "content-length": "5"}),
    "without content-length": event("PUT", body="hello"),
    "chunked": event("POST", body="hello", headers={"transfer-encoding": "chunked"}),
    "binary": event("POST", body="//79", encoding="base64"),
    "repeated headers": event(headers={"accept": ["a/b", "c/d"], "cookie": ["a=1", "b=2"]}),
    "underscore": event(headers={"x_y": "1", "x-y": "2"}),
    "latin-1": event(headers={"x-name": "caf\xe9"}),
    "everything told": event(
        host="a.example:81",
        headers={"host": "a.example:81", "x-forwarded-for": "192.0.2.1", "x-forwarded-proto": "http"},
    ),
    "204": event(path="/204"),
    "304": event(path="/304", headers={"if-none-match": '"a"'}),
    "404": event(path="/404"),
    "500": event(path="/500"),
}


@pytest.mark.parametrize("check", [validator, LintMiddleware], ids=["wsgiref.validate", "werkzeug.middleware.lint"])
@pytest.mark.parametrize("asked", REQUESTS.values(), ids=REQUESTS.keys())
def test_checkers_find_nothing(asked: dict[str, str], check: Callable[[Wsgi], Wsgi]) -> None:
    """The checkers of the standard library and of werkzeug find nothing wrong with any request."""
    with serve(check(careful), kind="wsgi", raise_errors="1") as bridge, warnings.catch_warnings():
        # Werkzeug's tells what it finds by warnings.
        warnings.simplefilter("error")
        answered = answer(bridge(asked))
    assert answered.status in (200, 204, 304, 404, 500)


@pytest.mark.parametrize("check", [validator, LintMiddleware], ids=["wsgiref.validate", "werkzeug.middleware.lint"])
def test_checkers_are_asked(check: Callable[[Wsgi], Wsgi]) -> None:
    """The checkers are really at work: an app that breaks PEP 3333 does not pass them."""

    def careless(environ: Environ, start_response: StartResponse) -> list[Any]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return ["text"]

    with serve(check(careless), kind="wsgi", raise_errors="1") as bridge:
        with pytest.raises((AssertionError, Warning)):
            bridge(event())


def environ_of(asked: dict[str, str]) -> Environ:
    """Return the environ that an app sees for an event."""
    recorder = Recorder()
    with serve(recorder) as bridge:
        assert answer(bridge(asked)) == (200, {"content-type": ["text/plain"]}, b"ok")
    return recorder.environ


ORIGINS: dict[str, tuple[dict[str, object], tuple[str, str, str, str | None]]] = {
    # headers: SERVER_NAME, SERVER_PORT, wsgi.url_scheme, REMOTE_ADDR
    "host": ({"host": "a.example"}, ("a.example", "443", "https", None)),
    "port": ({"host": "a.example:8080"}, ("a.example", "8080", "https", None)),
    "IPv6": ({"host": "[::1]:81"}, ("::1", "81", "https", None)),
    "HTTP": ({"host": "a.example", "x-forwarded-proto": "http"}, ("a.example", "80", "http", None)),
    "client": (
        {"host": "a.example", "x-forwarded-for": "192.0.2.1, 10.0.0.1"},
        ("a.example", "443", "https", "192.0.2.1"),
    ),
}


@pytest.mark.parametrize(("headers", "expected"), ORIGINS.values(), ids=ORIGINS.keys())
def test_origin(headers: dict[str, object], expected: tuple[str, str, str, str | None]) -> None:
    """SERVER_NAME has no port, SERVER_PORT is one, REMOTE_ADDR is one address; SCRIPT_NAME is there and empty."""
    environ = environ_of(event(headers=headers))
    told = tuple(environ.get(key) for key in ("SERVER_NAME", "SERVER_PORT", "wsgi.url_scheme", "REMOTE_ADDR"))
    assert told == expected
    assert environ["SCRIPT_NAME"] == ""
    assert environ["HTTP_HOST"] == headers["host"]


HEADERS: dict[str, tuple[dict[str, object], dict[str, str]]] = {
    "repeated": ({"X-Name": ["one", "two"]}, {"HTTP_X_NAME": "one,two"}),
    "two spellings": ({"X-Name": "one", "x-name": "two"}, {"HTTP_X_NAME": "one,two"}),
    "cookies": ({"cookie": ["a=1", "b=2"]}, {"HTTP_COOKIE": "a=1; b=2"}),
    "underscore alone": ({"x_y": "1"}, {}),
    "underscore first": ({"x_y": "1", "x-y": "2"}, {"HTTP_X_Y": "2"}),
    "underscore last": ({"x-y": "2", "x_y": "1"}, {"HTTP_X_Y": "2"}),
    "underscore in content-length": ({"content_length": "9"}, {}),
    "type": ({"Content-Type": "a/b"}, {"CONTENT_TYPE": "a/b"}),
    "latin-1": ({"x-name": "caf\xe9"}, {"HTTP_X_NAME": "caf\xe9"}),
    "CGI's proxy is no header": ({"proxy_": "evil"}, {}),
}


@pytest.mark.parametrize(("headers", "expected"), HEADERS.values(), ids=HEADERS.keys())
def test_headers(headers: dict[str, object], expected: dict[str, str]) -> None:
    """Repeated headers are joined by commas, cookies by ``"; "``, and ``x_y`` never takes the place of ``x-y``."""
    environ = environ_of(event(headers=headers))
    told = {key: value for key, value in environ.items() if key.startswith(("HTTP_", "CONTENT_"))}
    told.pop("HTTP_HOST", None)
    assert {key: value.replace(", ", ",") for key, value in told.items() if value} == expected


def test_environ_types() -> None:
    """The environ is a plain dict; keys without a dot are CGI's and hold text, all others are dotted."""
    environ = environ_of(event("POST", "/a?b", body="x", headers={"x-name": "1", "x-forwarded-for": "192.0.2.1"}))
    assert type(environ) is dict
    assert {key: value for key, value in environ.items() if "." not in key and type(value) is not str} == {}
    required = {"REQUEST_METHOD", "SCRIPT_NAME", "PATH_INFO", "QUERY_STRING", "SERVER_NAME", "SERVER_PORT"}
    assert required < environ.keys()
    # Of CGI, and what servers add to it; an undotted key of ours could be anybody's.
    known = {
        *required,
        "SERVER_PROTOCOL",
        "REMOTE_ADDR",
        "REMOTE_PORT",
        "CONTENT_TYPE",
        "CONTENT_LENGTH",
        "REQUEST_URI",
    }
    ours = {key for key in environ if "." not in key and not key.startswith("HTTP_")} - known
    assert ours <= {"RAW_URI", "REMOTE_HOST", "GATEWAY_INTERFACE", "SERVER_SOFTWARE"}


BODIES: dict[str, tuple[dict[str, Any], bytes]] = {
    "none": ({}, b""),
    "text": ({"body": "hello"}, b"hello"),
    "content-length": ({"body": "hello", "headers": {"content-length": "5"}}, b"hello"),
    "chunked": ({"body": "hello", "headers": {"transfer-encoding": "chunked"}}, b"hello"),
    "binary": ({"body": "/wA=", "encoding": "base64"}, b"\xff\x00"),
}


@pytest.mark.parametrize(("more", "expected"), BODIES.values(), ids=BODIES.keys())
def test_request_body(more: dict[str, Any], expected: bytes) -> None:
    """CONTENT_LENGTH is what can be read, and reading ends with the body."""
    recorder = Recorder()
    with serve(recorder) as bridge:
        assert answer(bridge(event("POST", **more))).status == 200
    assert recorder.body == expected
    assert int(recorder.environ.get("CONTENT_LENGTH") or 0) == len(expected)


@pytest.mark.parametrize("more", [{"body": "hello!"}, {"body": "hell"}], ids=["longer", "shorter"])
def test_request_body_of_another_length(more: dict[str, Any]) -> None:
    """A body that is longer or shorter than its content-length is a 400, and the app is not called."""
    recorder = Recorder()
    with serve(recorder) as bridge:
        assert answer(bridge(event("POST", headers={"content-length": "5"}, **more))).status == 400
    assert recorder.environ == {}


def answering(body: Body, status: str = "200 OK", headers: Iterable[tuple[str, str]] = ()) -> Wsgi:
    """Return an app that answers with ``body``."""

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response(status, list(headers))
        return body

    return app


CLOSED: dict[str, tuple[str, Body, str, int]] = {
    "GET": ("GET", Body(b"a", b"b"), "200 OK", 200),
    "HEAD": ("HEAD", Body(b"a", b"b"), "200 OK", 200),
    "no content": ("GET", Body(b"a"), "204 No Content", 204),
    "not modified": ("GET", Body(b"a"), "304 Not Modified", 304),
    "no chunks": ("GET", Body(), "200 OK", 200),
    "exception at once": ("GET", Body(fails=True), "200 OK", 500),
    "exception in mid-body": ("GET", Body(b"a", fails=True), "200 OK", 500),
    "bad status": ("GET", Body(b"a"), "fine", 500),
    "bad chunk": ("GET", Body("a"), "200 OK", 500),  # type: ignore[arg-type]  # it is what is tested
}


@pytest.mark.parametrize(("method", "body", "status", "expected"), CLOSED.values(), ids=CLOSED.keys())
def test_close(method: str, body: Body, status: str, expected: int) -> None:
    """The iterable's ``close()`` is called exactly once, whatever the method and whatever went wrong."""
    body.closed = 0

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        # Not an error of the app's own making that would keep it from returning its body.
        try:
            start_response(status, [])
        except Exception:
            assert expected == 500
        return body

    with serve(app) as bridge:
        assert answer(bridge(event(method))).status == expected
    assert body.closed == 1


def test_close_raises() -> None:
    """An exception in ``close()`` is an exception of the app."""

    class Stuck(Body):
        def close(self) -> None:
            raise ZeroDivisionError("secret")

    with serve(answering(Stuck(b"a"))) as bridge:
        failed = answer(bridge(event()))
    assert (failed.status, failed.body) == (500, b"Internal Server Error")


def written(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    write = start_response("200 OK", [])
    write(b"one ")
    write(b"two ")
    return [b"three"]


def generated(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [])
    yield b"one "
    yield b""
    yield b"two three"


def started_late(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    yield b""
    start_response("200 OK", [])
    yield b"one two three"


def empty_at_first(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [])
    return iter([b"", b"one two ", b"three"])


def told_length(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Length", "13")])
    return (b"one two three",)


def replaced(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("X-Old", "1")])
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        start_response("503 Busy", [("X-New", "1")], sys.exc_info())
    return [b"one two three"]


def named_arguments(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [], None)
    return [b"one two three"]


WAYS: dict[str, tuple[Wsgi, int, dict[str, list[str]]]] = {
    "write": (written, 200, {}),
    "generator": (generated, 200, {}),
    "generator that starts late": (started_late, 200, {}),
    "iterator": (empty_at_first, 200, {}),
    "content-length": (told_length, 200, {"content-length": ["13"]}),
    "replaced by exc_info": (replaced, 503, {"x-new": ["1"]}),
    "no exc_info": (named_arguments, 200, {}),
}


@pytest.mark.parametrize(("app", "status", "headers"), WAYS.values(), ids=WAYS.keys())
def test_ways_to_answer(app: Wsgi, status: int, headers: dict[str, list[str]]) -> None:
    """An app may write, yield or return its body, start late, and replace its start before anything is sent."""
    with serve(app) as bridge:
        assert answer(bridge(event())) == (status, headers, b"one two three")


def test_exc_info_too_late() -> None:
    """``start_response`` with ``exc_info`` after a part of the body raises that exception again, so a 500 it is."""
    raised: list[BaseException] = []

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"half"
        try:
            raise ZeroDivisionError("secret")
        except ZeroDivisionError:
            try:
                start_response("500 Oh", [], sys.exc_info())
            except ZeroDivisionError as error:
                raised.append(error)
                raise

    with serve(app) as bridge:
        failed = answer(bridge(event()))
    assert len(raised) == 1
    assert (failed.status, failed.body) == (500, b"Internal Server Error")


def raises(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    raise ZeroDivisionError("secret")


def raises_after_the_start(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [])
    raise ZeroDivisionError("secret")


def raises_after_a_write(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [])(b"half")
    raise ZeroDivisionError("secret")


def raises_in_mid_body(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [])
    yield b"half"
    raise ZeroDivisionError("secret")


@pytest.mark.parametrize("app", [raises, raises_after_the_start, raises_after_a_write, raises_in_mid_body])
def test_app_raises(app: Wsgi) -> None:
    """An exception is a neutral 500, before the start, after it and in mid-body."""
    with serve(app) as bridge:
        failed = answer(bridge(event()))
    assert (failed.status, failed.body) == (500, b"Internal Server Error")
    with serve(app, raise_errors="1") as bridge:
        with pytest.raises(ZeroDivisionError, match="secret"):
            bridge(event())


def starts(*arguments: Any, body: Any = (b"hello",)) -> Wsgi:
    """Return an app that calls ``start_response`` with ``arguments``."""

    def app(environ: Environ, start_response: StartResponse) -> Any:
        start_response(*arguments)
        return body

    return app


def starts_twice(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [])
    start_response("404 Not Found", [])
    return [b"hello"]


def starts_never(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    return []


def bodies_without_a_start(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    return [b"hello"]


def starts_after_its_body(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    yield b"hello"
    start_response("200 OK", [])


def writes_text(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [])("hello")  # type: ignore[arg-type]  # it is what is tested
    return []


def writes_too_much(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Length", "4")])(b"hello")
    return []


VIOLATIONS: dict[str, Wsgi] = {
    "never started": starts_never,
    "a body without a start": bodies_without_a_start,
    "a start after the body": starts_after_its_body,
    "started twice": starts_twice,
    "status is a number": starts(200, []),
    "status is a word": starts("OK", []),
    "status is bytes": starts(b"200 OK", []),
    "status too low": starts("099 Low", []),
    "status too long": starts("2000 High", []),
    "line end in the status": starts("200 OK\r\nx: y", []),
    "no headers": starts("200 OK", None),
    "headers are bytes": starts("200 OK", [(b"a", b"1")]),
    "header value is a number": starts("200 OK", [("a", 1)]),
    "header is no pair": starts("200 OK", ["abc"]),
    "header beyond latin-1": starts("200 OK", [("a", "☃")]),
    "header injection": starts("200 OK", [("a", "1\r\nb: 2")]),
    "header name is no token": starts("200 OK", [("a b", "1")]),
    "body is None": starts("200 OK", [], body=None),
    "body is text": starts("200 OK", [], body="hello"),
    "body is a list of text": starts("200 OK", [], body=["hello"]),
    "body is a list of numbers": starts("200 OK", [], body=[5]),
    "body is bytes": starts("200 OK", [], body=b"hello"),
    "body too short": starts("200 OK", [("Content-Length", "9")]),
    "writes text": writes_text,
    "writes too much": writes_too_much,
}


@pytest.mark.parametrize("app", VIOLATIONS.values(), ids=VIOLATIONS.keys())
def test_protocol_violation(app: Wsgi) -> None:
    """An app that breaks PEP 3333 is answered 500, and the next request reaches it."""
    with serve(app, kind="wsgi") as bridge:
        for _ in range(2):
            failed = answer(bridge(event()))
            assert (failed.status, failed.body) == (500, b"Internal Server Error")


def test_body_longer_than_its_length() -> None:
    """A server stops to read when it has what content-length tells, as PEP 3333 says."""
    body = Body(b"hel", b"lo", b"too much")
    with serve(answering(body, headers=[("Content-Length", "5")])) as bridge:
        assert answer(bridge(event())) == (200, {"content-length": ["5"]}, b"hello")
    assert (body.read, body.closed) == (2, 1)


@pytest.mark.parametrize("leaving", [SystemExit, KeyboardInterrupt])
def test_app_leaves(leaving: type[BaseException]) -> None:
    """SystemExit and KeyboardInterrupt go through, and ``close()`` is called before."""
    bodies: list[Leaving] = []

    class Leaving(Body):
        def __iter__(self) -> Iterator[bytes]:
            raise leaving

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        bodies.append(Leaving())
        start_response("200 OK", [])
        return bodies[-1]

    with serve(app) as bridge:
        with pytest.raises(leaving):
            bridge(event())
    assert bodies[0].closed == 1


def test_headers_are_copied() -> None:
    """A header list that the app changes after its start, or uses for every request, does no harm."""
    headers = [("X-Name", "1")]

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", headers)
        yield b"one"
        headers.append(("X-Late", "1"))

    with serve(app) as bridge:
        assert answer(bridge(event())).headers == {"x-name": ["1"]}


def test_no_type_is_invented() -> None:
    """The response has the headers of the app and no other."""
    with serve(answering(Body(b"<html>"))) as bridge:
        assert answer(bridge(event())) == (200, {}, b"<html>")


def test_same_thread() -> None:
    """The app runs on its caller's thread, also where an event loop runs."""
    threads: list[threading.Thread] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        threads.append(threading.current_thread())
        start_response("200 OK", [])
        return []

    with serve(app) as bridge:
        bridge(event())
        assert threads == [threading.current_thread()]


def test_own_bridge() -> None:
    """An app may call its own bridge, directly and from a thread."""
    bridges: list[Bridge] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [])
        if environ["PATH_INFO"] == "/inner":
            return [b"inner"]
        inner = event(path="/inner")
        return [answer(bridges[0](inner)).body, answer(bounded(lambda: bridges[0](inner), 10)).body]

    with serve(app) as bridge:
        bridges.append(bridge)
        assert answer(bounded(lambda: bridge(event()))).body == b"innerinner"


def test_errors_stream(capsys: pytest.CaptureFixture[str]) -> None:
    """``wsgi.errors`` is today's ``sys.stderr``."""

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        environ["wsgi.errors"].write("noted\n")
        start_response("200 OK", [])
        return []

    with serve(app) as bridge:
        bridge(event())
    assert capsys.readouterr().err == "noted\n"
