"""
What the events of API Gateway, Function URLs and load balancers truly share: one request of HTTP to a Lambda function.

Source: AWS, "AWS Lambda proxy integrations" for HTTP and for REST APIs, "Lambda functions as targets"; live events
where these say nothing.
"""

from __future__ import annotations

import base64
import os
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from tracedbridge.errors import AppProtocolError, BadRequestError, EventError
from tracedbridge.events.checks import (
    body_from_base64,
    checked_headers,
    checked_method,
    first_of_each,
    is_target,
    origin_of,
    quoted,
    trimmed,
)
from tracedbridge.headers import layout_of
from tracedbridge.messages import Request

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tracedbridge.headers import Layout
    from tracedbridge.messages import Event, Headers, Response

__all__ = (
    "PATH_SAFE", "Told", "context_of", "encoded_body", "escaped", "mapped_key", "object_of", "request_of", "text_of",
)  # fmt: skip

# Of a response, as JSON.
_LAMBDA_MOST_BYTES = 6_291_556

PATH_SAFE = "/:@!$&'()*+,;=~-._"
"""What may stand in a path as it is, beside letters and digits; RFC 3986, 3.3."""

_QUERY_SAFE = PATH_SAFE + "?"

# RFC 3986, 2.3.
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_UNRESERVED_OR_SLASH = _UNRESERVED | {"/"}

_TEXT_TYPES = frozenset(("application/json", "application/xml", "application/javascript", "image/svg+xml"))

# They speak of the connection to the edge: the body is whole here, and as long as it is.
_OF_THE_EDGE = frozenset(("content-length", "transfer-encoding"))


class Told(NamedTuple):
    """What a format reads out of an event."""

    method: str
    # Percent-encoded, whole; illegal characters are encoded by `request_of`.
    path: str
    query: str
    # Name → string or list of strings.
    headers: dict[str, Any]
    cookies: Sequence[str] | None
    client: str | None
    protocol: str
    # If there is no Host.
    domain: str
    # What may be the part of the path that is not the app's, the likeliest first; empty ones are none.
    mounts: tuple[str, ...] = ()


def context_of(event: Event) -> dict[str, Any]:
    """Return an event's ``requestContext``; empty if it has none."""
    return object_of(event, "requestContext") if isinstance(event, dict) else {}


