"""The workshop as a handler class, which has loaded OpenTelemetry's API when the bridge starts."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler

from tests.collector.apps.workshop import craft


class handler(BaseHTTPRequestHandler):  # noqa: N801 - the name that Vercel wants
    """Serves ``/items/{item}``."""

    def do_GET(self) -> None:
        """Make one."""
        body = json.dumps(craft(int(self.path.rpartition("/")[2]))).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
