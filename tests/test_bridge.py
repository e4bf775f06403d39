"""One contract for every kind of app: what the bridge answers, raises and survives."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

import tracedbridge
from tests.support import Receive, Scope, Send, answer, bounded, event, no_lifespan, serve
from tracedbridge import Bridge, BridgeClosedError, EventError
from tracedbridge.messages import Kind

Reply = tuple[int, list[tuple[str, str]], bytes]
Work = Callable[[str], Reply]
"""What an app does: told the path, it gives status, headers and body."""

caller = contextvars.ContextVar("caller", default="unset")


def asgi_app(work: Work) -> object:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        no_lifespan(scope)
        status, headers, body = work(scope["path"])
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": body})

    return app


def wsgi_app(work: Work) -> object:
    def app(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        status, headers, body = work(environ["PATH_INFO"])
        start_response(f"{status} Reason", headers)
        return [body]

    return app


def handler_class(work: Work) -> object:
    class Handler(BaseHTTPRequestHandler):
        def reply(self) -> None:
            status, headers, body = work(self.path)
            # Not send_response(), which adds headers of its own.
            self.send_response_only(status)
            for name, value in headers:
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_HEAD = do_POST = reply  # noqa: N815 - the names http.server calls

    return Handler


MAKERS: dict[Kind, Callable[[Work], object]] = {"asgi": asgi_app, "wsgi": wsgi_app, "http_server": handler_class}


@pytest.fixture(params=list(MAKERS.values()), ids=list(MAKERS))
def made(request: pytest.FixtureRequest) -> Callable[[Work], object]:
    """Makes an app of each kind in turn."""
    maker: Callable[[Work], object] = request.param
    return maker


def hello(path: str) -> Reply:
    return 200, [("Content-Type", "text/plain")], b"hello"


def test_every_kind_is_here() -> None:
    """The table of this file has every kind that there is."""
    from tracedbridge.kinds import KINDS

    assert tuple(MAKERS) == KINDS


def test_answers(made: Callable[[Work], object]) -> None:
    """Status, headers and body come from the app, and nothing is added."""
    with serve(made(hello)) as bridge:
        assert answer(bridge(event())) == (200, {"content-type": ["text/plain"]}, b"hello")


def test_context_is_optional(made: Callable[[Work], object]) -> None:
    """A bridge takes any object as context, and none."""
    with serve(made(hello)) as bridge:
        assert bridge(event()) == bridge(event(), None) == bridge(event(), object())


BODILESS = {
    # method, status, headers of the app: headers of the answer
    "HEAD": ("HEAD", 200, [("Content-Length", "5"), ("A", "1")], {"content-length": ["5"], "a": ["1"]}),
    "HEAD of an error": ("HEAD", 404, [("Content-Length", "5")], {"content-length": ["5"]}),
    "204": ("GET", 204, [("Content-Length", "0"), ("A", "1")], {"a": ["1"]}),
    "304": ("GET", 304, [("Content-Length", "5"), ("A", "1")], {"content-length": ["5"], "a": ["1"]}),
}


@pytest.mark.parametrize(("method", "status", "headers", "expected"), BODILESS.values(), ids=BODILESS.keys())
def test_no_body(
    made: Callable[[Work], object],
    method: str,
    status: int,
    headers: list[tuple[str, str]],
    expected: dict[str, list[str]],
) -> None:
    """HEAD, 204 and 304 have no body, whatever the app gives; content-length stays where it may."""
    with serve(made(lambda _: (status, headers, b"hello"))) as bridge:
        assert answer(bridge(event(method))) == (status, expected, b"")


@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
def test_informational_has_no_body(kind: Kind) -> None:
    """A 1xx as an app's whole answer has neither body nor content-length; from a handler class it is no answer yet."""
    with serve(MAKERS[kind](lambda _: (103, [("Content-Length", "5"), ("A", "1")], b"hello"))) as bridge:
        assert answer(bridge(event())) == (103, {"a": ["1"]}, b"")


