"""The workshop as a handler class that loads OpenTelemetry's API, structlog and all in its first request."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler


class handler(BaseHTTPRequestHandler):  # noqa: N801 - the name that Vercel wants
    """Serves ``/items/{item}``."""

    def do_GET(self) -> None:
        """Make one."""
        from tests.collector.apps.workshop import craft

        body = json.dumps(craft(int(self.path.rpartition("/")[2]))).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
