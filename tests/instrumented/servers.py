"""Real servers for the apps of this folder: each in a process of its own, on a socket that the test has opened."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

import tracedbridge
from tests.support import HANG_S
from tests.vercel.platform import Platform

__all__ = (
    "APPS", "HOST", "SERVERS", "VERCEL_ENTRY", "Case", "Reply", "Server", "ask", "environ", "events", "served",
    "vercel_handler", "wire",
)  # fmt: skip

APPS = Path(__file__).with_name("apps")
HOST = "127.0.0.1"

_NOT_INHERITED = ("TRACEDBRIDGE_", "OTEL_", "VERCEL", "AWS_", "__VC_", "INSTRUMENT")


class Case(NamedTuple):
    """One request."""

    name: str
    method: str
    path: str
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()

    def sent(self) -> list[tuple[str, str]]:
        """Return all headers, in order."""
        length = [("content-length", str(len(self.body)))] if self.body else []
        return [("host", "shop.example"), ("x-case", self.name), *length, *self.headers]


class Reply(NamedTuple):
    """What came for it."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class Server(NamedTuple):
    """How a server is started: `` {fd} `` is the socket, `` {app} `` the module and its variable."""

    kind: str
    command: tuple[str, ...]
    # What has to be installed.
    needs: tuple[str, ...]
    # Whether it answers two requests at once.
    is_concurrent: bool = True


_GUNICORN = ("-m", "gunicorn", "--bind", "fd://{fd}", "--no-control-socket")

SERVERS = {
    "uvicorn": Server("asgi", ("-m", "uvicorn", "--fd", "{fd}", "{app}"), ("uvicorn",)),
    "hypercorn": Server("asgi", ("-m", "hypercorn", "--bind", "fd://{fd}", "{app}"), ("hypercorn",)),
    "hypercorn-trio": Server(
        "asgi", ("-m", "hypercorn", "-k", "trio", "--bind", "fd://{fd}", "{app}"), ("hypercorn", "trio")
    ),
    "gunicorn-uvicorn": Server(
        "asgi", (*_GUNICORN, "-k", "uvicorn_worker.UvicornWorker", "{app}"), ("gunicorn", "uvicorn_worker")
    ),
    "gunicorn-sync": Server("wsgi", (*_GUNICORN, "-k", "sync", "{app}"), ("gunicorn",), is_concurrent=False),
    "gunicorn-gthread": Server("wsgi", (*_GUNICORN, "-k", "gthread", "--threads", "4", "{app}"), ("gunicorn",)),
    "vercel-asgi": Server("asgi", (), ("vercel_runtime",)),
    "vercel-wsgi": Server("wsgi", (), ("vercel_runtime",)),
}
"""All servers, by name."""


class Running:
    """A server that runs, or did."""

    def __init__(self, port: int, process: subprocess.Popen[bytes]) -> None:
        self.port = port
        self.process = process
        # What it wrote, once it has ended.
        self.said = ""


def environ(endpoint: str | None, **more: str) -> dict[str, str]:
    """Return the environment of a process whose telemetry goes to that endpoint; None is the app without it."""
    told = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)}
    told["PYTHONPATH"] = os.pathsep.join((str(Path(tracedbridge.__file__).parents[1]), str(APPS)))
    told["PYTHONDONTWRITEBYTECODE"] = "1"
    if endpoint is not None:
        told |= {
            "INSTRUMENT": "1",
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST": "x-case",
            "TRACEDBRIDGE_FLUSH_TIMEOUT_MS": str(HANG_S * 1000),
            "TRACEDBRIDGE_IMPORTS": "off",
        }
    return told | more


