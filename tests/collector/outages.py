"""
Backends that are down for a while, with a ledger of what they were sent and how they answered.

A `Book` lives in this process and changes its mood when a test says so; a `Mortal` is a process of its own, which can
be killed and comes back at the same port.
"""

from __future__ import annotations

import base64
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import pytest

from tests.support import HANG_S
from tests.telemetry.backends import Backend, Exchange, Seen
from tracedbridge.telemetry.otlp import LogRecord, MetricRecord, Signal, SpanRecord

__all__ = ("SIGNALS", "Book", "Clock", "Efforts", "Ledger", "Mood", "Mortal", "answers", "closes", "cuts", "is_late",
           "is_silent", "is_slow", "takes_few")  # fmt: skip

SIGNALS: tuple[Signal, ...] = ("traces", "metrics", "logs")

# Of a backend that is slow: much more than an answer takes, much less than the budget of the test that uses it.
_SLOW_S = 0.03

# Source: OpenTelemetry Protocol 1.9, "Retryable Response Codes"; 413 says that half of it may do.
_MAY_COME_AGAIN = frozenset((None, 413, 429, 502, 503, 504))


class Delivery(NamedTuple):
    """One request: its items, and the status that its sender has read, None if it was never answered."""

    signal: str
    items: tuple[str, ...]
    status: int | None


class Ledger:
    """Every request that came, in order."""

    def __init__(self) -> None:
        """Begin empty."""
        self._lock = threading.Lock()
        self._deliveries: list[Delivery] = []

    def note(self, seen: Seen, status: int | None) -> Delivery:
        """Enter a request; before it is answered, so that its sender never knows more than the ledger."""
        made = Delivery(seen.path.removeprefix("/v1/"), tuple(_items_of(seen)), status)
        with self._lock:
            self._deliveries.append(made)
        return made

    def requests(self) -> Counter[str]:
        """Return how many requests came, by signal."""
        with self._lock:
            return Counter(each.signal for each in self._deliveries)

    def acknowledged(self, signal: str) -> int:
        """Return how many items were answered with 200."""
        with self._lock:
            return sum(len(each.items) for each in self._deliveries if each.signal == signal and each.status == 200)

    def kept(self, signal: str) -> list[str]:
        """Return what was answered with 200, in order."""
        with self._lock:
            taken = [each for each in self._deliveries if each.signal == signal and each.status == 200]
            return [item for each in taken for item in each.items]

    def sent_too_often(self) -> list[str]:
        """Return what came once more though its sender had read an answer after which OTLP forbids that."""
        settled: set[str] = set()
        wrong = []
        with self._lock:
            for each in self._deliveries:
                wrong += [f"{each.signal} {item}" for item in each.items if item in settled]
                if each.status not in _MAY_COME_AGAIN:
                    settled.update(each.items)
        return wrong


Mood = Callable[["Book", Exchange, Seen], None]
"""Enters one request into the ledger and answers it, or does not."""


def answers(status: int, **headers: str) -> Mood:
    """Answer with that status; ``retry_after="30"`` is ``Retry-After: 30``."""
    told = {name.replace("_", "-"): value for name, value in headers.items()}

    def act(book: Book, exchange: Exchange, seen: Seen) -> None:
        book.ledger.note(seen, status)
        exchange.answer(status, told)

    return act


def takes_few(book: Book, exchange: Exchange, seen: Seen) -> None:
    """Answer 413 to more than two items at once."""
    items = sum(1 for _ in _items_of(seen))
    answers(413 if items > 2 else 200)(book, exchange, seen)


def is_silent(book: Book, exchange: Exchange, seen: Seen) -> None:
    """Take the request and say nothing for as long as anybody listens."""
    book.ledger.note(seen, None)
    _wait_for_hang_up(exchange)


def is_late(book: Book, exchange: Exchange, seen: Seen) -> None:
    """Answer well, at the moment in which the sender has given up."""
    is_silent(book, exchange, seen)
    exchange.answer(200)


def is_slow(book: Book, exchange: Exchange, seen: Seen) -> None:
    """Answer well, after a while and within the budget."""
    book.ledger.note(seen, 200)
    exchange.wait_for_end(_SLOW_S)
    exchange.answer(200)


def cuts(book: Book, exchange: Exchange, seen: Seen) -> None:
    """Promise a longer answer than comes before the connection is closed."""
    book.ledger.note(seen, None)
    exchange.close_connection = True
    exchange.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")


def closes(book: Book, exchange: Exchange, seen: Seen) -> None:
    """Close the connection when the request is there."""
    book.ledger.note(seen, None)
    exchange.close_connection = True


class Book(Backend):
    """A backend with a ledger, whose mood can be changed at any time."""

    def __init__(self) -> None:
        """Be well."""
        self.ledger = Ledger()
        self.mood: Mood = answers(200)
        self._current = threading.local()
        super().__init__(self._act)

    def keep(self, seen: Seen) -> None:
        """Keep one request until it is answered."""
        self._current.seen = seen

    def _act(self, exchange: Exchange) -> None:
        self.mood(self, exchange, self._current.seen)


