"""
Vercel's IPC mode: an HTTP server on 127.0.0.1 that announces itself, and all else, on a Unix socket.

Source: vercel-runtime 0.24.1.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Never

from tracedbridge.serving.explaining import explanation
from tracedbridge.serving.ipc.captured import Captured
from tracedbridge.serving.ipc.channel import Channel, inherit, running
from tracedbridge.serving.ipc.takeover import taken_over

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tracedbridge.boot import ColdStart
    from tracedbridge.instrumented.asgi import TracedAsgi
    from tracedbridge.protocols import Telemetry
    from tracedbridge.serving.ipc.threaded import Threaded

__all__ = ("serve",)

_HOST = "127.0.0.1"
_BACKLOG = 2048


def serve() -> Never:
    """
    Load the app of ``TRACEDBRIDGE_APP`` and serve it until SIGTERM; never returns.

    Raises:
        SystemExit: 0 after SIGTERM, 1 where the app or its startup failed, which the platform was told.
        ConnectionError: Nobody listens at ``VERCEL_IPC_PATH``.
    """
    channel = Channel(os.environ["VERCEL_IPC_PATH"], taken_over())
    captured = Captured(channel)
    captured.begin()
    inherit()
    try:
        code = _serve(channel, captured)
    except _FatalError as fatal:
        code = _tell_fatal(channel, captured, str(fatal))
    except KeyboardInterrupt:
        code = 130
    except BaseException as error:  # noqa: BLE001 - whatever it is, the platform is told
        code = _tell_fatal(channel, captured, explanation(error, "could not start the app"))
    sys.exit(code)


class _FatalError(Exception):
    """The server cannot start; the message says why."""


def _serve(channel: Channel, captured: Captured) -> int:
    # First: whatever it loads is no import of the app's.
    server_class, config_class = _uvicorn()
    from tracedbridge.boot import ColdStart
    from tracedbridge.serving.ipc.app import IpcApp
    from tracedbridge.serving.ipc.fetches import tell_fetches
    from tracedbridge.serving.ipc.settling import Settling
    from tracedbridge.serving.ipc.timing import durations_ms, header_value

    cold_start = ColdStart()
    app, telemetry = _load(cold_start)
    tell_fetches(channel)
    served = IpcApp(app, channel, captured, Settling(telemetry.settle))
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with listening:
        listening.bind((_HOST, 0))
        listening.listen(_BACKLOG)
        port: int = listening.getsockname()[1]
        config = config_class(
            served, lifespan="auto", ws=_websocket, access_log=False, log_config=None, log_level="warning",
            server_header=False, proxy_headers=False,
        )  # fmt: skip
        logging.getLogger("uvicorn.error").addFilter(_is_news)

        def announce() -> None:
            served.timing = header_value(durations_ms(cold_start))
            channel.started(_announcement(port, cold_start))

        server = server_class(config, announce)
        try:
            server.run(sockets=[listening])
        except SystemExit:
            # uvicorn's own, where startup failed; what the app raises in a request does not come here.
            if server.started:
                raise
    if not server.started:
        raise _FatalError(f"could not start the app: its lifespan startup failed: {served.failure}")
    return 0


def _uvicorn() -> tuple[Any, Any]:
    try:
        from uvicorn import Config, Server

        if find_spec("wsproto") is None:
            raise ImportError("No module named 'wsproto'")
    except ImportError as error:
        raise _FatalError(f"could not start the server: {error}; install tracedbridge[vercel]") from error

    class Announcing(Server):
        """Says when it takes requests, and ends with a return where uvicorn would kill the process."""

        def __init__(self, config: Config, announce: Callable[[], None]) -> None:
            super().__init__(config)
            self._announce = announce

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            if self.started and not self.should_exit:
                self._announce()

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            if threading.current_thread() is not threading.main_thread():
                yield
                return
            before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

    return Announcing, Config


def _load(cold_start: ColdStart) -> tuple[TracedAsgi | Threaded, Telemetry]:
    from tracedbridge.create import begin
    from tracedbridge.kinds import one_call
    from tracedbridge.loading import import_app, resolve_app
    from tracedbridge.settings import Settings

    settings = Settings()
    # After the response, and before its end is told: that is when this platform gives time.
    settings.flush = "after"
    telemetry = begin(settings, cold_start, settings.app.partition(":")[0])
    try:
        with telemetry.loading():
            module, variable = import_app(settings.app)
            cold_start.mark("app_import")
            found, kind = resolve_app(settings.app, module, variable)
            cold_start.mark("app_resolve")
            cold_start.ready()
    except BaseException:
        telemetry.close()
        raise
    if kind == "asgi":
        from tracedbridge.instrumented.asgi import TracedAsgi

        return TracedAsgi(one_call(found), telemetry, cold_start), telemetry
    from tracedbridge.apps import app_of
    from tracedbridge.serving.ipc.threaded import Threaded

    return Threaded(app_of(found, kind), telemetry), telemetry  # type: ignore[arg-type]  # of the two other kinds


def _websocket(**told: Any) -> Any:
    """Return uvicorn's protocol for one WebSocket: a cold start need not wait 40 ms for what few functions serve."""
    from uvicorn.protocols.websockets.wsproto_impl import WSProtocol

    return WSProtocol(**told)


def _is_news(record: logging.LogRecord) -> bool:
    """Say whether nobody else tells what uvicorn does: an invocation's own line has its traceback."""
    request = running.get()
    is_invocation = request is not None and not request.is_conversation
    return not (is_invocation and record.getMessage().startswith("Exception in ASGI application"))


def _announcement(port: int, cold_start: ColdStart) -> dict[str, int]:
    now_ns = time.monotonic_ns()
    took = cold_start.durations_ns()
    user_ns = sum(took.get(phase, 0) for phase in ("app_import", "app_resolve", "lifespan"))
    return {
        "initDuration": (now_ns - cold_start.begun_ns) // 1_000_000,
        "httpPort": port,
        "userInitDuration": user_ns // 1_000_000,
    }


def _tell_fatal(channel: Channel, captured: Captured, message: str) -> int:
    channel.send("unrecoverable-error", {"exitCode": 1, "message": message})
    captured.stderr.write(f"{channel.early_text()}{message.rstrip()}\n")
    captured.stderr.flush()
    return 1
