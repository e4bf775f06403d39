"""Contract of `tracedbridge.apps.http_server`: a handler class works as under a server, without one."""

from __future__ import annotations

import contextvars
import http.server
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from tests.support import answer, bounded, event, serve
from tracedbridge import Bridge

Work = Callable[[BaseHTTPRequestHandler], None]

caller = contextvars.ContextVar("caller", default="unset")


def handler(work: Work, **attributes: Any) -> type[BaseHTTPRequestHandler]:
    """Return a handler class that does ``work`` for GET, HEAD and POST."""

    def do(self: BaseHTTPRequestHandler) -> None:
        work(self)

    return type("Handler", (BaseHTTPRequestHandler,), {"do_GET": do, "do_HEAD": do, "do_POST": do, **attributes})


def reply(self: BaseHTTPRequestHandler, body: bytes = b"hello", *headers: tuple[str, str]) -> None:
    """Answer as the documentation of http.server does."""
    self.send_response(200)
    for name, value in headers:
        self.send_header(name, value)
    self.send_header("Content-Length", str(len(body)))
    self.end_headers()
    if self.command != "HEAD":
        self.wfile.write(body)


def write(raw: bytes) -> Work:
    """Return work that writes bytes past all of http.server."""
    return lambda self: (self.wfile.write(raw), None)[1]


def read_body(self: BaseHTTPRequestHandler) -> bytes:
    """Read a request body as handlers do that know chunks, too."""
    if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
        return self.rfile.read(int(self.headers.get("Content-Length", "0")))
    chunks = []
    while size := int(self.rfile.readline().strip(), 16):
        chunks.append(self.rfile.read(size))
        assert self.rfile.readline() == b"\r\n"
    assert self.rfile.readline() == b"\r\n"
    return b"".join(chunks)


VERSIONS = ["HTTP/1.0", "HTTP/1.1"]
BODIES: dict[str, tuple[dict[str, Any], bytes]] = {
    "none": ({}, b""),
    "text": ({"body": "hello"}, b"hello"),
    "content-length": ({"body": "hello", "headers": {"content-length": "5"}}, b"hello"),
    "binary": ({"body": "/wANCg==", "encoding": "base64"}, b"\xff\x00\r\n"),
    "chunked": ({"body": "hello", "headers": {"transfer-encoding": "chunked"}}, b"hello"),
    "chunked without a byte": ({"body": "", "headers": {"transfer-encoding": "chunked"}}, b""),
    "large": ({"body": "x" * 300_000}, b"x" * 300_000),
    "keep-alive": ({"body": "hello", "headers": {"connection": "keep-alive"}}, b"hello"),
    "close": ({"body": "hello", "headers": {"connection": "close"}}, b"hello"),
    "expects 100": ({"body": "hello", "headers": {"expect": "100-continue"}}, b"hello"),
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("more", "expected"), BODIES.values(), ids=BODIES.keys())
def test_request_body(more: dict[str, Any], expected: bytes, version: str) -> None:
    """A handler of either version of HTTP reads the body and answers with it, on a connection kept alive or not."""
    app = handler(lambda self: reply(self, read_body(self)), protocol_version=version)
    with serve(app) as bridge:
        for _ in range(2):
            answered = answer(bounded(lambda: bridge(event("POST", **more))))
            assert (answered.status, answered.body) == (200, expected)


READS: dict[str, Callable[[BaseHTTPRequestHandler], bytes]] = {
    "everything": lambda self: self.rfile.read(),
    "much more than there is": lambda self: self.rfile.read(1_000_000),
    "twice": lambda self: self.rfile.read(5) + self.rfile.read(5),
    "lines": lambda self: b"".join(self.rfile),
    "a line too many": lambda self: self.rfile.readline() + self.rfile.readline(),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS.keys())
@pytest.mark.parametrize("version", VERSIONS)
def test_reads_too_much(read: Callable[[BaseHTTPRequestHandler], bytes], version: str) -> None:
    """A handler that reads more than the body gets the end of the file and does not hang."""
    with serve(handler(lambda self: reply(self, read(self)), protocol_version=version)) as bridge:
        assert answer(bounded(lambda: bridge(event("POST", body="hello")))).body == b"hello"


