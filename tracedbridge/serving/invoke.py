"""
The child process of ``tracedbridge invoke``: answers the events on its standard input through ``vc_handler``.

Its real standard output carries one line of JSON for each answer, and ``null`` where an event or the app failed,
once that has been explained on standard error. Everything else that is written to file descriptor 1 goes there, too.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType
    from typing import BinaryIO

__all__ = ("explain", "main")

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def main() -> int:
    """Answer all events and return the exit code: 0 when every one was answered, 1 if not, 130 after Ctrl-C."""
    # All of them first: the parent writes them before it reads an answer.
    events = sys.stdin.buffer.readlines()
    with _real_stdout() as answers:
        try:
            failed = _answer(events, answers)
        except KeyboardInterrupt:
            return 130
        if failed:
            answers.write(b"null\n")
    return int(failed)


def _real_stdout() -> BinaryIO:
    """Return what file descriptor 1 was, and let it be standard error from now on."""
    real = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    # Else what the app prints would come after all log lines: a pipe or a file is written in blocks.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # at start-up it is a TextIOWrapper
    return real


def _answer(events: list[bytes], answers: BinaryIO) -> bool:
    """Write the answers and say whether something failed, which is explained then."""
    try:
        from tracedbridge import vc_handler
    except BaseException as error:  # noqa: BLE001 - whatever an app raises is shown to its developer
        return explain(error, "could not start the app")
    for number, line in enumerate(events, 1):
        event = json.loads(line)
        try:
            answer = vc_handler(event, None)
        except BaseException as error:  # noqa: BLE001 - whatever an app raises is shown to its developer
            return explain(error, f"could not answer event {number} of {len(events)}")
        answers.write(json.dumps(answer).encode() + b"\n")
        # At once: whatever comes next, this answer has been given. And a fork of the app must not write it again.
        answers.flush()
        vc_handler.settle()
    return False


def explain(error: BaseException, what: str) -> bool:
    """
    Write to standard error why an app could not be started, or did not answer; return True.

    Args:
        error: What was raised; KeyboardInterrupt is raised again.
        what: What could not be done, as a sentence begins.
    """
    from tracedbridge.errors import LoadError, TracedBridgeError

    if isinstance(error, KeyboardInterrupt):
        raise error
    if isinstance(error, TracedBridgeError):
        if error.__cause__ is not None:
            _print_traceback(error.__cause__)
        # A LoadError begins with what could not be done, too.
        _say(str(error) if isinstance(error, LoadError) else f"{what}: {error}")
    elif isinstance(error, SystemExit):
        _say(f"{what}: the app called sys.exit({error.code!r})")
    else:
        _print_traceback(error)
        _say(f"{what}: the app raised {type(error).__name__}; see the traceback above")
    return True


def _print_traceback(error: BaseException) -> None:
    """Print an app's exception without the frames that are ours or the import system's."""
    import traceback

    first = error.__traceback__
    entry: TracebackType | None = first
    while entry is not None:
        if entry.tb_frame.f_code.co_filename.startswith(_PACKAGE):
            first = entry.tb_next
        entry = entry.tb_next
    while first is not None and first.tb_frame.f_code.co_filename.startswith("<frozen importlib"):
        first = first.tb_next
    traceback.print_exception(error.with_traceback(first))


def _say(line: str) -> None:
    sys.stderr.write(f"tracedbridge: {line}\n")


if __name__ == "__main__":
    sys.exit(main())
