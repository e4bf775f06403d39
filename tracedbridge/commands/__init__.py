"""The commands of the command line, one module each: ``run(arguments)`` returns the exit code."""

from __future__ import annotations

import sys

__all__ = ("FAILURE", "INTERRUPTED", "OK", "USAGE", "say")

OK, FAILURE, USAGE, INTERRUPTED = 0, 1, 2, 130


def say(line: str) -> None:
    """Tell the user something, on standard error: standard output is for what he asked for."""
    sys.stderr.write(f"tracedbridge: {line}\n")
