"""What a command does with a child process: reads what it tells, ends it, and minds signals, its own and its."""

from __future__ import annotations

import os
import select
import signal
from contextlib import contextmanager
from subprocess import Popen, TimeoutExpired
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ("END_TIMEOUT_S", "end", "ended_by_signals", "lines_of", "signal_name")

# An app's lifespan shutdown (3 s) and the last flush fit in; after that a child that was told to end is killed.
END_TIMEOUT_S = 5.0

# How long the child may be dead, its output held open by a process that it left behind, until we notice.
_POLL_S = 0.2


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Have SIGTERM and SIGHUP raise SystemExit: whoever ends us must not leave the child behind."""

    def end_us(number: int, frame: object) -> None:
        del frame
        raise SystemExit(128 + number)

    # What is ignored stays so: nohup asks for that.
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, end_us)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def signal_name(number: int) -> str:
    """Return what a signal is called: ``SIGKILL``."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def lines_of(child: Popen[bytes], descriptor: int) -> Iterator[bytes]:
    """Yield the lines that a child writes to a pipe until it has ended, whoever else holds the pipe open."""
    rest = bytearray()
    while True:
        # Asked first: what it wrote before its end is readable then.
        ended = child.poll() is not None
        readable, _, _ = select.select([descriptor], [], [], 0 if ended else _POLL_S)
        if not readable:
            if ended:
                return
            continue
        chunk = os.read(descriptor, 65536)
        if not chunk:
            return
        rest += chunk
        if b"\n" in chunk:
            *lines, rest = rest.split(b"\n")
            yield from map(bytes, lines)


def end(child: Popen[bytes], number: int) -> None:
    """Send a signal to a child that still runs, and kill it if that does not end it within `END_TIMEOUT_S`."""
    if child.poll() is not None:
        return
    child.send_signal(number)
    try:
        child.wait(END_TIMEOUT_S)
    except (TimeoutExpired, KeyboardInterrupt):
        child.kill()
        child.wait()
