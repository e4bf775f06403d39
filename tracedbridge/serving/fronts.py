"""Writes a request as the event that a platform's front makes of it, and reads the answer as that does."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ("FRONTS", "Dialect", "aws_answer", "aws_event", "vercel_answer", "vercel_event")

_CLIENT = "127.0.0.1"


def vercel_event(
    method: str, target: str, headers: Mapping[str, Sequence[str]], body: bytes | None, client: str = _CLIENT
) -> dict[str, str]:
    """
    Write the event that ``vc_handler`` gets on Vercel.

    Args:
        method: As sent.
        target: Path and query, percent-encoded.
        headers: Lower-case name → values in order. Those of Vercel's own proxy are added where they are missing:
            there, everything comes through it.
        body: None for a request without one.
        client: Who asks.
    """
    proxied = {"x-forwarded-proto": ["http"], "x-forwarded-for": [client], "x-real-ip": [client]}
    request: dict[str, Any] = {"method": method, "path": target}
    if body is not None:
        try:
            request["body"] = body.decode()
        except UnicodeDecodeError:
            request.update(body=base64.b64encode(body).decode(), encoding="base64")
    request["headers"] = {
        name: values[0] if len(values) == 1 else list(values) for name, values in {**proxied, **headers}.items()
    }
    return {"Action": "Invoke", "body": json.dumps(request)}


def vercel_answer(answer: Mapping[str, Any]) -> tuple[list[tuple[str, str]], bytes]:
    """Return headers and body of what ``vc_handler`` returned."""
    body = answer.get("body", "").encode()
    if answer.get("encoding") == "base64":
        body = base64.b64decode(body)
    return [(name, value) for name, values in answer["headers"].items() for value in values], body


# Of a body, what comes as text; all else is base64.
_TEXT = ("text/", "application/json", "application/xml", "application/javascript")


def aws_event(
    method: str, target: str, headers: Mapping[str, Sequence[str]], body: bytes | None, client: str = _CLIENT
) -> dict[str, Any]:
    """
    Write the event that a function gets from its Function URL on AWS, payload 2.0; arguments as of `vercel_event`.

    Source: AWS, "Invoking Lambda function URLs", "Request payload format".
    """
    path, _, query = target.partition("?")
    proxied = {"x-forwarded-proto": ["http"], "x-forwarded-for": [client]}
    told = {name: ",".join(values) for name, values in {**proxied, **headers}.items()}
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path or "/",
        "rawQueryString": query,
        "headers": told,
        "requestContext": {
            "accountId": "anonymous",
            "apiId": "dev",
            "domainName": "dev.lambda-url.local",
            "http": {
                "method": method, "path": unquote(path), "protocol": "HTTP/1.1", "sourceIp": client,
                "userAgent": told.get("user-agent", ""),
            },
            "routeKey": "$default",
            "stage": "$default",
        },
        "isBase64Encoded": False,
    }  # fmt: skip
    cookies = [each.strip() for value in headers.get("cookie", ()) for each in value.split(";") if each.strip()]
    if cookies:
        event["cookies"] = cookies
    if body:
        is_text = told.get("content-type", "").startswith(_TEXT)
        try:
            event["body"] = body.decode() if is_text else base64.b64encode(body).decode()
        except UnicodeDecodeError:
            event["body"], is_text = base64.b64encode(body).decode(), False
        event["isBase64Encoded"] = not is_text
    return event


def aws_answer(answer: Mapping[str, Any]) -> tuple[list[tuple[str, str]], bytes]:
    """Return headers and body of what a function returned for such an event."""
    headers = list(answer.get("headers", {}).items())
    headers += [("set-cookie", value) for value in answer.get("cookies", ())]
    body = answer.get("body", "").encode()
    return headers, base64.b64decode(body) if answer.get("isBase64Encoded") else body


class Dialect(NamedTuple):
    """How a platform's front speaks to a function."""

    write_event: Callable[[str, str, Mapping[str, Sequence[str]], bytes | None, str], Any]
    read_answer: Callable[[Mapping[str, Any]], tuple[list[tuple[str, str]], bytes]]


FRONTS = {"vercel": Dialect(vercel_event, vercel_answer), "aws": Dialect(aws_event, aws_answer)}
"""By platform."""
