"""What a SERVER span says of a request: every method, no secret, headers only where somebody asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from tests.support import Receive, Scope, Send, event, no_lifespan, respond
from tests.telemetry.apps import Pairs, asgi_around
from tests.telemetry.received import Received
from tracedbridge import create_bridge
from tracedbridge.telemetry.otlp import Value

pytestmark = pytest.mark.telemetry

ASKED_REQUEST = "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST"
ASKED_RESPONSE = "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_RESPONSE"
SANITIZED = "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SANITIZE_FIELDS"


def ok(headers: Pairs) -> str:
    """Answer anything."""
    return "ok"


def attributes_of(received: Received, method: str = "GET", path: str = "/", **more: object) -> dict[str, Value]:
    """Return the attributes of the SERVER span of one invocation."""
    with create_bridge(asgi_around(ok)) as bridge:
        bridge(event(method, path, **more), None)
    return received.server().attributes


@pytest.mark.parametrize(
    "method", ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"]
)
def test_known_methods(method: str, received: Received) -> None:
    """The methods of the conventions are said as they are, and name the span."""
    attributes = attributes_of(received, method)
    assert attributes["http.request.method"] == method
    assert "http.request.method_original" not in attributes
    assert received.server().name == method


@pytest.mark.parametrize("method", ["BREW", "get", "Post", "PROPFIND"])
def test_unknown_methods(method: str, received: Received) -> None:
    """Any other method is ``_OTHER`` with the original beside it, and the span is named HTTP."""
    attributes = attributes_of(received, method)
    assert (attributes["http.request.method"], attributes["http.request.method_original"]) == ("_OTHER", method)
    assert received.server().name == "HTTP"


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        pytest.param("a=b&c", "a=b&c", id="nothing secret"),
        pytest.param("AWSAccessKeyId=S&x=1&Signature=S", "AWSAccessKeyId=REDACTED&x=1&Signature=REDACTED", id="S3"),
        pytest.param("sig=S%2B%3D&se=2026", "sig=REDACTED&se=2026", id="Azure"),
        pytest.param("X-Goog-Signature=S", "X-Goog-Signature=REDACTED", id="Google"),
        pytest.param(
            "X-Amz-Signature=S&X-Amz-Credential=S&X-Amz-Security-Token=S",
            "X-Amz-Signature=REDACTED&X-Amz-Credential=REDACTED&X-Amz-Security-Token=REDACTED",
            id="S3, version 4",
        ),
        pytest.param("sig=S&sig=S", "sig=REDACTED&sig=REDACTED", id="twice"),
        pytest.param("SIG=S", "SIG=REDACTED", id="in capitals"),
        pytest.param("sig=", "sig=REDACTED", id="empty"),
        pytest.param("design=a&sigma=b&mysig=c", "design=a&sigma=b&mysig=c", id="other words with it inside"),
        pytest.param("a=sig=b", "a=sig=b", id="in a value"),
        pytest.param("s%69g=S&%73ig=S", "s%69g=REDACTED&%73ig=REDACTED", id="percent-encoded key"),
        pytest.param("a=b;sig=S", "a=b;sig=REDACTED", id="after a semicolon"),
    ],
)
def test_query(query: str, shown: str, received: Received) -> None:
    """The query is shown verbatim, but for the values that make a signed URL a key."""
    assert attributes_of(received, path=f"/?{query}")["url.query"] == shown


@pytest.mark.parametrize("path", ["/", "/a%20b", "/%C3%A9", "//a", "/a;b=c"])
def test_path(path: str, received: Received) -> None:
    """The path is shown as it came, and without a query there is no attribute of one."""
    attributes = attributes_of(received, path=path)
    assert attributes["url.path"] == path
    assert "url.query" not in attributes


@pytest.mark.parametrize(
    ("headers", "host", "expected"),
    [
        pytest.param({"host": "a.example"}, None, ("https", "a.example", 443), id="host header"),
        pytest.param({"host": "a.example:99"}, None, ("https", "a.example", 99), id="with a port"),
        pytest.param({"host": "[::1]:99"}, None, ("https", "::1", 99), id="IPv6"),
        pytest.param({}, "b.example", ("https", "b.example", 443), id="host of the event"),
        pytest.param({"x-forwarded-proto": "http", "host": "a"}, None, ("http", "a", 80), id="plain HTTP"),
    ],
)
def test_server(headers: dict[str, str], host: str | None, expected: tuple[str, str, int], received: Received) -> None:
    """Scheme, address and port of the server are those that the client asked for."""
    attributes = attributes_of(received, headers=headers, **({"host": host} if host else {}))
    assert tuple(attributes[key] for key in ("url.scheme", "server.address", "server.port")) == expected


@pytest.mark.parametrize(
    ("headers", "client"),
    [
        pytest.param({"x-forwarded-for": "192.0.2.7"}, "192.0.2.7", id="one hop"),
        pytest.param({"x-forwarded-for": "192.0.2.7, 10.0.0.1"}, "192.0.2.7", id="the first hop"),
        pytest.param({"x-forwarded-for": "192.0.2.7", "x-real-ip": "192.0.2.8"}, "192.0.2.8", id="x-real-ip first"),
        pytest.param({"x-forwarded-for": "2001:db8::1"}, "2001:db8::1", id="IPv6"),
        pytest.param({}, None, id="unknown"),
        pytest.param({"x-forwarded-for": ""}, None, id="empty"),
    ],
)
def test_client(headers: dict[str, str], client: str | None, received: Received) -> None:
    """The client's address is said where it is known, and nothing made up where it is not."""
    assert attributes_of(received, headers=headers).get("client.address") == client


