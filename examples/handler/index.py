"""A handler class, the oldest way to write a Python function on Vercel."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlsplit


class handler(BaseHTTPRequestHandler):  # noqa: N801 - the name that Vercel looks for
    """Greets; the class is driven over memory, without a socket."""

    def do_GET(self) -> None:
        """Greet who is named in the query."""
        query = parse_qs(urlsplit(self.path).query)
        self._answer(200, {"hello": query.get("name", ["world"])[0]})

    def do_POST(self) -> None:
        """Greet who is named in a JSON body."""
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        try:
            name = json.loads(body)["name"]
        except (ValueError, TypeError, KeyError):
            self._answer(400, {"error": 'expected a body like {"name": "Ada"}'})
        else:
            self._answer(200, {"hello": name})

    def _answer(self, status: int, content: dict[str, str]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
