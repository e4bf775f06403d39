"""
Calls ASGI apps: one event loop for the life of the process, lifespan once, each request in its caller's context.

Source: ASGI 3.0, HTTP & WebSocket 2.4, Lifespan 2.0.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
import time
from typing import TYPE_CHECKING, Any

from tracedbridge.apps.lifespan import Lifespan
from tracedbridge.errors import AppProtocolError, DeadlineError
from tracedbridge.kinds import one_call
from tracedbridge.messages import Response

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from tracedbridge.messages import Headers, Invocation, Request

__all__ = ("AsgiApp",)

# 2.4: send() raises OSError once nobody listens, and Starlette then needs no task to wait for a disconnect.
_ASGI = {"version": "3.0", "spec_version": "2.4"}

# What an app that is cancelled at its deadline has left to clean up, and what tasks have at the end.
_CANCEL_GRACE_S = 0.25
_CANCEL_AT_END_S = 1.0


class AsgiApp:
    """An ASGI app; implements `tracedbridge.protocols.App`."""

    def __init__(self, app: Callable[..., Any]) -> None:
        """Take an ASGI 3 or ASGI 2 app."""
        self._app = one_call(app)
        self._state: dict[str, Any] = {}
        self._lifespan = Lifespan(self._app, self._state)
        self._loop: asyncio.AbstractEventLoop | None = None
        # A loop runs in one thread at a time. Whoever finds this one taken (another thread's call, or a call
        # from inside the app) runs a spare loop: it could wait for ever for its own caller.
        self._loop_is_taken = threading.Lock()
        # Set by a stop() that could not have the loop: whoever has it stops the app when it is done.
        self._stop_later_s: float | None = None
        self._spares: list[asyncio.AbstractEventLoop] = []

    def start(self) -> int | None:
        """
        Run lifespan startup, once; return how many tasks it left running, or None if the app knows no lifespan.

        Raises:
            StartupError: The app sent ``lifespan.startup.failed`` or raised in its startup.
        """
        loop = self._loop = asyncio.new_event_loop()
        context = contextvars.copy_context()
        _off_loop(lambda: self._run(loop, self._lifespan.startup(context), context))
        if not self._lifespan.is_spoken:
            return None
        # Without the lifespan's own, which waits for shutdown.
        return len(asyncio.all_tasks(loop)) - 1

    def call(self, request: Request, invocation: Invocation) -> Response:
        """
        Answer one request on this thread, or on one of its own if this thread's loop is running.

        Raises:
            AppProtocolError: The app's messages are no response.
            DeadlineError: The app was cancelled at ``invocation.deadline_ns``.
            BaseException: What the app raised.
        """
        exchange = _Exchange(request, invocation, self._state)
        context = contextvars.copy_context()
        if _loop_runs_here():
            _off_loop(lambda: self._serve(exchange, context))
        else:
            self._serve(exchange, context)
        return exchange.response()

    def stop(self, timeout_s: float) -> None:
        """
        Run lifespan shutdown, cancel what is left, close the loops.

        Raises:
            ShutdownError: The app's shutdown failed.
        """
        loop = self._loop
        if loop is None:
            return
        if not self._loop_is_taken.acquire(timeout=timeout_s):
            self._stop_later_s = timeout_s
            return
        self._loop = None
        # Only here: it loads executors, which a cold start can do without.
        from tracedbridge.inline import Inline, can_start_threads

        if not can_start_threads():
            loop.set_default_executor(Inline())
        try:
            context = contextvars.copy_context()
            _off_loop(lambda: self._run(loop, self._lifespan.shutdown(timeout_s), context))
        finally:
            # Each waits twice, at most: of a short time for all of it, a third is left for that.
            grace_s = min(timeout_s / 3 or _CANCEL_AT_END_S, _CANCEL_AT_END_S)
            for each in (loop, *self._spares):
                _off_loop(functools.partial(_close, each, grace_s))
            self._spares.clear()
            self._loop_is_taken.release()

    def _serve(self, exchange: _Exchange, context: contextvars.Context) -> None:
        if not self._loop_is_taken.acquire(blocking=False):
            self._serve_aside(exchange, context)
            return
        try:
            if self._loop is None:
                self._serve_aside(exchange, context)
            else:
                self._run(self._loop, exchange.run(self._app), context, exchange)
        finally:
            exchange.closed = True
            self._loop_is_taken.release()
            if self._stop_later_s is not None:
                self.stop(self._stop_later_s)

    def _serve_aside(self, exchange: _Exchange, context: contextvars.Context) -> None:
        loop = self._spares.pop() if self._spares else asyncio.new_event_loop()
        try:
            self._run(loop, exchange.run(self._app), context, exchange)
        finally:
            exchange.closed = True
            if self._loop is None:
                # Stopped meanwhile: nobody else will close it.
                _close(loop)
            else:
                self._spares.append(loop)

    def _run(
        self,
        loop: asyncio.AbstractEventLoop,
        work: Coroutine[Any, Any, None],
        context: contextvars.Context,
        exchange: _Exchange | None = None,
    ) -> None:
        task = loop.create_task(work, context=context)
        if exchange is not None:
            exchange.invocation.runs_on(loop)
        try:
            if exchange is None or exchange.invocation.deadline_ns is None:
                loop.run_until_complete(task)
            else:
                loop.run_until_complete(_until_deadline(task, exchange))
        except BaseException:
            # SystemExit from one of the app's other tasks, or Ctrl-C: the next invocation must not go on with it.
            task.cancel()
            raise


class _Exchange:
    """One request and what the app sends for it."""

    __slots__ = (
        "body", "broken", "closed", "complete", "error", "headers", "invocation", "request", "scope", "sent", "status",
        "timed_out", "waiting",
    )  # fmt: skip

    def __init__(self, request: Request, invocation: Invocation, state: dict[str, Any]) -> None:
        self.request = request
        self.invocation = invocation
        self.scope = invocation.scope = {
            "type": "http",
            "asgi": _ASGI.copy(),
            "http_version": request.http_version,
            "method": request.method,
            "scheme": request.scheme,
            "path": _decoded(request.raw_path),
            "raw_path": request.raw_path.encode("ascii"),
            "query_string": request.query.encode("ascii"),
            "root_path": request.mount and _decoded(request.mount),
            "headers": _raw(request),
            "client": None if request.client is None else (request.client, 0),
            "server": (request.host, request.port),
            "state": state.copy(),
        }
        if request.extras is not None:
            self.scope.update(request.extras)
        self.status: int | None = None
        self.headers: Headers = []
        self.body: list[bytes] = []
        self.complete = self.sent = self.closed = self.timed_out = False
        self.broken: AppProtocolError | None = None
        self.error: BaseException | None = None
        self.waiting: list[asyncio.Future[None]] = []

    async def run(self, app: Callable[..., Any]) -> None:
        try:
            await app(self.scope, self.receive, self.send)
        except BaseException as error:  # noqa: BLE001 - kept: `response` raises it outside of the loop
            self.error = error

    async def receive(self) -> dict[str, Any]:
        if not self.sent:
            self.sent = True
            return {"type": "http.request", "body": self.request.body, "more_body": False}
        # The client stays until it has its answer: an earlier disconnect would make Starlette cut its stream.
        while not (self.complete or self.closed):
            answered = asyncio.get_running_loop().create_future()
            self.waiting.append(answered)
            await answered
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        if self.closed:
            raise OSError("cannot send: this request was answered without the app")
        deadline_ns = self.invocation.deadline_ns
        if deadline_ns is not None and time.monotonic_ns() >= deadline_ns:
            # An app that streams without a pause never lets the loop see that its time is over.
            await asyncio.sleep(0)
        try:
            self._take(message)
        except AppProtocolError as error:
            self.broken = self.broken or error
            raise
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            self.broken = AppProtocolError(f"the app sent a malformed message: {type(error).__name__}: {error}")
            raise self.broken from error

    def _take(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            if self.status is not None:
                raise AppProtocolError("the app sent a second http.response.start")
            status = message["status"]
            if not isinstance(status, int) or not 100 <= status <= 999:
                raise AppProtocolError(f"the app sent the status {status!r}, not a number from 100 to 999")
            headers: Headers = []
            for name, value in message.get("headers", ()):
                if not isinstance(name, bytes) or not isinstance(value, bytes):
                    raise AppProtocolError(f"the app sent the header {name!r} not as bytes")
                headers.append((name.decode("latin-1"), value.decode("latin-1")))
            self.status, self.headers = int(status), headers
            self.invocation.response_started()
        elif kind == "http.response.body":
            if self.status is None:
                raise AppProtocolError("the app sent http.response.body before http.response.start")
            if self.complete:
                # What was answered stays answered: a server would have sent it, too.
                late = AppProtocolError("the app sent http.response.body after its last one")
                self.invocation.failed(late)
                raise RuntimeError(str(late))
            body = message.get("body", b"")
            if not isinstance(body, (bytes, bytearray, memoryview)):
                raise AppProtocolError(f"the app sent a body of {type(body).__name__}, not bytes")
            self.body.append(bytes(body))
            if not message.get("more_body", False):
                self._completed()
        else:
            raise AppProtocolError(f"the app sent the message {kind!r}, which answers no HTTP request")

    def _completed(self) -> None:
        self.complete = True
        self.invocation.answered_ns = time.monotonic_ns()
        for answered in self.waiting:
            if not answered.done():
                answered.set_result(None)

    def response(self) -> Response:
        error = self.error
        if error is not None and not isinstance(error, (Exception, asyncio.CancelledError)):
            raise error
        if self.broken is not None:
            raise self.broken
        if self.complete and self.status is not None:
            if error is not None:
                # The client has its answer: what failed is background work.
                self.invocation.failed(error)
            elif self.timed_out:
                self.invocation.failed(DeadlineError("the app's background work was cancelled at the deadline"))
            return Response(self.status, self.headers, b"".join(self.body))
        if self.timed_out:
            raise DeadlineError("the app did not answer before the deadline and was cancelled")
        if isinstance(error, Exception):
            raise error
        if error is not None:
            raise AppProtocolError("the app cancelled itself before it had answered") from error
        if self.status is None:
            raise AppProtocolError("the app returned without a response")
        raise AppProtocolError("the app returned before the last message of its response body")


async def _until_deadline(task: asyncio.Task[None], exchange: _Exchange) -> None:
    deadline_ns = exchange.invocation.deadline_ns
    left_s = 0.0 if deadline_ns is None else (deadline_ns - time.monotonic_ns()) / 1e9
    await asyncio.wait((task,), timeout=max(left_s, 0.0))
    if not task.done():
        exchange.timed_out = True
        # What it answers from now on comes too late; an answer that is complete is one, with work behind it.
        exchange.closed = not exchange.complete
        task.cancel()
        await asyncio.wait((task,), timeout=_CANCEL_GRACE_S)


def _loop_runs_here() -> bool:
    # Asked and answered: what runs inside of an `except` has that exception in all of its tracebacks.
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _off_loop(work: Callable[[], None]) -> None:
    """Run ``work`` on this thread, or on one of its own if this one's loop is running; raise what it raises."""
    if not _loop_runs_here():
        work()
        return
    raised: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised below, in the thread that asked
            raised.append(error)

    thread = threading.Thread(target=guarded, name="tracedbridge-call", daemon=True)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


def _close(loop: asyncio.AbstractEventLoop, timeout_s: float = _CANCEL_AT_END_S) -> None:
    loop.run_until_complete(_cancel_all(timeout_s))
    # Not shutdown_default_executor(): it waits for threads that may never end.
    loop.close()


async def _cancel_all(timeout_s: float) -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=timeout_s)
    closing = asyncio.ensure_future(asyncio.get_running_loop().shutdown_asyncgens())
    await asyncio.wait((closing,), timeout=timeout_s)


def _raw(request: Request) -> list[tuple[bytes, bytes]]:
    if request.layout is not None and request.values is not None:
        # ASCII, all of them: that is what a layout is for.
        raw = list(zip(request.layout.raw_names, map(str.encode, request.values), strict=False))
        return raw + _encoded(request.extra) if request.extra else raw
    return _encoded(request.headers)


def _encoded(headers: Headers) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]


def _decoded(raw_path: str) -> str:
    if "%" not in raw_path:
        return raw_path
    # Only here: few first requests have one, and the import takes two milliseconds.
    from urllib.parse import unquote

    return unquote(raw_path)
