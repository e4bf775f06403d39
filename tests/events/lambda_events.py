"""Events as AWS sends them, for any request; written from live ones (facts of July 2026)."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import parse_qsl, unquote

__all__ = ("ASKED", "KINDS", "Asked", "event_of")

KINDS = ("rest", "http 1.0", "http 2.0", "function url", "alb", "alb multi")
"""Who can ask a function over HTTP."""

ACCOUNT = "123456789012"


class Asked:
    """One request, as its client sent it."""

    def __init__(
        self,
        method: str = "GET",
        path: str = "/",
        query: str = "",
        headers: list[tuple[str, str]] | None = None,
        body: bytes = b"",
        *,
        stage: str = "",
        key: str = "",
    ) -> None:
        """
        Args:
            method: As sent.
            path: Percent-encoded, as the app has it: without stage and mapped key.
            query: Percent-encoded.
            headers: Beside Host.
            body: Whole.
            stage: Of the API, before the path; empty is ``$default``.
            key: What a custom domain maps to the API, before the path.
        """
        self.method, self.path, self.query, self.body = method, path, query, body
        self.own_headers = headers or []
        self.headers = [
            ("Host", "shop.example"), ("X-Forwarded-For", "198.51.100.1, 203.0.113.7"), *self.own_headers
        ]  # fmt: skip
        self.stage, self.key = stage, key

    @property
    def target(self) -> str:
        """Path and query, as sent."""
        return f"{self.path}?{self.query}" if self.query else self.path

    def __repr__(self) -> str:
        return f"Asked({vars(self)})"

    @property
    def mount(self) -> str:
        """What stands before the app's path."""
        return f"/{self.key or self.stage}" if self.key or self.stage else ""


_FORM = ("content-type", "application/x-www-form-urlencoded")
ASKED = {
    "plain": Asked(path="/items/7"),
    "root": Asked(),
    "space": Asked(path="/a%20b"),
    "percent": Asked(path="/100%25/x"),
    "encoded slash": Asked(path="/a%2Fb/c"),
    "unicode": Asked(path="/caf%C3%A9/%F0%9F%90%8D"),
    "plus": Asked(path="/a+b", query="c=d+e"),
    "repeated keys": Asked(query="a=1&a=2&b=3"),
    "encoded query": Asked(query="a=%26%3D%2B&caf%C3%A9=1"),
    "empty value": Asked(query="a=&b=1"),
    "cookies": Asked(headers=[("cookie", "a=1; b=2")]),
    "headers": Asked(headers=[("x-one", "1"), ("X-Mixed-Case", "Two")]),
    "repeated headers": Asked(headers=[("x-one", "1"), ("x-one", "2")]),
    "text": Asked("POST", headers=[("content-type", "text/plain")], body="caf\u00e9".encode()),
    "json": Asked("PUT", "/x", headers=[("content-type", "application/json")], body=b'{"a": 1}'),
    "form": Asked("POST", headers=[_FORM], body=b"a=1&b=x+y"),
    "empty form": Asked("POST", headers=[_FORM]),
    "binary": Asked("POST", headers=[("content-type", "application/octet-stream")], body=bytes(range(256))),
    "delete": Asked("DELETE", "/items/7"),
    "created": Asked("POST", query="created=1", headers=[("content-type", "text/plain")], body=b"x"),
}
"""Requests in which something goes wrong easily, by what that is."""


def event_of(kind: str, asked: Asked) -> dict[str, Any]:
    """Return the event of a kind for a request."""
    return {"rest": _v1, "http 1.0": _v1, "http 2.0": _v2, "function url": _v2, "alb": _alb, "alb multi": _alb}[kind](
        kind, asked
    )


