"""
Vercel's invoke event: a JSON text that holds one HTTP request.

Source: checked against vercel-runtime 0.24.1, ``vc_init.py``, ``vc_handler``.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from tracedbridge.errors import BadRequestError, EventError
from tracedbridge.messages import Request

if TYPE_CHECKING:
    from tracedbridge.messages import Event, Headers, Response

__all__ = ("decode", "encode", "matches")

# What json.loads() does with a str, without its looking for options.
_parsed = json.JSONDecoder().decode

_METHODS = frozenset(("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"))
# RFC 9110, 5.6.2: tchar.
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
# RFC 9112, 3.2 allows less; servers let every visible ASCII character but the fragment's pass.
_TARGET = re.compile(r'/[!"$-~]*').fullmatch
# RFC 9110, 5.5: no control characters but the tab.
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]").search
_DIGITS = re.compile(rb"[0-9]{1,18}").fullmatch
_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]*))(?::([0-9]{0,5}))?").fullmatch

# Two of these that differ are request smuggling.
_SINGLE = frozenset((b"content-length", b"host"))
_NO_HEADERS: dict[str, str] = {}

# RFC 9110, 7.6.1: these speak of one connection, and there is none here.
_HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
     "transfer-encoding", "upgrade")
)  # fmt: skip


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
        Header names lower-case, latin-1 bytes, in order, repeats kept. A body without ``content-length`` and
        ``transfer-encoding`` gets the former, as from an HTTP client.

    Raises:
        EventError: The body is not JSON, or lacks what makes it a request.
        BadRequestError: What it holds is no valid HTTP request.

    Source: vercel-runtime 0.24.1.
    """
    del context
    payload = _payload(event)
    method = payload["method"]
    if method not in _METHODS and not _TOKEN(method):
        raise BadRequestError(f"the method {_quoted(method)} is no token")
    target = payload["path"]
    if not _TARGET(target) and target != "*":
        raise BadRequestError(f"the path {_quoted(target)} has characters that must be percent-encoded")
    path, _, query = target.partition("?")
    text: str = event["body"]
    # JSON writes control characters as escapes only. Looking at the whole text once is cheaper than at each value.
    is_plain = "\\" not in text and text.isascii() and "\x7f" not in text
    headers, told = _headers(payload, is_plain=is_plain)
    body = _body(payload)
    if body or b"content-length" in told:
        _check_length(headers, told, body)
    # Vercel's edge ends TLS and says so; an event that says nothing came from there, too.
    scheme = _scheme(told[b"x-forwarded-proto"]) if b"x-forwarded-proto" in told else "https"
    host, port = _authority(told.get(b"host", b"localhost"), scheme)
    forwarded = told.get(b"x-real-ip") or told.get(b"x-forwarded-for")
    client = _first(forwarded) if forwarded else None
    return Request(method, path.encode(), query.encode(), headers, body, scheme, host, port, client)


def encode(response: Response, event: Event) -> dict[str, Any]:
    """
    Write a response as Vercel wants it.

    Args:
        response: Its headers are checked already; hop-by-hop headers are left out.
        event: Unused.

    Returns:
        ``statusCode``; ``headers``, lower-case name → list of values; ``body``, as text where it is UTF-8, else as
        base64 with ``encoding``.
    """
    del event
    headers: dict[str, list[str]] = {}
    for raw_name, raw_value in response.headers:
        name = raw_name.decode("latin-1").lower()
        if name in _HOP_BY_HOP:
            continue
        value = raw_value.decode("latin-1")
        if name in headers:
            headers[name].append(value)
        else:
            headers[name] = [value]
    try:
        return {"statusCode": response.status, "headers": headers, "body": response.body.decode()}
    except UnicodeDecodeError:
        body = base64.b64encode(response.body).decode("ascii")
        return {"statusCode": response.status, "headers": headers, "body": body, "encoding": "base64"}


def _payload(event: Event) -> dict[str, Any]:
    try:
        payload = _parsed(event["body"])
    except (ValueError, RecursionError) as error:
        raise EventError(f"cannot read the Vercel event: its body is not JSON: {error}") from None
    if not isinstance(payload, dict):
        raise EventError(f"cannot read the Vercel event: its body is a JSON {type(payload).__name__}, not an object")
    if not isinstance(payload.get("method"), str) or not isinstance(payload.get("path"), str):
        raise EventError(
            f"cannot read the Vercel event: its body needs strings 'method' and 'path' (found: {_keys(payload)})"
        )
    if not isinstance(payload.get("headers") or _NO_HEADERS, dict):
        raise EventError("cannot read the Vercel event: 'headers' in its body is not an object")
    return payload


