"""
The lifespan of an ASGI app: startup once, shutdown once, in a task and a context of its own.

Source: ASGI, Lifespan Protocol 2.0; an app that does not speak it is told apart as uvicorn does.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tracedbridge.errors import AppProtocolError, ShutdownError, StartupError

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable

__all__ = ("Lifespan",)

# What an app that said it failed has left to raise the exception that made it fail.
_RAISE_GRACE_S = 1.0


class Lifespan:
    """Talks to one app about its life."""

    def __init__(self, app: Callable[..., Any], state: dict[str, Any]) -> None:
        """
        Args:
            app: An ASGI 3 app.
            state: Given to the app as ``scope["state"]``, to fill.
        """
        self._app = app
        self._state = state
        self._task: asyncio.Task[None] | None = None
        self._said: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self._stopping = asyncio.Event()
        self._asked = self._foreign = False
        self._error: BaseException | None = None

    @property
    def is_spoken(self) -> bool:
        """Whether the app has said that its startup is complete, and can be asked to shut down."""
        return self._task is not None

    async def startup(self, context: contextvars.Context) -> None:
        """
        Run the app until its startup is complete, or until it shows that it knows no lifespan.

        Raises:
            StartupError: The app said that it failed, or raised after it was asked to start.
            SystemExit, KeyboardInterrupt: The app's own.
        """
        task = self._task = asyncio.create_task(self._run(), context=context)
        message, text = await self._said.get()
        if message == "lifespan.startup.complete":
            return
        if message == "lifespan.startup.failed":
            await asyncio.wait((task,), timeout=_RAISE_GRACE_S)
        error = self._error
        if error is not None and not isinstance(error, (Exception, asyncio.CancelledError)):
            raise error
        if message == "lifespan.startup.failed" or (error is not None and self._asked and not self._foreign):
            raise StartupError(
                f"could not start the app: its lifespan startup failed: {_reason(error, text)}"
            ) from error
        self._task = None

    async def shutdown(self, timeout_s: float) -> None:
        """
        Tell the app to shut down and wait for it, at most ``timeout_s`` seconds.

        Raises:
            ShutdownError: The app said that it failed, raised, or did not end in time.
        """
        task, self._task = self._task, None
        if task is None or task.done():
            return
        self._stopping.set()
        await asyncio.wait((task,), timeout=timeout_s)
        if not task.done():
            task.cancel()
            raise ShutdownError(f"could not shut the app down: its lifespan shutdown took more than {timeout_s:g} s")
        error = self._error
        message, text = self._said.get_nowait() if not self._said.empty() else ("", "")
        if message == "lifespan.shutdown.failed" or error is not None:
            raise ShutdownError(
                f"could not shut the app down: its lifespan shutdown failed: {_reason(error, text)}"
            ) from error

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self._state}
        try:
            await self._app(scope, self._receive, self._send)
        except BaseException as error:  # noqa: BLE001 - raised by startup() or shutdown()
            self._error = error
        self._said.put_nowait(("", ""))

    async def _receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "lifespan.startup"}
        await self._stopping.wait()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if not kind.startswith("lifespan."):
            # An app that answers every scope as if it were a request.
            self._foreign = True
            raise AppProtocolError(f"the app sent {kind!r} in its lifespan")
        self._said.put_nowait((kind, str(message.get("message", ""))))


def _reason(error: BaseException | None, text: str) -> str:
    if error is not None:
        return f"{type(error).__name__}: {error}"
    # Starlette sends a whole traceback; its last line says what happened.
    lines = text.strip().splitlines()
    return lines[-1] if lines else "the app gave no reason"