def _v1(kind: str, asked: Asked) -> dict[str, Any]:
    pairs = parse_qsl(asked.query, keep_blank_values=True)
    many: dict[str, list[str]] = {}
    for name, value in pairs:
        many.setdefault(name, []).append(value)
    headers: dict[str, list[str]] = {}
    for name, value in asked.headers:
        headers.setdefault(name, []).append(value)
    # A mapped key is in the path, a stage is not.
    path = (f"/{asked.key}" if asked.key else "") + asked.path
    event = {
        "resource": "/{proxy+}" if asked.path != "/" else "/",
        "path": unquote(path) if kind == "http 1.0" else path,
        "httpMethod": asked.method,
        "headers": {name: values[-1] for name, values in headers.items()} or None,
        "multiValueHeaders": headers or None,
        "queryStringParameters": {name: values[-1] for name, values in many.items()} or None,
        "multiValueQueryStringParameters": many or None,
        "pathParameters": {"proxy": unquote(asked.path[1:])} if asked.path != "/" else None,
        "stageVariables": None,
        "requestContext": {
            "accountId": ACCOUNT,
            "apiId": "abc123",
            "domainName": "shop.example" if asked.key else "abc123.execute-api.eu-central-1.amazonaws.com",
            "httpMethod": asked.method,
            "identity": {"sourceIp": "203.0.113.7", "userAgent": "curl/8"},
            "path": f"/{asked.stage}{asked.path}" if asked.stage else path,
            "protocol": "HTTP/1.1",
            "stage": asked.stage or "$default",
        },
        **_body(asked),
    }
    return event | ({"version": "1.0"} if kind == "http 1.0" else {})


def _v2(kind: str, asked: Asked) -> dict[str, Any]:
    headers: dict[str, str] = {}
    cookies = []
    for name, value in asked.headers:
        lower = name.lower()
        if lower == "cookie":
            cookies += [each.strip() for each in value.split(";")]
            if kind != "function url":
                continue
        headers[lower] = f"{headers[lower]},{value}" if lower in headers else value
    path = asked.mount + asked.path
    is_url = kind == "function url"
    event = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path if is_url else unquote(path.replace("%25", "%2525")),
        "rawQueryString": asked.query,
        "headers": headers,
        "requestContext": {
            "accountId": ACCOUNT,
            "apiId": "abc123",
            "domainName": "abc123.lambda-url.eu-central-1.on.aws" if is_url else "abc123.execute-api.x.amazonaws.com",
            "http": {
                "method": asked.method,
                "path": unquote(path),
                "protocol": "HTTP/1.1",
                "sourceIp": "203.0.113.7",
                "userAgent": "curl/8",
            },
            "stage": asked.stage or "$default",
        },
        **_body(asked),
    }
    if asked.key and asked.path == "/":
        event |= {"routeKey": "ANY /"}
    elif asked.key:
        event |= {"routeKey": "ANY /{proxy+}", "pathParameters": {"proxy": unquote(asked.path[1:])}}
    if not asked.body:
        del event["body"]
    return event | ({"cookies": cookies} if cookies else {})


def _alb(kind: str, asked: Asked) -> dict[str, Any]:
    is_multi = kind == "alb multi"
    query: dict[str, Any] = {}
    for part in filter(None, asked.query.split("&")):
        name, _, value = part.partition("=")
        query[name] = [*query.get(name, []), value] if is_multi else value
    headers: dict[str, Any] = {}
    for name, value in asked.headers:
        lower = name.lower()
        headers[lower] = [*headers.get(lower, []), value] if is_multi else value
    names = (
        ("multiValueHeaders", "multiValueQueryStringParameters") if is_multi else ("headers", "queryStringParameters")
    )
    return {
        "requestContext": {"elb": {"targetGroupArn": "arn:aws:elasticloadbalancing:x:1:targetgroup/t/1"}},
        "httpMethod": asked.method,
        "path": "" if asked.path == "/" else asked.path,
        names[0]: headers,
        names[1]: query,
        **_body(asked),
        "body": _body(asked)["body"] or "",
    }


def _body(asked: Asked) -> dict[str, Any]:
    if not asked.body:
        return {"body": None, "isBase64Encoded": False}
    try:
        return {"body": asked.body.decode(), "isBase64Encoded": False}
    except UnicodeDecodeError:
        return {"body": base64.b64encode(asked.body).decode(), "isBase64Encoded": True}
