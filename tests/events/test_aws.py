"""What an app sees of a request by each of AWS's ways to it, and what the client gets of its answer."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, NamedTuple
from wsgiref.validate import validator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.events.fuzz import bridges, check, seeds
from tests.events.lambda_events import KINDS, Asked, event_of
from tests.support import Receive, Scope, Send, no_lifespan, respond, serve
from tracedbridge import Bridge, EventError
from tracedbridge.events import FORMATS, format_of
from tracedbridge.messages import Response

Headers = list[tuple[bytes, bytes]]


class Seen(NamedTuple):
    """What an ASGI app saw."""

    scope: dict[str, Any]
    body: bytes

    def header(self, name: str) -> list[str]:
        """Return the values of a header."""
        return [value.decode() for each, value in self.scope["headers"] if each == name.encode()]


@pytest.fixture
def ask() -> Callable[[dict[str, Any]], Seen]:
    """Return what the app sees of an event."""

    def see(event: dict[str, Any], context: object = None) -> Seen:
        seen: list[Seen] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            no_lifespan(scope)
            seen.append(Seen(dict(scope), (await receive())["body"]))
            await respond(send)

        with serve(app, "asgi") as bridge:
            assert bridge(json.loads(json.dumps(event)), context)["statusCode"] == 200
        return seen[0]

    return see


def answered(event: dict[str, Any], response: Response) -> dict[str, Any]:
    """Return what the platform gets for a response, after a journey through JSON."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        no_lifespan(scope)
        raw = [(name.encode(), value.encode()) for name, value in response.headers]
        await respond(send, response.body, response.status, raw)

    with serve(app, "asgi") as bridge:
        told: dict[str, Any] = json.loads(json.dumps(bridge(event)))
    return told


# Requests.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("path", "decoded"),
    [
        ("/", "/"),
        ("/items/7", "/items/7"),
        ("/caf%C3%A9", "/caf\u00e9"),
        ("/a%20b", "/a b"),
        ("/100%25", "/100%"),
        ("/a+b", "/a+b"),
        ("/a;b=c,d", "/a;b=c,d"),
        ("/end/", "/end/"),
        ("//double//slash", "//double//slash"),
    ],
)
def test_path(kind: str, path: str, decoded: str, ask: Callable[..., Seen]) -> None:
    """The path is decoded once."""
    scope = ask(event_of(kind, Asked(path=path))).scope
    assert scope["path"] == decoded
    assert scope["root_path"] == ""
    assert scope["raw_path"].isascii()


@pytest.mark.parametrize("kind", ["rest", "function url", "alb", "alb multi"])
@pytest.mark.parametrize(("path", "decoded"), [("/a%2Fb", "/a/b"), ("/a%252Fb", "/a%2Fb"), ("/%E9", "/\ufffd")])
def test_path_that_comes_encoded(kind: str, path: str, decoded: str, ask: Callable[..., Seen]) -> None:
    """Where the event has the path as it was sent, so has the app."""
    scope = ask(event_of(kind, Asked(path=path))).scope
    assert scope["raw_path"] == path.encode()
    assert scope["path"] == decoded


@pytest.mark.parametrize("kind", ["http 2.0", "function url", "alb", "alb multi"])
@pytest.mark.parametrize("query", ["", "a=1", "a=1&a=2", "a=%20+%2B", "a", "a=&=b", "a=%C3%A9"])
def test_query(kind: str, query: str, ask: Callable[..., Seen]) -> None:
    """The query is as it was sent; an ALB that sends no lists has the last of several."""
    told = ask(event_of(kind, Asked(query=query))).scope["query_string"].decode()
    if kind.startswith("alb"):
        query = {"a=1&a=2": "a=2" if kind == "alb" else query, "a": "a="}.get(query, query)
    assert told == query


@pytest.mark.parametrize("kind", ["rest", "http 1.0"])
@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("a=1&b=2&a=3", "a=1&a=3&b=2"),
        ("a=b+c", "a=b%20c"),
        ("a=%26%3D%2B", "a=%26%3D%2B"),
        ("%26=1", "%26=1"),
        ("a=caf%C3%A9", "a=caf%C3%A9"),
        ("a=", "a="),
    ],
)
def test_query_that_comes_decoded(kind: str, query: str, told: str, ask: Callable[..., Seen]) -> None:
    """It is encoded again, so that the app reads what was sent."""
    assert ask(event_of(kind, Asked(query=query))).scope["query_string"].decode() == told