def test_repeated_headers(made: Callable[[Work], object]) -> None:
    """Repeated Set-Cookie headers survive every kind, in order."""
    cookies = [("Set-Cookie", "a=1; Expires=Thu, 01 Jan 2026 00:00:00 GMT"), ("set-cookie", "b=2")]
    with serve(made(lambda _: (200, cookies, b""))) as bridge:
        assert answer(bridge(event())).headers == {"set-cookie": [cookies[0][1], "b=2"]}


def test_binary_body(made: Callable[[Work], object]) -> None:
    """Any bytes come out as they went in."""
    every = bytes(range(256)) * 4
    with serve(made(lambda _: (200, [], every))) as bridge:
        assert answer(bridge(event())).body == every


BROKEN: dict[str, Reply] = {
    "control character in a header": (200, [("A", "1\x002")], b""),
    "header name is no token": (200, [("A(", "1")], b""),
    "less than content-length": (200, [("Content-Length", "9")], b"hello"),
    "content-length is a word": (200, [("Content-Length", "five")], b"hello"),
    "two content-lengths": (200, [("Content-Length", "5"), ("Content-Length", "4")], b"hello"),
}


@pytest.mark.parametrize("reply", BROKEN.values(), ids=BROKEN.keys())
def test_broken_response(made: Callable[[Work], object], reply: Reply) -> None:
    """A response that could not be sent is a 500, never half of it."""
    with serve(made(lambda _: reply)) as bridge:
        failed = answer(bridge(event()))
    assert (failed.status, failed.body) == (500, b"Internal Server Error")


def fails(path: str) -> Reply:
    raise ZeroDivisionError("the secret")


def test_exception(made: Callable[[Work], object], capfd: pytest.CaptureFixture[str]) -> None:
    """An app's exception is a 500 that tells nothing; with telemetry off its traceback is on stderr."""
    with serve(made(fails)) as bridge:
        failed = answer(bridge(event()))
    assert (failed.status, failed.body) == (500, b"Internal Server Error")
    assert failed.headers["content-type"][0].startswith("text/plain")
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("Traceback")
    assert printed.err.endswith("ZeroDivisionError: the secret\n")


def test_exception_to_head(made: Callable[[Work], object]) -> None:
    """The 500 for an exception has no body either when the request was HEAD."""
    with serve(made(fails)) as bridge:
        failed = answer(bridge(event("HEAD")))
    assert (failed.status, failed.body) == (500, b"")


def test_exception_raised_again(made: Callable[[Work], object]) -> None:
    """``TRACEDBRIDGE_RAISE_ERRORS`` raises the app's own exception, and the bridge goes on."""
    with serve(made(lambda path: hello(path) if path == "/fine" else fails(path)), raise_errors="1") as bridge:
        with pytest.raises(ZeroDivisionError, match="the secret"):
            bridge(event())
        assert answer(bridge(event(path="/fine"))).status == 200


@pytest.mark.parametrize("leaving", [SystemExit(3), KeyboardInterrupt()], ids=["SystemExit", "KeyboardInterrupt"])
def test_leaving(made: Callable[[Work], object], leaving: BaseException) -> None:
    """SystemExit and KeyboardInterrupt go through as they are, and the bridge goes on."""

    def work(path: str) -> Reply:
        if path == "/leave":
            raise leaving
        return hello(path)

    with serve(made(work)) as bridge:
        with pytest.raises(type(leaving)) as raised:
            bridge(event(path="/leave"))
        assert raised.value is leaving
        assert answer(bridge(event())).status == 200


def test_bad_input_does_not_reach_the_app(made: Callable[[Work], object]) -> None:
    """The app sees neither what is no event nor a broken request in a good one."""
    asked: list[str] = []

    def work(path: str) -> Reply:
        asked.append(path)
        return hello(path)

    with serve(made(work)) as bridge:
        with pytest.raises(EventError):
            bridge({"Action": "Invoke"})
        assert answer(bridge(event("POST", body="%", encoding="base64"))).status == 400
        assert answer(bridge(event("POST", body="x", headers={"content-length": "9"}))).status == 400
        assert asked == []
        assert answer(bridge(event())).status == 200


