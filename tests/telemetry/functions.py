"""Runs a function as a platform does: in a fresh process, through ``vc_handler``."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tracedbridge
from tests.support import HANG_S

__all__ = ("Ran", "json_lines", "run_function", "run_on_terminal", "run_program")

# Answers go to a file: stdout belongs to the log lines.
_LAUNCHER = """
import json, sys, time
begun_ns = time.time_ns()
answers = []
try:
    from tracedbridge import vc_handler
    with open("events.json") as asked:
        for event in json.load(asked):
            answers.append(vc_handler(event, None))
finally:
    with open("answers.json", "w") as answered:
        json.dump({"answers": answers, "begun_ns": begun_ns}, answered)
"""


class Ran(NamedTuple):
    """A function's process, ended."""

    answers: list[dict[str, Any]]
    stdout: str
    stderr: str
    code: int
    spawned_ns: int
    """Wall clock, before the process was started."""
    begun_ns: int
    """Wall clock, at the first line of Python that ran in it."""

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The JSON lines on stdout."""
        return json_lines(self.stdout)


def run_function(folder: Path, source: str, events: Sequence[object] = (), **environ: str) -> Ran:
    """
    Answer ``events`` by an ``index.py`` in a process of its own.

    Args:
        folder: An empty one to work in.
        source: Of ``index.py``; none if empty.
        events: In order.
        environ: Besides this process's, without its settings.
    """
    _put(folder, source, events)
    spawned_ns = time.time_ns()
    done = run_program(folder, _LAUNCHER, **environ)
    told = json.loads((folder / "answers.json").read_text())
    return Ran(told["answers"], done.stdout, done.stderr, done.returncode, spawned_ns, told["begun_ns"])


def run_program(folder: Path, program: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run Python source in a process of its own, warnings being errors."""
    return subprocess.run(
        (sys.executable, "-W", "error", "-c", program),
        cwd=folder,
        env=_environ(environ),
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )


def run_on_terminal(folder: Path, source: str, events: Sequence[object], **environ: str) -> str:
    """Answer ``events`` like `run_function`, with a terminal as stdout; return what was written there."""
    _put(folder, source, events)
    ours, theirs = pty.openpty()
    written = b""
    with open(ours, "rb", buffering=0) as screen:
        try:
            process = subprocess.Popen(
                (sys.executable, "-W", "error", "-c", _LAUNCHER),
                cwd=folder,
                env=_environ({"TERM": "xterm", **environ}),
                stdin=subprocess.DEVNULL,
                stdout=theirs,
            )
        finally:
            os.close(theirs)
        try:
            # EIO: Linux' end of file, once nobody has the other side open.
            while chunk := screen.read(65536):
                written += chunk
        except OSError:
            pass
        finally:
            try:
                process.wait(HANG_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    assert process.returncode == 0
    # A terminal ends its lines so.
    return written.decode().replace("\r\n", "\n")


def json_lines(text: str) -> list[dict[str, Any]]:
    """Read one JSON object a line; what is none fails the test."""
    return [json.loads(line) for line in text.splitlines()]


def _put(folder: Path, source: str, events: Sequence[object]) -> None:
    if source:
        (folder / "index.py").write_text(source)
    (folder / "events.json").write_text(json.dumps(events))


def _environ(more: dict[str, str]) -> dict[str, str]:
    # In development mode asyncio logs a line where the machine is slow; what is not closed is told by `-W error`.
    dropped = ("TRACEDBRIDGE_", "OTEL_", "VERCEL", "PYTHONDEVMODE")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
    return {**kept, "PYTHONPATH": str(Path(tracedbridge.__file__).parents[1]), **more}
