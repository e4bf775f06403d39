"""
What others did wrong in event mode, each with the test that states the right behaviour.

The others are the launcher of 2022 that this project grew from and vercel-runtime 0.24.1. Most of these tests stand
with the module they are about; what concerns more than one stands here.
"""

from __future__ import annotations

import ast
import functools
import os
import socket
import threading
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from tests.support import Receive, Scope, Send, answer, event, respond, serve
from tracedbridge import EventError, StartupError

HERE = Path(__file__).parent

LAUNCHER = {
    # Loading
    "a handler of any kind came before app": "test_loading.py::test_order[app before another handler]",
    "application was not looked for": "test_loading.py::test_order[application]",
    "a handler that is no class was a TypeError": "test_loading.py::test_order[handler, ASGI]",
    "the app had to be in the working directory": "test_loading.py::test_absolute_path",
    "an import error came out without the app's name": "test_loading.py::test_errors[import raises]",
    "a class with a plain call was not ASGI": "test_kinds.py::test_detected[plain call that returns a coroutine]",
    "a partial was not ASGI": "test_kinds.py::test_detected[partial of a coroutine function]",
    "an ASGI 2 app was not ASGI": "test_kinds.py::test_detected[ASGI 2 class]",
    # ASGI
    "lifespan ran in every invocation": "apps/test_asgi.py::test_lifespan_once",
    "a missing lifespan was logged in every request": "apps/test_asgi.py::test_no_lifespan",
    "a failed startup was tried again in every request": "test_flaws.py::test_startup_fails_once",
    "there was no lifespan state": "apps/test_asgi.py::test_state",
    "there was no asgi key in the scope": "apps/test_asgi.py::test_scope",
    "the path was not decoded": "events/test_vercel.py::test_target[decoded once]",
    "the server's host had the port in it": "events/test_vercel.py::test_origin[port]",
    "the client was all of x-forwarded-for": "events/test_vercel.py::test_origin[first of the forwarded]",
    "header names came out as bytes": "test_flaws.py::test_result_can_be_json",
    "asyncio.run() at import broke it": "apps/test_asgi.py::test_other_loops[asyncio.run at import]",
    "a thread without an event loop broke it": "apps/test_asgi.py::test_other_loops[no event loop in the thread]",
    "only the main thread could call it": "apps/test_asgi.py::test_one_loop",
    "an exception of an ASGI app came out": "test_bridge.py::test_exception",
    "no response was an empty result": "apps/test_asgi.py::test_protocol_violation[no response]",
    "a missing last message was a 200": "apps/test_asgi.py::test_protocol_violation[no last body]",
    "HEAD was answered with a body": "test_bridge.py::test_no_body[HEAD]",
    "204 was answered with a body": "test_bridge.py::test_no_body[204]",
    "a task left behind held the response": "apps/test_asgi.py::test_task_left_behind",
    # WSGI
    "close() of the body was not called": "apps/test_wsgi.py::test_close",
    "a content-type was made up": "apps/test_wsgi.py::test_no_type_is_invented",
    "PATH_INFO was not decoded": "events/test_vercel.py::test_target[UTF-8]",
    "SERVER_NAME and SERVER_PORT were wrong": "apps/test_wsgi.py::test_origin[port]",
    "REMOTE_ADDR was wrong": "apps/test_wsgi.py::test_origin[client]",
    "the last of repeated headers won": "apps/test_wsgi.py::test_headers[repeated]",
    "x_y took the place of x-y": "apps/test_wsgi.py::test_headers[underscore last]",
    "there was no SCRIPT_NAME": "apps/test_wsgi.py::test_origin[host]",
    "an exception of a WSGI app came out": "apps/test_wsgi.py::test_app_raises",
    # Handler classes
    "it listened on every interface": "apps/test_http_server.py::test_no_socket_no_thread",
    "every call had a thread, which a failure left behind": "test_flaws.py::test_failures_leave_nothing",
    "content-length beyond the body hung": "events/test_vercel.py::test_broken_request[content-length without a body]",
    "header values as lists were a TypeError": "apps/test_http_server.py::test_request",
    "accept-encoding and host were made up": "apps/test_http_server.py::test_request",
    "an exception of a handler dropped the connection": "apps/test_http_server.py::test_handler_raises",
    "context variables did not reach the handler": "apps/test_http_server.py::test_context",
}  # fmt: skip

