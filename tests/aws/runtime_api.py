"""
Stands in for AWS Lambda: one environment, its Runtime API and its Extensions API, and the freeze between invocations.

    with Environment("index.py", folder) as environment:
        answer = environment.invoke(event)

Source: AWS, "Using the Lambda runtime API", "Lambda Extensions API", "Understanding the Lambda execution environment
lifecycle".
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import tracedbridge
from tests.support import HANG_S

__all__ = ("ARN", "Answer", "Environment")

ARN = "arn:aws:lambda:eu-central-1:123456789012:function:shop"
_NOT_INHERITED = ("TRACEDBRIDGE_", "OTEL_", "VERCEL", "AWS_", "__VC_", "_X_AMZN", "HTTP_PROXY", "HTTPS_PROXY")

# Of looks at its threads, each of which was asleep.
_OVER_IT = 20


class Answer(NamedTuple):
    """What the runtime posted for an invocation."""

    # The request's id.
    number: str
    # "response" or "error"
    kind: str
    payload: Any
    # CLOCK_MONOTONIC.
    posted_ns: int


class Environment:
    """One execution environment from its start to its end; a context manager."""

    def __init__(
        self,
        app: str,
        folder: Path,
        *,
        handler: str = "tracedbridge.handler",
        freezes: bool = True,
        takes_extensions: bool = True,
        timeout_s: float = 30.0,
        **environ: str,
    ) -> None:
        """
        Start the real runtime client.

        Args:
            app: ``TRACEDBRIDGE_APP``.
            folder: Its working directory.
            handler: As in the function's configuration.
            freezes: Stop the process when it waits, as Lambda does.
            takes_extensions: Whether one can be registered.
            timeout_s: Of the function.
            environ: More variables of its environment.
        """
        self._news = threading.Condition()
        self._events: list[tuple[str, Any, str]] = []
        self._extension_events: list[str] = []
        self._answers: dict[str, Answer] = {}
        # The request's id of the last invocation, of which extensions hear.
        self.number = ""
        self.init_error: Any = None
        self.extensions: dict[str, str] = {}
        # Who waits, and how many of them.
        self._waiting: Counter[str] = Counter()
        self._is_restored = False
        self._is_frozen = False
        self.freezes, self.takes_extensions, self._timeout_s = freezes, takes_extensions, timeout_s
        # CLOCK_MONOTONIC, of each freeze.
        self.frozen_ns: list[int] = []
        self._server = _Server(("127.0.0.1", 0), _handler_of(self))
        threading.Thread(target=self._server.serve_forever, name="runtime-api", daemon=True).start()
        told = {
            **{name: value for name, value in os.environ.items() if not name.upper().startswith(_NOT_INHERITED)},
            "PYTHONPATH": str(Path(tracedbridge.__file__).parents[1]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONFAULTHANDLER": "1",
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self._server.server_address[1]}",
            "AWS_LAMBDA_FUNCTION_NAME": "shop",
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_EXECUTION_ENV": f"AWS_Lambda_python{sys.version_info[0]}.{sys.version_info[1]}",
            "AWS_REGION": "eu-central-1",
            "LAMBDA_TASK_ROOT": str(folder),
            "_HANDLER": handler,
            "TRACEDBRIDGE_APP": app,
            **environ,
        }
        self._output = (folder / "output.txt").open("wb")
        self._folder = folder
        self.process = subprocess.Popen(
            (sys.executable, "-m", "awslambdaric", handler),
            cwd=folder, env=told, stdin=subprocess.DEVNULL, stdout=self._output, stderr=self._output,
        )  # fmt: skip

    @property
    def output(self) -> str:
        """What the process wrote."""
        return self._folder.joinpath("output.txt").read_text(errors="replace")

    def invoke(self, event: Any, *, trace: str = "") -> Answer:
        """
        Invoke the function and return what was posted; the process may still be exporting then.

        Args:
            event: JSON.
            trace: X-Ray's header.
        """
        self.wait_until_idle()
        number = self.send(event, trace=trace)
        with self._news:
            done = self._news.wait_for(lambda: number in self._answers or self._has_ended(), HANG_S)
            assert done, f"no answer came: {self.output}"
            assert number in self._answers, f"the process ended with {self.process.poll()}: {self.output}"
            return self._answers[number]

    def send(self, event: Any, *, trace: str = "") -> str:
        """Have the function get an event, wait for nothing, and return the request's id."""
        number = str(uuid.uuid4())
        with self._news:
            self._thaw()
            self.number = number
            self._events.append((number, event, trace))
            self._extension_events.extend(self.extensions)
            self._news.notify_all()
        return number

    def answered(self, count: int) -> dict[str, Answer]:
        """Wait for so many answers in all, and return them by request id."""
        with self._news:
            assert self._news.wait_for(lambda: len(self._answers) >= count, HANG_S), f"{self._answers}, {self.output}"
            return dict(self._answers)

    def restore(self) -> None:
        """Have the process go on behind the snapshot for which it waits, restored."""
        with self._news:
            done = self._news.wait_for(lambda: "restore" in self._waiting or self._has_ended(), HANG_S)
            assert done, f"it waits for no restore: {self.output}"
            self._thaw()
            self._is_restored = True
            self._news.notify_all()

    def wait_until_idle(self) -> None:
        """Wait until the runtime and all extensions have asked for the next event; then the process may be frozen."""
        with self._news:
            done = self._news.wait_for(lambda: self._is_idle() or self._has_ended(), HANG_S)
            assert done, f"not idle: {self._waiting}, {self.output}"

    def end(self) -> int:
        """End the environment as Lambda does, by SIGTERM where there is an extension; return the exit code."""
        with self._news:
            self._thaw()
            self.freezes = False
        # Who goes on after SIGSTOP may be between Python's look at its flags and its sleep when the next signal comes,
        # and then hears of that with the one after; Lambda's freeze is none of signals. Who sleeps for long is over it.
        until_s, sleeps = time.monotonic() + HANG_S, 0
        while sleeps < _OVER_IT and time.monotonic() < until_s:
            sleeps = sleeps + 1 if self._sleeps() else 0
            time.sleep(0.005)
        if self.extensions:
            self.process.send_signal(signal.SIGTERM)
        else:
            self.process.kill()
        try:
            return self.process.wait(HANG_S)
        except subprocess.TimeoutExpired:
            # Python says where all threads are, and ends.
            self.process.send_signal(signal.SIGABRT)
            self.process.wait(HANG_S)
            raise AssertionError(f"it does not end: {self.output}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._news:
            self._thaw()
        self.process.kill()
        self.process.wait(HANG_S)
        self._server.shutdown()
        self._server.server_close()
        self._output.close()

    # What the API does.

    def waits(self, who: str, take: Callable[[], Any]) -> Any:
        """Return what ``take`` gives when it gives something; until then ``who`` waits."""
        with self._news:
            self._waiting[who] += 1
            self._freeze_if_idle()
            self._news.notify_all()
            while (taken := take()) is None:
                self._news.wait(HANG_S)
            self._waiting -= Counter((who,))
            return taken

    def posted(self, number: str, kind: str, payload: Any) -> None:
        """Take an answer."""
        with self._news:
            self._answers[number] = Answer(number, kind, payload, time.monotonic_ns())
            self._news.notify_all()

    def failed(self, payload: Any) -> None:
        """Take what Init failed with."""
        with self._news:
            self.init_error = payload
            self._news.notify_all()

    def next_event(self) -> tuple[str, Any, str] | None:
        return self._events.pop(0) if self._events else None

    def next_extension_event(self, who: str) -> str | None:
        if who in self._extension_events:
            self._extension_events.remove(who)
            return who
        return None

    @property
    def deadline_ms(self) -> int:
        """Of an invocation that begins now."""
        return int((time.time() + self._timeout_s) * 1000)

    def _is_idle(self) -> bool:
        is_between = "runtime" in self._waiting or "restore" in self._waiting
        return (
            is_between and set(self.extensions) <= set(self._waiting) and not (self._events or self._extension_events)
        )

    def _freeze_if_idle(self) -> None:
        if self.freezes and self._is_idle() and not self._is_frozen and not self._has_ended():
            self._is_frozen = True
            self.frozen_ns.append(time.monotonic_ns())
            self.process.send_signal(signal.SIGSTOP)

    def _sleeps(self) -> bool:
        """Say whether all threads wait for something; true where nobody can say, as on macOS."""
        tasks = Path(f"/proc/{self.process.pid}/task")
        try:
            states = {each.joinpath("stat").read_text().rpartition(")")[2].split()[0] for each in tasks.iterdir()}
        except OSError:
            return True
        return states == {"S"}

    def _thaw(self) -> None:
        if self._is_frozen:
            self._is_frozen = False
            self.process.send_signal(signal.SIGCONT)

    def _has_ended(self) -> bool:
        return self.process.poll() is not None


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a process that was killed, which is how each environment ends."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _handler_of(environment: Environment) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Else an answer's body waits 40 ms for the acknowledgement of its head.
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            if self.path.endswith("/runtime/invocation/next"):
                number, event, trace = environment.waits("runtime", environment.next_event)
                headers = {
                    "Lambda-Runtime-Aws-Request-Id": number,
                    "Lambda-Runtime-Deadline-Ms": str(environment.deadline_ms),
                    "Lambda-Runtime-Invoked-Function-Arn": ARN,
                    **({"Lambda-Runtime-Trace-Id": trace} if trace else {}),
                }
                self._answer(200, event, headers)
            elif self.path.endswith("/runtime/restore/next"):
                environment.waits("restore", lambda: environment._is_restored or None)
                self._answer(200, {})
            elif self.path.endswith("/extension/event/next"):
                who = self.headers["Lambda-Extension-Identifier"]
                environment.waits(who, lambda: environment.next_extension_event(who))
                told = {
                    "eventType": "INVOKE", "requestId": environment.number,
                    "deadlineMs": environment.deadline_ms, "invokedFunctionArn": ARN,
                }  # fmt: skip
                self._answer(200, told)
            else:
                self._answer(404, {})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            payload = json.loads(body) if body else None
            parts = self.path.split("/")
            if self.path.endswith("/extension/register"):
                self._register(payload)
            elif parts[-1] in ("response", "error") and parts[-3] == "invocation":
                environment.posted(parts[-2], parts[-1], payload)
                self._answer(202, {"status": "OK"})
            elif self.path.endswith("/runtime/init/error"):
                environment.failed(payload)
                self._answer(202, {"status": "OK"})
            else:
                self._answer(404, {})

        def _register(self, payload: Any) -> None:
            if not environment.takes_extensions:
                self._answer(403, {"errorType": "Extension.RegistrationFailed"})
                return
            assert payload == {"events": ["INVOKE"]}
            number = str(uuid.uuid4())
            environment.extensions[number] = self.headers["Lambda-Extension-Name"]
            self._answer(200, {"functionName": "shop"}, {"Lambda-Extension-Identifier": number})

        def _answer(self, status: int, payload: Any, headers: dict[str, str] | None = None) -> None:
            body = json.dumps(payload).encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name that it has in http.server
            """Say nothing."""

    return Handler
