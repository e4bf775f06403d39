"""``tracedbridge dev``: an app behind a local HTTP server, as on its platform, and all that it traces in the viewer."""

from __future__ import annotations

import argparse
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from tracedbridge.children import ended_by_signals
from tracedbridge.commands import OK, USAGE, say
from tracedbridge.commands.backends import switch, towards, unconfigured
from tracedbridge.refusal import Refusal
from tracedbridge.serving.changes import Changes
from tracedbridge.serving.console import Console
from tracedbridge.serving.front import Front
from tracedbridge.serving.fronts import FRONTS
from tracedbridge.serving.instances import Instances
from tracedbridge.serving.listening import HOST, Listener, bound_from
from tracedbridge.serving.viewer.server import DEFAULT_PORT, Viewer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ("run",)

_PORT = 3000

# How often the source is looked at while no request comes; one that comes looks, too.
_LOOK_S = 0.5

# Whoever holds the last connections of a page open is another tab, and no attack.
_PATIENCE_S = float("inf")


def run(arguments: Sequence[str]) -> int:
    """
    Serve until Ctrl-C, and return the exit code.

    Args:
        arguments: What follows the command's name on the command line.

    Raises:
        Refusal: The app is not there, or no port is free.
        SystemExit: Wrong usage, or a signal that ends us.
    """
    options = _options(arguments)
    folder = _folder_of(options.app)
    with (
        ended_by_signals(),
        Viewer(options.viewer_port, save=options.save, ui_dir=options.ui_dir) as viewer,
    ):
        console = Console(viewer.store, viewer.url)
        changes = Changes(folder)
        instances = Instances(_environ(options.app, viewer.endpoint), each_its_own=options.cold, loaded=changes.watch)

        def look() -> None:
            changed = changes.found()
            if changed and instances.retire():
                more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
                console.say(f"{os.path.relpath(changed[0])}{more} changed: the next request starts the app anew")

        front = Front(instances, FRONTS[options.platform], console.answered, before=look)
        listener = Listener(
            front,
            bound_from(options.port, options.host),
            name="tracedbridge-front",
            host=options.host,
            patience_s=_PATIENCE_S,
        )
        try:
            _welcome(options, listener.port, viewer)
            _wait(look)
        finally:
            _end(instances, listener)
            for refusal in viewer.refusals[:1]:
                say(f"the viewer did not take everything: {refusal}")
    return OK


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tracedbridge dev",
        description="Serve an app on this machine as its platform does: the first request starts it, a change of its "
        "source starts it anew. Its traces, cold starts, metrics and logs are in the viewer, and a waterfall of each "
        "request is on the console.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "app", metavar="APP", help="path/to/file.py, path/to/file.py:variable or package.module:variable"
    )
    parser.add_argument(
        "--port", metavar="N", type=int, default=_PORT, help=f"of the app; the next free one if taken ({_PORT})"
    )
    parser.add_argument(
        "--viewer-port",
        metavar="N",
        type=int,
        default=DEFAULT_PORT,
        help=f"of the viewer's page and its OTLP endpoint; the next free one if taken ({DEFAULT_PORT})",
    )
    parser.add_argument("--cold", action="store_true", help="a new process for each request")
    parser.add_argument(
        "--platform",
        metavar="NAME",
        default="vercel",
        help="whose events the app gets: vercel (default), or aws: those of a Function URL",
    )
    parser.add_argument("--save", metavar="FILE", type=Path, help="append what comes to a file, as OTLP JSON lines")
    parser.add_argument("--ui-dir", metavar="DIR", type=Path, help="a built Jaeger UI, served below /jaeger/")
    parser.add_argument("--host", metavar="ADDRESS", default=HOST, help=f"where the app listens ({HOST})")
    options = parser.parse_args(arguments)
    if not options.app.strip():
        parser.error("APP is empty: name a file or a module")
    if options.platform not in FRONTS:
        parser.error(f"--platform {options.platform!r}: expected one of {', '.join(FRONTS)}")
    return options


def _folder_of(app: str) -> str:
    """Return the folder whose source is the app's: that of its file, or the working directory of a module."""
    name = app.partition(":")[0]
    if not (name.endswith(".py") or os.sep in name):
        return os.getcwd()
    if not os.path.isfile(name):
        raise Refusal(f"cannot serve {app!r}: there is no file {os.path.abspath(name)!r}", USAGE)
    return os.path.dirname(os.path.abspath(name))


def _environ(app: str, endpoint: str) -> dict[str, str]:
    """Return the environment of the instances: everything goes to the viewer, after the response."""
    environ, dropped = unconfigured(os.environ)
    if dropped:
        say(f"all telemetry goes to the viewer, whatever {', '.join(dropped)} says")
    # Read here: a bad value is one warning, not one a process.
    telemetry = switch(os.environ)
    if telemetry == "off" or environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        name = "TRACEDBRIDGE_TELEMETRY" if telemetry == "off" else "OTEL_SDK_DISABLED"
        say(f"nothing will come to the viewer: {name}={os.environ[name]}")
    asked = {"TRACEDBRIDGE_FLUSH": "after", "TRACEDBRIDGE_TRACE_RESPONSE": "on", **towards(endpoint, environ)}
    return {**asked, "TRACEDBRIDGE_APP": app, "TRACEDBRIDGE_TELEMETRY": telemetry}


def _welcome(options: argparse.Namespace, port: int, viewer: Viewer) -> None:
    if options.host != HOST:
        say(f"warning: the app listens on {options.host}, where others may reach it; the viewer does not")
    host = f"[{options.host}]" if ":" in options.host else options.host
    say(f"{options.app} on http://{host}:{port}/")
    say(f"its traces on {viewer.url} (OTLP: {viewer.endpoint})")
    starts = "each request starts a new process" if options.cold else "the first request starts it, a change anew"
    say(f"{starts}; Ctrl-C ends")


def _wait(look: Callable[[], object]) -> None:
    ended = threading.Event()
    try:
        while not ended.wait(_LOOK_S):
            look()
    except KeyboardInterrupt:
        say("ending")


def _end(instances: Instances, listener: Listener) -> None:
    try:
        # First: a request that still waits for its answer gets one, or learns that there is none.
        instances.close()
        listener.close()
    except KeyboardInterrupt:
        instances.kill()
        raise