def test_body_is_no_second_request() -> None:
    """One event is one request: a body that the handler leaves unread is not taken for the next one."""
    asked: list[str] = []

    def work(self: BaseHTTPRequestHandler) -> None:
        asked.append(self.path)
        reply(self)

    with serve(handler(work, protocol_version="HTTP/1.1")) as bridge:
        smuggled = event("POST", "/open", body="GET /secret HTTP/1.1\r\nhost: a\r\n\r\n")
        assert answer(bounded(lambda: bridge(smuggled))).body == b"hello"
    assert asked == ["/open"]


def test_request() -> None:
    """The handler sees the request as sent: target undecoded, headers in order, nothing invented."""
    seen: list[object] = []

    def work(self: BaseHTTPRequestHandler) -> None:
        seen.extend((self.command, self.path, self.request_version, self.client_address[0], self.headers.items()))
        reply(self)

    with serve(handler(work)) as bridge:
        headers = {"Host": "a.example", "X-Name": ["one", "two"], "X-Real-IP": "192.0.2.1", "X-Latin": "caf\xe9"}
        assert answer(bridge(event("GET", "/a%20b/%C3%A9?c=%20d", headers=headers))).status == 200
    names = [("host", "a.example"), ("x-name", "one"), ("x-name", "two")]
    names += [("x-real-ip", "192.0.2.1"), ("x-latin", "caf\xe9")]
    assert seen == ["GET", "/a%20b/%C3%A9?c=%20d", "HTTP/1.1", "192.0.2.1", names]


def test_server_address() -> None:
    """``self.server`` knows the name and the port that the client asked for."""
    seen: list[object] = []

    def work(self: BaseHTTPRequestHandler) -> None:
        server: Any = self.server
        seen.extend((server.server_name, server.server_port, server.server_address))
        reply(self)

    with serve(handler(work)) as bridge:
        bridge(event(headers={"host": "a.example:8080"}))
    assert seen == ["a.example", 8080, ("a.example", 8080)]


@pytest.mark.parametrize("version", VERSIONS)
def test_head(version: str) -> None:
    """HEAD keeps the content-length of GET and has no body, whether the handler writes one or not."""
    with serve(handler(reply, protocol_version=version)) as bridge:
        answered = answer(bridge(event("HEAD")))
    assert (answered.status, answered.headers["content-length"], answered.body) == (200, ["5"], b"")
    careless = write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
    with serve(handler(careless, protocol_version=version)) as bridge:
        assert answer(bridge(event("HEAD"))) == (200, {"content-length": ["5"]}, b"")


def test_error_page() -> None:
    """``send_error`` gives the page of http.server."""
    with serve(handler(lambda self: self.send_error(404, "No such thing"))) as bridge:
        answered = answer(bridge(event()))
    assert answered.status == 404
    assert answered.headers["content-type"] == ["text/html;charset=utf-8"]
    assert answered.headers["content-length"] == [str(len(answered.body))]
    assert b"No such thing" in answered.body


def test_unknown_method() -> None:
    """A method that the class does not know is http.server's 501; one of its own is called."""
    with serve(handler(reply, do_PURGE=reply)) as bridge:
        assert answer(bridge(event("PATCH"))).status == 501
        assert answer(bridge(event("PURGE"))).status == 200


