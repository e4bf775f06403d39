"""The command line, ``tracedbridge`` and ``python -m tracedbridge``; imported by nobody else."""

from __future__ import annotations

import argparse
from importlib import import_module
from typing import TYPE_CHECKING

from tracedbridge.commands import INTERRUPTED, say
from tracedbridge.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ("main",)

# Name → the module with its run(), and what it does. A new command is one module and one line here.
_COMMANDS = {
    "dev": ("tracedbridge.commands.dev", "serve an app on this machine, and watch it in the viewer"),
    "invoke": ("tracedbridge.commands.invoke", "answer events with an app"),
    "coldstart": ("tracedbridge.coldstarts.command", "measure an app's cold starts"),
    "build": ("tracedbridge.commands.build", "write what `vercel deploy --prebuilt` takes"),
    "view": ("tracedbridge.commands.view", "open saved telemetry in the viewer"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run one command and return its exit code: 0, 1 for a failure, 2 for wrong usage, 130 after Ctrl-C.

    Args:
        arguments: Without the program's name; those of this process if None.
    """
    parser = argparse.ArgumentParser(
        prog="tracedbridge",
        description="Run a Python function as its platform does, and see where the time goes.",
        epilog="tracedbridge COMMAND -h tells more about a command",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=_version())
    parser.add_argument(
        "command",
        choices=tuple(_COMMANDS),
        nargs="?",
        metavar="COMMAND",
        help="; ".join(f"{name}: {does}" for name, (_, does) in _COMMANDS.items()),
    )
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="what the command takes")
    chosen = parser.parse_args(arguments)
    if chosen.command is None:
        parser.error(f"COMMAND missing: write one of {', '.join(_COMMANDS)}")
    module, _ = _COMMANDS[chosen.command]
    try:
        code: int = import_module(module).run(chosen.rest)
    except Refusal as refusal:
        say(str(refusal))
        return refusal.code
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def _version() -> str:
    from tracedbridge import __version__

    return f"tracedbridge {__version__}"
