"""
Starts an app in one fresh process after the other and holds what they told; reads and writes the file of runs.

The first process is not counted: it brings the files into the disk cache and writes the missing ``.pyc`` files.
"""

from __future__ import annotations

import json
import math
import os
import platform
import select
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple, NotRequired, TypedDict, cast

from tracedbridge.children import END_TIMEOUT_S, ended_by_signals, signal_name
from tracedbridge.refusal import Refusal
from tracedbridge.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tracedbridge.boot import Beginning
    from tracedbridge.origins import Owner, Source

__all__ = ("Failure", "Import", "Measured", "Run", "Task", "measure", "read", "write")

_VERSION: Literal[1] = 1

# How long the child may be dead, its output held open by a process that it left behind, until we notice.
_POLL_S = 0.2

# What a broken app writes last is what says why.
_MAX_SHOWN_BYTES = 64_000

_SIGNALS = ("TRACES", "METRICS", "LOGS")

# Exporters that send nothing anywhere.
_QUIET_EXPORTERS = ("none", "console")

# What a platform tells its own processes: not of ours, which begin when we start them.
_NOT_OURS = ("__VC_PY_BOOT_START_MS", "AWS_LAMBDA_INITIALIZATION_TYPE", "VERCEL_OTEL_ENDPOINTS")


class Import(TypedDict):
    """One import of one module; ``parent`` is the index of what asked for it, ``begin_ms`` since process start."""

    name: str
    parent: int | None
    phase: str
    begin_ms: float
    total_ms: float
    self_ms: float
    find_ms: float
    compile_ms: float
    source: Source
    owner: Owner
    error: NotRequired[str]


class Run(TypedDict):
    """One cold start; ``total_ms`` is from process start to ready: all phases but ``wait`` and ``first_byte``."""

    phases: dict[str, float]
    total_ms: float
    # From before the process was started until it was ready, by the parent's clock.
    spawn_ms: float
    begins_with: Beginning
    status: int
    modules: int
    dropped: int
    imports: list[Import]


class Measured(TypedDict):
    """Cold starts of one app, as they are in a file; ``tracedbridge`` is its version."""

    version: Literal[1]
    app: str
    method: str
    path: str
    python: str
    platform: str
    tracedbridge: str
    telemetry: Literal["on", "off"]
    runs: list[Run]


class Task(NamedTuple):
    """What is measured, and for how long a process may take for it."""

    app: str
    method: str
    path: str
    runs: int
    timeout_s: float


class Failure(Exception):  # noqa: N818 - what a child told, and no error of ours
    """A child told no cold start; the message is empty where its output says it all."""

    def __init__(self, message: str, output: bytes) -> None:
        """
        Args:
            message: What the parent knows.
            output: What the child and its app wrote.
        """
        super().__init__(message)
        self.output = output


def measure(task: Task, progress: Callable[[], None]) -> Measured:
    """
    Start the app ``task.runs`` times, and once before that, and return what the runs told.

    Args:
        task: What to start.
        progress: Called after each process.

    Raises:
        Failure: One of them told nothing.
        KeyboardInterrupt: Ctrl-C; no child is left behind.
    """
    from tracedbridge import __version__

    environ = _environ(task.app, os.environ)
    runs: list[Run] = []
    with ended_by_signals():
        for number in range(task.runs + 1):
            run = _run(task, environ)
            if number:
                runs.append(run)
            progress()
    return {
        "version": _VERSION,
        "app": task.app,
        "method": task.method,
        "path": task.path,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "tracedbridge": __version__,
        "telemetry": "on" if environ["TRACEDBRIDGE_TELEMETRY"] == "on" else "off",
        "runs": runs,
    }


def write(measured: Measured, name: str) -> None:
    """Write the file that `read` reads."""
    with open(name, "w", encoding="utf-8") as file:
        # Without spaces: twenty starts of a large app are several megabytes.
        json.dump(measured, file, separators=(",", ":"))
        file.write("\n")


def read(name: str) -> Measured:
    """
    Read the file that `write` wrote.

    Raises:
        Refusal: There is none, or it is another one.
    """
    try:
        with open(name, encoding="utf-8") as file:
            told = json.load(file, parse_constant=_refuse_constant)
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or f"it is no JSON: {error}"
        raise Refusal(f"could not read the runs in {name!r}: {reason}", 2) from None
    if isinstance(told, dict) and "runs" in told and told.get("version") != _VERSION:
        raise Refusal(
            f"could not read the runs in {name!r}: its version is {told.get('version')!r}, expected {_VERSION}: "
            "it is from another tracedbridge, measure again",
            2,
        )
    wrong = _wrong_with(told)
    if wrong:
        raise Refusal(
            f"could not read the runs in {name!r}: {wrong}; expected a file of `tracedbridge coldstart --json`", 2
        )
    return cast("Measured", told)


# The child.