RESPONSES: dict[str, tuple[bytes, tuple[int, dict[str, list[str]], bytes]]] = {
    "up to the end": (b"HTTP/1.0 200 OK\r\n\r\nhello", (200, {}, b"hello")),
    "version 1.1 without a length": (b"HTTP/1.1 200 OK\r\n\r\nhello", (200, {}, b"hello")),
    "no reason": (b"HTTP/1.0 404\r\n\r\nhello", (404, {}, b"hello")),
    "chunks": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        (200, {}, b"hello"),
    ),
    "repeated headers": (
        b"HTTP/1.0 200 OK\r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\n\r\n", (200, {"set-cookie": ["a=1", "b=2"]}, b"")
    ),
    "latin-1": (b"HTTP/1.0 200 OK\r\nX-Name: caf\xe9\r\n\r\n", (200, {"x-name": ["caf\xe9"]}, b"")),
    "binary": (b"HTTP/1.0 200 OK\r\n\r\n\xff\x00\r\n", (200, {}, b"\xff\x00\r\n")),
    "continue": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\nhello", (200, {}, b"hello")),
    "early hints": (
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n\r\nhello",
        (200, {}, b"hello"),
    ),
    "hop-by-hop": (b"HTTP/1.1 200 OK\r\nConnection: close\r\nKeep-Alive: 5\r\n\r\nhello", (200, {}, b"hello")),
}  # fmt: skip


@pytest.mark.parametrize(("raw", "expected"), RESPONSES.values(), ids=RESPONSES.keys())
def test_raw_response(raw: bytes, expected: tuple[int, dict[str, list[str]], bytes]) -> None:
    """What a handler writes by itself is read as an HTTP client would read it."""
    with serve(handler(write(raw))) as bridge:
        assert answer(bridge(event())) == expected


NO_RESPONSES = {
    "nothing": b"",
    "no HTTP": b"hello\r\n\r\n",
    "half a status line": b"HTTP/1.0",
    "status of one digit": b"HTTP/1.0 2 OK\r\n\r\n",
    "status is a word": b"HTTP/1.0 fine OK\r\n\r\n",
    "half a head": b"HTTP/1.0 200 OK\r\nContent-Le",
    "half a body": b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\nhello",
    "half a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhello",
    "no last chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "chunk of no number": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\nhello\r\n0\r\n\r\n",
    "continue only": b"HTTP/1.1 100 Continue\r\n\r\n",
}


@pytest.mark.parametrize("raw", NO_RESPONSES.values(), ids=NO_RESPONSES.keys())
def test_no_response(raw: bytes) -> None:
    """What is no HTTP response, or only a part of one, is a 500."""
    with serve(handler(write(raw))) as bridge:
        failed = answer(bounded(lambda: bridge(event())))
    assert (failed.status, failed.body) == (500, b"Internal Server Error")


def raises(self: BaseHTTPRequestHandler) -> None:
    raise ZeroDivisionError("secret")


def raises_in_mid_response(self: BaseHTTPRequestHandler) -> None:
    self.send_response(200)
    self.end_headers()
    self.wfile.write(b"half")
    raise ZeroDivisionError("secret")


@pytest.mark.parametrize("work", [raises, raises_in_mid_response])
def test_handler_raises(work: Work, capfd: pytest.CaptureFixture[str]) -> None:
    """An exception is a neutral 500, whatever was written before; its traceback is on stderr, the access log is not."""
    with serve(handler(work)) as bridge:
        failed = answer(bridge(event()))
    assert (failed.status, failed.body) == (500, b"Internal Server Error")
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("Traceback")
    assert "HTTP/1.1" not in printed.err
    with serve(handler(work), raise_errors="1") as bridge:
        with pytest.raises(ZeroDivisionError, match="secret"):
            bridge(event())
    assert capfd.readouterr() == ("", "")


def test_context() -> None:
    """The handler sees its caller's context variables."""
    seen: list[str] = []

    def work(self: BaseHTTPRequestHandler) -> None:
        seen.append(caller.get())
        reply(self)

    with serve(handler(work)) as bridge:

        def call() -> None:
            caller.set("caller")
            bridge(event())

        contextvars.copy_context().run(call)
    assert seen == ["caller"]


def test_no_socket_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a socket nor a thread is made, and the handler runs on its caller's thread."""
    threads: list[threading.Thread] = []

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("neither sockets nor threads are needed")

    def work(self: BaseHTTPRequestHandler) -> None:
        threads.append(threading.current_thread())
        reply(self, self.rfile.read(5))

    before = threading.active_count()
    monkeypatch.setattr(socket.socket, "__init__", refuse)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with serve(handler(work)) as bridge:
        assert answer(bridge(event("POST", body="hello"))).body == b"hello"
        assert threading.active_count() == before
    assert threads == [threading.current_thread()]


