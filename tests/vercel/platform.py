"""
Stands in for Vercel's platform: starts a function in IPC mode, hears what it says, and sends it requests.

    with Platform(folder, "index.py:app", files={"index.py": "..."}) as platform:
        reply = platform.ask("/")
        assert platform.ended(reply.ids).payload.get("error") is None
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import tracedbridge
from tests.support import HANG_S
from tests.vercel.frames import NOBODY, Frame, Ids, Ledger, text_of

__all__ = (
    "APPS",
    "ENTRY",
    "HOST",
    "VARIABLES",
    "Meeting",
    "Platform",
    "Reply",
    "Wire",
    "configuration",
    "internal_headers",
    "new_ids",
)

HOST = "127.0.0.1"

ENTRY = "from tracedbridge import vc_handler\n"
"""What a deployed function's entry module says."""

APPS = Path(__file__).with_name("apps.py")
"""The small apps; copied beside the entry, as a user's file is, so that they can import nothing of this folder."""

# Names as of November 2026; the values are invented.
VARIABLES = {
    "VERCEL": "1",
    "VERCEL_ENV": "production",
    "VERCEL_URL": "shop-abc123.vercel.app",
    "VERCEL_BRANCH_URL": "shop-git-main.vercel.app",
    "VERCEL_REGION": "iad1",
    "VERCEL_DEPLOYMENT_ID": "dpl_7Ks2",
    "VERCEL_PROJECT_ID": "prj_9Qm4",
    "VERCEL_GIT_COMMIT_SHA": "4f2d9c0e7b1a4f2d9c0e7b1a4f2d9c0e7b1a4f2d",
    "VERCEL_GIT_COMMIT_REF": "main",
    "VERCEL_GIT_REPO_SLUG": "shop",
    "PYTHONDONTWRITEBYTECODE": "1",
}

# Not inherited: what would lead the function elsewhere than to what a test gave it.
_NOT_INHERITED = (
    "TRACEDBRIDGE_", "OTEL_", "VERCEL", "AWS_", "__VC_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY",
)  # fmt: skip

_LAST_WORDS_S = 2.0

# So many functions call at once, in the tests with the most.
_BACKLOG = 512

_numbers = itertools.count(1)


def configuration(built: Path) -> Any:
    """Return what a function that was built says of itself."""
    return json.loads(built.joinpath(".vc-config.json").read_text())


class Reply(NamedTuple):
    """A whole response."""

    ids: Ids
    status: int
    # Names in lower case, in order, repeats kept.
    headers: list[tuple[str, str]]
    body: bytes
    # By CLOCK_MONOTONIC, when its last byte was read.
    read_ns: int

    @property
    def told(self) -> Any:
        """Its body, read as JSON."""
        return json.loads(self.body)


class Meeting:
    """An app that has said that it is here, and does not go on before it is told to."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def release(self) -> None:
        """Have it go on, if it has not been told before."""
        with self._connection:
            # The process may be gone by now.
            with contextlib.suppress(OSError):
                self._connection.sendall(b"!")


class Wire:
    """A plain connection to the function's server, for what no HTTP client would send."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection((HOST, port), timeout=HANG_S)

    def ask(self, method: str, target: str, *headers: str, ids: Ids | None = None) -> Ids:
        """Send a request's head, with internal headers, and return its ids; new ones if None."""
        ids = ids or new_ids()
        internal = (f"{name}: {value}" for name, value in internal_headers(ids).items())
        self.send(f"{method} {target} HTTP/1.1", "host: shop.example", *internal, *headers)
        return ids

    def send(self, *lines: str) -> None:
        """Send lines as they are, and an empty one after them."""
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def until(self, mark: bytes) -> bytes:
        """Return what comes until ``mark`` is in it."""
        came = b""
        while mark not in came:
            data = self.socket.recv(65_536)
            assert data, f"the connection ended after {came!r}"
            came += data
        return came

    def to_the_end(self) -> bytes:
        """Return what comes until the other side closes."""
        came = b""
        while data := self.socket.recv(65_536):
            came += data
        return came

    def close(self) -> None:
        """Close it."""
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def new_ids() -> Ids:
    """Return the ids of a request that has not been sent yet."""
    return Ids(f"iad1::{uuid.uuid4().hex[:12]}", next(_numbers))


