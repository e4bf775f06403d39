"""The pages on a plain handler class."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qsl, unquote, urlsplit


class handler(BaseHTTPRequestHandler):  # noqa: N801 - the name that Vercel looks for
    """Speaks HTTP/1.0, as handler classes do that say nothing else."""

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.path == "/text":
            self._answer(200, b"hello", ("content-type", "text/plain"))
        elif parts.path == "/json":
            self._tell({"é": [1, None, "\N{SNAKE}"]})
        elif parts.path == "/echo":
            self._echo()
        elif parts.path.startswith("/path/"):
            self._tell({"rest": unquote(parts.path.removeprefix("/path/")), "raw": self.path})
        elif parts.path == "/binary":
            self._answer(200, bytes(range(256)), ("content-type", "image/x-all"))
        elif parts.path == "/large":
            self._answer(200, b"0123456789abcdef\n" * 12_000, ("content-type", "text/plain"))
        elif parts.path == "/stream":
            self._stream()
        elif parts.path == "/cookies":
            self._answer(200, b"set", ("Set-Cookie", "a=1; HttpOnly"), ("set-cookie", "b=two; Path=/text"))
        elif parts.path == "/empty":
            self._answer(204)
        elif parts.path == "/same":
            self._answer(304, b"", ("ETag", self.headers["If-None-Match"]))
        elif parts.path == "/moved":
            self._answer(302, b"", ("Location", f"http://{self.headers['host']}/text?a=%C3%A9"))
        elif parts.path == "/crash":
            raise RuntimeError("crash")
        else:
            self.send_error(404)

    def do_HEAD(self) -> None:
        # The same pages; _answer() leaves the body out.
        self.do_GET()

    def do_POST(self) -> None:
        if self.path == "/mirror":
            self._answer(200, self._body(), ("content-type", "application/octet-stream"))
        elif self.path == "/form":
            self._tell(parse_qsl(self._body().decode(), keep_blank_values=True))
        elif self.path == "/early":
            self.send_error(413)
        elif self.path == "/echo":
            self._echo()
        else:
            self.send_error(405)

    def do_PUT(self) -> None:
        self._echo()

    def do_PATCH(self) -> None:
        self._echo()

    def do_DELETE(self) -> None:
        self._echo()

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("content-length", "0")))

    def _echo(self) -> None:
        self._tell(
            {
                "method": self.command,
                "path": self.path,
                "version": self.request_version,
                "query": parse_qsl(urlsplit(self.path).query, keep_blank_values=True),
                "headers": sorted(
                    (name.lower(), value)
                    for name, value in self.headers.items()
                    if name.lower().startswith(("x-", "host", "content-", "cookie"))
                ),
                "client": self.client_address[0],
                "body": self._body().hex(),
            }
        )

    def _tell(self, content: object) -> None:
        self._answer(200, json.dumps(content, ensure_ascii=False).encode(), ("content-type", "application/json"))

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/plain")
        self.end_headers()
        for part in ("one\n", "", "two\n", "\N{SNAKE}"):
            self.wfile.write(part.encode())
            self.wfile.flush()

    def _answer(self, status: int, body: bytes = b"", *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if status not in (204, 304):
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
