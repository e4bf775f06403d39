"""Serves the page to a browser: from fixed answers in the shapes of its API, or by the real viewer."""

from __future__ import annotations

import json
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

import tracedbridge
from tests.serving.page.made import Made, logs_otlp, metrics_otlp, spans_otlp
from tracedbridge.serving.viewer.server import Viewer

__all__ = ("Fixed", "Real", "Served")

PAGE = Path(tracedbridge.__file__).parent / "serving" / "viewer" / "page"

# The page's own: nothing inline, nothing from elsewhere.
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
_TIMEOUT_S = 20


class Served(Protocol):
    """What the tests need of a server."""

    url: str

    def tell(self, *made: Made) -> None:
        """Let traces with their log lines arrive."""
        ...

    def measure(self, metrics: list[dict[str, Any]]) -> None:
        """Let metrics arrive."""
        ...

    def close(self) -> None:
        """End it."""
        ...


class Fixed:
    """Answers from what it was told, as it was told."""

    def __init__(self) -> None:
        """Listen on a port that the kernel chose."""
        self._made: dict[str, Made] = {}
        self._metrics: list[dict[str, Any]] = []
        self._seq = 0
        fixed = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, kind, body = fixed._answer(self.path.partition("?")[0])
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(body)))
                self.send_header("content-security-policy", POLICY)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def tell(self, *made: Made) -> None:
        """Let traces with their log lines arrive."""
        self._made |= {each.trace_id: each for each in made}
        self._seq += 1

    def measure(self, metrics: list[dict[str, Any]]) -> None:
        """Let metrics arrive."""
        self._metrics += metrics
        self._seq += 1

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._thread.join(_TIMEOUT_S)
        self._server.server_close()

    def _answer(self, path: str) -> tuple[int, str, bytes]:
        name = path.strip("/") or "index.html"
        file = PAGE / name
        if "/" not in name and file.is_file():
            return 200, _TYPES[file.suffix], file.read_bytes()
        told = self._told(name.removeprefix("api/viewer/").split("/"))
        return (404 if told is None else 200), "application/json", json.dumps(told).encode()

    def _told(self, parts: list[str]) -> object | None:
        newest = sorted(self._made.values(), key=lambda made: -made.begin_ns)
        match parts:
            case ["state"]:
                return {
                    "seq": self._seq, "endpoint": self.url.rstrip("/"), "version": "0.1.0", "refused": 0, "saved": None,
                    "dropped": {"traces": 0, "logs": 0, "metrics": 0},
                }  # fmt: skip
            case ["traces"]:
                return {"seq": self._seq, "traces": [made.row() for made in newest]}
            case ["traces", trace_id] if trace_id in self._made:
                return self._made[trace_id].whole()
            case ["traces", trace_id, "jaeger.json"] if trace_id in self._made:
                return {"data": [{"traceID": trace_id, "spans": [{} for _ in self._made[trace_id].spans]}]}
            case ["coldstarts"]:
                return {"coldstarts": [row for made in newest if (row := made.cold_row())]}
            case ["metrics"]:
                return {"metrics": self._metrics}
            case ["logs"]:
                logs = [{**log, "traceId": made.trace_id} for made in newest for log in made.log_lines()]
                return {"logs": sorted(logs, key=lambda log: -int(log["timeNs"]))}
        return None


class Real:
    """The viewer itself, told by OTLP."""

    def __init__(self) -> None:
        """Start it on a free port."""
        self._viewer = Viewer(port=0)
        self.url = f"http://127.0.0.1:{self._viewer.port}/"

    def tell(self, *made: Made) -> None:
        """Let traces with their log lines arrive."""
        for each in made:
            self._post("traces", spans_otlp(each))
            self._post("logs", logs_otlp(each))

    def measure(self, metrics: list[dict[str, Any]]) -> None:
        """Let metrics arrive."""
        self._post("metrics", metrics_otlp(metrics))

    def close(self) -> None:
        """End it."""
        self._viewer.close()

    def _post(self, signal: str, body: dict[str, Any]) -> None:
        request = urllib.request.Request(
            f"{self.url}v1/{signal}", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
            assert response.status == 200
