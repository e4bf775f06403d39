"""
Vercel's invoke event: a JSON text that holds one HTTP request.

Source: checked against vercel-runtime 0.24.1, ``vc_init.py``, ``vc_handler``.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from tracedbridge.errors import BadRequestError, EventError
from tracedbridge.events.checks import (
    METHODS,
    body_from_base64,
    check_length,
    checked_headers,
    checked_value,
    first_of_each,
    is_target,
    origin_of,
    quoted,
    trimmed,
)
from tracedbridge.headers import is_token, layout_of
from tracedbridge.messages import Request

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracedbridge.headers import Layout
    from tracedbridge.messages import Event, Headers, Response

__all__ = ("decode", "encode", "matches")

# What json.loads() comes down to; it also looks for options, and for white space around the text.
_scan: Callable[[str, int], tuple[Any, int]] = getattr(json.JSONDecoder(), "scan_once")  # noqa: B009 - typeshed lacks it

# Headers that tell of the request itself.
_TELLING = ("host", "x-forwarded-proto", "x-real-ip", "x-forwarded-for", "content-length")


def matches(event: Event) -> bool:
    """Say whether the event is Vercel's: a JSON text as body, and none of AWS's request context."""
    return isinstance(event, dict) and isinstance(event.get("body"), str) and "requestContext" not in event


def decode(event: Event, context: object) -> Request:
    """
    Read a Vercel event.

    Args:
        event: ``{"Action": "Invoke", "body": text}``; the text is JSON with ``method``, ``path`` (percent-encoded,
            with the query) and ``headers`` (name → string or list of strings), and perhaps ``host``, ``body`` and
            ``encoding`` (``"base64"``).
        context: Unused.

    Returns:
        Header names lower-case, in order, repeats kept. A body without ``content-length`` and
        ``transfer-encoding`` gets the former, as from an HTTP client.

    Raises:
        EventError: The body is not JSON, or lacks what makes it a request.
        BadRequestError: What it holds is no valid HTTP request.

    Source: vercel-runtime 0.24.1.
    """
    del context
    payload, method, target, given = _payload(event)
    if method not in METHODS and not is_token(method):
        raise BadRequestError(f"the method {quoted(method)} is no token")
    if not is_target(target):
        raise BadRequestError(f"the path {quoted(target)} has characters that must be percent-encoded")
    path, _, query = target.partition("?")
    text: str = event["body"]
    body = b"" if payload.get("body") is None else _body(payload)
    headers: Headers | None = None
    layout: Layout | None = None
    values: list[str] | None = None
    # JSON writes control characters as escapes only. Looking at the whole text once is cheaper than at each value.
    if not body and "\\" not in text and text.isascii() and "\x7f" not in text:
        # Nearly all events have the names of another one, each once, and plain strings: then they are left as they are.
        layout = layout_of(tuple(given))
        if layout is not None:
            given, values = trimmed(given)
    if layout is not None and values is not None and "host" in layout.places:
        told: dict[str, str] = given
        names = layout.telling or _telling(layout, given)
    else:
        layout = values = None
        headers, told = _listed_headers(payload, given)
        names = _TELLING
    host_name, proto_name, client_name, forwarded_name, length_name = names
    if body or length_name in told:
        check_length(headers, told.get(length_name), told, body)
    scheme, host, port = origin_of(told.get(host_name), told.get(proto_name))
    client = told.get(client_name) or told.get(forwarded_name) or None
    if client is not None and "," in client:
        client = client.partition(",")[0].strip() or None
    return Request(method, path, query, headers, body, scheme, host, port, client, "1.1", layout, values)


def encode(response: Response, event: Event) -> dict[str, Any]:
    """
    Write a response as Vercel wants it.

    Args:
        response: As `tracedbridge.answers.checked` gives it.
        event: Unused.

    Returns:
        ``statusCode``; ``headers``, lower-case name → list of values; ``body``, as text where it is UTF-8, else as
        base64 with ``encoding``.
    """
    del event
    try:
        return {"statusCode": response.status, "headers": response.fields, "body": response.body.decode()}
    except UnicodeDecodeError:
        body = base64.b64encode(response.body).decode("ascii")
        return {"statusCode": response.status, "headers": response.fields, "body": body, "encoding": "base64"}


def _payload(event: Event) -> tuple[dict[str, Any], str, str, dict[str, Any]]:
    """Return what the event's JSON text holds; its method, path and headers once more."""
    text = event["body"]
    try:
        payload, end = _scan(text, 0)
        if end != len(text):
            payload = json.loads(text)
    except StopIteration:
        raise EventError("cannot read the Vercel event: its body is not JSON") from None
    except (ValueError, RecursionError) as error:
        raise EventError(f"cannot read the Vercel event: its body is not JSON: {error}") from None
    if type(payload) is not dict:
        raise EventError(f"cannot read the Vercel event: its body is a JSON {type(payload).__name__}, not an object")
    method, path, headers = payload.get("method"), payload.get("path"), payload.get("headers") or {}
    if type(method) is not str or type(path) is not str:
        raise EventError(
            f"cannot read the Vercel event: its body needs strings 'method' and 'path' (found: {_keys(payload)})"
        )
    if type(headers) is not dict:
        raise EventError("cannot read the Vercel event: 'headers' in its body is not an object")
    return payload, method, path, headers


def _keys(payload: dict[str, Any]) -> str:
    return ", ".join(sorted(payload)[:20]) or "nothing"


def _telling(layout: Layout, given: dict[str, Any]) -> tuple[str, ...]:
    """Return how the names of `_TELLING` are written here, and what is no header name for the others."""
    written = dict(zip(layout.names, given, strict=True))
    layout.telling = tuple(written.get(name, "") for name in _TELLING)
    return layout.telling


def _listed_headers(payload: dict[str, Any], given: dict[str, Any]) -> tuple[Headers, dict[str, str]]:
    """Return all headers, and the first of each name, whatever they are like."""
    headers = checked_headers(given)
    told = first_of_each(headers)
    if "host" not in told and isinstance(host := payload.get("host"), str) and host:
        told["host"] = checked_value("host", host)
        headers.insert(0, ("host", told["host"]))
    return headers, told


def _body(payload: dict[str, Any]) -> bytes:
    body = payload.get("body")
    if body == "":
        return b""
    if not isinstance(body, str):
        raise BadRequestError("the body is not a string")
    encoding = payload.get("encoding")
    if encoding == "base64":
        return body_from_base64(body)
    if encoding not in (None, ""):
        raise BadRequestError("the encoding of the body is not base64")
    try:
        return body.encode()
    except UnicodeEncodeError:
        raise BadRequestError("the body has lone surrogates") from None
