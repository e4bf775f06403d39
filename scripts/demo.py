"""
What ``make demo`` shows: ``tracedbridge dev`` with the FastAPI example, one cold and some warm invocations.

``python scripts/demo.py`` stays until Ctrl-C. With ``ONCE=1``, with ``CI`` set or without a terminal it checks that the
traces have come, and ends by itself: exit code 0, or 1 and what is missing. It needs the extra ``cli`` and
``examples/fastapi/requirements.txt``, and nothing outside of this machine.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = "examples/fastapi/index.py"

# The first one is the cold one.
REQUESTS = (
    ("GET", "/items/3"), ("GET", "/items/1"), ("GET", "/price/2"), ("POST", "/orders/3"), ("GET", "/crash"),
)  # fmt: skip

HOST = "127.0.0.1"
START_TIMEOUT_S = 60
END_TIMEOUT_S = 15
PORT, VIEWER_PORT = 3000, 4318


def main() -> int:
    """Show it and return the exit code."""
    once = bool(os.environ.get("ONCE") or os.environ.get("CI")) or not (sys.stdin.isatty() and sys.stderr.isatty())
    port = free_port(PORT)
    viewer_port = free_port(VIEWER_PORT)
    command = [sys.executable, "-m", "tracedbridge", "dev", EXAMPLE]
    command += ["--port", str(port), "--viewer-port", str(viewer_port)]
    # In a session of its own where nobody can press Ctrl-C.
    with subprocess.Popen(command, cwd=ROOT, start_new_session=once) as dev:  # noqa: S603 - this Python
        try:
            missing = show(dev, port, viewer_port)
            say(f"DEMO: {len(REQUESTS)} invocations are on http://{HOST}:{viewer_port}/")
            if missing:
                say(f"DEMO: {missing}")
                return 1
            if not once:
                say(f"DEMO: ask http://{HOST}:{port}/items/2 for more; Ctrl-C ends")
                dev.wait()
        except KeyboardInterrupt:
            # It has got it, too, and ends.
            return end(dev)
        finally:
            end(dev)
    return 0


def show(dev: subprocess.Popen[bytes], port: int, viewer_port: int) -> str:
    """Make the requests; return what is missing in the viewer, or nothing."""
    await_port(dev, port)
    expected = {}
    for method, path in REQUESTS:
        headers = ask(method, port, path)[0]
        expected[headers["traceresponse"].split("-")[1]] = f"{method} {path}"
    until_s = time.monotonic() + START_TIMEOUT_S
    while True:
        _, answer = ask("GET", viewer_port, "/api/viewer/traces")
        here = {trace["traceId"]: trace["cold"] for trace in json.loads(answer)["traces"]}
        missing = [name for trace_id, name in expected.items() if trace_id not in here]
        if not missing or time.monotonic() > until_s:
            break
        time.sleep(0.05)
    if missing:
        return f"no trace came of {', '.join(missing)}"
    kinds = [here[trace_id] for trace_id in expected]
    if kinds != ["on_demand"] + [None] * (len(REQUESTS) - 1):
        return f"expected one cold start, the first one's; found {kinds}"
    return ""


def ask(method: str, port: int, path: str) -> tuple[Any, bytes]:
    """Send a request to this machine; return headers and body of the answer."""
    connection = HTTPConnection(HOST, port, timeout=START_TIMEOUT_S)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.headers, response.read()
    finally:
        connection.close()


def await_port(dev: subprocess.Popen[bytes], port: int) -> None:
    """Wait until somebody listens there, or the process has ended."""
    until_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < until_s:
        if dev.poll() is not None:
            raise SystemExit(f"DEMO: tracedbridge dev has ended with exit code {dev.returncode}")
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) == 0:
                return
        time.sleep(0.02)
    raise SystemExit(f"DEMO: nobody listens on port {port}")


def free_port(port: int) -> int:
    """Return that port, or the next free one."""
    while True:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                port += 1
            else:
                return port


def end(dev: subprocess.Popen[bytes]) -> int:
    """End the server, if it still runs, and return its exit code."""
    if dev.poll() is None:
        dev.send_signal(signal.SIGTERM)
        try:
            dev.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            dev.kill()
    return dev.wait()


def say(line: str) -> None:
    """Tell whoever watches."""
    sys.stderr.write(f"\n{line}\n")


if __name__ == "__main__":
    sys.exit(main())
