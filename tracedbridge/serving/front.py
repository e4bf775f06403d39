"""
The HTTP front of ``tracedbridge dev``: makes an event of each request, as a platform's front does, and has it answered.

A WSGI app for `tracedbridge.serving.listening.Listener`, which hands over the request as it came.
"""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge
from werkzeug.wrappers import Request

from tracedbridge.serving.instances import ClosedError
from tracedbridge.serving.listening import HEADERS, TARGET

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from wsgiref.types import StartResponse, WSGIEnvironment

    from tracedbridge.serving.fronts import Dialect
    from tracedbridge.serving.instances import Answered, Instances

__all__ = ("Front", "Served")

# Platforms take 4.5 to 6 MB and say so themselves; this one only must not run out of memory.
_MAX_BODY_BYTES = 64 * 1024 * 1024

# RFC 9110, 7.6.1: these speak of the connection between client and front.
_HOP_BY_HOP = frozenset(
    ("connection", "expect", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te",
     "trailer", "transfer-encoding", "upgrade")
)  # fmt: skip

# Who the client is says the front, and nobody before it.
_FORWARDED = frozenset(("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-real-ip"))

# RFC 9110, 6.4.1, and 8.6: no body, and no word of its length but what the app says.
_BODYLESS = frozenset((204, 304))


class Served(NamedTuple):
    """What a request came to, for people."""

    method: str
    target: str
    status: int
    took_ns: int
    """From the whole request to the answer, without the wait below."""
    waited_ns: int
    """Until an instance was free."""
    is_cold: bool
    """It started an instance."""
    trace_id: str
    """Hex; empty if the answer does not say it."""
    failure: str
    """Why the function gave no answer; empty if it did."""


class Front:
    """Answers requests with instances of a function."""

    def __init__(
        self,
        instances: Instances,
        dialect: Dialect,
        told: Callable[[Served], object],
        *,
        before: Callable[[], object],
    ) -> None:
        """
        Args:
            instances: Of the function.
            dialect: One of `tracedbridge.serving.fronts.FRONTS`.
            told: Called after each answer, once its telemetry has been exported.
            before: Called before each event.
        """
        self._instances = instances
        self._dialect = dialect
        self._told = told
        self._before = before

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request; PEP 3333."""
        method, target = environ["REQUEST_METHOD"], _target(environ[TARGET])
        try:
            body = _body(environ)
        except RequestEntityTooLarge:
            return _plain(start_response, 413, f"cannot take the body: it has more than {_MAX_BODY_BYTES} bytes")
        except (ClientDisconnected, OSError) as error:
            return _plain(start_response, 400, f"could not read the body: {error}")
        event = self._dialect.write_event(method, target, _headers(environ, body), body, environ["REMOTE_ADDR"])
        self._before()
        begun_ns = time.monotonic_ns()
        try:
            answered = self._instances.answer(event)
        except ClosedError as error:
            return _plain(start_response, 503, str(error))
        except OSError as error:
            return _plain(start_response, 502, f"could not start a process: {error}")
        took_ns = time.monotonic_ns() - begun_ns - answered.waited_ns
        answer, failure = answered.answer, answered.failure
        status = 502 if answer is None else int(answer["statusCode"])
        headers, data = ([], b"") if answer is None else self._dialect.read_answer(answer)
        trace_id = _trace_id_of(headers)
        served = Served(method, target, status, took_ns, answered.waited_ns, answered.is_cold, trace_id, failure)
        if answer is None:
            # A traceback tells much of a machine: to those on it.
            is_ours = environ["REMOTE_ADDR"].startswith("127.") or environ["REMOTE_ADDR"] == "::1"
            text = failure if is_ours else "the function gave no answer; the server's console says why"
            chunks = _plain(start_response, status, text, method)
        else:
            chunks = _answer(start_response, headers, data, status, method)
        return _Sent(chunks, answered, lambda: self._told(served))


class _Sent:
    """The body of an answer, which the server closes when it has been sent, or cannot be."""

    def __init__(self, chunks: list[bytes], answered: Answered, told: Callable[[], object]) -> None:
        self._chunks = chunks
        self._answered = answered
        self._told = told

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._chunks)

    def close(self) -> None:
        self._answered.settle()
        self._told()


def _target(target: str) -> str:
    """Return path and query of a request line, without scheme and host where it has them (RFC 9112, 3.2.2)."""
    scheme, mark, rest = target.partition("://")
    if mark and scheme.lower() in ("http", "https"):
        cut = min((place for place in (rest.find("/"), rest.find("?")) if place >= 0), default=len(rest))
        rest = rest[cut:]
        return rest if rest.startswith("/") else "/" + rest
    return target


def _body(environ: WSGIEnvironment) -> bytes | None:
    """Return the whole body, None where there is none; undoes chunked coding."""
    if not environ.get("wsgi.input_terminated") and not environ.get("CONTENT_LENGTH"):
        return None
    request = Request(environ)
    # One more than allowed: of a chunked body werkzeug gives so much, and does not say that there is more.
    request.max_content_length = _MAX_BODY_BYTES + 1
    body = request.get_data(cache=False)
    if len(body) > _MAX_BODY_BYTES:
        raise RequestEntityTooLarge
    return body


def _headers(environ: WSGIEnvironment, body: bytes | None) -> dict[str, list[str]]:
    given: list[tuple[str, str]] = [(name.lower(), value) for name, value in environ[HEADERS]]
    named = {
        name.strip().lower() for each, value in given if each == "connection" for name in value.split(",")
    }  # fmt: skip
    headers: dict[str, list[str]] = {}
    for name, value in given:
        if name not in _HOP_BY_HOP and name not in _FORWARDED and name not in named:
            headers.setdefault(name, []).append(value)
    headers.setdefault("host", ["localhost"])
    headers["x-forwarded-host"] = headers["host"][:1]
    if body is not None:
        headers["content-length"] = [str(len(body))]
    return headers


def _trace_id_of(headers: Iterable[tuple[str, str]]) -> str:
    """Return the trace of an answer, as its ``traceresponse`` says."""
    parts = next((value for name, value in headers if name == "traceresponse"), "").split("-")
    return parts[1] if len(parts) == 4 else ""


def _answer(
    start_response: StartResponse, headers: list[tuple[str, str]], body: bytes, status: int, method: str
) -> list[bytes]:
    told_length = any(name == "content-length" for name, _ in headers)
    if not told_length and status not in _BODYLESS and status >= 200 and method != "HEAD":
        headers.append(("content-length", str(len(body))))
    start_response(f"{status} {_phrase(status)}", headers)
    return [body]


def _plain(start_response: StartResponse, status: int, text: str, method: str = "") -> list[bytes]:
    body = f"{text.rstrip()}\n".encode("utf-8", "replace")
    headers = [
        ("content-type", "text/plain; charset=utf-8"),
        ("content-length", str(len(body))),
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
    ]
    start_response(f"{status} {_phrase(status)}", headers)
    return [] if method == "HEAD" else [body]


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
