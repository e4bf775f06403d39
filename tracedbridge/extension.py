"""
An internal extension of AWS Lambda: the environment runs on after a response for as long as we export.

Lambda stops the process when the runtime and all extensions have asked for the next event. Ours asks when it has
exported, on a thread of its own; whoever has called the function has his answer by then.

Source: AWS, "Lambda Extensions API", 2020-01-01.
"""

from __future__ import annotations

# Not `socket`, which takes two milliseconds of a cold start that nothing else may need: two calls on loopback do.
import _socket
import json
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from tracedbridge.bridge import Bridge

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tracedbridge.messages import Event

__all__ = ("ExtendedBridge", "Extension", "is_never_stopped", "registered")

_NAME = "tracedbridge"
_VERSION = "/2020-01-01/extension"

# Registering is a matter of a millisecond; Init must not hang where nobody answers.
_REGISTER_TIMEOUT_S = 1.0
_MOST_BYTES = 1_000_000
_ATTEMPTS = 3
# A handler that calls the bridge, or does not, as for a warm-up: it is called within a millisecond. Whoever calls it
# later than this exports before the answer; without an end here, a warm-up would last until the function's timeout.
_BEGINS_WITHIN_S = 0.25
# Beyond its deadline nobody waits for a handler.
_GRACE_S = 0.1


def is_never_stopped(environ: Mapping[str, str]) -> bool:
    """Say whether this is a managed instance: its processes run on between invocations."""
    return bool(environ.get("AWS_LAMBDA_MAX_CONCURRENCY"))


def registered(environ: Mapping[str, str]) -> Extension | None:
    """
    Register with the runtime API of this environment; return None where that cannot be.

    It can during Init only, and is of no use where several invocations run at once and nothing is ever stopped.
    """
    place = environ.get("AWS_LAMBDA_RUNTIME_API", "")
    if not place or is_never_stopped(environ):
        return None
    host, _, port = place.partition(":")
    extension = Extension(host, int(port) if port.isdecimal() else 80)
    try:
        extension.register()
    except (OSError, ValueError) as error:
        sys.stderr.write(f"tracedbridge: no export after the response: could not register an extension: {error}\n")
        return None
    return extension


