"""``tracedbridge view``: opens saved telemetry in the viewer."""

from __future__ import annotations

import argparse
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from tracedbridge.children import ended_by_signals
from tracedbridge.commands import OK, say
from tracedbridge.serving.viewer import saved
from tracedbridge.serving.viewer.server import DEFAULT_PORT, Viewer
from tracedbridge.serving.viewer.store import Store

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ("run",)


def run(arguments: Sequence[str]) -> int:
    """
    Show files until Ctrl-C, and return the exit code.

    Args:
        arguments: What follows the command's name on the command line.

    Raises:
        Refusal: A file cannot be read, or no port is free.
        SystemExit: Wrong usage, or a signal that ends us.
    """
    options = _options(arguments)
    store = Store()
    for file in options.files:
        for signal, records in saved.read(file):
            store.add(signal, records)
    dropped = {signal: count for signal, count in store.dropped.items() if count}
    if dropped:
        told = ", ".join(f"{count} of {signal}" for signal, count in dropped.items())
        say(f"more than the viewer keeps: the oldest made room ({told})")
    with ended_by_signals(), Viewer(options.viewer_port, store=store, ui_dir=options.ui_dir) as viewer:
        say(f"{', '.join(map(str, options.files))} on {viewer.url}; Ctrl-C ends")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            say("ending")
    return OK


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tracedbridge view",
        description="Open files that `tracedbridge dev --save`, or an OpenTelemetry collector's file exporter, wrote: "
        "OTLP as JSON lines. What is sent to the viewer's port comes in addition.",
        allow_abbrev=False,
    )
    parser.add_argument("files", metavar="FILE", type=Path, nargs="+", help="read in this order")
    parser.add_argument(
        "--viewer-port",
        metavar="N",
        type=int,
        default=DEFAULT_PORT,
        help=f"of the page and the OTLP endpoint; the next free one if taken ({DEFAULT_PORT})",
    )
    parser.add_argument("--ui-dir", metavar="DIR", type=Path, help="a built Jaeger UI, served below /jaeger/")
    return parser.parse_args(arguments)
