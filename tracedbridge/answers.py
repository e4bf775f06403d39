"""What leaves the bridge: checked responses, and the neutral answers to what went wrong."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tracedbridge.errors import AppProtocolError, BadRequestError, DeadlineError
from tracedbridge.messages import Response

if TYPE_CHECKING:
    from tracedbridge.messages import Headers

__all__ = ("answer_to", "checked")

# RFC 9110, 5.6.2: tchar.
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
# CR, LF and NUL in a value are header injection; the other control characters are merely illegal.
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]").search


def checked(response: Response, method: str) -> Response:
    """
    Return the response as it may be sent to a request of that method.

    Responses to HEAD, and those with 1xx, 204 and 304, lose their body; 1xx and 204 their content-length, too.

    Raises:
        AppProtocolError: A header could not be sent, or the body is not as long as its content-length says.
    """
    status = response.status
    lengths: set[bytes] = set()
    for name, value in response.headers:
        if not _TOKEN(name):
            raise AppProtocolError(f"the app's header name {name[:80]!r} is no token")
        if _CONTROL(value):
            raise AppProtocolError(f"the app's header {name[:80]!r} has control characters")
        if len(name) == 14 and name.lower() == b"content-length":
            lengths.add(value.strip())
    if method == "HEAD" or status in (204, 304) or status < 200:
        response.body = b""
        if lengths and (status == 204 or status < 200):
            # RFC 9110, 8.6: must not be sent with these.
            response.headers = [pair for pair in response.headers if pair[0].lower() != b"content-length"]
    elif lengths and lengths != {b"%d" % len(response.body)}:
        told = b", ".join(sorted(lengths))
        raise AppProtocolError(
            f"the app's content-length is {told.decode('latin-1')!r}, but its body has {len(response.body)} bytes"
        )
    return response


def answer_to(error: BaseException) -> Response:
    """
    Return the response for an error: 400 with the reason, 504 or 500 without one.

    A reason tells of the client's own request, never of the app.
    """
    if isinstance(error, BadRequestError):
        return _plain(400, f"Bad Request: {error}")
    if isinstance(error, DeadlineError):
        return _plain(504, "Gateway Timeout")
    return _plain(500, "Internal Server Error")


def _plain(status: int, text: str) -> Response:
    body = text.encode("ascii", "backslashreplace")
    headers: Headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
    return Response(status, headers, body)