def object_of(parent: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return an object in an object; empty if there is none."""
    value = parent.get(key)
    return value if isinstance(value, dict) else {}


def text_of(parent: Mapping[str, Any], key: str) -> str:
    """Return a text in an object; empty if there is none."""
    value = parent.get(key)
    return value if isinstance(value, str) else ""


def request_of(told: Told, event: Event, context: object) -> Request:
    """
    Return the request that an event tells of.

    Raises:
        BadRequestError: It is no valid HTTP request.
        EventError: The event's body is none.
    """
    method = checked_method(told.method)
    path = told.path if is_target(told.path) else escaped(told.path)
    if path[:1] != "/":
        raise BadRequestError(f"the path {quoted(told.path)} does not begin with a slash")
    query = told.query
    if not (query.isascii() and query.isprintable() and " " not in query and "#" not in query):
        query = escaped(query, _QUERY_SAFE + "%")
    body = _body_of(event)
    version = "1.0" if told.protocol == "HTTP/1.0" else "1.1"
    layout, values = _laid_out(told, body)
    if layout is not None and values is not None:
        headers = None
        places = layout.places
        proto = values[places["x-forwarded-proto"]] if "x-forwarded-proto" in places else None
        scheme, host, port = origin_of(values[places["host"]] or told.domain, proto)
    else:
        headers, layout, values = _headers(told, body), None, None
        first = first_of_each(headers)
        scheme, host, port = origin_of(first.get("host") or told.domain, first.get("x-forwarded-proto"))
    request = Request(
        method, path, query, headers, body, scheme, host, port, told.client or None, version, layout, values
    )
    mounts = [mount for mount in (_base_path(), *told.mounts) if mount]
    if mounts:
        request.mount = _mount_of(path, mounts)
    request.extras = {"aws.event": event, "aws.context": context}
    return request


def escaped(text: str, safe: str = PATH_SAFE + "%") -> str:
    """
    Return a part of a URL with each character percent-encoded that is not ``safe``.

    Raises:
        BadRequestError: No client can have sent it.
    """
    if (_UNRESERVED_OR_SLASH if "/" in safe else _UNRESERVED).issuperset(text):
        # Nearly always; and a quoter takes as long as much else that is done here.
        return text
    # Only here: few first requests need it, and the import takes two milliseconds.
    from urllib.parse import quote

    try:
        return quote(text, safe=safe)
    except UnicodeEncodeError:
        raise BadRequestError(f"the address has lone surrogates: {quoted(text)}") from None


def _body_of(event: Mapping[str, Any]) -> bytes:
    """
    Return an event's body.

    Raises:
        BadRequestError: It is not what ``isBase64Encoded`` says.
        EventError: It is no text.
    """
    body = event.get("body")
    if body is None or body == "":
        return b""
    if not isinstance(body, str):
        raise EventError(f"cannot read the event: its body is of type {type(body).__name__}, not a string")
    if event.get("isBase64Encoded"):
        return body_from_base64(body)
    try:
        return body.encode()
    except UnicodeEncodeError:
        raise BadRequestError("the body has lone surrogates") from None


def _mount_of(path: str, candidates: Sequence[str]) -> str:
    """
    Return the first candidate that a path begins with, on the boundary of a segment; empty if there is none.

    Args:
        path: Percent-encoded.
        candidates: Percent-encoded or not; empty ones are none.
    """
    for candidate in candidates:
        prefix = candidate.rstrip("/")
        # Nearly always written in one way; else it is as many segments of the path, as they are written there.
        if prefix and (path == prefix or path.startswith(prefix + "/") or _begins_with(path, prefix)):
            return "/".join(path.split("/")[: prefix.count("/") + 1])
    return ""


def _begins_with(path: str, prefix: str) -> bool:
    """Say whether a path begins with a prefix that is encoded in another way, on the boundary of a segment."""
    if "%" not in path and "%" not in prefix:
        return False
    from urllib.parse import unquote_to_bytes

    # An API's own names may be any text.
    whole, part = unquote_to_bytes(path), unquote_to_bytes(prefix.encode(errors="replace"))
    return part.count(b"/") == prefix.count("/") and (whole == part or whole.startswith(part + b"/"))


def mapped_key(path: str, route: str, parameters: Mapping[str, Any]) -> str:
    """
    Return what a custom domain maps to an API, with which the path then begins: what the route does not explain of it.

    Args:
        path: Percent-encoded.
        route: Of an API's routes the one that was taken, as ``/items/{id}/{proxy+}``; empty if it names no path.
        parameters: What stands for the names in it.
    """
    if not route.startswith("/"):
        return ""
    from urllib.parse import unquote

    for name, value in parameters.items():
        if isinstance(value, str):
            route = route.replace(f"{{{name}+}}", value).replace(f"{{{name}}}", value)
    # What comes encoded may be encoded in another way; a slash at the end may not come with the parameter.
    whole = unquote(path).rstrip("/")
    for tail in (route.rstrip("/"), unquote(route).rstrip("/")):
        if whole.endswith(tail):
            return escaped(whole.removesuffix(tail), PATH_SAFE)
    return ""


def encoded_body(response: Response, most_bytes: int = _LAMBDA_MOST_BYTES) -> dict[str, Any]:
    """
    Return ``body`` and ``isBase64Encoded``: text of a text type as it is, all else as base64.

    Args:
        response: As `tracedbridge.answers.checked` gives it.
        most_bytes: That the platform passes on.

    Raises:
        AppProtocolError: It is more.
    """
    body = response.body
    text: str | None = None
    if "content-encoding" not in response.fields and (not body or _is_text(response.fields.get("content-type", ()))):
        try:
            text = body.decode()
        except UnicodeDecodeError:
            text = None
    is_binary = text is None
    told = base64.b64encode(body).decode("ascii") if text is None else text
    size = len(told) if is_binary else len(body)
    if size > most_bytes:
        raise AppProtocolError(f"the app's body takes {size} bytes in the answer, and {most_bytes} are passed on")
    return {"body": told, "isBase64Encoded": is_binary}


def _laid_out(told: Told, body: bytes) -> tuple[Layout | None, list[str] | None]:
    """Return the headers as names and values; None where one of them needs a closer look, as `_headers` takes it."""
    given: dict[str, Any] = told.headers
    if told.cookies:
        given = {**given, "cookie": "; ".join(told.cookies)}
    if body and "content-length" not in given:
        given = {**given, "content-length": str(len(body))}
    layout = layout_of(tuple(given))
    if layout is None or "host" not in layout.places or "transfer-encoding" in layout.places:
        return None, None
    try:
        # In C, and all at once: joined, they are what each of them is.
        joined = "".join(given.values())
    except TypeError:
        given = {name: value[0] if type(value) is list and len(value) == 1 else value for name, value in given.items()}
        try:
            joined = "".join(given.values())
        except TypeError:
            # One that is there twice, or is no string.
            return None, None
    if not (joined.isascii() and joined.isprintable()):
        return None, None
    _, values = trimmed(given)
    place = layout.places.get("content-length")
    if values is None or (place is not None and values[place] != str(len(body))):
        return None, None
    return layout, values


def _headers(told: Told, body: bytes) -> Headers:
    given = checked_headers(told.headers)
    told_length = any(name == "content-length" for name, _ in given)
    headers = [pair for pair in given if pair[0] not in _OF_THE_EDGE]
    cookies = told.cookies
    if cookies is None:
        # However many there were: RFC 9113, 8.2.3.
        cookies = [value for name, value in headers if name == "cookie"]
    if cookies:
        headers = [pair for pair in headers if pair[0] != "cookie"]
        headers += checked_headers({"cookie": "; ".join(cookies)})
    if body or told_length:
        headers.append(("content-length", str(len(body))))
    return headers


def _is_text(types: Sequence[str]) -> bool:
    if not types:
        return False
    kind = types[0].partition(";")[0].strip().lower()
    return (
        kind.startswith("text/")
        or kind in _TEXT_TYPES
        or kind.endswith(("+json", "+xml"))
        or any(kind == each or (each.endswith("/*") and kind.startswith(each[:-1])) for each in _more_text_types())
    )


@cache
def _more_text_types() -> tuple[str, ...]:
    told = os.environ.get("TRACEDBRIDGE_TEXT_TYPES", "")
    return tuple(each.strip().lower() for each in told.split(",") if each.strip())


@cache
def _base_path() -> str:
    told = os.environ.get("TRACEDBRIDGE_BASE_PATH", "").strip().strip("/")
    return f"/{told}" if told else ""