def test_event_is_left_alone(made: Callable[[Work], object]) -> None:
    """The caller's event is the same after the call."""
    asked = event("POST", "/a", body="x", headers={"A": ["1"]})
    before = dict(asked)
    with serve(made(hello)) as bridge:
        assert bridge(asked) == bridge(asked)
    assert asked == before


def test_parallel(made: Callable[[Work], object]) -> None:
    """Several threads may call one bridge at once: each of these calls waits for all the others inside the app."""
    together = threading.Barrier(3, timeout=10)

    def work(path: str) -> Reply:
        together.wait()
        return 200, [], path.encode()

    with serve(made(work)) as bridge:
        bodies: list[bytes] = []

        def call(number: int) -> None:
            bodies.append(answer(bridge(event(path=f"/{number}"))).body)

        threads = [threading.Thread(target=call, args=(number,), daemon=True) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(15)
        assert sorted(bodies) == [b"/0", b"/1", b"/2"]


def test_calls_itself(made: Callable[[Work], object]) -> None:
    """An app may call its own bridge, on its own thread and on another, while it answers."""
    bridges: list[Bridge] = []

    def work(path: str) -> Reply:
        if path != "/":
            return 200, [], path.encode()
        here = answer(bridges[0](event(path="/here"))).body
        there = answer(bounded(lambda: bridges[0](event(path="/there")), 10)).body
        return 200, [], here + there

    with serve(made(work)) as bridge:
        bridges.append(bridge)
        assert answer(bounded(lambda: bridge(event()))).body == b"/here/there"


def test_context_variables(made: Callable[[Work], object]) -> None:
    """The app sees the context variables of who calls the bridge."""
    seen: list[str] = []

    def work(path: str) -> Reply:
        seen.append(caller.get())
        return hello(path)

    with serve(made(work)) as bridge:
        context = contextvars.copy_context()
        context.run(caller.set, "somebody")
        context.run(bridge, event())
        bridge(event())
    assert seen == ["somebody", "unset"]


def test_close(made: Callable[[Work], object]) -> None:
    """A bridge is closed when its ``with`` ends, can be closed again, and then refuses events by name."""
    with serve(made(hello)) as bridge:
        assert answer(bridge(event())).status == 200
    bridge.close()
    with pytest.raises(BridgeClosedError, match="closed"):
        bridge(event())


def test_bridges_do_not_meet(made: Callable[[Work], object]) -> None:
    """Two bridges in a process serve two apps, and one goes on when the other is closed."""
    with serve(made(hello)) as first:
        with serve(made(lambda _: (200, [], b"second"))) as second:
            assert (answer(first(event())).body, answer(second(event())).body) == (b"hello", b"second")
        assert answer(first(event())).body == b"hello"


def test_no_threads_are_left(made: Callable[[Work], object]) -> None:
    """Calls and ``close()`` leave no thread behind."""
    before = set(threading.enumerate())
    with serve(made(hello)) as bridge:
        for _ in range(3):
            bridge(event())
        assert set(threading.enumerate()) == before
    assert set(threading.enumerate()) == before


def test_public_names() -> None:
    """Every name in ``__all__`` is there, and ``vc_handler`` is not among them."""
    for name in tracedbridge.__all__:
        assert getattr(tracedbridge, name) is not None
    assert isinstance(tracedbridge.__all__, tuple)
    assert "vc_handler" not in tracedbridge.__all__
    assert {"create_bridge", "Bridge", "TracedBridgeError"} <= set(tracedbridge.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        getattr(tracedbridge, "no_such_name")  # noqa: B009 - mypy knows that it is not there


def test_error_tree() -> None:
    """Every error is exported, is in the tree of the docstring, and stands below the same root."""
    from tracedbridge import errors

    classes = {name: value for name, value in vars(errors).items() if isinstance(value, type)}
    assert set(classes) == set(errors.__all__) <= set(tracedbridge.__all__)
    for name, value in classes.items():
        assert issubclass(value, errors.TracedBridgeError)
        assert name in str(errors.__doc__)
        assert getattr(tracedbridge, name) is value
