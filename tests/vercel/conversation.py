"""A WebSocket client over a plain socket, by wsproto."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Message,
    RejectConnection,
    Request,
    TextMessage,
)

from tests.support import HANG_S

__all__ = ("Conversation",)

_HOST = "127.0.0.1"


class Conversation:
    """One WebSocket, from its construction to ``close()``."""

    def __init__(self, port: int, target: str, headers: Mapping[str, str]) -> None:
        """Connect, and ask for an upgrade; `is_accepted` says what came of it."""
        self._socket = socket.create_connection((_HOST, port), timeout=HANG_S)
        self._protocol = WSConnection(ConnectionType.CLIENT)
        self._events: list[Event] = []
        extra = [(name.encode(), value.encode()) for name, value in headers.items()]
        self._send(Request(host=f"{_HOST}:{port}", target=target, extra_headers=extra))
        answer = self._next()
        assert isinstance(answer, AcceptConnection | RejectConnection), answer
        self.is_accepted = isinstance(answer, AcceptConnection)

    def send(self, data: str | bytes) -> None:
        """Send one message."""
        self._send(TextMessage(data=data) if isinstance(data, str) else BytesMessage(data=data))

    def receive(self) -> str | bytes | int:
        """Return the next whole message, or the code with which the other side closed."""
        parts: list[str | bytes] = []
        while True:
            event = self._next()
            if isinstance(event, CloseConnection):
                return event.code
            assert isinstance(event, Message), event
            parts.append(bytes(event.data) if isinstance(event, BytesMessage) else str(event.data))
            if event.message_finished:
                return "".join(map(str, parts)) if isinstance(event, TextMessage) else b"".join(map(_raw, parts))

    def close(self) -> None:
        """Say goodbye, and wait for the other side's."""
        self._send(CloseConnection(code=1000))
        while self._socket.recv(65_536):
            pass
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def _send(self, event: Event) -> None:
        self._socket.sendall(self._protocol.send(event))

    def _next(self) -> Event:
        while not self._events:
            # wsproto gives an end without a goodbye the code that RFC 6455 has for it, 1006.
            self._protocol.receive_data(self._socket.recv(65_536) or None)
            self._events.extend(self._protocol.events())
        return self._events.pop(0)


def _raw(part: str | bytes) -> bytes:
    assert isinstance(part, bytes)
    return part
