"""Contract of `tracedbridge.events.vercel`, seen through a bridge."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from string import ascii_letters, digits
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import Receive, Scope, Send, answer, event, no_lifespan, respond, serve
from tracedbridge import Bridge, EventError, TracedBridgeError


class Recorder:
    """An ASGI app that keeps what it was asked and answers with what it was told."""

    def __init__(self) -> None:
        self.scope: Scope = {}
        self.body = b""
        self.requests = 0
        self.status = 200
        self.headers: list[tuple[bytes, bytes]] = []
        self.reply = b"ok"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        no_lifespan(scope)
        self.requests += 1
        self.scope, self.body = scope, b""
        more = True
        while more:
            message = await receive()
            self.body += message.get("body", b"")
            more = message.get("more_body", False)
        await respond(send, self.reply, self.status, self.headers)

    def header(self, name: bytes) -> list[bytes]:
        """Return the values of one header, in order."""
        return [value for key, value in self.scope["headers"] if key == name]


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def bridge(recorder: Recorder) -> Iterator[Bridge]:
    with serve(recorder) as made:
        yield made


BODIES: dict[str, tuple[dict[str, Any], bytes]] = {
    "text": ({"body": "naïve ☃"}, "naïve ☃".encode()),
    "text that looks like base64": ({"body": "aGVsbG8="}, b"aGVsbG8="),
    "base64": ({"body": "aGVs/wA=", "encoding": "base64"}, b"hel\xff\x00"),
    "base64 without a byte": ({"body": "", "encoding": "base64"}, b""),
    "null": ({"body": None}, b""),
    "null as base64": ({"body": None, "encoding": "base64"}, b""),
    "missing": ({}, b""),
    "missing as base64": ({"encoding": "base64"}, b""),
    "empty": ({"body": ""}, b""),
    "no encoding told": ({"body": "x", "encoding": None}, b"x"),
}


@pytest.mark.parametrize(("payload", "expected"), BODIES.values(), ids=BODIES.keys())
def test_request_body(bridge: Bridge, recorder: Recorder, payload: dict[str, Any], expected: bytes) -> None:
    """The app gets the bytes of the body, however they are written and if there are none."""
    assert answer(bridge(event("POST", **payload))).status == 200
    assert recorder.body == expected


HEADERS: dict[str, tuple[dict[str, object], list[tuple[bytes, bytes]]]] = {
    "string": ({"X-Name": "one"}, [(b"x-name", b"one")]),
    "list": ({"X-Name": ["one", "two"]}, [(b"x-name", b"one"), (b"x-name", b"two")]),
    "list of none": ({"X-Name": []}, []),
    "empty value": ({"X-Name": ""}, [(b"x-name", b"")]),
    "two spellings of a name": ({"X-Name": "one", "x-name": "two"}, [(b"x-name", b"one"), (b"x-name", b"two")]),
    "order": ({"B": "1", "A": "2", "C": "3"}, [(b"b", b"1"), (b"a", b"2"), (b"c", b"3")]),
    "latin-1": ({"X-Name": "caf\xe9"}, [(b"x-name", b"caf\xe9")]),
    "comma in a value": ({"X-Name": "a, b"}, [(b"x-name", b"a, b")]),
    "every legal sign in a name": ({"x!#$%&'*+-.^_`|~9": "1"}, [(b"x!#$%&'*+-.^_`|~9", b"1")]),
}


@pytest.mark.parametrize(("headers", "expected"), HEADERS.values(), ids=HEADERS.keys())
def test_request_headers(
    bridge: Bridge, recorder: Recorder, headers: dict[str, object], expected: list[tuple[bytes, bytes]]
) -> None:
    """Header values are strings or lists; names come out in lower case, order and repeats stay, nothing is invented."""
    assert answer(bridge(event(headers=headers))).status == 200
    assert recorder.scope["headers"] == expected


@pytest.mark.parametrize("headers", [None, {}], ids=["null", "empty"])
def test_no_request_headers(bridge: Bridge, recorder: Recorder, headers: object) -> None:
    """A request without headers reaches the app without any."""
    assert answer(bridge(event(headers=headers))).status == 200
    assert recorder.scope["headers"] == []


TARGETS = {
    # path as sent: path in ASGI, PATH_INFO in WSGI, query
    "plain": ("/a/b", "/a/b", "/a/b", b""),
    "UTF-8": ("/caf%C3%A9", "/café", "/caf\xc3\xa9", b""),
    "decoded once": ("/a%2520b", "/a%20b", "/a%20b", b""),
    "encoded slash": ("/a%2Fb", "/a/b", "/a/b", b""),
    "encoded question mark": ("/a%3Fb?c", "/a?b", "/a?b", b"c"),
    "plus sign": ("/a+b?c+d", "/a+b", "/a+b", b"c+d"),
    "no UTF-8": ("/%FF", "/\ufffd", "/\xff", b""),
    "lone percent sign": ("/100%", "/100%", "/100%", b""),
    "dots stay": ("/a/../b/./c", "/a/../b/./c", "/a/../b/./c", b""),
    "slashes stay": ("//a//", "//a//", "//a//", b""),
    "query verbatim": ("/?a=%20+%C3&&b=;%", "/", "/", b"a=%20+%C3&&b=;%"),
    "second question mark": ("/?a?b", "/", "/", b"a?b"),
    "empty query": ("/?", "/", "/", b""),
}


@pytest.mark.parametrize(("sent", "path", "path_info", "query"), TARGETS.values(), ids=TARGETS.keys())
def test_target(bridge: Bridge, recorder: Recorder, sent: str, path: str, path_info: str, query: bytes) -> None:
    """ASGI and WSGI see the path percent-decoded exactly once, the raw path and the query as sent."""
    environs: list[dict[str, Any]] = []

    def wsgi(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environs.append(environ)
        start_response("200 OK", [])
        return []

    assert answer(bridge(event(path=sent))).status == 200
    scope = recorder.scope
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == (path, sent.split("?")[0].encode(), query)
    with serve(wsgi) as other:
        assert answer(other(event(path=sent))).status == 200
    assert (environs[0]["PATH_INFO"], environs[0]["QUERY_STRING"]) == (path_info, query.decode())


def test_asterisk(bridge: Bridge, recorder: Recorder) -> None:
    """``OPTIONS *`` is a legal request."""
    assert answer(bridge(event("OPTIONS", "*"))).status == 200
    assert (recorder.scope["method"], recorder.scope["raw_path"]) == ("OPTIONS", b"*")


ORIGINS = {
    # headers, host of the event: host header, server, scheme, client
    "nothing told": ({}, None, [], ("localhost", 443), "https", None),
    "host header": ({"host": "a.example"}, None, [b"a.example"], ("a.example", 443), "https", None),
    "host of the event": ({}, "a.example", [b"a.example"], ("a.example", 443), "https", None),
    "host header wins": ({"host": "a.example"}, "b.example", [b"a.example"], ("a.example", 443), "https", None),
    "port": ({"host": "a.example:8080"}, None, [b"a.example:8080"], ("a.example", 8080), "https", None),
    "IPv6": ({"host": "[::1]:81"}, None, [b"[::1]:81"], ("::1", 81), "https", None),
    "plain HTTP": (
        {"host": "a.example", "x-forwarded-proto": "http"}, None, [b"a.example"], ("a.example", 80), "http", None
    ),
    "first of the forwarded": (
        {"x-forwarded-for": "192.0.2.1, 10.0.0.1"}, None, [], ("localhost", 443), "https", "192.0.2.1"
    ),
    "real ip first": (
        {"x-forwarded-for": "192.0.2.1", "x-real-ip": "192.0.2.2"}, None, [], ("localhost", 443), "https", "192.0.2.2"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("headers", "host", "hosts", "server", "scheme", "client"), ORIGINS.values(), ids=ORIGINS)
def test_origin(
    bridge: Bridge,
    recorder: Recorder,
    headers: dict[str, str],
    host: str | None,
    hosts: list[bytes],
    server: tuple[str, int],
    scheme: str,
    client: str | None,
) -> None:
    """Host without its port, port as a number, scheme and one client address are read from host and headers."""
    assert answer(bridge(event(headers=headers, host=host))).status == 200
    scope = recorder.scope
    assert recorder.header(b"host") == hosts
    assert (tuple(scope["server"]), scope["scheme"]) == (server, scheme)
    assert (scope["client"] and scope["client"][0]) == client


@pytest.mark.parametrize("lengths", [["5"], ["5", "5"]], ids=["once", "twice the same"])
def test_content_length(bridge: Bridge, recorder: Recorder, lengths: list[str]) -> None:
    """A content-length that is the body's is fine, told once or twice."""
    assert answer(bridge(event("POST", headers={"content-length": lengths}, body="hello"))).status == 200
    assert recorder.body == b"hello"