@contextmanager
def served(
    name: str, endpoint: str | None, app: str = "", *options: str, ends_by: int = signal.SIGTERM, **more: str
) -> Iterator[Running]:
    """
    Run a server until the block has ended; skips the test where it is not installed.

    Args:
        name: Of `SERVERS`.
        endpoint: As for `environ`.
        app: Module and variable; the shop of the server's kind if empty.
        options: Of the server.
        ends_by: The signal that it gets at the end.
        more: Variables of its environment.
    """
    server = SERVERS[name]
    for module in server.needs:
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    app = app or f"shop_{server.kind}:app"
    if not server.command:
        with _vercel(app, environ(endpoint, **more)) as running:
            yield running
        return
    with socket.socket() as listening:
        listening.bind((HOST, 0))
        listening.listen()
        fd = listening.fileno()
        command = [part.format(fd=fd, app=app) for part in server.command]
        command[2:2] = options
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(
                (sys.executable, *command),
                cwd=APPS, env=environ(endpoint, **more), pass_fds=(fd,),
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip
            running = Running(listening.getsockname()[1], process)
            try:
                yield running
                process.send_signal(ends_by)
                process.wait(HANG_S)
            finally:
                process.kill()
                process.wait(HANG_S)
                output.seek(0)
                running.said = output.read().decode(errors="replace")


VERCEL_ENTRY = "import vercel_runtime.vc_init\n"
"""What starts Vercel's own runtime."""


def vercel_handler(app: str) -> dict[str, str]:
    """Return the variables that tell Vercel's runtime where the app is: module and variable."""
    module, _, variable = app.partition(":")
    return {
        "__VC_HANDLER_ENTRYPOINT": f"{module}.py",
        "__VC_HANDLER_ENTRYPOINT_ABS": str(APPS / f"{module}.py"),
        "__VC_HANDLER_MODULE_NAME": module,
        "__VC_HANDLER_VARIABLE_NAME": variable,
    }


@contextmanager
def _vercel(app: str, told: dict[str, str]) -> Iterator[Running]:
    ours = ("TRACEDBRIDGE_", "OTEL_", "INSTRUMENT", "GATE", "PYTHONPATH")
    told = {name: value for name, value in told.items() if name.startswith(ours)}
    told["TRACEDBRIDGE_TELEMETRY"] = "on"
    with Platform(
        "", files=None, built=None, endpoint=None, entry=VERCEL_ENTRY, **vercel_handler(app), **told
    ) as platform:
        running = Running(platform.port, platform.process)
        yield running
        running.process.send_signal(signal.SIGTERM)
        running.process.wait(HANG_S)
        running.said = platform.stderr


def ask(port: int, case: Case) -> Reply | None:
    """Send a request as it is and return the response; None if the server has closed the connection instead."""
    connection = http.client.HTTPConnection(HOST, port, timeout=HANG_S)
    try:
        connection.putrequest(case.method, case.path, skip_host=True, skip_accept_encoding=True)
        for name, value in case.sent():
            connection.putheader(name, value)
        connection.endheaders(case.body or None)
        response = connection.getresponse()
        return Reply(response.status, tuple(response.getheaders()), response.read())
    except (http.client.RemoteDisconnected, ConnectionResetError):
        return None
    finally:
        connection.close()


def wire(port: int, cases: Sequence[Sequence[Case]]) -> dict[str, Reply | None]:
    """Send the requests, those of one group at once; return what came, by the case's name."""
    replies: dict[str, Reply | None] = {}
    with ThreadPoolExecutor(4) as pool:
        for group in cases:
            replies |= zip([case.name for case in group], pool.map(lambda case: ask(port, case), group), strict=True)
    return replies


def events(app: str, endpoint: str, cases: Sequence[Sequence[Case]]) -> None:
    """Send the same requests as events to a process that answers with `vc_handler`, and end it."""
    told = environ(endpoint, TRACEDBRIDGE_APP=app)
    del told["INSTRUMENT"]
    lines = []
    for group in cases:
        told_events = [
            {
                "Action": "Invoke",
                "body": json.dumps(
                    {
                        "method": case.method, "path": case.path, "headers": dict(case.sent()),
                        "body": case.body.decode(),
                    }
                ),
            }
            for case in group
        ]  # fmt: skip
        lines.append(json.dumps(told_events))
    done = subprocess.run(
        (sys.executable, "events.py"),
        cwd=APPS, env=told, input="\n".join(lines), capture_output=True, text=True, timeout=3 * HANG_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done") == len(lines)
