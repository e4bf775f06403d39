"""What all event formats look at in a request before an app sees it."""

from __future__ import annotations

import base64
import binascii
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from tracedbridge.errors import BadRequestError
from tracedbridge.headers import authority, is_number, is_token, is_value, lower_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tracedbridge.messages import Headers

__all__ = (
    "METHODS", "body_from_base64", "check_length", "checked_headers", "checked_method", "checked_value",
    "first_of_each", "is_target", "origin_of", "quoted", "trimmed",
)  # fmt: skip

METHODS = frozenset(("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"))
"""Which need no closer look."""

# Two of these that differ are request smuggling.
_SINGLE = frozenset(("content-length", "host"))


def checked_method(method: str) -> str:
    """
    Return the method.

    Raises:
        BadRequestError: It is no token.
    """
    if method not in METHODS and not is_token(method):
        raise BadRequestError(f"the method {quoted(method)} is no token")
    return method


def checked_headers(given: Mapping[str, Any]) -> Headers:
    """
    Return headers with their names in lower case, in order, repeats kept.

    Args:
        given: Name → string or list of strings.

    Raises:
        BadRequestError: A name is no token, or a value could not have been sent.
    """
    headers: Headers = []
    for name, values in given.items():
        lower = lower_name(name)
        if lower is None:
            raise BadRequestError(f"the header name {quoted(name)} is no token")
        listed = (values,) if isinstance(values, str) else _listed(name, values)
        headers.extend([(lower, checked_value(name, value)) for value in listed])
    return headers


def first_of_each(headers: Headers) -> dict[str, str]:
    """
    Return the first value of each name.

    Raises:
        BadRequestError: One that may be there once is there twice.
    """
    told: dict[str, str] = {}
    for name, value in headers:
        if told.setdefault(name, value) != value and name in _SINGLE:
            raise BadRequestError(f"there is more than one header {name}")
    return told


def checked_value(name: str, value: str) -> str:
    """
    Return a header's value without white space around it.

    Raises:
        BadRequestError: It could not have been sent.
    """
    if not is_value(value):
        raise BadRequestError(f"the header {name} has control characters, or others outside latin-1")
    return value.strip(" \t")


def body_from_base64(text: str) -> bytes:
    """
    Return what a text stands for.

    Raises:
        BadRequestError: It is not base64.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadRequestError("the body is not base64") from None


def check_length(headers: Headers | None, length: str | None, told: Mapping[str, str], body: bytes) -> None:
    """
    Have a body tell its length, as from an HTTP client, unless it is chunked or the length is told.

    Args:
        headers: Get a ``content-length``.
        length: The ``content-length`` that is told.
        told: The first value of each header.
        body: Whole.

    Raises:
        BadRequestError: The length that is told is another.
    """
    if length is None:
        if headers is not None and "transfer-encoding" not in told:
            headers.append(("content-length", str(len(body))))
    elif not is_number(length, 18):
        raise BadRequestError("the content-length is not a number")
    elif int(length) != len(body):
        raise BadRequestError(f"the content-length is {int(length)}, but the body has {len(body)} bytes")


# The same for nearly all requests to a function.
@lru_cache(maxsize=64)
def origin_of(host_header: str | None, proto: str | None) -> tuple[str, str, int]:
    """Return scheme, host and port as ``Host`` and ``X-Forwarded-Proto`` tell them."""
    # The platform's edge ends TLS and says so; an event that says nothing came from there, too.
    scheme = "http" if proto and proto.partition(",")[0].strip().lower() == "http" else "https"
    default = 80 if scheme == "http" else 443
    host, port = authority(host_header or "")
    return scheme, host or "localhost", int(port) if port and 0 < int(port) < 65536 else default


def is_target(text: str) -> bool:
    """Say whether a text may be a request's target."""
    # RFC 9112, 3.2 allows less; servers let every visible ASCII character but the fragment's pass.
    if text[:1] != "/":
        return text == "*"
    return text.isascii() and text.isprintable() and " " not in text and "#" not in text


def quoted(text: str) -> str:
    """Return a text for an error's message: ASCII and short, as it goes into a response and a log line."""
    return ascii(text if len(text) <= 80 else text[:80] + "…")


def trimmed(given: dict[str, Any]) -> tuple[dict[str, Any], list[str] | None]:
    """Return plain headers without spaces around the values, and the values, or None if one is no string."""
    values = [*given.values()]
    try:
        # Joined, they are looked at in C all at once; the line ends are none of theirs.
        lines = "\n".join(values)
    except TypeError:
        return given, None
    if " \n" in lines or "\n " in lines or lines[:1] == " " or lines[-1:] == " ":
        given = {name: value.strip(" ") for name, value in given.items()}
        values = [*given.values()]
    return given, values


def _listed(name: str, values: object) -> list[str]:
    if isinstance(values, list) and all(isinstance(value, str) for value in values):
        return values
    raise BadRequestError(f"the header {name} is neither a string nor a list of strings")