RESPONSE_HEADERS: dict[str, tuple[list[tuple[bytes, bytes]], dict[str, list[str]]]] = {
    "one": ([(b"X-Name", b"one")], {"x-name": ["one"]}),
    "repeated": ([(b"x-name", b"one"), (b"x-name", b"two")], {"x-name": ["one", "two"]}),
    "cookies in two spellings": (
        [(b"Set-Cookie", b"a=1"), (b"x-name", b"one"), (b"set-cookie", b"b=2"), (b"SET-COOKIE", b"c=3")],
        {"set-cookie": ["a=1", "b=2", "c=3"], "x-name": ["one"]},
    ),
    "latin-1": ([(b"x-name", b"caf\xe9")], {"x-name": ["caf\xe9"]}),
    "empty": ([(b"x-name", b"")], {"x-name": [""]}),
    "no content-type is invented": ([], {}),
    **{
        f"hop-by-hop {name.decode()}": ([(name, b"x"), (b"x-name", b"one")], {"x-name": ["one"]})
        for name in (
            b"Connection", b"Keep-Alive", b"Proxy-Authenticate", b"Proxy-Authorization", b"Proxy-Connection", b"TE",
            b"Trailer", b"Transfer-Encoding", b"Upgrade",
        )
    },
}  # fmt: skip


