"""
One instance of the function behind ``tracedbridge dev``: answers one event after the other, as on the platform.

Its arguments are two file descriptors. On the first come events, one line of JSON each, until its end, which is that of
this process. On the second go three lines for each event: that it was taken, the answer or what went wrong, and what is
loaded, once telemetry has told it all.

At its top it imports only what the bridge loads anyway: all else would be in the cold start.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import BinaryIO

__all__ = ("main",)


def main() -> int:
    """Answer events until there are no more, and return the exit code: 1 if the app could not be started."""
    # Taken away: the app shall find no arguments.
    answers_fd, events_fd = int(sys.argv.pop()), int(sys.argv.pop())
    for descriptor in (answers_fd, events_fd):
        # What the app starts must not keep them open.
        os.set_inheritable(descriptor, False)
    # Ctrl-C on the terminal reaches us as well as our parent, who ends us. Not SIG_IGN, which the app's own children
    # would inherit.
    signal.signal(signal.SIGINT, _leave_it_to_the_parent)
    # As on a terminal, so that what the app prints stands where it belongs among the lines of others.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # at start-up it is a TextIOWrapper
    with os.fdopen(events_fd, "rb") as events, os.fdopen(answers_fd, "wb") as answers:
        try:
            return _answer(events, answers)
        except BrokenPipeError:
            # Our parent is gone.
            return 1


def _leave_it_to_the_parent(number: int, frame: object) -> None:
    del number, frame


def _answer(events: BinaryIO, answers: BinaryIO) -> int:
    try:
        from tracedbridge import vc_handler
    except BaseException as error:  # noqa: BLE001 - whatever an app raises is shown to its developer
        # The event that it was started for.
        events.readline()
        _tell_failure(answers, error, "could not start the app")
        return 1
    for line in events:
        _tell(answers, {"taken": True})
        event = json.loads(line)
        try:
            answer = vc_handler(event, None)
        except BaseException as error:  # noqa: BLE001 - whatever an app raises is shown to its developer
            _tell_failure(answers, error, "could not answer the event")
            if isinstance(error, SystemExit):
                return 1
        else:
            _tell(answers, {"answer": answer})
        vc_handler.settle()
        _tell(answers, {"files": _own_files()})
    return 0


def _tell_failure(answers: BinaryIO, error: BaseException, what: str) -> None:
    from tracedbridge.serving.explaining import explanation

    text = explanation(error, what)
    sys.stderr.write(text)
    _tell(answers, {"failure": text})


def _tell(answers: BinaryIO, told: dict[str, Any]) -> None:
    # In one call, and at once: a fork of the app must not write it again.
    answers.write(json.dumps(told).encode() + b"\n")
    answers.flush()


def _own_files() -> list[str]:
    """Return the source files of what is loaded, without Python's own and what is installed."""
    files = []
    for module in list(sys.modules.values()):
        file = getattr(module, "__dict__", {}).get("__file__")
        if isinstance(file, str) and file.endswith(".py") and not file.startswith(_OURS) and _PACKAGES not in file:
            files.append(os.path.abspath(file))
    return files


_PACKAGES = f"{os.sep}site-packages{os.sep}"
# Python's library, and tracedbridge.
_OURS = (os.path.dirname(os.__file__) + os.sep, os.path.dirname(os.path.dirname(__file__)) + os.sep)

if __name__ == "__main__":
    sys.exit(main())
