"""
The Unix socket to Vercel's platform: messages go out whole, one after the other, whoever sends them.

Source: vercel-runtime 0.24.1: each message is JSON and a NUL; before ``server-started`` nothing but an
``unrecoverable-error`` may come.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import threading
from collections import deque
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from typing import Literal

    Level = Literal["debug", "info", "warn", "error", "fatal"]
    StreamName = Literal["stdout", "stderr"]

__all__ = ("NOBODY", "Channel", "Ids", "Running", "ids_now", "inherit", "running")

# What is logged before the server has started waits, up to so many bytes.
_MOST_EARLY_BYTES = 1_000_000


class Ids(NamedTuple):
    """Which request something belongs to, as the platform names it."""

    invocation_id: str
    request_id: int

    def told(self) -> dict[str, str | int]:
        """Return them as messages have them."""
        return {"invocationId": self.invocation_id, "requestId": self.request_id}


NOBODY = Ids("0", 0)
"""What belongs to no request."""


class Running:
    """A request; tasks and threads that outlive it belong to nobody from then on."""

    __slots__ = ("has_told_end", "ids", "is_conversation", "is_over")

    def __init__(self, ids: Ids, *, is_conversation: bool) -> None:
        """Begin."""
        self.ids = ids
        # A WebSocket's.
        self.is_conversation = is_conversation
        # Of a WebSocket long before it is over.
        self.has_told_end = False
        self.is_over = False


running: ContextVar[Running | None] = ContextVar("tracedbridge.ipc", default=None)
"""The request that this context belongs to."""

# On a thread that was started in a request, and has no context of its own.
_INHERITED = "_tracedbridge_request"


def ids_now() -> Ids | None:
    """Return the ids of the request that this moment belongs to, by its context or by who started this thread."""
    request = _request_now()
    return None if request is None or request.is_over else request.ids


def _request_now() -> Running | None:
    request = running.get()
    return request if request is not None else getattr(threading.current_thread(), _INHERITED, None)


def inherit() -> None:
    """Have threads belong to the request that starts them, but for those of executors, which serve many."""
    start = threading.Thread.start

    def started(thread: threading.Thread) -> None:
        target = getattr(thread, "_target", None)
        request = _request_now()
        if request is not None and getattr(target, "__module__", "") != "concurrent.futures.thread":
            setattr(thread, _INHERITED, request)
        start(thread)

    threading.Thread.start = started  # type: ignore[method-assign,assignment]  # for the life of the process


def _connected(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(path)
    except OSError as error:
        connection.close()
        raise ConnectionError(f"could not connect to VERCEL_IPC_PATH={path!r}: {error.strerror}") from error
    return connection


class Channel:
    """Sends messages; safe from any thread, and from signal handlers."""

    def __init__(self, path: str, connection: socket.socket | None = None) -> None:
        """
        Connect.

        Args:
            path: Where the platform listens.
            connection: One that is there already.

        Raises:
            ConnectionError: Nobody listens there.
        """
        self._socket: socket.socket | None = connection or _connected(path)
        self._waiting: deque[bytes] = deque()
        self._lock = threading.Lock()
        self._owner = 0
        # Log messages, until the server has started.
        self._early: list[dict[str, Any]] | None = []
        self._early_bytes = 0
        self._early_lock = threading.RLock()
        # In a forked child.
        self.has_left = False
        os.register_at_fork(after_in_child=self._leave)

    def send(self, kind: str, payload: dict[str, Any]) -> None:
        """Send one message; what cannot be sent is lost, as there is nobody to tell."""
        self._waiting.append(json.dumps({"type": kind, "payload": payload}).encode() + b"\0")
        me = threading.get_ident()
        if self._owner == me:
            # A signal handler, in the middle of a message of its own thread: that one sends this one, too.
            return
        with self._lock:
            self._owner = me
            try:
                while self._waiting:
                    self._write(self._waiting.popleft())
            except IndexError:
                return
            finally:
                self._owner = 0

    def log(
        self, text: str, *, ids: Ids | None = None, level: Level | None = None, stream: StreamName | None = None
    ) -> bool:
        """
        Send a log message; say whether it is sent, or will be.

        Args:
            text: Whole.
            ids: Whose; that of now if None.
            level: Of a record.
            stream: What it was written to, where nobody knows a level.
        """
        told: dict[str, Any] = {
            "context": (ids or ids_now() or NOBODY).told(),
            "message": base64.b64encode(text.encode("utf-8", "backslashreplace")).decode(),
        }
        told.update({"level": level} if level is not None else {"stream": stream})
        if self._early is not None:
            with self._early_lock:
                if self._early is not None:
                    if self._early_bytes + len(text) > _MOST_EARLY_BYTES:
                        return False
                    self._early_bytes += len(text)
                    self._early.append(told)
                    return True
        self.send("log", told)
        return True

    def started(self, payload: dict[str, Any]) -> None:
        """Say that the server has started, and what was logged until then."""
        self.send("server-started", payload)
        with self._early_lock:
            early, self._early = self._early, None
            for told in early or ():
                self.send("log", told)

    def early_text(self) -> str:
        """Return what waits and will never be sent, as text."""
        with self._early_lock:
            early, self._early = self._early, None
        return "".join(base64.b64decode(told["message"]).decode("utf-8", "replace") for told in early or ())

    def _write(self, frame: bytes) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendall(frame)
        except OSError:
            # The platform is gone, and so will we be soon.
            self._socket = None

    def _leave(self) -> None:
        # A forked child is no instance: its messages would stand in the middle of its parent's.
        self._socket = None
        self.has_left = True
        self._lock, self._early_lock = threading.Lock(), threading.RLock()
        self._owner = 0
        self._waiting.clear()