@pytest.mark.parametrize(("sent", "expected"), RESPONSE_HEADERS.values(), ids=RESPONSE_HEADERS.keys())
def test_response_headers(
    bridge: Bridge, recorder: Recorder, sent: list[tuple[bytes, bytes]], expected: dict[str, list[str]]
) -> None:
    """Response headers are lists of values, merged without regard to case; those of one hop are left out."""
    recorder.headers = sent
    assert answer(bridge(event())).headers == expected


RESPONSE_BODIES = {
    "ASCII": (b"hello", {"body": "hello"}),
    "UTF-8": ("naïve ☃".encode(), {"body": "naïve ☃"}),
    "control characters": (b"\x00\x1b", {"body": "\x00\x1b"}),
    "binary": (b"\xff\xfe", {"body": "//4=", "encoding": "base64"}),
    "half a character": ("☃".encode()[:2], {"body": "4pg=", "encoding": "base64"}),
    "surrogate": (b"\xed\xa0\x80", {"body": "7aCA", "encoding": "base64"}),
    "empty": (b"", {"body": ""}),
}


@pytest.mark.parametrize(("sent", "expected"), RESPONSE_BODIES.values(), ids=RESPONSE_BODIES.keys())
def test_response_body(bridge: Bridge, recorder: Recorder, sent: bytes, expected: dict[str, str]) -> None:
    """A body is text where it is UTF-8, else base64, and ``encoding`` says which."""
    recorder.reply = sent
    result = bridge(event())
    assert {key: result[key] for key in ("body", "encoding") if key in result} == expected


def invoke(body: object) -> dict[str, object]:
    """Wrap what may be no Vercel payload at all."""
    return {"Action": "Invoke", "body": body}


NO_EVENTS: dict[str, object] = {
    "nothing": None,
    "number": 1,
    "text": "{}",
    "list": [],
    "no keys": {},
    "no body": {"Action": "Invoke"},
    "null body": invoke(None),
    "object as body": invoke({"method": "GET", "path": "/", "headers": {}}),
    "empty body": invoke(""),
    "no JSON": invoke("{"),
    "endless JSON": invoke("[" * 100_000),
    "endless number": invoke("9" * 10_000),
    "JSON list": invoke("[]"),
    "JSON null": invoke("null"),
    "no method": invoke('{"path": "/", "headers": {}}'),
    "no path": invoke('{"method": "GET", "headers": {}}'),
    "method is a number": invoke('{"method": 1, "path": "/", "headers": {}}'),
    "path is null": invoke('{"method": "GET", "path": null, "headers": {}}'),
    "headers are a list": invoke('{"method": "GET", "path": "/", "headers": ["a"]}'),
}


