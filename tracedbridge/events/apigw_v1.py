"""
Payload 1.0: API Gateway's REST APIs, and its HTTP APIs where they are told to send it.

Source: AWS, "Input format of a Lambda function for proxy integration in API Gateway"; live events.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tracedbridge.errors import EventError
from tracedbridge.events.aws import (
    PATH_SAFE,
    Told,
    context_of,
    encoded_body,
    escaped,
    mapped_key,
    object_of,
    request_of,
    text_of,
)

if TYPE_CHECKING:
    from tracedbridge.messages import Event, Request, Response

__all__ = ("decode", "encode", "matches")


def matches(event: Event) -> bool:
    """Say whether the event is a REST API's, or an HTTP API's of version 1.0."""
    if not isinstance(event, dict) or "httpMethod" not in event or "elb" in context_of(event):
        return False
    return event.get("version") == "1.0" or ("resource" in event and "version" not in event)


def decode(event: Event, context: object) -> Request:
    """
    Read an event.

    Args:
        event: With ``httpMethod``, ``path`` (encoded in a REST API, decoded in an HTTP API; without the stage),
            ``multiValueQueryStringParameters`` (decoded), ``multiValueHeaders``, ``body`` and ``isBase64Encoded``.
        context: The platform's, handed on as ``aws.context``.

    Raises:
        EventError: It lacks what makes it a request.
        BadRequestError: What it holds is no valid HTTP request.
    """
    method, path = text_of(event, "httpMethod"), text_of(event, "path")
    if not method or not path:
        raise EventError("cannot read the API Gateway event: it needs strings 'httpMethod' and 'path'")
    told = context_of(event)
    is_encoded = event.get("version") != "1.0"
    if not is_encoded:
        path = escaped(path, PATH_SAFE)
    stage = f"/{text_of(told, 'stage')}" if _is_without_stage(told, path) else ""
    key = mapped_key(path, text_of(event, "resource"), object_of(event, "pathParameters"))
    headers = object_of(event, "multiValueHeaders") or object_of(event, "headers")
    identity = object_of(told, "identity")
    return request_of(
        Told(
            method, stage + path, _query(event), headers, None, text_of(identity, "sourceIp"),
            text_of(told, "protocol"), text_of(told, "domainName"), (stage, key),
        ),
        event,
        context,
    )  # fmt: skip


def encode(response: Response, event: Event) -> dict[str, Any]:
    """
    Write a response.

    Returns:
        ``statusCode``; ``multiValueHeaders``, lower-case name → list of values; ``body``, ``isBase64Encoded``.

    Raises:
        AppProtocolError: It is too large for the platform.
    """
    del event
    return {"statusCode": response.status, "multiValueHeaders": response.fields, **encoded_body(response)}


def _is_without_stage(told: dict[str, Any], path: str) -> bool:
    """Say whether the client's path had the stage before what the event calls its path."""
    whole, stage, rest = text_of(told, "path"), text_of(told, "stage"), path
    if "%" in whole or "%" in rest:
        # One of them may be encoded where the other is not.
        from urllib.parse import unquote

        whole, rest = unquote(whole), unquote(rest)
    return bool(stage) and whole != rest and whole in (f"/{stage}{rest}", f"/{stage}{rest}".rstrip("/"))


def _query(event: dict[str, Any]) -> str:
    many = object_of(event, "multiValueQueryStringParameters") or {
        name: [value] for name, value in object_of(event, "queryStringParameters").items()
    }
    pairs: list[str] = []
    for name, values in many.items():
        for value in values if isinstance(values, list) else [values]:
            if not isinstance(value, str):
                raise EventError("cannot read the API Gateway event: a query parameter is no string")
            pairs.append(f"{escaped(name, '')}={escaped(value, '')}")
    return "&".join(pairs)
