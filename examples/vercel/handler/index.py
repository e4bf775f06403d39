"""A handler class on Vercel; it knows nothing of tracedbridge."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler

PRICES = {1: 41, 2: 42, 3: 43}


class handler(BaseHTTPRequestHandler):  # noqa: N801 - the name that Vercel looks for
    """Answers with prices, and with a stream."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer ``/price/3``, or ``/countdown`` part by part."""
        if self.path == "/countdown":
            self._stream(b"3\n", b"2\n", b"1\n")
            return
        number = self.path.rpartition("/")[2]
        if number.isdecimal() and int(number) in PRICES:
            self._answer(200, {"id": int(number), "cents": PRICES[int(number)]})
        else:
            self._answer(404, {"error": f"no item {number}"})

    def _answer(self, status: int, content: dict[str, int] | dict[str, str]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, *parts: bytes) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/plain")
        self.end_headers()
        for part in parts:
            self.wfile.write(part)
            self.wfile.flush()
