"""The headers that the standard capture variables ask for, as span attributes."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from opentelemetry.util.http import (
    OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SANITIZE_FIELDS,
    OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST,
    OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_RESPONSE,
    SanitizeValue,
    get_custom_headers,
)

if TYPE_CHECKING:
    from tracedbridge.messages import Headers, Request
    from tracedbridge.telemetry.attributes import Attributes

__all__ = ("CapturedHeaders",)

# Never shown, whatever the capture variables ask for.
_SECRET_HEADERS = re.compile(
    "authorization|cookie|token|secret|api[-_]?key|password|credential|x-vercel-sc-", re.IGNORECASE
)


class CapturedHeaders:
    """The headers that the standard capture variables ask for, sanitised; secrets stay redacted all the same."""

    def __init__(self) -> None:
        """Read the variables."""
        self._request = _patterns(OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST)
        self._response = _patterns(OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_RESPONSE)
        self._sanitize = SanitizeValue(_patterns(OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SANITIZE_FIELDS))

    def of_request(self, request: Request) -> Attributes:
        """Return ``http.request.header.*``."""
        return self._of(_by_name(request.event_headers), self._request, "http.request.header.") if self._request else {}

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