@pytest.mark.parametrize("kind", KINDS)
def test_headers(kind: str, ask: Callable[..., Seen]) -> None:
    """Names are lower-case; what says how long the body is, is right; cookies are one header."""
    headers = [("X-Case", "A"), ("Cookie", "a=1; b=2"), ("Content-Type", "text/plain")]
    seen = ask(event_of(kind, Asked("POST", headers=headers, body=b"caf\xc3\xa9")))
    assert seen.body == b"caf\xc3\xa9"
    assert seen.header("x-case") == ["A"]
    assert seen.header("cookie") == ["a=1; b=2"]
    assert seen.header("content-length") == ["5"]
    assert seen.header("content-type") == ["text/plain"]
    assert seen.scope["server"] == ("shop.example", 443)
    assert seen.scope["client"] == ("203.0.113.7", 0)
    assert seen.scope["scheme"] == "https"


@pytest.mark.parametrize("kind", ["rest", "http 1.0", "alb multi"])
def test_repeated_headers(kind: str, ask: Callable[..., Seen]) -> None:
    """Where the event has lists, the app has each value; cookies are joined as their RFC has it."""
    headers = [("X-Many", "1"), ("X-Many", "2"), ("Cookie", "a=1"), ("Cookie", "b=2")]
    seen = ask(event_of(kind, Asked(headers=headers)))
    assert seen.header("x-many") == ["1", "2"]
    assert seen.header("cookie") == ["a=1; b=2"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("body", [b"", b"text", bytes(range(256)), b'{"a": 1}'])
def test_body(kind: str, body: bytes, ask: Callable[..., Seen]) -> None:
    """The body is what was sent, text or not."""
    assert ask(event_of(kind, Asked("POST", body=body))).body == body


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("headers", [[], [("X-Forwarded-Proto", "http"), ("Host", "[::1]:8080")]])
def test_origin(kind: str, headers: list[tuple[str, str]], ask: Callable[..., Seen]) -> None:
    """Scheme, host and port are what the headers say, an IPv6 address without its brackets."""
    asked = Asked(headers=headers)
    if headers:
        asked.headers = headers
    scope = ask(event_of(kind, asked)).scope
    assert (scope["scheme"], scope["server"]) == (
        ("http", ("::1", 8080)) if headers else ("https", ("shop.example", 443))
    )


@pytest.mark.parametrize(
    ("kind", "asked", "path", "root"),
    [
        ("rest", Asked(path="/items/7", stage="prod"), "/prod/items/7", "/prod"),
        ("rest", Asked(path="/", stage="prod"), "/prod/", "/prod"),
        ("rest", Asked(path="/prod/x", stage="prod"), "/prod/prod/x", "/prod"),
        ("rest", Asked(path="/items/7", key="v1"), "/v1/items/7", "/v1"),
        ("http 2.0", Asked(path="/items/7", stage="prod"), "/prod/items/7", "/prod"),
        ("http 2.0", Asked(path="/items/7", key="v1"), "/v1/items/7", "/v1"),
    ],
)
def test_mount(kind: str, asked: Asked, path: str, root: str, ask: Callable[..., Seen]) -> None:
    """A stage, or the key of a custom domain, is where the app is mounted."""
    scope = ask(event_of(kind, asked)).scope
    assert (scope["path"], scope["root_path"]) == (path, root)


@pytest.mark.parametrize(("base", "path", "root"), [("/api", "/api/x", "/api"), ("api/", "/api", "/api")])
@pytest.mark.parametrize("kind", KINDS)
def test_base_path(
    kind: str, base: str, path: str, root: str, ask: Callable[..., Seen], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``TRACEDBRIDGE_BASE_PATH`` says it where the event does not; it ends where a segment does."""
    monkeypatch.setattr("tracedbridge.events.aws._base_path", lambda: f"/{base.strip('/')}")
    assert ask(event_of(kind, Asked(path=path))).scope["root_path"] == root
    assert ask(event_of(kind, Asked(path="/apiary"))).scope["root_path"] == ""


@pytest.mark.parametrize("kind", KINDS)
def test_event_and_context(kind: str, ask: Callable[..., Any]) -> None:
    """Both are in the scope under the names that Mangum gave them."""
    event, context = event_of(kind, Asked()), object()
    scope = ask(event, context).scope
    assert scope["aws.event"] == event
    assert scope["aws.context"] is context


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("asked", [Asked(path="/a b%2F", query="a=1"), Asked("POST", "/x", body=b"x", stage="prod")])
def test_wsgi(kind: str, asked: Asked) -> None:
    """The environ is one of PEP 3333, as its validator sees it; a stage is SCRIPT_NAME."""
    asked.path = asked.path.replace(" ", "%20")
    seen: list[dict[str, Any]] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append(dict(environ))
        start_response("200 OK", [("content-type", "text/plain")])
        return [environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))]

    with serve(validator(app), "wsgi") as bridge:
        bridge(event_of(kind, asked))
    (environ,) = seen
    has_stage = bool(asked.stage) and kind in ("rest", "http 1.0", "http 2.0", "function url")
    assert environ["SCRIPT_NAME"] == ("/prod" if has_stage else "")
    assert environ["PATH_INFO"] == ("/x" if asked.body else "/a b/")
    assert environ["aws.event"]


# Answers.


def body_of(told: dict[str, Any]) -> bytes:
    """Return the body that the client gets."""
    return base64.b64decode(told["body"]) if told["isBase64Encoded"] else told["body"].encode()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("content_type", "body", "is_text"),
    [
        ("text/html; charset=utf-8", "caf\u00e9".encode(), True),
        ("application/json", b"{}", True),
        ("application/problem+json", b"{}", True),
        ("image/svg+xml", b"<svg/>", True),
        ("application/xml", b"<a/>", True),
        ("text/plain", b"\xff", False),
        ("image/png", b"png", False),
        ("application/octet-stream", b"text", False),
    ],
)
def test_answer_body(kind: str, content_type: str, body: bytes, is_text: bool) -> None:
    """Text of a text type is text, all else is base64."""
    told = answered(event_of(kind, Asked()), Response(200, [("content-type", content_type)], body))
    assert told["isBase64Encoded"] is not is_text
    assert body_of(told) == body


@pytest.mark.parametrize("kind", KINDS)
def test_compressed(kind: str) -> None:
    """What is compressed is base64, whatever its type says."""
    headers = [("content-type", "text/plain"), ("content-encoding", "br")]
    told = answered(event_of(kind, Asked()), Response(200, headers, b"abc"))
    assert told["isBase64Encoded"] is True


@pytest.mark.parametrize("kind", KINDS)
def test_answer_headers(kind: str) -> None:
    """Repeated headers arrive, each cookie by itself."""
    headers = [
        ("content-type", "text/plain"),
        ("vary", "a"),
        ("vary", "b"),
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
    ]
    told = answered(event_of(kind, Asked()), Response(201, headers, b"ok"))
    assert told["statusCode"] == 201
    if "multiValueHeaders" in told:
        assert told["multiValueHeaders"]["set-cookie"] == ["a=1", "b=2"]
        assert told["multiValueHeaders"]["vary"] == ["a", "b"]
    else:
        assert told["headers"]["vary"] == "a, b"
        cookies = told.get("cookies") or [
            value for name, value in told["headers"].items() if name.lower() == "set-cookie"
        ]
        assert cookies == ["a=1", "b=2"]
    assert ("multiValueHeaders" in told) == (kind in ("rest", "http 1.0", "alb multi"))
    assert ("statusDescription" in told) == kind.startswith("alb")


@pytest.mark.parametrize("status", [200, 404, 299])
def test_description(status: int) -> None:
    """A load balancer gets the status with its name."""
    told = answered(event_of("alb", Asked()), Response(status, [], b""))
    assert told["statusDescription"] == {200: "200 OK", 404: "404 Not Found", 299: "299 Unknown"}[status]


@pytest.mark.parametrize("status", [200, 204, 304])
def test_a_type_for_every_body(status: int) -> None:
    """An HTTP API would call an answer without a type JSON; 204 and 304 have none."""
    told = answered(event_of("http 2.0", Asked()), Response(status, [], b""))
    assert ("content-type" in told["headers"]) == (status == 200)


@pytest.mark.parametrize(
    ("kind", "size", "status"), [("alb", 1_000_001, 500), ("rest", 6_291_557, 500), ("rest", 6_000_000, 200)]
)
def test_too_large(kind: str, size: int, status: int) -> None:
    """An answer that the platform would not pass on is a 500 that says so in the telemetry."""
    told = answered(event_of(kind, Asked()), Response(200, [("content-type", "text/plain")], b"x" * size))
    assert told["statusCode"] == status


def test_more_text_types(monkeypatch: pytest.MonkeyPatch) -> None:
    """``TRACEDBRIDGE_TEXT_TYPES`` names more of them."""
    from tracedbridge.events import aws

    monkeypatch.setenv("TRACEDBRIDGE_TEXT_TYPES", "application/x-ndjson, model/*")
    aws._more_text_types.cache_clear()
    for kind, is_text in (("application/x-ndjson", True), ("model/obj", True), ("image/png", False)):
        told = answered(event_of("rest", Asked()), Response(200, [("content-type", kind)], b"x"))
        assert told["isBase64Encoded"] is not is_text
    aws._more_text_types.cache_clear()


# Which one it is.

VERCEL = {"Action": "Invoke", "body": '{"method": "GET", "path": "/", "headers": {}}'}


@pytest.mark.parametrize("kind", [*KINDS, "vercel"])
def test_each_event_is_of_one_format(kind: str) -> None:
    """No event is taken by two."""
    event = VERCEL if kind == "vercel" else event_of(kind, Asked("POST", body=b"x"))
    assert sum(import_module(each).matches(event) for each in FORMATS) == 1


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"requestContext": {"connectionId": "x", "eventType": "MESSAGE"}, "body": "hi"}, "WebSocket"),
        ({"Records": [{"cf": {"request": {}}}]}, r"Lambda@Edge.*Function URL"),
        ({"Records": [{"eventSource": "aws:sqs"}]}, "on_event"),
        ({"source": "aws.events"}, "on_event"),
        ({"requestContext": {"elb": {}}}, "httpMethod"),
        ({"version": "2.0", "requestContext": {"http": {}}}, "method"),
        ({"resource": "/", "httpMethod": "GET"}, "path"),
    ],
)
def test_no_request(event: dict[str, Any], message: str) -> None:
    """What is no HTTP request is refused by its name, and the message says what to use."""
    with serve(lambda environ, start_response: [], "wsgi") as bridge, pytest.raises(EventError, match=message):
        bridge(event)


@pytest.mark.parametrize("value", [{"a": 1}, None, 7, [7], [["a"]], [None]])
@pytest.mark.parametrize("kind", KINDS)
def test_a_header_that_is_no_text(kind: str, value: Any) -> None:
    """It is a broken request, however few others there are."""
    event = event_of(kind, Asked())
    event["multiValueHeaders" if event.get("multiValueHeaders") else "headers"]["x-odd"] = value
    with serve(lambda environ, start_response: start_response("200 OK", []) and [], "wsgi") as bridge:
        assert bridge(event)["statusCode"] == 400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), kind=st.sampled_from(KINDS))
def test_any_json(data: st.DataObject, kind: str) -> None:
    """An event that is bent anywhere gives an answer or a named error."""
    event = event_of(kind, Asked("POST", "/x", "a=1", body=b"x"))
    for _ in range(data.draw(st.integers(1, 3))):
        place: Any = event
        while True:
            key = data.draw(st.sampled_from(sorted(place)))
            if isinstance(place[key], dict) and place[key] and data.draw(st.booleans()):
                place = place[key]
                continue
            place[key] = data.draw(JSON)
            break
    with serve(lambda environ, start_response: start_response("200 OK", []) and [], "wsgi") as bridge:
        try:
            told = bridge(event)
        except EventError:
            return
        assert json.loads(json.dumps(told))["statusCode"] in (200, 400, 500)


@pytest.fixture(scope="module", name="both")
def bridges_of_both_kinds() -> Iterator[tuple[Bridge, ...]]:
    """An ASGI and a WSGI app's."""
    both = bridges()
    yield both
    for bridge in both:
        bridge.close()


@pytest.mark.parametrize("event", seeds())
def test_what_a_fuzzer_has_kept(event: Any, both: tuple[Bridge, ...]) -> None:
    """An hour of `tests.events.fuzz`: no event leads to anything but an answer or a named error."""
    check(event, both)


def test_the_order_does_not_matter() -> None:
    """The format is found by the event alone."""
    for kind in KINDS:
        assert format_of(event_of(kind, Asked())).__name__.rpartition(".")[2] == {  # type: ignore[attr-defined]
            "rest": "apigw_v1", "http 1.0": "apigw_v1", "http 2.0": "apigw_v2", "function url": "apigw_v2",
            "alb": "alb", "alb multi": "alb",
        }[kind]  # fmt: skip