def _keys(payload: dict[str, Any]) -> str:
    return ", ".join(sorted(payload)[:20]) or "nothing"


def _headers(payload: dict[str, Any], *, is_plain: bool) -> tuple[Headers, dict[bytes, bytes]]:
    """
    Return all headers, and the first of each name.

    Args:
        payload: The event's.
        is_plain: No value in it can hold a control character or one outside ASCII.
    """
    headers: Headers = []
    for name, values in (payload.get("headers") or _NO_HEADERS).items():
        raw_name = _raw_names.get(name) or _raw_name(name)
        if is_plain and isinstance(values, str):
            headers.append((raw_name, values.strip().encode()))
        else:
            listed = (values,) if isinstance(values, str) else _listed(name, values)
            headers.extend([(raw_name, _raw_value(name, value)) for value in listed])
    told = dict(headers)
    if len(told) < len(headers):
        told = _first_of_each(headers)
    if b"host" not in told and isinstance(host := payload.get("host"), str) and host:
        told[b"host"] = _raw_value("host", host)
        headers.insert(0, (b"host", told[b"host"]))
    return headers, told


def _first_of_each(headers: Headers) -> dict[bytes, bytes]:
    told: dict[bytes, bytes] = {}
    for name, value in headers:
        if told.setdefault(name, value) != value and name in _SINGLE:
            raise BadRequestError(f"there is more than one header {name.decode('ascii')}")
    return told


# The same few names come with every event.
_raw_names: dict[str, bytes] = {}
_MAX_RAW_NAMES = 512


def _raw_name(name: str) -> bytes:
    if not _TOKEN(name):
        raise BadRequestError(f"the header name {_quoted(name)} is no token")
    raw_name = name.lower().encode("ascii")
    if len(_raw_names) < _MAX_RAW_NAMES:
        _raw_names[name] = raw_name
    return raw_name


def _raw_value(name: str, value: str) -> bytes:
    try:
        raw_value = value.encode("latin-1")
    except UnicodeEncodeError:
        raise BadRequestError(f"the header {name} has characters outside latin-1") from None
    if _CONTROL(raw_value):
        raise BadRequestError(f"the header {name} has control characters")
    return raw_value.strip(b" \t")


def _listed(name: str, values: object) -> list[str]:
    if isinstance(values, list) and all(isinstance(value, str) for value in values):
        return values
    raise BadRequestError(f"the header {name} is neither a string nor a list of strings")


def _body(payload: dict[str, Any]) -> bytes:
    body = payload.get("body")
    if not body and body in ("", None):
        return b""
    if not isinstance(body, str):
        raise BadRequestError("the body is not a string")
    encoding = payload.get("encoding")
    if encoding == "base64":
        try:
            return base64.b64decode(body, validate=True)
        except (binascii.Error, ValueError):
            raise BadRequestError("the body is not base64") from None
    if encoding not in (None, ""):
        raise BadRequestError("the encoding of the body is not base64")
    try:
        return body.encode()
    except UnicodeEncodeError:
        raise BadRequestError("the body has lone surrogates") from None


def _check_length(headers: Headers, told: dict[bytes, bytes], body: bytes) -> None:
    length = told.get(b"content-length")
    if length is None:
        if body and b"transfer-encoding" not in told:
            headers.append((b"content-length", b"%d" % len(body)))
    elif not _DIGITS(length):
        raise BadRequestError("the content-length is not a number")
    elif int(length) != len(body):
        raise BadRequestError(f"the content-length is {int(length)}, but the body has {len(body)} bytes")


def _first(forwarded: bytes) -> str | None:
    return forwarded.decode("latin-1").partition(",")[0].strip() or None


@lru_cache(maxsize=64)
def _scheme(proto: bytes) -> str:
    return "http" if proto.partition(b",")[0].strip().lower() == b"http" else "https"


@lru_cache(maxsize=64)
def _authority(host_header: bytes, scheme: str) -> tuple[str, int]:
    text = host_header.decode("latin-1")
    default = 443 if scheme == "https" else 80
    parts = _AUTHORITY(text)
    if parts is None:
        return text, default
    port = int(parts[3]) if parts[3] else default
    return parts[1] or parts[2] or "localhost", port if 0 < port < 65536 else default


def _quoted(text: str) -> str:
    # ASCII and short: it goes into a response and a log line.
    return ascii(text if len(text) <= 80 else text[:80] + "…")
