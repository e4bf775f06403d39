"""The requests that every framework is asked, with the statuses that prove that the page behind them was reached."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlencode

__all__ = ("CASES", "Ask", "Case")

LARGE = bytes(range(256)) * 800
"""200 kB of every byte there is, not UTF-8."""

FORM = "application/x-www-form-urlencoded"

# Text, because Sanic decodes every line of it.
UPLOAD = (
    b'--xyz\r\nContent-Disposition: form-data; name="kind"\r\n\r\n\xc3\xa9\r\n'
    b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\nplum\r\n\xc3\xa9\n\r\n"
    b"--xyz--\r\n"
)


class Ask(NamedTuple):
    """One request."""

    method: str
    target: str
    """Path and query, percent-encoded."""

    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    chunked: bool = False
    """Sent with ``transfer-encoding: chunked`` instead of ``content-length``."""


class Case(NamedTuple):
    """One or more requests, one after the other, and what a real server may answer to the last of them."""

    asks: tuple[Ask, ...]
    statuses: tuple[int, ...] = (200,)
    page: str = ""
    """The page it needs, where not every framework has it."""

    only_status: bool = False
    """Whether the rest of the answer is the server's own affair."""


def _one(method: str, target: str, *headers: tuple[str, str], body: bytes = b"", status: int = 200) -> Case:
    return Case((Ask(method, target, headers, body),), (status,))


CASES: dict[str, Case] = {
    "text": _one("GET", "/text"),
    "json": _one("GET", "/json"),
    "binary": _one("GET", "/binary"),
    "large response": _one("GET", "/large"),
    "stream": _one("GET", "/stream"),
    "two cookies": _one("GET", "/cookies"),
    "empty": _one("GET", "/empty", status=204),
    "not modified": _one("GET", "/same", ("If-None-Match", '"v1"'), status=304),
    "redirect": _one("GET", "/moved", status=302),
    "head": Case((Ask("HEAD", "/text"),), (200, 405)),
    "head of nothing": _one("HEAD", "/nowhere", status=404),
    "options": Case((Ask("OPTIONS", "/text"),), (200, 204, 405, 501)),
    "not found": _one("GET", "/nowhere", status=404),
    "wrong method": Case((Ask("POST", "/text"),), (404, 405)),
    "trailing slash": Case((Ask("GET", "/text/"),), (200, 307, 404)),
    "exception": Case((Ask("GET", "/crash"),), (500,), only_status=True),
    # What the app is told.
    "echo": _one("GET", "/echo"),
    "query": _one("GET", "/echo?a=1&a=2&b=%20%26+%C3%A9&empty=&flag&c=1=2&d=/?;x"),
    "query without value": _one("GET", "/echo?"),
    "headers": _one("GET", "/echo", ("X-One", "1"), ("X-Empty", ""), ("X-List", "a, b;q=0.5"), ("X-Spaces", "  a  b")),
    "repeated header": _one("GET", "/echo", ("X-Many", "1"), ("X-Many", "2"), ("x-many", "3")),
    # Bottle takes header values for UTF-8, and fails.
    "latin-1 header": Case((Ask("GET", "/echo", (("X-One", "caf\xe9"),)),), (200, 500)),
    "cookies sent": _one("GET", "/echo", ("Cookie", 'a=1; b="two words"; c=%20')),
    "other host": _one("GET", "/echo", ("Host", "fruit.example:8080")),
    "post": _one("POST", "/echo", ("Content-Type", "text/plain; charset=utf-8"), body="grüße".encode()),
    "post nothing": _one("POST", "/echo"),
    "post json": _one("POST", "/echo", ("Content-Type", "application/json"), body=b'{"a": [1, null, "\\u00e9"]}'),
    "put": _one("PUT", "/echo", ("Content-Type", "application/octet-stream"), body=b"\x00\xff\r\n\r\n"),
    "patch": _one("PATCH", "/echo", ("Content-Type", "text/plain"), body=b"patch"),
    "delete": _one("DELETE", "/echo"),
    "chunked": Case((Ask("POST", "/mirror", body=b"in chunks" * 99, chunked=True),), page="chunked"),
    "expect": _one("POST", "/mirror", ("Expect", "100-continue"), body=b"after all"),
    "large request": _one("POST", "/mirror", ("Content-Type", "application/octet-stream"), body=LARGE),
    "early answer": _one("POST", "/early", body=b"unread" * 99, status=413),
    "form": _one(
        "POST", "/form", ("Content-Type", FORM), body=urlencode([("a", "1"), ("a", "é +&"), ("b", "")]).encode()
    ),
    "upload": Case(
        (Ask("POST", "/upload", (("Content-Type", "multipart/form-data; boundary=xyz"),), UPLOAD),), page="upload"
    ),
    # Paths: decoded once, by somebody.
    "path": _one("GET", "/path/plain"),
    "path with space": _one("GET", "/path/a%20b+c"),
    "path in unicode": _one("GET", "/path/%C3%A9t%C3%A9/%F0%9F%90%8D"),
    "path twice encoded": _one("GET", "/path/100%2525"),
    "path with slash": _one("GET", "/path/a%2Fb"),
    "path with slashes": _one("GET", "/path/a//b/"),
    "path with dots": Case((Ask("GET", "/path/a/../b/./c"),), (200, 404)),
    "path with signs": _one("GET", "/path/a;b=1,2:@!$'()*~"),
    "path not UTF-8": Case((Ask("GET", "/path/%ff%e9"),), (200, 400, 404)),
    "path of another case": _one("GET", "/path/%c3%a9%2f"),
    # The second request waits for what the first one left to do.
    "background": Case((Ask("GET", "/background"), Ask("GET", "/background/done")), page="background"),
}
