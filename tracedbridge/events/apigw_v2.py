"""
Payload 2.0: API Gateway's HTTP APIs, and Lambda's Function URLs, which differ in two places.

Source: AWS, "Working with AWS Lambda proxy integrations for HTTP APIs", "Invoking Lambda function URLs"; live events.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tracedbridge.errors import EventError
from tracedbridge.events.aws import Told, context_of, encoded_body, escaped, mapped_key, object_of, request_of, text_of

if TYPE_CHECKING:
    from tracedbridge.messages import Event, Request, Response

__all__ = ("decode", "encode", "matches")


def matches(event: Event) -> bool:
    """Say whether the event is of version 2.0."""
    return isinstance(event, dict) and event.get("version") == "2.0" and "http" in context_of(event)


def decode(event: Event, context: object) -> Request:
    """
    Read an event.

    Args:
        event: With ``rawPath`` (decoded but for ``%25`` in an HTTP API, encoded in a Function URL; stages but
            ``$default`` are in it), ``rawQueryString`` (verbatim), ``headers`` (repeats joined by commas), ``cookies``,
            ``body`` and ``isBase64Encoded``.
        context: The platform's, handed on as ``aws.context``.

    Raises:
        EventError: It lacks what makes it a request.
        BadRequestError: What it holds is no valid HTTP request.
    """
    told = context_of(event)
    http = object_of(told, "http")
    method, path = text_of(http, "method"), text_of(event, "rawPath")
    if not method:
        raise EventError("cannot read the HTTP API event: its requestContext.http needs a string 'method'")
    if ".lambda-url." not in text_of(told, "domainName"):
        path = escaped(path)
    stage = text_of(told, "stage")
    # "ANY /{proxy+}"
    key = mapped_key(path, text_of(event, "routeKey").partition(" ")[2], object_of(event, "pathParameters"))
    cookies = event.get("cookies")
    listed = [each for each in cookies if isinstance(each, str)] if isinstance(cookies, list) else None
    return request_of(
        Told(
            method, path or "/", text_of(event, "rawQueryString"), object_of(event, "headers"), listed or None,
            text_of(http, "sourceIp"), text_of(http, "protocol"), text_of(told, "domainName"),
            ("" if stage in ("", "$default") else f"/{stage}", key),
        ),
        event,
        context,
    )  # fmt: skip


def encode(response: Response, event: Event) -> dict[str, Any]:
    """
    Write a response.

    Returns:
        ``statusCode``; ``headers``, lower-case name → values joined by commas; ``cookies``, each value of
        ``set-cookie``; ``body``, ``isBase64Encoded``.

    Raises:
        AppProtocolError: It is too large for the platform.
    """
    del event
    headers = {name: ", ".join(values) for name, values in response.fields.items() if name != "set-cookie"}
    if response.status not in (204, 304):
        # Without one, API Gateway says that it is JSON.
        headers.setdefault("content-type", "application/octet-stream")
    answer = {"statusCode": response.status, "headers": headers, **encoded_body(response)}
    if cookies := response.fields.get("set-cookie"):
        answer["cookies"] = cookies
    return answer
