"""
Span attributes of one invocation: each has its one home here.

Source: OpenTelemetry semantic conventions 1.44, "HTTP server span" and "FaaS spans".
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from tracedbridge.messages import Request

__all__ = ("Attributes", "redacted_line", "redacted_query", "request_attributes")

Attributes = dict[str, str | int | float | bool | list[str]]

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