def _environ(app: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a child: as it is, but no cold start of ours is exported to anybody."""
    told = {
        name: value
        for name, value in environ.items()
        if name not in _NOT_OURS and not (name.startswith("OTEL_EXPORTER_OTLP_") and name.endswith("ENDPOINT"))
    }
    for each in _SIGNALS:
        variable = f"OTEL_{each}_EXPORTER"
        if told.get(variable, "").strip():
            asked = (name.strip().lower() for name in told[variable].split(","))
            told[variable] = ",".join(name for name in asked if name in _QUIET_EXPORTERS) or "none"
    # Read here: a bad value is one warning, not one a process.
    switch = Settings({"TRACEDBRIDGE_TELEMETRY": environ.get("TRACEDBRIDGE_TELEMETRY", "")}).telemetry
    return {
        **told,
        "TRACEDBRIDGE_APP": app,
        "TRACEDBRIDGE_TELEMETRY": "on" if switch else "off",
        "TRACEDBRIDGE_IMPORTS": "summary",
    }


def _event(task: Task) -> str:
    # What Vercel's proxy adds; there, everything comes through it.
    headers = {"host": "localhost", "x-forwarded-proto": "http", "x-forwarded-for": "127.0.0.1"}
    return json.dumps(
        {"Action": "Invoke", "body": json.dumps({"method": task.method, "path": task.path, "headers": headers})}
    )


def _run(task: Task, environ: Mapping[str, str]) -> Run:
    # A file: a pipe that nobody reads would fill up, and hold the app.
    with tempfile.TemporaryFile() as output:
        begun_ns = time.monotonic_ns()
        with subprocess.Popen(  # noqa: S603 - this Python, and a module of ours
            [sys.executable, "-m", "tracedbridge.coldstarts.probe", _event(task)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=output,
            env=environ,
            # A group of its own: it ends as a whole, and Ctrl-C reaches it through us only.
            process_group=0,
        ) as child:
            try:
                line = _line_of(child, task.timeout_s)
                if line is None:
                    raise Failure(
                        f"the app's process was killed: it had not answered after {task.timeout_s:g} s; "
                        "--timeout-s allows more",
                        _shown(output),
                    )
                told = json.loads(line or b"null")
                if told is None:
                    message = "" if line else _end_of(child)
                    raise Failure(message, _shown(output))
                _await_end(child)
            finally:
                _kill(child)
    run: Run = told["run"]
    run["spawn_ms"] = (told["ready_ns"] - begun_ns) / 1e6
    return run


def _line_of(child: subprocess.Popen[bytes], timeout_s: float) -> bytes | None:
    """Return the line that the child tells, ``b""`` if it ended without one, or None if it did not in time."""
    assert child.stdout is not None
    descriptor = child.stdout.fileno()
    deadline_s = time.monotonic() + timeout_s
    told = b""
    while True:
        # Asked first: what it wrote before its end is readable then.
        ended = child.poll() is not None
        readable, _, _ = select.select([descriptor], [], [], 0 if ended else _POLL_S)
        chunk = os.read(descriptor, 1 << 20) if readable else b""
        told += chunk
        if told.endswith(b"\n"):
            return told
        if (readable and not chunk) or (ended and not readable):
            # Half a line is none.
            return b""
        if time.monotonic() > deadline_s:
            return None


def _end_of(child: subprocess.Popen[bytes]) -> str:
    """Say how a child ended that has told nothing."""
    try:
        code = child.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return "the app's process closed its output before it had answered"
    if code < 0:
        return f"the app's process died by {signal_name(-code)} before it had answered"
    return f"the app's process ended with exit code {code} before it had answered"


def _await_end(child: subprocess.Popen[bytes]) -> None:
    """Let a child shut its app down, for a while."""
    try:
        child.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        # A thread of the app's holds it, say; what it had to tell is told.
        return


def _kill(child: subprocess.Popen[bytes]) -> None:
    """End a child and what it started."""
    # Where all of them have ended; macOS calls that a lack of permission.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _shown(output: IO[bytes]) -> bytes:
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - _MAX_SHOWN_BYTES))
    return output.read()


# The file.


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _wrong_with(told: Any) -> str:
    """Say what is wrong with the content of a file; nothing if it is one of ours."""
    texts = ("app", "method", "path", "python", "platform", "tracedbridge", "telemetry")
    if not isinstance(told, dict) or not all(isinstance(told.get(name), str) for name in texts):
        return "it is no file of runs"
    runs = told.get("runs")
    if not isinstance(runs, list) or not runs:
        return "it has no runs"
    for number, run in enumerate(runs, 1):
        if not _is_run(run):
            return f"run {number} is not whole"
    return ""


def _is_run(run: Any) -> bool:
    if not isinstance(run, dict):
        return False
    phases, imports = run.get("phases"), run.get("imports")
    return (
        isinstance(phases, dict)
        and all(_is_number(duration_ms) for duration_ms in phases.values())
        and _is_number(run.get("total_ms"))
        and isinstance(imports, list)
        and all(_is_import(each, index) for index, each in enumerate(imports))
    )


def _is_import(each: Any, index: int) -> bool:
    if not isinstance(each, dict):
        return False
    parent = each.get("parent", -1)
    return (
        all(isinstance(each.get(name), str) for name in ("name", "phase", "source", "owner"))
        and all(_is_number(each.get(f"{name}_ms")) for name in ("begin", "total", "self", "find", "compile"))
        # Parents come first, so that nothing can be its own.
        and (parent is None or (type(parent) is int and 0 <= parent < index))
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
