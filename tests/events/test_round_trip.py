"""Whatever a client asks for, by each way of a platform to the app: the app sees what was asked."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus, unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.events.lambda_events import KINDS, Asked, event_of
from tests.support import Receive, Scope, Send, no_lifespan, respond, serve

# What URLs, forms and headers are made of, and what has a meaning in them.
_CHARACTERS = st.one_of(
    st.sampled_from("abzAZ019-._~!$&'()*+,;=:@/?#%[]{}|\\^`\"<> "), st.characters(exclude_categories=["Cs"])
)
_TEXT = st.text(_CHARACTERS, max_size=12)
_NAMES = st.text("abcxyz-", min_size=1, max_size=8).map(lambda name: f"x-{name}")
# RFC 9110, 5.5: visible characters and white space in between; no comma, which is also what joins two of them.
_VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters=","), max_size=12).map(
    str.strip
)

# Who puts the name of a stage, or of what a domain maps, before the path.
MOUNTED = ("rest", "http 1.0", "http 2.0")


@st.composite
def asks(draw: st.DrawFn, *, where: bool = False) -> Asked:
    """Draw a request, with a stage or a mapped key before the path if ``where``."""
    segments = draw(st.lists(_TEXT, max_size=4))
    path = "/" + "/".join(quote(segment, safe="") for segment in segments)
    pairs = draw(st.lists(st.tuples(_TEXT, _TEXT), max_size=4))
    write = draw(st.sampled_from((quote, quote_plus)))
    query = "&".join(f"{write(name, safe='')}={write(value, safe='')}" for name, value in pairs)
    headers = draw(st.lists(st.tuples(_NAMES, _VALUES), max_size=4))
    cookies = draw(
        st.lists(st.tuples(st.text("abc", min_size=1, max_size=3), st.text("xyz0=", max_size=4)), max_size=3)
    )
    if cookies:
        headers.append(("Cookie", "; ".join(f"{name}={value}" for name, value in cookies)))
    place = draw(st.sampled_from(("", "stage", "key"))) if where else ""
    return Asked(
        draw(st.sampled_from(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"))), path, query,
        headers, draw(st.binary(max_size=40)), **({place: "prod"} if place else {}),
    )  # fmt: skip


def told_of(kind: str, pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Return what a platform passes on of names and values, by name: some pass the last value only."""
    told: dict[str, list[str]] = {}
    for name, value in pairs:
        told.setdefault(name, []).append(value)
    return {name: values[-1:] if kind == "alb" else values for name, values in told.items()}


def values_of(kind: str, name: str, values: list[str]) -> list[str]:
    """Return the values of one header as an app gets them: the payload 2.0 has one, with commas."""
    return [",".join(values)] if kind in ("http 2.0", "function url") and name != "cookie" else values


def expected_headers(kind: str, asked: Asked) -> dict[str, list[str]]:
    """Return what an app sees of the headers, without the body's length."""
    told = told_of(kind, ((name.lower(), value) for name, value in asked.headers))
    return {name: values_of(kind, name, values) for name, values in told.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_asgi(kind: str) -> None:
    """Method, path, query, headers, cookies, body and client."""
    seen: list[tuple[Scope, bytes]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        no_lifespan(scope)
        seen.append((dict(scope), (await receive())["body"]))
        await respond(send)

    with serve(app, "asgi") as bridge:

        @settings(max_examples=150, deadline=None)
        @given(asked=asks(where=kind in MOUNTED))
        def asks_again(asked: Asked) -> None:
            seen.clear()
            assert bridge(json.loads(json.dumps(event_of(kind, asked))))["statusCode"] == 200
            ((scope, body),) = seen
            assert scope["method"] == asked.method
            assert scope["path"] == unquote(asked.mount + asked.path)
            assert scope["root_path"] == asked.mount
            assert unquote(scope["raw_path"].decode()) == scope["path"]
            assert told_of("", pairs_of(scope["query_string"].decode())) == told_of(kind, pairs_of(asked.query))
            if kind in ("http 2.0", "function url"):
                assert scope["query_string"].decode() == asked.query
            assert body == asked.body
            headers = told_of("", ((name.decode(), value.decode("latin-1")) for name, value in scope["headers"]))
            length = headers.pop("content-length", None)
            assert length == ([str(len(asked.body))] if asked.body else None)
            assert headers == expected_headers(kind, asked)
            assert scope["client"] == ("203.0.113.7", 0)

        asks_again()


@pytest.mark.parametrize("kind", KINDS)
def test_wsgi(kind: str) -> None:
    """The same, as PEP 3333 has it."""
    seen: list[tuple[dict[str, Any], bytes]] = []

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        seen.append((environ, environ["wsgi.input"].read()))
        start_response("200 OK", [])
        return []

    with serve(app, "wsgi") as bridge:

        @settings(max_examples=150, deadline=None)
        @given(asked=asks(where=kind in MOUNTED))
        def asks_again(asked: Asked) -> None:
            seen.clear()
            assert bridge(json.loads(json.dumps(event_of(kind, asked))))["statusCode"] == 200
            ((environ, body),) = seen
            assert environ["REQUEST_METHOD"] == asked.method
            assert environ["SCRIPT_NAME"] == asked.mount
            assert environ["PATH_INFO"].encode("latin-1").decode(errors="replace") == unquote(asked.path)
            assert told_of("", pairs_of(environ["QUERY_STRING"])) == told_of(kind, pairs_of(asked.query))
            assert body == asked.body
            headers = {
                name[5:].lower().replace("_", "-"): value for name, value in environ.items() if name.startswith("HTTP_")
            }
            assert headers == {
                name: ("; " if name == "cookie" else ",").join(values)
                for name, values in expected_headers(kind, asked).items()
            }
            assert isinstance(environ["wsgi.input"], (io.BytesIO, io.BufferedReader))

        asks_again()


def pairs_of(query: str) -> list[tuple[str, str]]:
    """Return what an app reads out of a query."""
    return parse_qsl(query, keep_blank_values=True)