@pytest.mark.parametrize("given", NO_EVENTS.values(), ids=NO_EVENTS.keys())
def test_no_vercel_event(bridge: Bridge, recorder: Recorder, given: object) -> None:
    """What is no Vercel event is an `EventError` that says so, and the app is not called."""
    with pytest.raises(EventError, match="cannot read"):
        bridge(given)
    assert recorder.requests == 0


def test_event_error_keeps_secrets(bridge: Bridge) -> None:
    """An `EventError` tells the keys that it found and no values."""
    with pytest.raises(EventError, match="apikey") as raised:
        bridge({"apikey": "hunter2"})
    assert "hunter2" not in str(raised.value)


BROKEN: dict[str, dict[str, Any]] = {
    "base64 of other signs": {"body": "%%%%", "encoding": "base64"},
    "base64 too short": {"body": "a", "encoding": "base64"},
    "base64 without padding": {"body": "aGk", "encoding": "base64"},
    "base64 beyond ASCII": {"body": "é===", "encoding": "base64"},
    "unknown encoding": {"body": "x", "encoding": "gzip"},
    "body is a number": {"body": 5},
    "lone surrogate in the body": {"body": "\ud800"},
    "space in the path": {"path": "/a b"},
    "line end in the path": {"path": "/a\r\nx: y"},
    "NUL in the path": {"path": "/\x00"},
    "path beyond ASCII": {"path": "/é"},
    "path beyond latin-1": {"path": "/☃"},
    "fragment in the path": {"path": "/a#b"},
    "path without a slash": {"path": "a"},
    "no path": {"path": ""},
    "space in the query": {"path": "/?a b"},
    "space in the method": {"method": "GET /x"},
    "no method": {"method": ""},
    "space in a header name": {"headers": {"a b": "1"}},
    "colon in a header name": {"headers": {"a:b": "1"}},
    "line end in a header name": {"headers": {"a\n": "1"}},
    "header name beyond ASCII": {"headers": {"é": "1"}},
    "no header name": {"headers": {"": "1"}},
    "line end in a header value": {"headers": {"a": "1\r\nb: 2"}},
    "NUL in a header value": {"headers": {"a": "\x00"}},
    "line end in one value of a list": {"headers": {"a": ["1", "2\n"]}},
    "header value beyond latin-1": {"headers": {"a": "☃"}},
    "header value is a number": {"headers": {"a": 1}},
    "header value is a list of numbers": {"headers": {"a": [1]}},
    "host beyond latin-1": {"host": "☃.example"},
    "line end in the host": {"host": "a\r\nb: 2"},
    "two hosts": {"headers": {"host": ["a.example", "b.example"]}},
    "body longer than content-length": {"headers": {"content-length": "1"}, "body": "hello"},
    "body shorter than content-length": {"headers": {"content-length": "9"}, "body": "hello"},
    "content-length without a body": {"headers": {"content-length": "5"}},
    "content-length in characters, not bytes": {"headers": {"content-length": "1"}, "body": "é"},
    "two content-lengths": {"headers": {"content-length": ["5", "6"]}, "body": "hello"},
    "two content-lengths in two spellings": {
        "headers": {"content-length": "5", "Content-Length": "6"},
        "body": "hello",
    },
    "content-length with a sign": {"headers": {"content-length": "+5"}, "body": "hello"},
    "content-length with an underscore": {"headers": {"content-length": "0_5"}, "body": "hello"},
    "content-length below zero": {"headers": {"content-length": "-5"}, "body": "hello"},
    "content-length is a word": {"headers": {"content-length": "five"}, "body": "hello"},
    "content-length in other digits": {"headers": {"content-length": "\xb2"}, "body": "ab"},
    "endless content-length": {"headers": {"content-length": "9" * 10_000}, "body": "hello"},
}


