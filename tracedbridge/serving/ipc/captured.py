"""
Has all that the process writes come as log messages: its streams, its log records, and the file descriptors below.

A stream of a forked child, or of a process that the app starts, is among the descriptors: of what comes by those nobody
knows more than which requests are running.
"""

from __future__ import annotations

import asyncio
import fcntl
import io
import logging
import os
import select
import struct
import sys
import termios
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any

from tracedbridge.serving.ipc.channel import NOBODY, ids_now

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracedbridge.serving.ipc.channel import Channel, Ids, Level, StreamName

__all__ = ("Captured",)

_PIPE_BYTES = 65_536

# What a request has written by a descriptor is read a moment later; longer than this nobody waits for it.
_CATCH_UP_S = 0.05
_LOOK_S = 0.001


class Captured:
    """The output of this process, from `begin` until its end."""

    def __init__(self, channel: Channel) -> None:
        """Send to ``channel``."""
        self._channel = channel
        # What the descriptors were, for what cannot be sent.
        self.stderr = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="backslashreplace")
        self._streams: list[_Stream] = []
        # Requests that run: raw output of the only one is that one's.
        self.requests: set[Ids] = set()
        # By descriptor to read from: whether something was read that is not told yet.
        self._pipes: dict[int, bool] = {}

    def begin(self) -> None:
        """Take over; for the life of the process."""
        names: tuple[tuple[StreamName, int], ...] = (("stdout", 1), ("stderr", 2))
        for name, descriptor in names:
            getattr(sys, name).flush()
            ours, theirs = os.pipe()
            os.dup2(theirs, descriptor)
            os.close(theirs)
            self._pipes[ours] = False
            threading.Thread(target=self._read, args=(name, ours), name=f"tracedbridge-{name}", daemon=True).start()
            stream = _Stream(name, self._log, descriptor)
            self._streams.append(stream)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
        # As Vercel's runtime has it: what an app logs without any configuration is shown from INFO on. An app that
        # configures logging writes to the streams above.
        logging.root.setLevel(logging.INFO)
        logging.lastResort = _Records(self._log)

    async def ended(self, ids: Ids) -> None:
        """Send what a request has written and nobody has sent yet; from now on nothing is its own."""
        until_s = time.monotonic() + _CATCH_UP_S
        while self._has_raw() and time.monotonic() < until_s:  # noqa: ASYNC110 - a thread reads, which sets no event
            await asyncio.sleep(_LOOK_S)
        self.requests.discard(ids)
        for stream in self._streams:
            stream.flush_of(ids)

    def _has_raw(self) -> bool:
        # First the pipe: what is no longer in there is told, or about to be.
        return any(_waiting_bytes(pipe) or self._pipes[pipe] for pipe in self._pipes)

    def _log(self, text: str, ids: Ids | None, level: Level | None = None, stream: StreamName | None = None) -> None:
        if self._channel.has_left:
            # By the pipe that our parent reads.
            os.write(1 if stream == "stdout" else 2, text.encode("utf-8", "backslashreplace"))
        elif not self._channel.log(text, ids=ids, level=level, stream=stream):
            self.stderr.write(text if text.endswith("\n") else f"{text}\n")
            self.stderr.flush()

    def _read(self, name: StreamName, descriptor: int) -> None:
        rest = b""
        waiting = select.poll()
        waiting.register(descriptor, select.POLLIN)
        while True:
            self._pipes[descriptor] = False
            waiting.poll()
            self._pipes[descriptor] = True
            try:
                chunk = os.read(descriptor, _PIPE_BYTES)
            except OSError:
                return
            if not chunk:
                return
            whole, newline, rest = (rest + chunk).rpartition(b"\n")
            if len(rest) >= _PIPE_BYTES:
                whole, newline, rest = whole + newline + rest, b"", b""
            if whole or newline:
                requests = tuple(self.requests)
                ids = requests[0] if len(requests) == 1 else NOBODY
                self._log((whole + newline).decode("utf-8", "replace"), ids, stream=name)


def _waiting_bytes(descriptor: int) -> int:
    told = fcntl.ioctl(descriptor, termios.FIONREAD, struct.pack("i", 0))
    waiting: int = struct.unpack("i", told)[0]
    return waiting


class _Records(logging.Handler):
    """Takes the records that no handler of the app's takes."""

    def __init__(self, log: Callable[..., None]) -> None:
        super().__init__(logging.NOTSET)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
            if record.exc_info and record.exc_info[1] is not None:
                text = f"{text}\n{''.join(traceback.format_exception(record.exc_info[1]))}"
        except Exception:  # noqa: BLE001 - a record with wrong arguments must not cost its request
            text = repr(record.msg)
        self._log(text, None, level=_level_of(record.levelno))


def _level_of(number: int) -> Level:
    levels: tuple[tuple[int, Level], ...] = (
        (logging.CRITICAL, "fatal"), (logging.ERROR, "error"), (logging.WARNING, "warn"), (logging.INFO, "info"),
    )  # fmt: skip
    return next((level for least, level in levels if number >= least), "debug")


class _Stream(io.TextIOBase):
    """Takes the place of sys.stdout or sys.stderr: each line, or several that come at once, are a message."""

    def __init__(self, name: StreamName, log: Callable[..., None], descriptor: int) -> None:
        self._name = name
        self._log = log
        self._descriptor = descriptor
        self._lock = threading.RLock()
        # By thread and request: what has no line's end yet.
        self._begun: dict[tuple[int, Ids | None], str] = {}
        self.buffer = _Bytes(self)

    @property
    def name(self) -> str:
        return f"<{self._name}>"

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a constant, and not what typeshed calls it
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        return "backslashreplace"

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return self._descriptor

    def reconfigure(self, **_: Any) -> None:
        """Take what a TextIOWrapper takes: lines go out as they come, whatever is asked for."""

    def write(self, text: str) -> int:
        ids = ids_now()
        key = (threading.get_ident(), ids)
        with self._lock:
            whole, newline, rest = (self._begun.pop(key, "") + text).rpartition("\n")
            if rest:
                self._begun[key] = rest
        if newline:
            self._log(whole + newline, ids, stream=self._name)
        return len(text)

    def flush(self) -> None:
        key = (threading.get_ident(), ids_now())
        with self._lock:
            rest = self._begun.pop(key, "")
        if rest:
            self._log(rest, key[1], stream=self._name)

    def flush_of(self, ids: Ids) -> None:
        """Send what a request has begun, on whichever thread."""
        with self._lock:
            keys = [key for key in self._begun if key[1] == ids]
            rests = [self._begun.pop(key) for key in keys]
        for rest in rests:
            self._log(rest, ids, stream=self._name)


class _Bytes(io.RawIOBase):
    """The buffer of a stream."""

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._stream.fileno()

    def write(self, data: Any) -> int:
        self._stream.write(bytes(data).decode("utf-8", "replace"))
        return len(data)

    def flush(self) -> None:
        self._stream.flush()
