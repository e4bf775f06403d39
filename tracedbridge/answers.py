"""What leaves the bridge: checked responses, and the neutral answers to what went wrong."""

from __future__ import annotations

from tracedbridge.errors import AppProtocolError, BadRequestError, DeadlineError
from tracedbridge.headers import LOWER_NAMES, is_value, lower_name
from tracedbridge.messages import Response

__all__ = ("answer_to", "checked", "with_fields")


# RFC 9110, 5.5: not a part of a value, and lost on the wire.
_SPACE = " \t"

# RFC 9110, 7.6.1: these speak of one connection, and there is none here.
_HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
     "transfer-encoding", "upgrade")
)  # fmt: skip


def checked(response: Response, method: str) -> Response:
    """
    Return the response as it may be sent to a request of that method, its ``fields`` set.

    Responses to HEAD, and those with 1xx, 204 and 304, lose their body; 1xx and 204 their content-length, too.

    Raises:
        AppProtocolError: A header could not be sent, or the body is not as long as its content-length says.
    """
    status = response.status
    fields = with_fields(response).fields
    if method == "HEAD" or status in (204, 304) or status < 200:
        response.body = b""
    elif "content-length" in fields:
        lengths = set(fields["content-length"])
        if lengths != {str(len(response.body))}:
            told = ", ".join(sorted(lengths))
            raise AppProtocolError(f"the app's content-length is {told!r}, but its body has {len(response.body)} bytes")
    return response


def with_fields(response: Response) -> Response:
    """
    Return the response with its ``fields`` set, whatever its body is like.

    Raises:
        AppProtocolError: A header could not be sent.
    """
    fields = response.fields
    for name, value in response.headers:
        lower = LOWER_NAMES.get(name) or lower_name(name)
        if lower is None:
            raise AppProtocolError(f"the app's header name {name[:80]!r} is no token")
        # The first two are what is_value() looks at first, without the call.
        if not (value.isascii() and value.isprintable()) and not is_value(value):
            raise AppProtocolError(f"the app's header {name[:80]!r} has control characters, or others outside latin-1")
        if lower in fields:
            fields[lower].append(value.strip(_SPACE))
        elif lower not in _HOP_BY_HOP:
            fields[lower] = [value.strip(_SPACE)]
    if response.status == 204 or response.status < 200:
        # RFC 9110, 8.6: must not be sent with these.
        fields.pop("content-length", None)
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
    headers = [("content-type", "text/plain; charset=utf-8"), ("content-length", str(len(body)))]
    return Response(status, headers, body)
