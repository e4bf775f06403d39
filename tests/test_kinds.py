"""Every valid shape of an app is detected, and what is no app is refused with a way out."""

from __future__ import annotations

import functools
import json
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler
from typing import Any

import pytest

from tests.support import Receive, Scope, Send, answer, event, no_lifespan, respond, serve
from tracedbridge import AppKindError
from tracedbridge.messages import Kind

Environ = dict[str, Any]
StartResponse = Callable[..., Callable[[bytes], object]]


async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
    no_lifespan(scope)
    await respond(send, b"asgi")


async def asgi_optional(scope: Scope, receive: Receive, send: Send, debug: bool = False) -> None:
    await asgi(scope, receive, send)


async def asgi_other_names(s: Scope, r: Receive, t: Send) -> None:
    await asgi(s, r, t)


async def asgi_private_names(_scope: Scope, _receive: Receive, _send: Send) -> None:
    await asgi(_scope, _receive, _send)


async def asgi_stars(*arguments: Any) -> None:
    await asgi(*arguments)


async def asgi_star_rest(scope: Scope, *rest: Any) -> None:
    await asgi(scope, *rest)


async def asgi_stars_and_names(*arguments: Any, **named: Any) -> None:
    await asgi(*arguments, **named)


async def asgi_positional(scope: Scope, receive: Receive, send: Send, /) -> None:
    await asgi(scope, receive, send)


async def asgi_named_option(scope: Scope, receive: Receive, send: Send, *, debug: bool = False) -> None:
    await asgi(scope, receive, send)


