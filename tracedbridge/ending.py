"""
Closes the bridges that are still open when the process ends: at interpreter exit and on SIGTERM.

An app that somebody else serves is closed later than that server's own handler of SIGTERM begins to work: it lets
the requests end that still run.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType
    from typing import Protocol

    class Closing(Protocol):
        """Whoever has something left to do at the end."""

        def close(self) -> None:
            """Do it; once, however often this is called."""

    class Settling(Closing, Protocol):
        """Whoever may be asked to do so much as can be done before the end."""

        def settle(self) -> None:
            """Do it; bounded in time, safe to call from any thread."""


__all__ = ("close_at_end", "forget", "is_near", "settle_at_end")

# What is settled when a server's handler has SIGTERM gets so long, in seconds: what has answered already is exported,
# and what still runs waits that much longer. Twice the flush timeout's default.
_SETTLE_S = 1.0

_open: dict[int, tuple[Closing, int]] = {}
_served: dict[int, Settling] = {}
_is_near = False
_at_exit = False
_previous: Any = None


def close_at_end(bridge: Closing) -> None:
    """Have a bridge, or what is like one, closed when this process ends, unless it is closed before."""
    global _at_exit
    _open[id(bridge)] = (bridge, os.getpid())
    if not _at_exit:
        _at_exit = True
        _before_threads_end(_close_all)
    _watch_sigterm()


def settle_at_end(app: Settling) -> None:
    """
    Have an app that somebody else serves closed at the end of this process, and settled before, on SIGTERM.

    Where the signal has a handler already, as most servers', that one decides what happens.
    """
    _served[id(app)] = app
    close_at_end(app)


def is_near() -> bool:
    """Say whether a server is about to end this process, perhaps as soon as its requests have."""
    return _is_near


def forget(bridge: Closing) -> None:
    """Leave it alone, and SIGTERM to whoever had it, when no other bridge is open."""
    _open.pop(id(bridge), None)
    _served.pop(id(bridge), None)
    if not _open and threading.current_thread() is threading.main_thread():
        _give_sigterm_back()


def _before_threads_end(close: Callable[[], None]) -> None:
    def work() -> None:
        # Telemetry may be loaded only now, and with it what registers itself there, as executors do, and is refused.
        if place.get(name) is not register_before_ours:
            close()
            return
        place[name] = atexit.register
        try:
            with _threads_or_none():
                close()
        finally:
            place[name] = register_before_ours

    def register_before_ours(*args: Any, **kwargs: Any) -> None:
        register(*args, **kwargs)
        # Once more: what is registered last is called first, and a second close does nothing.
        register(work)

    # At `atexit` executors are closed already, so that a shutdown with asyncio.to_thread() fails, and 3.12
    # starts no threads any more. Executors register themselves when they are imported, which may be later than this.
    place, name = vars(threading), "_register_atexit"
    register = place.get(name, atexit.register)
    try:
        register(work)
    except RuntimeError:
        # The interpreter is ending already.
        atexit.register(close)
        return
    if name in place:
        place[name] = register_before_ours


@contextmanager
def _threads_or_none() -> Iterator[None]:
    """Where no thread can be started any more, have executors do without: the SDK uses one while it is imported."""
    from tracedbridge.inline import Inline, can_start_threads

    if can_start_threads():
        yield
        return
    from concurrent import futures

    threaded = futures.ThreadPoolExecutor
    setattr(futures, "ThreadPoolExecutor", Inline)  # noqa: B010 - to mypy a class is no variable
    try:
        yield
    finally:
        setattr(futures, "ThreadPoolExecutor", threaded)  # noqa: B010 - as above


def _close_all() -> None:
    for bridge, pid in list(_open.values()):
        # A forked child must not shut its parent's app down.
        if pid == os.getpid():
            try:
                bridge.close()
            except Exception as error:  # noqa: BLE001 - one bridge's end must not keep the next from its own
                sys.stderr.write(f"tracedbridge: {type(error).__name__}: {error}\n")


def _watch_sigterm() -> None:
    global _previous
    if threading.current_thread() is not threading.main_thread():
        return
    current = signal.getsignal(signal.SIGTERM)
    # SIG_IGN is somebody's decision; None is a handler set from C, which we could not call.
    if current is not _on_sigterm and current not in (signal.SIG_IGN, None):
        _previous = current
        signal.signal(signal.SIGTERM, _on_sigterm)


def _give_sigterm_back() -> None:
    if signal.getsignal(signal.SIGTERM) is _on_sigterm:
        signal.signal(signal.SIGTERM, _previous)


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    if callable(_previous) and _served:
        _hand_on(number, frame)
        return
    _give_sigterm_back()

    def end() -> None:
        _close_all()
        # Now for whoever had the signal before us, the default action included.
        os.kill(os.getpid(), signal.SIGTERM)

    if _inside_bridge(frame):
        # Whose loop this thread cannot run a second time, and which may be loading the SDK: closing waits elsewhere
        # until the app has answered, and what is told is told.
        threading.Thread(target=end, name="tracedbridge-end", daemon=True).start()
    else:
        end()


def _hand_on(number: int, frame: FrameType | None) -> None:
    """Have a server's own handler begin, and export what there is until now: a server may end by the signal itself."""
    global _is_near
    _is_near = True
    _previous(number, frame)

    def settle() -> None:
        for app in list(_served.values()):
            app.settle()

    # This thread may have been interrupted where it holds a lock: whoever waits for that has only so long.
    thread = threading.Thread(target=settle, name="tracedbridge-end", daemon=True)
    thread.start()
    thread.join(_SETTLE_S)


def _inside_bridge(frame: FrameType | None) -> bool:
    from tracedbridge.bridge import Bridge

    inside = (Bridge.__call__.__code__, Bridge.settle.__code__)
    while frame is not None:
        if frame.f_code in inside:
            return True
        frame = frame.f_back
    return False