VERCEL_RUNTIME = {
    "every call went through a socket": "test_flaws.py::test_warm_call_needs_no_socket",
    "startup.failed hung": "apps/test_asgi.py::test_startup_failed",
    "an exception in startup hung": "apps/test_asgi.py::test_startup_raises",
    "content-length beyond the body hung": "test_bridge.py::test_bad_input_does_not_reach_the_app",
    "an exception of a WSGI app dropped the connection": "apps/test_wsgi.py::test_app_raises",
    "an exception of a handler dropped the connection": "apps/test_http_server.py::test_handler_raises",
    "an exception in mid-body was a 200 with half of it": "apps/test_wsgi.py::test_close[exception in mid-body]",
    "WSGI paths were not decoded": "events/test_vercel.py::test_target[UTF-8]",
    "repeated request headers were lost": "events/test_vercel.py::test_request_headers[list]",
    "repeated request headers were lost in WSGI": "apps/test_wsgi.py::test_headers[repeated]",
    "a header beyond latin-1 raised": "events/test_vercel.py::test_broken_request[header value beyond latin-1]",
    "a space in the path raised": "events/test_vercel.py::test_broken_request[space in the path]",
}  # fmt: skip


@functools.cache
def names_in(path: Path) -> tuple[frozenset[str], frozenset[str]]:
    """Return the names of the test functions in a file, and every string in it, which ids are made of."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    tests = {node.name for node in nodes if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}
    strings = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return frozenset(tests), frozenset(strings)


@pytest.mark.parametrize("test", sorted({*LAUNCHER.values(), *VERCEL_RUNTIME.values()}))
def test_named_test_exists(test: str) -> None:
    """Every test in the tables above exists, down to the case in brackets."""
    file, _, name = test.partition("::")
    function, _, case = name.removesuffix("]").partition("[")
    tests, strings = names_in(HERE / file)
    assert function in tests
    assert not case or case in strings


async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await respond(send, b"ok", headers=[(b"Content-Type", b"text/plain")])


def wsgi(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ok"]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response_only(200)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self.wfile.write(b"ok")


APPS = pytest.mark.parametrize("app", [asgi, wsgi, Handler], ids=["asgi", "wsgi", "http_server"])


@APPS
def test_result_can_be_json(app: object) -> None:
    """Names and values of response headers are text in every kind, so that the result can be JSON."""
    with serve(app) as bridge:
        result = bridge(event())
    assert result == {"statusCode": 200, "headers": {"content-type": ["text/plain"]}, "body": "ok"}


@APPS
def test_warm_call_needs_no_socket(app: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call happens in the process and on the thread of its caller: no socket is made and no thread started."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("neither sockets nor threads are needed")

    with serve(app) as bridge:
        monkeypatch.setattr(socket.socket, "__init__", refuse)
        monkeypatch.setattr(threading.Thread, "start", refuse)
        assert answer(bridge(event())).status == 200
        monkeypatch.undo()


def open_files() -> set[str]:
    """Return the descriptors that this process has open, on Linux."""
    return set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()


@APPS
def test_failures_leave_nothing(app: object) -> None:
    """Events that fail leave neither threads nor open files behind, and the next good one is answered."""
    with serve(app) as bridge:
        threads, files = set(threading.enumerate()), open_files()
        for _ in range(3):
            with pytest.raises(EventError):
                bridge({"body": "{"})
            assert answer(bridge(event(path="/a b"))).status == 400
            assert answer(bridge(event(headers={"content-length": "9"}))).status == 400
            assert answer(bridge(event())).status == 200
        assert (set(threading.enumerate()), open_files()) == (threads, files)


def test_startup_fails_once() -> None:
    """A failed startup is told when the app is loaded, after one attempt and before any request."""
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])
        assert (await receive())["type"] == "lifespan.startup"
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    with pytest.raises(StartupError, match="no database"):
        serve(app)
    assert seen == ["lifespan"]