# Standard library only, so that it is there at once. Every request is in the journal before its answer goes out; the
# one with number `die_at` is the end of the process, without an answer.
_MORTAL = """
import base64, os, signal, socket, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock

port, journal, die_at = int(sys.argv[1]), open(sys.argv[2], "a", buffering=1), int(sys.argv[3])
lock = Lock()
count = 0

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        global count
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with lock:
            count += 1
            dies = count == die_at
            journal.write(f"{self.path} {'-' if dies else 200} {base64.b64encode(body).decode()}\\n")
            if dies:
                os.kill(os.getpid(), signal.SIGKILL)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass

class Server(ThreadingHTTPServer):
    def server_bind(self):
        # Beside the test's own socket, which keeps the port while nobody listens.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = self.server_address

with Server(("127.0.0.1", port), Handler) as server:
    print("ready", flush=True)
    server.serve_forever()
"""


class Mortal:
    """A backend's process, dead or alive, at one port."""

    def __init__(self, folder: Path) -> None:
        """Take a port; nobody lives there yet."""
        self.ledger = Ledger()
        self._journal = folder / "journal"
        self._journal.touch()
        self._read_bytes = 0
        self._process: subprocess.Popen[str] | None = None
        # Bound and not listening: the kernel refuses, and nobody else can take the port.
        self._port = socket.socket()
        self._port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._port.bind(("127.0.0.1", 0))

    @property
    def endpoint(self) -> str:
        """The base URL, as ``OTEL_EXPORTER_OTLP_ENDPOINT`` wants it."""
        return f"http://127.0.0.1:{self._port.getsockname()[1]}"

    def start(self, die_at: int = 0) -> None:
        """Live; die of the request with that number, counted from 1, without an answer."""
        program = (sys.executable, "-I", "-S", "-c", _MORTAL, str(self._port.getsockname()[1]), str(self._journal))
        self._process = subprocess.Popen((*program, str(die_at)), stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def kill(self) -> None:
        """Die now, if alive."""
        if self._process is not None:
            process, self._process = self._process, None
            with process:
                process.kill()
                process.wait(HANG_S)

    def read(self) -> Ledger:
        """Return the ledger with all that came until now."""
        with self._journal.open("rb") as lines:
            lines.seek(self._read_bytes)
            for line in lines:
                # A line that is still being written belongs to a request that is not answered yet.
                if line.endswith(b"\n"):
                    self._read_bytes += len(line)
                    path, status, body = line.decode().split()
                    seen = Seen(path, {"content-type": "application/x-protobuf"}, base64.b64decode(body))
                    self.ledger.note(seen, None if status == "-" else int(status))
        return self.ledger

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._port.close()


class Clock:
    """The monotonic clock, which a test can put forward; pauses are over then, and not before."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Go as fast as the real one."""
        import time

        self._ahead_ns = 0
        real_ns = time.monotonic_ns
        monkeypatch.setattr(time, "monotonic_ns", lambda: real_ns() + self._ahead_ns)
        # The shortest pause is over after a second, and a slow machine takes longer for what is to happen in it.
        monkeypatch.setattr("tracedbridge.telemetry.export._FIRST_PAUSE_S", 60.0)

    def pass_any_pause(self) -> None:
        """Be a minute and a second later: the longest pause is a minute."""
        self._ahead_ns += 61_000_000_000


class Efforts:
    """Counts what this process does for an export: connections, encoded batches by signal, started threads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Count from now on."""
        self.made: Counter[str] = Counter()
        exporters = "opentelemetry.exporter.otlp.proto.http"
        self._count(monkeypatch, "socket.socket.connect", "connect")
        self._count(monkeypatch, "threading.Thread.start", "thread")
        self._count(monkeypatch, f"{exporters}.trace_exporter.encode_spans", "traces")
        self._count(monkeypatch, f"{exporters}.metric_exporter.encode_metrics", "metrics")
        self._count(monkeypatch, f"{exporters}._log_exporter.encode_logs", "logs")

    def taken(self) -> Counter[str]:
        """Return what was counted since the last call."""
        taken, self.made = self.made, Counter()
        return taken

    def _count(self, monkeypatch: pytest.MonkeyPatch, place: str, name: str) -> None:
        from pkgutil import resolve_name

        module, _, attribute = place.rpartition(".")
        real = getattr(resolve_name(module), attribute)

        def counted(*args: object, **kwargs: object) -> object:
            # The backend's own threads live here, too.
            thread = threading.current_thread()
            if getattr(args[0], "name", "") == "tracedbridge-watchdog":
                # It looks at the app, and is no part of an export.
                return real(*args, **kwargs)
            if thread is threading.main_thread() or thread.name.startswith("tracedbridge"):
                self.made[name] += 1
            return real(*args, **kwargs)

        monkeypatch.setattr(place, counted)


def _wait_for_hang_up(exchange: Exchange) -> None:
    exchange.close_connection = True
    with suppress(OSError):
        exchange.rfile.read(1)


def _items_of(seen: Seen) -> list[str]:
    """Return a name for each item of a request: the same whenever that item comes, and no other's."""
    names = []
    for record in seen.records():
        if isinstance(record, SpanRecord):
            names.append(record.span_id)
        elif isinstance(record, LogRecord):
            names.append(f"{record.span_id} {record.time_ns} {record.body!r}")
        else:
            assert isinstance(record, MetricRecord)
            attributes = [(point.time_ns, sorted(point.attributes.items())) for point in record.points]
            names += [f"{record.scope.name} {record.name} {each}" for each in attributes]
    return names