def test_access_log(capfd: pytest.CaptureFixture[str]) -> None:
    """The access log of http.server does not go to stderr; a ``log_message`` of the class is called."""
    lines: list[str] = []

    def keep(self: object, template: str, *arguments: object) -> None:
        lines.append(template % arguments)

    def work(self: BaseHTTPRequestHandler) -> None:
        self.log_error("%s happened", "something")
        reply(self)

    with serve(handler(work)) as bridge:
        assert answer(bridge(event())).status == 200
    with serve(handler(work, log_message=keep)) as bridge:
        assert answer(bridge(event(path="/a"))).status == 200
    assert capfd.readouterr() == ("", "")
    assert lines == ["something happened", '"GET /a HTTP/1.1" 200 -']


OPTIONS: dict[str, dict[str, Any]] = {
    "buffered writes": {"wbufsize": -1},
    "unbuffered reads": {"rbufsize": 0},
    "a timeout": {"timeout": 5},
    "no delay": {"disable_nagle_algorithm": True},
}


@pytest.mark.parametrize("attributes", OPTIONS.values(), ids=OPTIONS.keys())
def test_socket_options(attributes: dict[str, Any]) -> None:
    """What a class may ask of its socket does no harm where there is none."""
    app = handler(lambda self: reply(self, read_body(self)), **attributes)
    with serve(app) as bridge:
        assert answer(bridge(event("POST", body="hello"))).body == b"hello"


def test_own_constructor() -> None:
    """A class may take its arguments by itself, set up and finish in its own way, and know its base classes."""
    steps: list[str] = []

    class Base(BaseHTTPRequestHandler):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            self.greeting = b"hello"
            super().__init__(*arguments, **named)

        def setup(self) -> None:
            steps.append("setup")
            super().setup()

        def finish(self) -> None:
            super().finish()
            steps.append("finish")

    class Handler(Base):
        def do_GET(self) -> None:
            reply(self, self.greeting)

    with serve(Handler) as bridge:
        assert answer(bridge(event())).body == b"hello"
    assert steps == ["setup", "finish"]


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``SimpleHTTPRequestHandler`` serves the files of the working directory."""
    (tmp_path / "a b.txt").write_bytes(b"hello")
    monkeypatch.chdir(tmp_path)
    with serve(SimpleHTTPRequestHandler) as bridge:
        found = answer(bridge(event(path="/a%20b.txt")))
        assert (found.status, found.headers["content-type"], found.body) == (200, ["text/plain"], b"hello")
        assert answer(bridge(event(path="/b"))).status == 404
        assert b"a%20b.txt" in answer(bridge(event())).body


@pytest.mark.parametrize("leaving", [SystemExit, KeyboardInterrupt])
def test_handler_leaves(leaving: type[BaseException]) -> None:
    """SystemExit and KeyboardInterrupt go through."""

    def work(self: BaseHTTPRequestHandler) -> None:
        raise leaving

    with serve(handler(work)) as bridge:
        with pytest.raises(leaving):
            bridge(event())


def test_own_bridge() -> None:
    """A handler may call its own bridge, directly and from a thread."""
    bridges: list[Bridge] = []

    def work(self: BaseHTTPRequestHandler) -> None:
        if self.path == "/inner":
            reply(self, b"inner")
            return
        inner = event(path="/inner")
        reply(self, answer(bridges[0](inner)).body + answer(bounded(lambda: bridges[0](inner), 10)).body)

    with serve(handler(work)) as bridge:
        bridges.append(bridge)
        assert answer(bounded(lambda: bridge(event()))).body == b"innerinner"


def test_http_server_is_left_alone() -> None:
    """The standard library's classes are as they were after a request."""
    before = dict(vars(http.server.BaseHTTPRequestHandler))
    with serve(handler(reply)) as bridge:
        bridge(event())
    assert dict(vars(http.server.BaseHTTPRequestHandler)) == before
