"""What others' validators say of each request by each way: scopes, messages and environs are by the letter."""

from __future__ import annotations

from typing import Any
from wsgiref.validate import validator

import pytest

from tests.events.lambda_events import ASKED, KINDS, event_of
from tests.support import Receive, Scope, Send, event, serve

# What it says of the app below, and not of us: that there is a state to share.
OF_THE_APP = {"LF-010"}


@pytest.mark.parametrize("kind", [*KINDS, "vercel"])
def test_asgi(kind: str) -> None:
    """Asgion's rules, of which there are 163: for lifespan, scopes, receive and send."""
    asgion = pytest.importorskip("asgion", reason="it comes with the dev extra, from Python 3.12 on")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for phase in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{phase}.complete"})
            return
        body = (await receive())["body"]
        headers = [(b"content-type", b"application/octet-stream"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    inspector = asgion.Inspector(app)
    with serve(inspector, "asgi") as bridge:
        for asked in ASKED.values():
            told = event(asked.method, asked.target, headers={"host": "shop.example", **dict(asked.own_headers)})
            assert bridge(told if kind == "vercel" else event_of(kind, asked))["statusCode"] == 200
    assert not [each for each in inspector.violations if each.rule_id not in OF_THE_APP]


def test_asgi_is_looked_at() -> None:
    """An app that breaks a rule is found by the same way to look."""
    asgion = pytest.importorskip("asgion", reason="it comes with the dev extra, from Python 3.12 on")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError
        await send({"type": "http.response.start", "status": 200, "headers": [(b"X-Upper", b"1")]})
        await send({"type": "http.response.body", "body": b""})

    inspector = asgion.Inspector(app)
    with serve(inspector, "asgi") as bridge:
        bridge(event_of("rest", ASKED["plain"]))
    assert [each for each in inspector.violations if each.rule_id not in OF_THE_APP]


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize("kind", [*KINDS, "vercel"])
def test_wsgi(kind: str, name: str) -> None:
    """The standard library's validator of PEP 3333, around the app."""
    asked = ASKED[name]

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("content-type", "text/plain")])
        return [environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))]

    told = event(asked.method, asked.target, headers={"host": "shop.example", **dict(asked.own_headers)})
    with serve(validator(app), "wsgi") as bridge:
        assert bridge(told if kind == "vercel" else event_of(kind, asked))["statusCode"] == 200