def asgi_plain(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
    return asgi(scope, receive, send)


def asgi_plain_stars(*arguments: Any) -> Awaitable[None]:
    return asgi(*arguments)


def asgi_plain_optional(scope: Scope, receive: Receive | None = None, send: Send | None = None) -> Awaitable[None]:
    assert receive is not None
    assert send is not None
    return asgi(scope, receive, send)


@functools.wraps(asgi)
async def asgi_wrapped(*arguments: Any, **named: Any) -> None:
    await asgi(*arguments, **named)


async def asgi_configured(name: str, scope: Scope, receive: Receive, send: Send) -> None:
    assert name == "configured"
    await asgi(scope, receive, send)


class Awaited:
    """An awaitable that is no coroutine."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.arguments = scope, receive, send

    def __await__(self) -> Generator[Any, Any, None]:
        return asgi(*self.arguments).__await__()


class AsyncCall:
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await asgi(scope, receive, send)


class PlainCall:
    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        return asgi(scope, receive, send)


class StarCall:
    def __call__(self, *arguments: Any) -> Awaitable[None]:
        return asgi(*arguments)


class StaticCall:
    @staticmethod
    async def __call__(scope: Scope, receive: Receive, send: Send) -> None:
        await asgi(scope, receive, send)


class Methods:
    async def asgi(self, scope: Scope, receive: Receive, send: Send) -> None:
        await asgi(scope, receive, send)

    @classmethod
    async def asgi_of_class(cls, scope: Scope, receive: Receive, send: Send) -> None:
        await asgi(scope, receive, send)

    def wsgi(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        return wsgi(environ, start_response)


class AlsoIterable(AsyncCall):
    """Frameworks give their app objects more than a call."""

    def __iter__(self) -> Iterator[bytes]:
        return iter(())

    def __getattr__(self, name: str) -> str:
        return name


def asgi2(scope: Scope) -> Callable[[Receive, Send], Awaitable[None]]:
    return functools.partial(asgi, scope)


class Asgi2Class:
    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    async def __call__(self, receive: Receive, send: Send) -> None:
        await asgi(self.scope, receive, send)


class Asgi2Instance:
    def __call__(self, scope: Scope) -> Callable[[Receive, Send], Awaitable[None]]:
        return functools.partial(asgi, scope)


def wsgi(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [])
    return [b"wsgi"]


def wsgi_optional(environ: Environ, start_response: StartResponse, debug: bool = False) -> Iterable[bytes]:
    return wsgi(environ, start_response)


def wsgi_other_names(e: Environ, s: StartResponse) -> Iterable[bytes]:
    return wsgi(e, s)


def wsgi_stars(*arguments: Any) -> Iterable[bytes]:
    return wsgi(*arguments)


def wsgi_star_rest(environ: Environ, *rest: Any) -> Iterable[bytes]:
    return wsgi(environ, *rest)


def wsgi_stars_and_names(*arguments: Any, **named: Any) -> Iterable[bytes]:
    return wsgi(*arguments, **named)


def wsgi_generator(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [])
    yield b"wsgi"


def wsgi_star_generator(*arguments: Any) -> Iterator[bytes]:
    yield from wsgi(*arguments)


def wsgi_configured(name: str, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    assert name == "configured"
    return wsgi(environ, start_response)


class WsgiClass:
    def __init__(self, environ: Environ, start_response: StartResponse) -> None:
        self.start_response = start_response

    def __iter__(self) -> Iterator[bytes]:
        self.start_response("200 OK", [])
        yield b"wsgi"


class WsgiCall:
    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        return wsgi(environ, start_response)


class WsgiStarCall:
    def __call__(self, *arguments: Any) -> Iterable[bytes]:
        return wsgi(*arguments)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response_only(200)
        self.end_headers()
        self.wfile.write(b"http_server")


class HandlerOfHandler(Handler):
    pass


class FileHandler(SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        Handler.do_GET(self)  # type: ignore[arg-type]  # it needs what both have from their base


SHAPES: dict[str, tuple[object, Kind]] = {
    "coroutine function": (asgi, "asgi"),
    "coroutine function, optional argument": (asgi_optional, "asgi"),
    "coroutine function, other names": (asgi_other_names, "asgi"),
    "coroutine function, private names": (asgi_private_names, "asgi"),
    "coroutine function, star arguments": (asgi_stars, "asgi"),
    "coroutine function, star rest": (asgi_star_rest, "asgi"),
    "coroutine function, star arguments and names": (asgi_stars_and_names, "asgi"),
    "coroutine function, positional": (asgi_positional, "asgi"),
    "coroutine function, named option": (asgi_named_option, "asgi"),
    "coroutine function, decorated": (asgi_wrapped, "asgi"),
    "function that returns a coroutine": (asgi_plain, "asgi"),
    "function that returns a coroutine, star arguments": (asgi_plain_stars, "asgi"),
    "function that returns a coroutine, optional arguments": (asgi_plain_optional, "asgi"),
    "async method": (Methods().asgi, "asgi"),
    "async class method": (Methods.asgi_of_class, "asgi"),
    "async call": (AsyncCall(), "asgi"),
    "plain call that returns a coroutine": (PlainCall(), "asgi"),
    "plain call that returns a coroutine, star arguments": (StarCall(), "asgi"),
    "static call": (StaticCall(), "asgi"),
    "call of an object with more": (AlsoIterable(), "asgi"),
    "class whose instances are awaited": (Awaited, "asgi"),
    "partial of a coroutine function": (functools.partial(asgi_configured, "configured"), "asgi"),
    "partial of a partial": (functools.partial(functools.partial(asgi_configured), "configured"), "asgi"),
    "partial of an object": (functools.partial(AsyncCall()), "asgi"),
    "partial with a name": (functools.partial(asgi_optional, debug=True), "asgi"),
    "partial of a plain function": (functools.partial(asgi_plain), "asgi"),
    "lambda, asgi": (lambda scope, receive, send: asgi(scope, receive, send), "asgi"),
    "lambda, asgi, other names": (lambda s, r, t: asgi(s, r, t), "asgi"),
    "lambda, asgi, star arguments": (lambda *arguments: asgi(*arguments), "asgi"),
    "lambda, asgi, star rest": (lambda scope, *rest: asgi(scope, *rest), "asgi"),
    "ASGI 2 function": (asgi2, "asgi"),
    "ASGI 2 class": (Asgi2Class, "asgi"),
    "ASGI 2 object": (Asgi2Instance(), "asgi"),
    "ASGI 2 lambda": (lambda scope: asgi2(scope), "asgi"),
    "function": (wsgi, "wsgi"),
    "function, optional argument": (wsgi_optional, "wsgi"),
    "function, other names": (wsgi_other_names, "wsgi"),
    "function, star arguments": (wsgi_stars, "wsgi"),
    "function, star rest": (wsgi_star_rest, "wsgi"),
    "function, star arguments and names": (wsgi_stars_and_names, "wsgi"),
    "generator function": (wsgi_generator, "wsgi"),
    "generator function, star arguments": (wsgi_star_generator, "wsgi"),
    "method": (Methods().wsgi, "wsgi"),
    "class": (WsgiClass, "wsgi"),
    "call": (WsgiCall(), "wsgi"),
    "call, star arguments": (WsgiStarCall(), "wsgi"),
    "partial of a function": (functools.partial(wsgi_configured, "configured"), "wsgi"),
    "lambda, wsgi": (lambda environ, start_response: wsgi(environ, start_response), "wsgi"),
    "lambda, wsgi, star arguments": (lambda *arguments: wsgi(*arguments), "wsgi"),
    "handler class": (Handler, "http_server"),
    "handler class of a handler class": (HandlerOfHandler, "http_server"),
    "file handler class": (FileHandler, "http_server"),
}  # fmt: skip


@pytest.mark.parametrize(("app", "kind"), SHAPES.values(), ids=SHAPES.keys())
def test_detected(app: object, kind: Kind) -> None:
    """Every valid shape is called in the way of its kind, without being told."""
    with serve(app) as bridge:
        assert answer(bridge(event())) == (200, {}, kind.encode())


@pytest.mark.parametrize("shape", ["coroutine function", "ASGI 2 class", "call", "class", "handler class"])
def test_told(shape: str) -> None:
    """A kind that is told is taken."""
    app, kind = SHAPES[shape]
    with serve(app, kind) as bridge:
        assert answer(bridge(event())).body == kind.encode()


def test_detection_is_no_request() -> None:
    """An app that tells its shape is not called to be detected; what does not tell sees a lifespan at most."""
    seen: list[str] = []

    def stars(*arguments: Any) -> Awaitable[None]:
        seen.append(arguments[0]["type"])
        return asgi(*arguments)

    with serve(stars):
        assert set(seen) == {"lifespan"}


def nothing_taken() -> None: ...
def request_taken(request: object) -> None: ...
def four_taken(a: object, b: object, c: object, d: object) -> None: ...
async def two_awaited(environ: object, start_response: object) -> None: ...
async def nothing_awaited() -> None: ...
def names_wanted(*, scope: object, receive: object, send: object) -> None: ...


async def yields(scope: Scope, receive: Receive, send: Send) -> Any:
    yield b"hello"


class NoCall:
    pass


class Factory:
    """A class whose instances would be apps."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


REFUSALS: dict[str, tuple[object, str]] = {
    "nothing": (None, "NoneType"),
    "text": ("app:app", "str"),
    "module": (json, "module"),
    "object": (NoCall(), "NoCall"),
    "class": (NoCall, "NoCall"),
    "class whose instances are apps": (Factory, "Factory"),
    "coroutine function of nothing": (nothing_awaited, "nothing_awaited"),
    "coroutine function of two": (two_awaited, "two_awaited"),
    "async generator": (yields, "yields"),
    "function of nothing": (nothing_taken, "nothing_taken"),
    "function of one": (request_taken, "request_taken"),
    "function of four": (four_taken, "four_taken"),
    "function of names": (names_wanted, "names_wanted"),
}


@pytest.mark.parametrize(("app", "found"), REFUSALS.values(), ids=REFUSALS.keys())
def test_refused(app: object, found: str) -> None:
    """What is no app is refused: the error says what was found and what would do."""
    with pytest.raises(AppKindError) as raised:
        serve(app)
    said = str(raised.value)
    assert found in said
    for would_do in ("ASGI", "WSGI", "BaseHTTPRequestHandler"):
        assert would_do in said


def lambda_handler(event: object, context: object) -> None: ...
async def async_lambda_handler(event: object, context: object) -> None: ...
def optional_lambda_handler(event: object, context: object = None) -> None: ...
def private_lambda_handler(event: object, _context: object) -> None: ...


class LambdaHandler:
    def __call__(self, event: object, context: object) -> None: ...

    def method(self, event: object, context: object) -> None: ...


LAMBDA_HANDLERS = {
    "function": lambda_handler,
    "coroutine function": async_lambda_handler,
    "optional context": optional_lambda_handler,
    "unused context": private_lambda_handler,
    "lambda": lambda event, context: None,
    "object": LambdaHandler(),
    "method": LambdaHandler().method,
    "partial": functools.partial(lambda_handler),
}


@pytest.mark.parametrize("app", LAMBDA_HANDLERS.values(), ids=LAMBDA_HANDLERS.keys())
def test_lambda_handler_refused(app: object) -> None:
    """Somebody else's Lambda handler is refused by name, also where WSGI would fit its arguments."""
    with pytest.raises(AppKindError, match=r"event, context.*Lambda handler"):
        serve(app)


def test_bridge_refused() -> None:
    """A bridge is no app of another bridge."""
    with serve(wsgi) as bridge, pytest.raises(AppKindError, match="event, context"):
        serve(bridge)


@pytest.mark.parametrize(("app", "kind"), [(asgi, "rsgi"), (None, "asgi"), ("app", "wsgi")], ids=str)
def test_told_wrong(app: object, kind: Any) -> None:
    """A kind that does not exist, and an app that cannot be called, are refused where the kind is told, too."""
    with pytest.raises(AppKindError, match=kind):
        serve(app, kind)


def wsgi_function(environ: object, start_response: object) -> None: ...


@pytest.mark.parametrize("app", [asgi, wsgi_function, Factory])
def test_told_no_handler_class(app: object) -> None:
    """What is no ``BaseHTTPRequestHandler`` class is refused as one at once, not at the first request."""
    with pytest.raises(AppKindError, match="http_server"):
        serve(app, "http_server")