def test_no_headers_unless_asked(received: Received) -> None:
    """Without the capture variables there is no header value but the user agent's."""
    secret = {"authorization": "Bearer S3CRET", "cookie": "session=S3CRET", "x-api-key": "S3CRET", "x-custom": "S3CRET"}
    attributes = attributes_of(received, headers={"user-agent": "curl/8", **secret})
    assert attributes["user_agent.original"] == "curl/8"
    assert "S3CRET" not in str(attributes)
    assert not [key for key in attributes if key.startswith(("http.request.header", "http.response.header"))]


async def _answer(scope: Scope, receive: Receive, send: Send) -> None:
    no_lifespan(scope)
    headers = [(b"X-Shop", b"a"), (b"x-shop", b"b"), (b"Set-Cookie", b"session=S3CRET"), (b"X-Stock", b"3")]
    await respond(send, headers=headers)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        pytest.param(
            {ASKED_REQUEST: "X-Tenant,x-many"},
            {"http.request.header.x-tenant": ("acme",), "http.request.header.x-many": ("1", "2")},
            id="asked for, in any case",
        ),
        pytest.param(
            {ASKED_REQUEST: "x-t.*"}, {"http.request.header.x-tenant": ("acme",)}, id="asked for by a pattern"
        ),
        pytest.param(
            {ASKED_REQUEST: "x-tenant", SANITIZED: "TENANT"},
            {"http.request.header.x-tenant": ("[REDACTED]",)},
            id="sanitized",
        ),
        pytest.param(
            {ASKED_REQUEST: "authorization,cookie"},
            {
                "http.request.header.authorization": ("[REDACTED]",),
                "http.request.header.cookie": ("[REDACTED]",),
            },
            id="secrets never",
        ),
        pytest.param(
            {ASKED_RESPONSE: "x-shop,x-stock,set-cookie"},
            {
                "http.response.header.x-shop": ("a", "b"),
                "http.response.header.x-stock": ("3",),
                "http.response.header.set-cookie": ("[REDACTED]",),
            },
            id="of the response",
        ),
        pytest.param({ASKED_REQUEST: "x-absent"}, {}, id="absent"),
    ],
)
def test_captured_headers(
    settings: Mapping[str, str],
    expected: Mapping[str, Sequence[str]],
    received: Received,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The standard variables ask for headers; what may be a secret is never shown."""
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    headers: dict[str, Any] = {
        "X-Tenant": "acme", "x-many": ["1", "2"], "authorization": "Bearer S3CRET", "cookie": "a=S3CRET",
    }  # fmt: skip
    with create_bridge(_answer) as bridge:
        bridge(event(headers=headers), None)
    attributes = received.server().attributes
    assert {key: value for key, value in attributes.items() if ".header." in key} == expected
    assert "S3CRET" not in str(attributes)


def test_all_headers(received: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks for everything gets everything but secrets, on the span and nowhere else."""
    monkeypatch.setenv(ASKED_REQUEST, ".*")
    monkeypatch.setenv(ASKED_RESPONSE, ".*")
    secret = dict.fromkeys(("Authorization", "Proxy-Authorization", "Cookie", "X-Api-Key", "X-Auth-Token"), "S3CRET")
    with create_bridge(_answer) as bridge:
        bridge(event(headers={**secret, "accept": "text/html"}), None)
    attributes = received.server().attributes
    assert attributes["http.request.header.accept"] == ("text/html",)
    for records in (received.spans, received.metrics, received.logs):
        assert "S3CRET" not in str(records)
