"""What a server hands to an app, as a request of ours, and our headers back into it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from tracedbridge.headers import authority
from tracedbridge.messages import Request, Response

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tracedbridge.messages import Headers

__all__ = (
    "environ_with", "read_environ", "read_scope", "request_of_environ", "request_of_scope", "response_of", "scope_with",
    "with_fields",
)  # fmt: skip


def read_scope(scope: Mapping[str, Any]) -> Request | None:
    """Return the request of an ASGI scope; None if it is not as it should be, and the app is called all the same."""
    try:
        return request_of_scope(scope)
    except Exception:  # noqa: BLE001 - whatever a server hands over is between it and the app
        return None


def read_environ(environ: Mapping[str, Any]) -> Request | None:
    """Return the request of a WSGI environ, None if it is not as it should be."""
    try:
        return request_of_environ(environ)
    except Exception:  # noqa: BLE001 - as above
        return None


def request_of_scope(scope: Mapping[str, Any]) -> Request:
    """Return the request of an ASGI scope; its body is empty, as it is still to come."""
    headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
    raw_path = scope.get("raw_path")
    path = _quoted(scope["path"]) if raw_path is None else raw_path.decode("latin-1")
    server = scope.get("server") or ("localhost", None)
    client = scope.get("client")
    return _request(
        scope["method"], path, scope.get("query_string", b"").decode("latin-1"), headers, scope.get("scheme", "http"),
        (str(server[0]), server[1]), None if client is None else str(client[0]), scope.get("http_version", "1.1"),
    )  # fmt: skip


def request_of_environ(environ: Mapping[str, Any]) -> Request:
    """Return the request of a WSGI environ; its body is empty, as the app reads it."""
    headers = [(key[5:].replace("_", "-").lower(), str(value)) for key, value in environ.items() if key[:5] == "HTTP_"]
    told = (("content-type", environ.get("CONTENT_TYPE")), ("content-length", environ.get("CONTENT_LENGTH")))
    headers += [(name, str(value)) for name, value in told if value]
    # What was sent, where the server tells it: PATH_INFO is decoded.
    target = environ.get("RAW_URI") or environ.get("REQUEST_URI") or ""
    path = str(target).partition("?")[0]
    if not path.startswith("/"):
        path = _quoted((environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")).encode("latin-1", "replace"))
    port = str(environ.get("SERVER_PORT", ""))
    version = str(environ.get("SERVER_PROTOCOL", "HTTP/1.1")).rpartition("/")[2]
    return _request(
        str(environ["REQUEST_METHOD"]), path or "/", str(environ.get("QUERY_STRING", "")), headers,
        str(environ.get("wsgi.url_scheme", "http")),
        (str(environ.get("SERVER_NAME", "localhost")), int(port) if port.isdecimal() else None),
        environ.get("REMOTE_ADDR") or None, version,
    )  # fmt: skip


def response_of(message: Mapping[str, Any]) -> Response | None:
    """Return the response that an ASGI message begins; None if it is malformed, which the server will say."""
    try:
        pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in message.get("headers", ())]
        return with_fields(int(message["status"]), pairs)
    except Exception:  # noqa: BLE001 - whatever is wrong with it
        return None


def with_fields(status: int, headers: Headers) -> Response:
    """Return a response without a body, and with its fields."""
    response = Response(status, headers, b"")
    for name, value in headers:
        response.fields.setdefault(name.lower(), []).append(value)
    return response


def scope_with(scope: dict[str, Any], before: Request, after: Request) -> dict[str, Any]:
    """Return a scope with the headers that a request was given, or the scope itself if it was given none."""
    ours, dropped = _changed(before, after)
    if not (ours or dropped):
        return scope
    headers = [
        (name, value)
        for name, value in scope["headers"]
        if (name.decode("latin-1").lower(), value.decode("latin-1")) not in dropped
    ]
    headers += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in ours]
    return {**scope, "headers": headers}


def environ_with(environ: dict[str, Any], before: Request, after: Request) -> None:
    """Put the headers that a request was given into an environ, which is the server's own for this one request."""
    ours, dropped = _changed(before, after)
    for name, _ in dropped:
        environ.pop(_key(name), None)
    for name, value in ours:
        environ[_key(name)] = value


def _changed(before: Request, after: Request) -> tuple[Headers, set[tuple[str, str]]]:
    """Return the headers that were added, and those that were taken away."""
    if after is before:
        return after.extra, set()
    had, has = set(before.event_headers), set(after.headers)
    return [pair for pair in after.headers if pair not in had], had - has


def _key(name: str) -> str:
    key = name.upper().replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_" + key


def _request(
    method: str,
    path: str,
    query: str,
    headers: Headers,
    scheme: str,
    server: tuple[str, int | None],
    client: str | None,
    version: str,
) -> Request:
    told = dict(reversed(headers))
    if os.environ.get("VERCEL"):
        # There, everything comes through its proxy, and the server is only its neighbour.
        scheme = told.get("x-forwarded-proto", "").partition(",")[0].strip() or scheme
        forwarded = told.get("x-forwarded-for", "").partition(",")[0].strip()
        client = told.get("x-real-ip") or forwarded or client
    host, port = authority(told.get("host", "")) if "host" in told else ("", "")
    default = 443 if scheme == "https" else 80
    is_port = port.isdecimal() and 0 < int(port) < 65536
    return Request(
        method, path, query, headers, b"", scheme, host or server[0],
        int(port) if is_port else default if host else server[1] or default, client, version,
    )  # fmt: skip


def _quoted(path: str | bytes) -> str:
    # Only here: nearly all servers tell what was sent.
    from urllib.parse import quote

    return quote(path, safe="/:@!$&'()*+,;=~-._")
