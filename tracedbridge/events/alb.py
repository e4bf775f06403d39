"""
Application Load Balancers with a Lambda function as target.

Source: AWS, "Use Lambda functions as targets of an Application Load Balancer"; live events.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tracedbridge.errors import EventError
from tracedbridge.events.aws import Told, context_of, encoded_body, object_of, request_of, text_of

if TYPE_CHECKING:
    from tracedbridge.messages import Event, Request, Response

__all__ = ("decode", "encode", "matches")

# Of a response's body, and of its headers and JSON with it.
_MOST_BYTES = 1_000_000


def matches(event: Event) -> bool:
    """Say whether the event is a load balancer's."""
    return isinstance(event, dict) and "elb" in context_of(event)


def decode(event: Event, context: object) -> Request:
    """
    Read an event.

    Args:
        event: With ``httpMethod``, ``path`` (encoded, perhaps empty), the query in ``multiValueQueryStringParameters``
            or ``queryStringParameters`` (as sent), ``multiValueHeaders`` or ``headers``, ``body``, ``isBase64Encoded``.
        context: The platform's, handed on as ``aws.context``.

    Raises:
        EventError: It lacks what makes it a request.
        BadRequestError: What it holds is no valid HTTP request.
    """
    method = text_of(event, "httpMethod")
    if not method:
        raise EventError("cannot read the load balancer's event: it needs a string 'httpMethod'")
    headers = object_of(event, "multiValueHeaders") or object_of(event, "headers")
    told = Told(
        method, text_of(event, "path") or "/", _query(event), headers, None, _client(headers), "HTTP/1.1", "localhost"
    )
    return request_of(told, event, context)


def encode(response: Response, event: Event) -> dict[str, Any]:
    """
    Write a response.

    Returns:
        ``statusCode``, ``statusDescription``; ``multiValueHeaders`` if the event had them, else ``headers``; ``body``,
        ``isBase64Encoded``.

    Raises:
        AppProtocolError: It is too large for the platform.
    """
    answer = {"statusCode": response.status, "statusDescription": _description(response.status)}
    if isinstance(event.get("multiValueHeaders"), dict):
        answer["multiValueHeaders"] = response.fields
    else:
        answer["headers"] = _single(response.fields)
    return {**answer, **encoded_body(response, _MOST_BYTES)}


def _query(event: dict[str, Any]) -> str:
    many = object_of(event, "multiValueQueryStringParameters") or {
        name: [value] for name, value in object_of(event, "queryStringParameters").items()
    }
    pairs = [
        f"{name}={value}"
        for name, values in many.items()
        for value in (values if isinstance(values, list) else [values])
    ]
    return "&".join(pairs)


def _client(headers: dict[str, Any]) -> str | None:
    """Return the last hop: the one that the load balancer itself has seen."""
    for name, values in headers.items():
        if name.lower() == "x-forwarded-for":
            last = values[-1] if isinstance(values, list) and values else values
            return str(last).rpartition(",")[2].strip() or None
    return None


def _single(fields: dict[str, list[str]]) -> dict[str, str]:
    headers = {name: ", ".join(values) for name, values in fields.items() if name != "set-cookie"}
    # One cookie a name, and names in another case are other names: cookies cannot be joined.
    for number, value in enumerate(fields.get("set-cookie", ())):
        letters = [letter.upper() if number >> place & 1 else letter for place, letter in enumerate("setcookie")]
        headers["".join(letters[:3]) + "-" + "".join(letters[3:])] = value
    return headers


def _description(status: int) -> str:
    from http import HTTPStatus

    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"{status} Unknown"
