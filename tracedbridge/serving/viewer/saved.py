"""
Saves what came as OTLP JSON lines, and reads such files again, also those of the OpenTelemetry collector's exporter.

One line is one request, as the specification's "OpenTelemetry Protocol File Exporter" has it.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from tracedbridge.refusal import Refusal
from tracedbridge.serving.intake import DECODER
from tracedbridge.serving.waterfall import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tracedbridge.serving.intake import Decoder, Signal, Taken

__all__ = ("Saver", "read")

# In telemetry/, which nothing out here may import.
_ENCODER = "tracedbridge.telemetry.otlp_json"

# The only key of a request, by which a line says what it holds.
_KEYS: dict[str, Signal] = {"resourceSpans": "traces", "resourceMetrics": "metrics", "resourceLogs": "logs"}

# Spans tell of requests, logs of anything: for nobody else on this machine.
_MODE = 0o600

# No file has such a number.
_CLOSED = -1


class _Encoder(Protocol):
    """The module of `_ENCODER`."""

    def encode(self, signal: Signal, body: bytes, *, content_type: str, content_encoding: str) -> bytes: ...


class Saver:
    """Appends requests to a file; safe from any thread."""

    def __init__(self, path: Path, *, warn: Callable[[str], object] | None = None) -> None:
        """
        Open the file, or make it.

        Args:
            path: A file that is there already keeps what it has, and its mode.
            warn: Gets one line, once, if something cannot be saved; standard error if None.

        Raises:
            Refusal: It cannot be opened.
        """
        self.path = path
        self._warn = _say if warn is None else warn
        self._warned = False
        self._lock = threading.Lock()
        self._encoder: _Encoder | None = None
        try:
            # To be read, too: how it ends decides how to go on.
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, _MODE)
        except (OSError, ValueError) as error:
            raise _refusal("save to", path, error) from error
        # As a crash leaves it: what comes next must not go on behind that.
        self._is_cut = _is_cut(self._file)

    def save(self, taken: Taken) -> None:
        """Append one request, unless nothing is in it; what cannot be saved is lost, and never raised."""
        if not taken.records:
            return
        try:
            if self._encoder is None:
                self._encoder = import_module(_ENCODER)
            line = self._encoder.encode(
                taken.signal, taken.body, content_type=taken.content_type, content_encoding=taken.content_encoding
            )
            limit = import_module(DECODER).MAX_BODY_BYTES
            if len(line) >= limit:
                # As JSON it is longer than it came, and read() must be able to take it.
                raise ValueError(f"as JSON it has {len(line)} bytes, more than the {limit} that can be read again")
            with self._lock:
                self._append(line + b"\n")
        except Exception as error:  # noqa: BLE001 - the exporter that sent it has done nothing wrong
            self._lost(error)

    def close(self) -> None:
        """Close the file; may come twice."""
        with self._lock:
            if self._file != _CLOSED:
                os.close(self._file)
                self._file = _CLOSED

    def _append(self, line: bytes) -> None:
        before_bytes = os.fstat(self._file).st_size
        try:
            left = b"\n" + line if self._is_cut else line
            while left:
                left = left[os.write(self._file, left) :]
            self._is_cut = False
        except OSError:
            # The disk is full, maybe not for ever. A pipe cannot be shortened.
            self._is_cut = True
            with suppress(OSError):
                os.ftruncate(self._file, before_bytes)
                self._is_cut = _is_cut(self._file)
            raise

    def _lost(self, error: Exception) -> None:
        with self._lock:
            if self._warned:
                return
            self._warned = True
        self._warn(
            f"could not save a request to {str(self.path)!r}: {_reason(error)}; the viewer has it, the file does not "
            "(said once)"
        )


def read(path: Path) -> Iterator[tuple[Signal, Sequence[Any]]]:
    """
    Yield signal and records of each request in a file of OTLP JSON lines, as ``Store.add()`` takes them.

    Raises:
        Refusal: The file cannot be read, or a line is bad; the message has its number. What came before is good.
    """
    decoder: Decoder = import_module(DECODER)
    # A line has to fit into memory, and what is no such file may have none that ends.
    limit = decoder.MAX_BODY_BYTES + 1
    number = 0
    try:
        with open(path, "rb") as file:
            while line := file.readline(limit):
                number += 1
                if len(line) == limit:
                    raise _BadLineError(f"it has more than {decoder.MAX_BODY_BYTES} bytes")
                if line.strip():
                    yield from _requests(decoder, line)
    except _BadLineError as error:
        raise Refusal(f"could not read {str(path)!r}: line {number}: {printable(str(error))}") from error
    except (OSError, ValueError) as error:
        raise _refusal("read", path, error) from error


class _BadLineError(Exception):
    """A line is no request."""


def _requests(decoder: Decoder, line: bytes) -> list[tuple[Signal, Sequence[Any]]]:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _BadLineError(f"it is no JSON: {error}") from error
    signals = [_KEYS[key] for key in document if key in _KEYS] if isinstance(document, dict) else []
    if not signals:
        raise _BadLineError(f"it is no object with one of {', '.join(_KEYS)}")
    try:
        return [(signal, decoder.decode(signal, line, content_type="application/json")) for signal in signals]
    except decoder.DecodeError as error:
        raise _BadLineError(str(error)) from error


def _is_cut(file: int) -> bool:
    """Say whether the last line of a file has no end."""
    size = os.fstat(file).st_size
    return size > 0 and os.pread(file, 1, size - 1) != b"\n"


def _refusal(what: str, path: Path, error: OSError | ValueError) -> Refusal:
    return Refusal(f"could not {what} {str(path)!r}: {_reason(error)}")


def _reason(error: Exception) -> str:
    return printable(str(getattr(error, "strerror", None) or error))


def _say(line: str) -> None:
    sys.stderr.write(f"tracedbridge: {line}\n")