def internal_headers(ids: Ids, **more: str) -> dict[str, str]:
    """
    Return the headers that the platform adds to a request.

    Args:
        ids: Of the request.
        more: ``deadline="2026-11-23T12:00:00Z"`` gives ``x-vercel-internal-deadline``, and so on.
    """
    told = {"invocation-id": ids.invocation_id, "request-id": str(ids.request_id)}
    told.update({name.replace("_", "-"): value for name, value in more.items()})
    return {f"x-vercel-internal-{name}": value for name, value in told.items()}


class Platform:
    """
    One function instance from its start to its end; a context manager.

    Each message is checked as it comes: see `violations`. What a test waits for it gets, or fails within `HANG_S`.
    """

    def __init__(
        self,
        app: str,
        *,
        files: Mapping[str, str] | None = None,
        entry: str | None = None,
        built: Path | None = None,
        endpoint: str | None = None,
        **environ: str,
    ) -> None:
        """
        Start a process and wait for nothing.

        Args:
            app: ``TRACEDBRIDGE_APP``; `APPS` is there as ``index.py``.
            files: More files of the function's folder, by name.
            entry: Source of its entry module, `ENTRY` by default.
            built: The folder of a function that was built: its ``handler`` is run there instead, with its environment
                and nothing else on the path.
            endpoint: An OTLP/HTTP backend's base URL; telemetry is off if None.
            environ: More variables of its environment.
        """
        # How long a response may take.
        self.patience_s = HANG_S
        # Not in pytest's folder: a Unix socket's path has 107 bytes at most.
        self.folder = Path(tempfile.mkdtemp(prefix="vc"))
        shutil.copyfile(APPS, self.folder / "index.py")
        self.folder.joinpath("vc_entry.py").write_text(ENTRY if entry is None else entry)
        for name, source in (files or {}).items():
            self.folder.joinpath(name).write_text(source)
        self.ledger = Ledger()
        # Called with each message, in the thread that reads them.
        self.on_frame: Callable[[Frame], None] | None = None
        self._heard: socket.socket | None = None
        self._meetings: dict[str, Meeting] = {}
        self._all_meetings: list[Meeting] = []
        self._met = threading.Condition()
        self._ipc = _listening(self.folder / "ipc.sock")
        self._gate = _listening(self.folder / "gate.sock")
        self._pool = threading.local()
        self._connections: list[http.client.HTTPConnection] = []
        self._threads = [
            threading.Thread(target=self._hear, name="platform-ipc", daemon=True),
            threading.Thread(target=self._attend, name="platform-gate", daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        self.begun_ns = time.monotonic_ns()
        told = {
            **{name: value for name, value in os.environ.items() if not name.upper().startswith(_NOT_INHERITED)},
            **VARIABLES,
            # The platform's trampoline stamps it before anything else runs.
            "__VC_PY_BOOT_START_MS": str(self.begun_ns // 1_000_000),
            **({"PYTHONPATH": str(Path(tracedbridge.__file__).parents[1])} if built is None else {}),
            "VERCEL_IPC_PATH": str(self.folder / "ipc.sock"),
            "TEST_GATE": str(self.folder / "gate.sock"),
            **({"TRACEDBRIDGE_APP": app} if built is None else configuration(built)["environment"]),
            "TRACEDBRIDGE_TELEMETRY": "off" if endpoint is None else "on",
            **({} if endpoint is None else {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}),
            **environ,
        }
        with (self.folder / "stdout").open("wb") as stdout, (self.folder / "stderr").open("wb") as stderr:
            module = "vc_entry" if built is None else configuration(built)["handler"].rpartition(".")[0]
            self.process = subprocess.Popen(
                # Without site there is no virtual environment, and nothing that is installed in it.
                (sys.executable, *(() if built is None else ("-S",)), "-c", f"import {module}"),
                cwd=built or self.folder, env=told, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
            )  # fmt: skip

    # What it says.

    @property
    def violations(self) -> list[str]:
        """What broke the contract, one line each; every test wants none."""
        return self.ledger.violations

    @property
    def frames(self) -> list[Frame]:
        """All messages until now, in order."""
        with self.ledger.news:
            return list(self.ledger.frames)

    @property
    def stdout(self) -> str:
        """What the process wrote there, past the platform."""
        return self.folder.joinpath("stdout").read_text(errors="replace")

    @property
    def stderr(self) -> str:
        """What the process wrote there, past the platform."""
        return self.folder.joinpath("stderr").read_text(errors="replace")

    def frames_of(self, ids: Ids, kind: str | None = None) -> list[Frame]:
        """Return the messages about one request, those of a kind if one is given."""
        return [frame for frame in self.frames if frame.ids == ids and kind in (None, frame.kind)]

    def logs(self, ids: Ids = NOBODY) -> str:
        """Return the text of all log messages of a request, or of those of none."""
        return text_of(self.frames_of(ids, "log"))

    def wait_for(self, kind: str, ids: Ids | None = None, *, saying: str = "", timeout_s: float = HANG_S) -> Frame:
        """
        Return the first message of a kind; wait for it.

        Args:
            kind: Its type.
            ids: Of its request; None takes any.
            saying: What a log message must contain.
            timeout_s: After which the test fails.

        Raises:
            AssertionError: It did not come in time, or cannot come any more.
        """

        def found() -> Frame | None:
            for frame in self.ledger.frames:
                if frame.kind != kind or (ids is not None and frame.ids != ids):
                    continue
                if not saying or saying in text_of([frame]):
                    return frame
            return None

        until_s = time.monotonic() + timeout_s
        with self.ledger.news:
            while (frame := found()) is None:
                left_s = until_s - time.monotonic()
                if self.ledger.is_over or left_s <= 0 or not self.ledger.news.wait(left_s):
                    break
        assert frame is not None, f"no {kind} of {ids or 'anybody'} came{self._state()}"
        return frame

    def ended(self, ids: Ids) -> Frame:
        """Return the `end` of a request; wait for it."""
        return self.wait_for("end", ids)

    @property
    def port(self) -> int:
        """Where its server listens; waits until the function has said so."""
        return int(self.wait_for("server-started").payload["httpPort"])

    # What it is sent.

    def ask(
        self,
        target: str,
        *,
        method: str = "GET",
        body: bytes | Iterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        ids: Ids | None = None,
        is_pooled: bool = True,
    ) -> Reply:
        """
        Send a request and return its whole response.

        Args:
            target: Percent-encoded path and query.
            method: As sent.
            body: An iterator is sent chunked.
            headers: Beside the internal ones.
            ids: New ones if None.
            is_pooled: On this thread's connection, which is kept alive, or on one for this request alone.
        """
        ids = ids or new_ids()
        connection = self._pooled() if is_pooled else self._connection()
        try:
            connection.request(
                method, target, body, {**internal_headers(ids), **(headers or {})}, encode_chunked=body is not None
            )
            response = connection.getresponse()
            whole = response.read()
        except BaseException:
            connection.close()
            raise
        if not is_pooled:
            connection.close()
        told = [(name.lower(), value) for name, value in response.getheaders()]
        return Reply(ids, response.status, told, whole, time.monotonic_ns())

    @contextmanager
    def open(
        self, target: str, *, ids: Ids | None = None, headers: Mapping[str, str] | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        """Send a GET request and give its response to read from, on a connection that is closed at the end."""
        connection = self._connection()
        try:
            connection.request("GET", target, headers={**internal_headers(ids or new_ids()), **(headers or {})})
            with connection.getresponse() as response:
                yield response
        finally:
            connection.close()

    def wire(self) -> Wire:
        """Return a plain connection to its server."""
        return Wire(self.port)

    def met(self, name: str) -> Meeting:
        """Wait until the app is at that meeting, and return it; whoever is there stays until it is released."""
        with self._met:
            came = self._met.wait_for(lambda: name in self._meetings, HANG_S)
            assert came, f"the app did not come to {name!r}{self._state()}"
            return self._meetings.pop(name)

    # Its end.

    def terminate(self) -> None:
        """Have it end as the platform does: SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def hang_up(self) -> None:
        """Hear nothing more: as a platform that has died."""
        assert self._heard is not None
        self._heard.shutdown(socket.SHUT_RDWR)
        with self.ledger.news:
            assert self.ledger.news.wait_for(lambda: self.ledger.is_over, HANG_S)

    def exit_code(self) -> int:
        """Wait for its end, and until all that it said has been read; return its exit code."""
        try:
            code = self.process.wait(HANG_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the process did not end{self._state()}") from None
        # Whoever has connected is heard to the end; if nobody has, nobody will.
        with contextlib.suppress(OSError):
            self._ipc.shutdown(socket.SHUT_RDWR)
        with self.ledger.news:
            over = self.ledger.news.wait_for(lambda: self.ledger.is_over, HANG_S)
        assert over, "the process has ended, and its socket is open still: a child has it"
        return code

    def close(self) -> None:
        """End the process, whatever it does, and forget all that it left."""
        if self.process.poll() is None:
            if "COVERAGE_PROCESS_CONFIG" in os.environ:
                # What is killed cannot say which of our lines it has run.
                self.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(_LAST_WORDS_S)
            self.process.kill()
        self.process.wait(HANG_S)
        for connection in self._connections:
            connection.close()
        for listener in (self._ipc, self._gate):
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for thread in self._threads:
            thread.join(HANG_S)
        for meeting in self._all_meetings:
            meeting.release()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _hear(self) -> None:
        try:
            connection, _ = self._ipc.accept()
        except OSError:
            self.ledger.end()
            return
        self._heard = connection
        with connection:
            while data := _received(connection):
                before = len(self.ledger.frames)
                self.ledger.feed(data)
                if self.on_frame is not None:
                    for frame in self.ledger.frames[before:]:
                        self.on_frame(frame)
        self.ledger.end()

    def _attend(self) -> None:
        while True:
            try:
                connection, _ = self._gate.accept()
            except OSError:
                return
            name = b""
            while not name.endswith(b"\n") and (data := _received(connection)):
                name += data
            with self._met:
                meeting = self._meetings[name.decode().strip()] = Meeting(connection)
                self._all_meetings.append(meeting)
                self._met.notify_all()

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(HOST, self.port, timeout=self.patience_s)

    def _pooled(self) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection | None = getattr(self._pool, "connection", None)
        if connection is not None and connection.sock is not None and _is_closed(connection.sock):
            # As any pool does: the server lets nobody rest for longer than it likes.
            connection.close()
        if connection is None:
            connection = self._pool.connection = self._connection()
            self._connections.append(connection)
        return connection

    def _state(self) -> str:
        said = "\n".join(str(frame)[:300] for frame in self.ledger.frames[-12:])
        return (
            f"\nexit code: {self.process.poll()}\nviolations: {self.violations}\nlast messages:\n{said}"
            f"\nstdout:\n{self.stdout[-2000:]}\nstderr:\n{self.stderr[-4000:]}"
        )


def _listening(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(_BACKLOG)
    return listener


def _is_closed(connection: socket.socket) -> bool:
    # Between two responses nothing can come but the end.
    return bool(select.select([connection], [], [], 0)[0])


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1 << 18)
    except OSError:
        return b""
