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

from tracedbridge.serving.explaining import explanation

if TYPE_CHECKING:
    from typing import BinaryIO

__all__ = ("main",)


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
        sys.stderr.write(explanation(error, "could not start the app"))
        return True
    for number, line in enumerate(events, 1):
        event = json.loads(line)
        try:
            answer = vc_handler(event, None)
        except BaseException as error:  # noqa: BLE001 - whatever an app raises is shown to its developer
            sys.stderr.write(explanation(error, f"could not answer event {number} of {len(events)}"))
            return True
        answers.write(json.dumps(answer).encode() + b"\n")
        # At once: whatever comes next, this answer has been given. And a fork of the app must not write it again.
        answers.flush()
        vc_handler.settle()
    return False


if __name__ == "__main__":
    sys.exit(main())