@pytest.mark.parametrize("payload", BROKEN.values(), ids=BROKEN.keys())
def test_broken_request(bridge: Bridge, recorder: Recorder, payload: dict[str, Any]) -> None:
    """A broken request in a good event is a 400 with one line of plain text; the app never sees it."""
    refused = answer(bridge(event(**{"method": "POST", **payload})))
    assert refused.status == 400
    assert refused.headers["content-type"][0].startswith("text/plain")
    assert refused.body.isascii()
    assert b"\n" not in refused.body
    assert len(refused.body) > len("Bad Request: ")
    assert recorder.requests == 0


def test_good_after_broken(bridge: Bridge) -> None:
    """An event that was refused leaves nothing behind: the next one is answered."""
    assert answer(bridge(event(path="/a b"))).status == 400
    with pytest.raises(EventError):
        bridge({})
    assert answer(bridge(event())).status == 200


@pytest.fixture(scope="module")
def echo() -> Iterator[tuple[Bridge, Recorder]]:
    """A bridge for many examples: making one for each would take longer than the examples."""
    recorder = Recorder()
    with serve(recorder) as made:
        yield made, recorder


# Lone surrogates are legal in JSON and in nothing behind it.
ANY_TEXT = st.text(st.characters(), max_size=20)
ANY_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=8,
)
ANY_HEADERS = st.dictionaries(
    st.sampled_from(("content-length", "Content-Length", "host", "transfer-encoding", "x-forwarded-for")) | ANY_TEXT,
    ANY_JSON | st.lists(st.sampled_from(("", "0", "3", "chunked")), max_size=2),
    max_size=3,
)
NEARLY = st.fixed_dictionaries(
    {
        "method": st.sampled_from(("GET", "HEAD", "")) | ANY_JSON,
        "path": st.sampled_from(("/", "/?", "*")) | ANY_TEXT.map("/".__add__) | ANY_JSON,
        "headers": ANY_HEADERS | ANY_JSON,
    },
    optional={"body": ANY_JSON, "encoding": st.just("base64") | ANY_JSON, "host": ANY_JSON},
)
ANY_EVENT = ANY_JSON | st.builds(lambda payload: invoke(json.dumps(payload)), ANY_JSON | NEARLY) | ANY_TEXT.map(invoke)


@settings(deadline=None, max_examples=250)
@given(any_event=ANY_EVENT)
def test_any_event(echo: tuple[Bridge, Recorder], any_event: object) -> None:
    """Whatever the event, the bridge returns a response that can be JSON or raises an error of its own tree."""
    try:
        result = echo[0](any_event)
    except TracedBridgeError:
        return
    assert answer(result).status in (200, 400)


NAMES = st.text("!#$%&'*+-.^_`|~" + ascii_letters + digits, min_size=1, max_size=12)
VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_categories=["Cc"]), max_size=20)


@settings(deadline=None, max_examples=150)
@given(
    method=NAMES,
    path=st.text(max_size=20).map("/".__add__),
    query=st.text("!$%&'()*+,-./:;=?@_~" + ascii_letters + digits, max_size=20),
    headers=st.lists(st.tuples(NAMES.map("x-".__add__), VALUES.map(lambda text: text.strip(" \t"))), max_size=5),
    body=st.binary(max_size=50),
)
def test_round_trip(
    echo: tuple[Bridge, Recorder], method: str, path: str, query: str, headers: list[tuple[str, str]], body: bytes
) -> None:
    """The app sees the method, path, query, headers and body that the client sent, and the client the app's body."""
    bridge, recorder = echo
    recorder.reply = body
    lists: dict[str, list[str]] = {}
    for name, value in headers:
        lists.setdefault(name.lower(), []).append(value)
    raw_path = quote(path)
    asked = event(
        method,
        f"{raw_path}?{query}",
        headers=lists,
        body=base64.b64encode(body).decode("ascii"),
        encoding="base64",
    )
    given_back = answer(bridge(asked))
    scope = recorder.scope
    assert (scope["method"], scope["path"], scope["raw_path"]) == (method, path, raw_path.encode())
    assert scope["query_string"] == query.encode()
    seen = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
    assert seen == [(name.encode(), value.encode("latin-1")) for name, values in lists.items() for value in values]
    assert recorder.body == body
    assert given_back == (200, {}, b"" if method == "HEAD" else body)
