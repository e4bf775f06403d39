"""
Real servers, each in a process of its own: ``python -m tests.frameworks.servers asgi package.module:app``.

The process prints its port when it listens, and ends when its standard input is closed, so that none is left behind by
a test run that is killed.
"""

from __future__ import annotations

import importlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import HTTPServer
from socketserver import ThreadingMixIn
from typing import IO, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

__all__ = ("running",)

# Only a test that fails waits that long.
_END_S = 10.0


@contextmanager
def running(server: str, app: str, log: IO[str]) -> Iterator[int]:
    """
    Run a server until the block is left.

    Args:
        server: A key of ``SERVERS``.
        app: ``package.module:variable``.
        log: What it writes to stderr.

    Returns:
        Its port on 127.0.0.1.
    """
    with subprocess.Popen(
        (sys.executable, "-m", "tests.frameworks.servers", server, app),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            port = process.stdout.readline()
            assert port, f"{server} could not start {app}; see {log.name}"
            yield int(port)
        finally:
            process.stdin.close()
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _listen() -> socket.socket:
    listening = socket.create_server(("127.0.0.1", 0))
    # The parent may connect from here on; who connects early waits in the backlog.
    print(listening.getsockname()[1], flush=True)
    return listening


def serve_asgi(app: Any) -> None:
    """Serve with uvicorn and its own choice of loop and parser."""
    import uvicorn

    config = uvicorn.Config(app, log_level="critical", access_log=False)
    uvicorn.Server(config).run(sockets=[_listen()])


def serve_werkzeug(app: Any) -> None:
    """Serve a WSGI app as ``flask run`` does."""
    from werkzeug.serving import make_server

    with _listen() as listening:
        make_server("127.0.0.1", 0, app, threaded=True, fd=listening.fileno()).serve_forever()


class _ThreadingWsgiServer(ThreadingMixIn, WSGIServer):
    pass


def serve_wsgiref(app: Any) -> None:
    """Serve a WSGI app with the standard library."""
    server = _ThreadingWsgiServer(("127.0.0.1", 0), WSGIRequestHandler)
    server.set_app(app)
    print(server.server_port, flush=True)
    server.serve_forever()


def serve_handler(app: Any) -> None:
    """Serve a ``BaseHTTPRequestHandler`` class."""
    server = HTTPServer(("127.0.0.1", 0), app)
    print(server.server_port, flush=True)
    server.serve_forever()


SERVERS: dict[str, Callable[[Any], None]] = {
    "uvicorn": serve_asgi,
    "werkzeug": serve_werkzeug,
    "wsgiref": serve_wsgiref,
    "http.server": serve_handler,
}


def _end_with_stdin() -> None:
    sys.stdin.read()
    os._exit(0)


def _main(server: str, app: str) -> None:
    module, _, variable = app.partition(":")
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    SERVERS[server](getattr(importlib.import_module(module), variable))


if __name__ == "__main__":
    _main(*sys.argv[1:])
