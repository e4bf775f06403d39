"""The same small app in every kind, around one function, so that one test can say what holds for all of them."""

from __future__ import annotations

from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.support import Receive, Scope, Send, no_lifespan, respond
from tracedbridge.messages import Kind

__all__ = ("KINDS", "Pairs", "Work", "app_around", "asgi_around", "lifespan_around")

KINDS: tuple[Kind, ...] = ("asgi", "wsgi", "http_server")

Pairs = list[tuple[str, str]]
"""Header names, lower-case, with their values."""

Work = Callable[[Pairs], str]
"""Takes the request's headers and returns the body, after a colon-separated status if that is not 200."""


def app_around(kind: Kind, work: Work) -> Any:
    """Return an app of that kind that answers every request with what ``work`` returns, as text."""
    return {"asgi": asgi_around, "wsgi": _wsgi_around, "http_server": _handler_around}[kind](work)


def asgi_around(work: Work) -> Any:
    """Return an ASGI app without lifespan."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        no_lifespan(scope)
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        status, body = _read(work(headers))
        await respond(send, body.encode(), status, [(b"content-type", b"text/plain")])

    return app


def lifespan_around(work: Work, startup: Callable[[], object], shutdown: Callable[[], object] = lambda: None) -> Any:
    """Return an ASGI app that calls ``startup`` and ``shutdown`` in its lifespan."""
    inner = asgi_around(work)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await inner(scope, receive, send)
            return
        assert (await receive())["type"] == "lifespan.startup"
        startup()
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        shutdown()
        await send({"type": "lifespan.shutdown.complete"})

    return app


def _wsgi_around(work: Work) -> Any:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        headers = [
            (key.removeprefix("HTTP_").replace("_", "-").lower(), value)
            for key, value in environ.items()
            if key.startswith("HTTP_")
        ]
        status, body = _read(work(headers))
        start_response(f"{status} Whatever", [("Content-Type", "text/plain")])
        return [body.encode()]

    return app


def _handler_around(work: Work) -> Any:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = _read(work([(name.lower(), value) for name, value in self.headers.items()]))
            self.send_response(status)
            self.send_header("Content-Type", "text/plain")
            self.end_headers()
            self.wfile.write(body.encode())

    return Handler


def _read(text: str) -> tuple[int, str]:
    status, colon, body = text.partition(":")
    return (int(status), body) if colon and status.isdecimal() else (200, text)
