"""What the contract tests share: an event builder, an answer reader, two fake apps and guards against hanging."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest

import tracedbridge
from tracedbridge import Bridge, create_bridge
from tracedbridge.messages import Kind

__all__ = (
    "HANG_S",
    "Answer",
    "Asgi",
    "Receive",
    "Scope",
    "Send",
    "answer",
    "bounded",
    "event",
    "no_lifespan",
    "respond",
    "run_python",
    "serve",
)

Scope = MutableMapping[str, Any]
"""What an ASGI app is told about a connection."""

Receive = Callable[[], Awaitable[dict[str, Any]]]
"""Gives an ASGI app its next message."""

Send = Callable[[dict[str, Any]], Awaitable[None]]
"""Takes a message from an ASGI app."""

Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]
"""An ASGI 3 app."""

# Long enough for the noisiest machine; only a test that fails waits for it.
HANG_S = 20.0

_T = TypeVar("_T")


class Answer(NamedTuple):
    """A result of the bridge, read as Vercel reads it."""

    status: int
    headers: dict[str, list[str]]
    body: bytes


def event(method: str = "GET", path: str = "/", **more: object) -> dict[str, str]:
    """
    Build a Vercel event.

    Args:
        method: As sent.
        path: Percent-encoded, with the query.
        more: ``headers`` (empty if not given), ``body``, ``encoding``, ``host``, verbatim.
    """
    return {"Action": "Invoke", "body": json.dumps({"method": method, "path": path, "headers": {}, **more})}


def answer(result: object) -> Answer:
    """Read what the bridge returned, after a journey through JSON as on the platform."""
    told = json.loads(json.dumps(result))
    assert set(told) <= {"statusCode", "headers", "body", "encoding"}
    body = told.get("body", "")
    raw = base64.b64decode(body, validate=True) if told.get("encoding") == "base64" else body.encode()
    return Answer(told["statusCode"], told["headers"], raw)


def serve(app: object, kind: Kind | None = None, **settings: str) -> Bridge:
    """
    Return a bridge to ``app`` with telemetry off.

    Args:
        app: Of any kind.
        kind: None to have it detected.
        settings: ``deadline_ms="50"`` sets ``TRACEDBRIDGE_DEADLINE_MS`` while the bridge is made.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"telemetry": "off", **settings}.items():
            patch.setenv(f"TRACEDBRIDGE_{name.upper()}", value)
        return create_bridge(app, kind=kind)  # type: ignore[arg-type]  # refusing what is no app is a test, too


def no_lifespan(scope: Scope) -> None:
    """Raise as an ASGI app does that knows HTTP only."""
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])


async def respond(
    send: Send, body: bytes = b"ok", status: int = 200, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    """Send a whole response in two messages."""
    await send({"type": "http.response.start", "status": status, "headers": headers or []})
    await send({"type": "http.response.body", "body": body})


def bounded(work: Callable[[], _T], timeout_s: float = HANG_S) -> _T:
    """Do ``work`` in a thread and return what it returns or raise what it raises; fail if it hangs."""
    returned: list[_T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            returned.append(work())
        except BaseException as error:
            raised.append(error)

    # A daemon: a test that fails because it hangs must not keep the run from ending.
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout_s)
    assert not thread.is_alive(), f"still at work after {timeout_s:g} s"
    if raised:
        raise raised[0]
    return returned[0]


def run_python(*arguments: str, cwd: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """
    Run a fresh Python in ``cwd`` to its end, with telemetry off.

    Args:
        arguments: As on the command line.
        cwd: Its working directory.
        settings: ``app="x.py"`` sets ``TRACEDBRIDGE_APP``.
    """
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("TRACEDBRIDGE_", "OTEL_"))}
    environ["PYTHONPATH"] = str(Path(tracedbridge.__file__).parents[1])
    for name, value in {"telemetry": "off", **settings}.items():
        environ[f"TRACEDBRIDGE_{name.upper()}"] = value
    return subprocess.run(
        (sys.executable, *arguments),
        cwd=cwd,
        env=environ,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
