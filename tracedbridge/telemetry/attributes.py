"""
Span attributes of one invocation: each has its one home here.

Source: OpenTelemetry semantic conventions 1.44, "HTTP server span" and "FaaS spans".
"""

from __future__ import annotations

import logging
import os
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

from opentelemetry.util.http import (
    OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SANITIZE_FIELDS,
    OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST,
    OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_RESPONSE,
    SanitizeValue,
    get_custom_headers,
)

if TYPE_CHECKING:
    from tracedbridge.messages import Headers, Request

    Attributes = dict[str, str | int | float | bool | list[str]]

__all__ = ("CapturedHeaders", "known_methods", "redacted_line", "redacted_query", "request_attributes")

_METHODS = frozenset(
    ("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE")
)  # fmt: skip

# Semantic conventions, `url.query`: the signatures of signed URLs; and what else names a secret in a URL.
_SECRET_KEYS = (
    "AWSAccessKeyId", "Signature", "sig", "X-Goog-Signature", "X-Goog-Credential", "X-Amz-Signature",
    "X-Amz-Credential", "X-Amz-Security-Token", "access_token", "api_key", "apikey", "password", "secret", "token",
)  # fmt: skip
_SECRETS = frozenset(key.lower() for key in _SECRET_KEYS)
_ANY_SECRET = re.compile("|".join(map(re.escape, _SECRETS)), re.IGNORECASE).search
_PAIR = re.compile(r"([^&;?=\s]+)=([^&;]*)")
# In a line with more than a query, as http.server writes: "GET /a?sig=… HTTP/1.1" 200 -
_PAIR_IN_LINE = re.compile(r"([^&;?=\s]+)=([^&;\s]*)")

# Never shown, whatever the capture variables ask for.
_SECRET_HEADERS = re.compile(
    "authorization|cookie|token|secret|api[-_]?key|password|credential|x-vercel-sc-", re.IGNORECASE
)


def known_methods() -> frozenset[str]:
    """Return the methods to tell apart: those of the conventions, so that a client cannot make up metrics."""
    asked = os.environ.get("OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS", "")
    return frozenset(method.strip() for method in asked.split(",") if method.strip()) or _METHODS


def redacted_query(query: str) -> str:
    """Return the query verbatim, but for the values of keys that are known to be secret."""
    # Looked at pair by pair only if it may hold one: a key may be percent-encoded.
    return _PAIR.sub(_redacted, query) if "%" in query or _ANY_SECRET(query) else query


def redacted_line(line: str) -> str:
    """Return an access-log line with the queries in it as `redacted_query` gives them."""
    return _PAIR_IN_LINE.sub(_redacted, line) if "=" in line else line


def _redacted(pair: re.Match[str]) -> str:
    key = pair[1]
    is_secret = (unquote(key) if "%" in key else key).lower() in _SECRETS
    return f"{key}=REDACTED" if is_secret else pair[0]


def request_attributes(request: Request, method: str) -> Attributes:
    """Return what the request says, from its method to the user agent; no other header values."""
    attributes: Attributes = {
        "http.request.method": method,
        "url.scheme": request.scheme,
        "url.path": request.raw_path,
        "server.address": request.host,
        "server.port": request.port,
        "network.protocol.version": request.http_version,
    }
    if method == "_OTHER":
        attributes["http.request.method_original"] = request.method
    if request.query:
        attributes["url.query"] = redacted_query(request.query)
    if request.client is not None:
        attributes["client.address"] = request.client
    user_agent = request.first("user-agent")
    if user_agent is not None:
        attributes["user_agent.original"] = user_agent
    return attributes


class CapturedHeaders:
    """The headers that the standard capture variables ask for, sanitised; secrets stay redacted all the same."""

    def __init__(self) -> None:
        """Read the variables."""
        self._request = _patterns(OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST)
        self._response = _patterns(OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_RESPONSE)
        self._sanitize = SanitizeValue(_patterns(OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SANITIZE_FIELDS))

    def of_request(self, request: Request) -> Attributes:
        """Return ``http.request.header.*``."""
        return self._of(_by_name(request.headers), self._request, "http.request.header.") if self._request else {}

    def of_response(self, fields: dict[str, list[str]]) -> Attributes:
        """Return ``http.response.header.*``."""
        return self._of(fields, self._response, "http.response.header.") if self._response else {}

    def _of(self, fields: dict[str, list[str]], asked: list[str], prefix: str) -> Attributes:
        values: dict[str, str | list[str]] = {
            name: ["[REDACTED]"] * len(values) if _SECRET_HEADERS.search(name) else values
            for name, values in fields.items()
        }
        return dict(self._sanitize.sanitize_header_values(values, asked, prefix.__add__))


def _patterns(variable: str) -> list[str]:
    patterns = get_custom_headers(variable)
    try:
        re.compile("|".join(patterns))
    except re.error as error:
        logging.getLogger("tracedbridge.telemetry").warning(
            "%s=%r is ignored: no regular expressions: %s", variable, ",".join(patterns), error
        )
        return []
    return patterns


def _by_name(headers: Headers) -> dict[str, list[str]]:
    fields: dict[str, list[str]] = {}
    for name, value in headers:
        fields.setdefault(name, []).append(value)
    return fields