class Extension:
    """Registered once; follows the environment's invocations until the process ends."""

    def __init__(self, host: str, port: int) -> None:
        """
        Args:
            host: Of the runtime API.
            port: Of the runtime API.
        """
        self._host = host
        self._port = port
        self._id = ""
        # Of the invocation that runs: whether the bridge has been asked, whether it is done, and whether that was too
        # late for `_follow`, which has asked for the next one.
        self._has_begun = self._is_done = self._is_left = False
        self._news = threading.Condition()

    def register(self) -> None:
        """
        Register for INVOKE; internal extensions get no other event.

        Raises:
            OSError: Nobody answers.
            ValueError: It was refused.
        """
        body = b'{"events":["INVOKE"]}'
        status, headers, told = self._ask(
            "POST", "register", {"lambda-extension-name": _NAME}, body, _REGISTER_TIMEOUT_S
        )
        self._id = headers.get("lambda-extension-identifier", "")
        if status != 200 or not self._id:
            raise ValueError(f"status {status}: {told[:200].decode('utf-8', 'replace')}")

    def follow(self, settle: Callable[[], None], lost: Callable[[], None]) -> None:
        """
        Begin to follow the invocations.

        Args:
            settle: Exports what has been answered; bounded in time.
            lost: Called if that comes to an end before the process does.
        """
        threading.Thread(target=self._follow, args=(settle, lost), name="tracedbridge-extension", daemon=True).start()

    def begun(self) -> None:
        """Note that the bridge was asked."""
        with self._news:
            self._has_begun = True
            self._news.notify_all()

    def done(self) -> bool:
        """Note that it is done; say whether what it has left is settled when the answer is on its way."""
        with self._news:
            if self._is_left:
                self._has_begun = False
                return False
            self._is_done = True
            self._news.notify_all()
            return True

    def _follow(self, settle: Callable[[], None], lost: Callable[[], None]) -> None:
        # An exception here must end nothing but this thread: an extension that exits takes the environment with it.
        try:
            while (event := self._next()) is not None:
                if self._is_settled_after(event):
                    settle()
        except Exception as error:  # noqa: BLE001 - as above
            sys.stderr.write(f"tracedbridge: no export after the response any more: {type(error).__name__}: {error}\n")
            lost()

    def _next(self) -> dict[str, Any] | None:
        """Return the next invocation; it comes when the environment runs again. None ends it."""
        status, told = 0, b""
        for attempt in range(_ATTEMPTS):
            try:
                status, _, told = self._ask("GET", "event/next", {"lambda-extension-identifier": self._id}, b"", None)
                break
            except OSError:
                # A connection does not outlive a snapshot.
                if attempt == _ATTEMPTS - 1:
                    raise
        if status != 200:
            raise ValueError(f"status {status}: {told[:200].decode('utf-8', 'replace')}")
        event = json.loads(told)
        return event if isinstance(event, dict) and event.get("eventType") == "INVOKE" else None

    def _is_settled_after(self, event: dict[str, Any]) -> bool:
        """Wait until the bridge is done with an invocation; False if it has not been asked: somebody else answers."""
        deadline_ms = event.get("deadlineMs")
        left_s = 900.0
        if isinstance(deadline_ms, (int, float)):
            # By the wall clock, which is what the platform tells; read once.
            left_s = min(max(deadline_ms / 1e3 - time.time(), 0.0) + _GRACE_S, left_s)
        with self._news:
            self._is_left = False
            # It may have been done before we heard of the invocation; they come one after the other.
            if self._news.wait_for(lambda: self._has_begun or self._is_done, min(left_s, _BEGINS_WITHIN_S)):
                self._news.wait_for(lambda: self._is_done, left_s)
            is_done = self._is_done
            self._is_left = not is_done
            self._has_begun = self._is_done = False
            return is_done

    def _ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, timeout_s: float | None
    ) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers with names in lower case, and body of an answer on a connection of its own."""
        lines = [
            f"{method} {_VERSION}/{path} HTTP/1.1", f"host: {self._host}:{self._port}", "connection: close",
            "content-type: application/json", f"content-length: {len(body)}",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]  # fmt: skip
        connection = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
        try:
            connection.settimeout(timeout_s)
            connection.connect((self._host, self._port))
            connection.send("\r\n".join((*lines, "", "")).encode("latin-1") + body)
            return _answer(connection)
        finally:
            connection.close()


def _answer(connection: _socket.socket) -> tuple[int, dict[str, str], bytes]:
    came = b""
    while b"\r\n\r\n" not in came:
        came += _more(connection, len(came))
    head, _, body = came.partition(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    parts = first.split(" ", 2)
    if len(parts) < 2 or not parts[0].startswith("HTTP/1.") or not parts[1].isdecimal():
        raise ValueError(f"no answer of HTTP: {first[:80]!r}")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
    length = headers.get("content-length", "")
    if length.isdecimal():
        while len(body) < int(length):
            body += _more(connection, len(body))
        return int(parts[1]), headers, body[: int(length)]
    # "connection: close" was asked for: whatever else says how long it is, the end does.
    while chunk := connection.recv(65_536):
        body += chunk
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = _without_chunks(body)
    return int(parts[1]), headers, body


def _more(connection: _socket.socket, so_far: int) -> bytes:
    chunk = connection.recv(65_536)
    if not chunk:
        raise ConnectionError("the answer broke off")
    if so_far > _MOST_BYTES:
        raise ValueError("the answer does not end")
    return chunk


def _without_chunks(body: bytes) -> bytes:
    whole = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        count = int(size.partition(b";")[0], 16)
        if not count:
            break
        whole += rest[:count]
        body = rest[count + 2 :]
    return whole


class ExtendedBridge(Bridge):
    """A bridge whose extension is told when it is done with an event."""

    extension: Extension
    # Of the 500 ms between SIGTERM and SIGKILL; some are Python's own.
    _closes_within_s = 0.4

    def __call__(self, event: Event, context: object = None) -> Any:
        """Answer one event; see `tracedbridge.bridge.Bridge`."""
        self.extension.begun()
        try:
            return super().__call__(event, context)
        finally:
            if not self.extension.done():
                self.settle()
