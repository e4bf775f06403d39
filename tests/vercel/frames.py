"""
Reads the messages of one function instance as Vercel's platform does, and notes what breaks their contract.

Source: the table in vercel-runtime 0.24.1's contract, `IPC mode, the messages`: each message is JSON and a NUL.
"""

from __future__ import annotations

import base64
import binascii
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ("KINDS", "NOBODY", "Frame", "Ids", "Ledger", "text_of")

LEVELS = ("debug", "info", "warn", "error", "fatal")
STREAMS = ("stdout", "stderr")


class Ids(NamedTuple):
    """Which request a message is about."""

    invocation_id: str
    request_id: int


NOBODY = Ids("0", 0)
"""What is about no request, and a request that came without ids: that is what vercel-runtime says of it."""


class Frame(NamedTuple):
    """A message that could be read."""

    kind: str
    payload: dict[str, Any]
    # By CLOCK_MONOTONIC, when it was read.
    came_ns: int

    @property
    def ids(self) -> Ids | None:
        """The request that it is about, if it says so."""
        context = self.payload.get("context")
        return None if context is None else Ids(context["invocationId"], context["requestId"])


class Ledger:
    """What one instance has said, in order, and what was wrong with it; thread-safe."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        # What broke the contract, one line each.
        self.violations: list[str] = []
        # Notified at each message, and when there are no more.
        self.news = threading.Condition()
        self.is_over = False
        self._rest = b""
        self._has_started = self._has_failed = False
        self._started: set[Ids] = set()
        self._running: Counter[Ids] = Counter()

    def feed(self, data: bytes) -> None:
        """Take bytes as they come from the socket."""
        *whole, self._rest = (self._rest + data).split(b"\0")
        for raw in whole:
            self._take(raw)

    def end(self) -> None:
        """Note that no more can come."""
        with self.news:
            if self._rest:
                self._violate("the stream ends within a message", self._rest)
            self.is_over = True
            self.news.notify_all()

    def _take(self, raw: bytes) -> None:
        with self.news:
            try:
                told = json.loads(raw.decode("utf-8"))
                frame = _frame_of(told)
                self._put_in_order(frame)
            except ValueError as error:
                self._violate(str(error), raw)
            self.news.notify_all()

    def _put_in_order(self, frame: Frame) -> None:
        is_first = not self.frames
        self.frames.append(frame)
        if self._has_failed:
            raise ValueError("comes after an unrecoverable error")
        if frame.kind == "server-started":
            self._has_started = True
            if not is_first:
                raise ValueError("server-started is not the first message")
            return
        if frame.kind == "unrecoverable-error":
            self._has_failed = True
            return
        if not self._has_started:
            raise ValueError(f"{frame.kind} comes before server-started")
        ids = frame.ids
        assert ids is not None
        if frame.kind == "handler-started":
            # Requests without ids look all the same.
            if ids in self._started and ids != NOBODY:
                raise ValueError("handler-started comes twice")
            self._started.add(ids)
            self._running[ids] += 1
        elif frame.kind == "end":
            if not self._running[ids]:
                raise ValueError("end comes twice" if ids in self._started else "end comes before handler-started")
            self._running[ids] -= 1
        elif frame.kind == "metric":
            if not self._running[ids]:
                raise ValueError("a metric of a request that does not run")
        elif ids != NOBODY and ids not in self._started:
            raise ValueError("a log of a request that has not started")

    def _violate(self, what: str, raw: bytes) -> None:
        shown = raw if len(raw) <= 300 else raw[:200] + b" ... " + raw[-95:]
        self.violations.append(f"{what}: {shown!r}")


def text_of(frames: list[Frame]) -> str:
    """Return what log messages say, as one text."""
    return b"".join(base64.b64decode(frame.payload["message"]) for frame in frames).decode("utf-8", "replace")


def _frame_of(told: Any) -> Frame:
    if not isinstance(told, dict) or set(told) != {"type", "payload"}:
        raise ValueError("is no object of type and payload")
    kind, payload = told["type"], told["payload"]
    if kind not in KINDS:
        raise ValueError(f"unknown type {kind!r}")
    if not isinstance(payload, dict):
        raise ValueError("its payload is no object")
    KINDS[kind](payload)
    return Frame(kind, payload, time.monotonic_ns())


def _has(payload: Any, *required: str, optional: tuple[str, ...] = ()) -> None:
    if not isinstance(payload, dict):
        raise ValueError(f"{payload!r} is no object")
    if missing := set(required) - set(payload):
        raise ValueError(f"misses {', '.join(sorted(missing))}")
    if foreign := set(payload) - set(required) - set(optional):
        raise ValueError(f"has {', '.join(sorted(foreign))} in it")


def _is_whole(payload: dict[str, Any], *names: str) -> None:
    for name in names:
        # vercel-runtime sends whole numbers only; True is one to Python, and none to JSON.
        if type(payload[name]) is not int or payload[name] < 0:
            raise ValueError(f"{name} is no whole number: {payload[name]!r}")


def _is_text(payload: dict[str, Any], *names: str) -> None:
    for name in names:
        if not isinstance(payload[name], str):
            raise ValueError(f"{name} is no text: {payload[name]!r}")


def _context(payload: dict[str, Any]) -> None:
    context = payload["context"]
    _has(context, "invocationId", "requestId")
    _is_text(context, "invocationId")
    _is_whole(context, "requestId")


def _server_started(payload: dict[str, Any]) -> None:
    _has(payload, "initDuration", "httpPort", "userInitDuration")
    _is_whole(payload, "initDuration", "httpPort", "userInitDuration")
    if not 0 < payload["httpPort"] < 65_536:
        raise ValueError("httpPort is no port")


def _handler_started(payload: dict[str, Any]) -> None:
    _has(payload, "handlerStartedAt", "context")
    _is_whole(payload, "handlerStartedAt")
    _context(payload)


def _log(payload: dict[str, Any]) -> None:
    _has(payload, "context", "message", optional=("level", "stream"))
    _context(payload)
    _is_text(payload, "message")
    if ("level" in payload) == ("stream" in payload):
        raise ValueError("has a level and a stream, or neither")
    if payload.get("level", LEVELS[0]) not in LEVELS or payload.get("stream", STREAMS[0]) not in STREAMS:
        raise ValueError("unknown level or stream")
    try:
        base64.b64decode(payload["message"], validate=True)
    except binascii.Error as error:
        raise ValueError(f"its message is no base64: {error}") from error


def _metric(payload: dict[str, Any]) -> None:
    _has(payload, "context", "type", "payload")
    _context(payload)
    if payload["type"] != "fetch-metric":
        raise ValueError(f"unknown metric {payload['type']!r}")
    fetch = payload["payload"]
    _has(fetch, "pathname", "search", "start", "duration", "host", "statusCode", "method", "id")
    _is_text(fetch, "pathname", "search", "host", "method")
    _is_whole(fetch, "start", "duration", "statusCode", "id")


def _end(payload: dict[str, Any]) -> None:
    # What an error looks like is not told: vercel-runtime never sends one.
    _has(payload, "context", optional=("error",))
    _context(payload)
    if "error" in payload and not payload["error"]:
        raise ValueError("an error that says nothing")


def _unrecoverable_error(payload: dict[str, Any]) -> None:
    _has(payload, "exitCode", "message")
    _is_whole(payload, "exitCode")
    _is_text(payload, "message")


KINDS: dict[str, Callable[[dict[str, Any]], None]] = {
    "server-started": _server_started,
    "handler-started": _handler_started,
    "log": _log,
    "metric": _metric,
    "end": _end,
    "unrecoverable-error": _unrecoverable_error,
}
"""What may come, and who checks its payload."""
