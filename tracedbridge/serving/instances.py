"""
The instances of a function: processes that answer one event at a time, started and ended as on a platform.

The first event starts the first one; when all of them are at work for long, another one is started. After a change of
the source an instance answers nothing more, and the next event starts a new one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from tracedbridge import children

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ("Answered", "ClosedError", "Instances")

# Platforms start another instance at once. Here whoever opens a page with ten images would wait for nine cold starts;
# but an app that calls itself, or waits for another request, must get an answer: when for so long none was given.
_PATIENCE_S = 1.0

# Who needs more at a time waits: this is one developer's machine.
_MOST = 8


class ClosedError(Exception):
    """No event is answered any more."""


class Answered:
    """What an instance made of an event; `settle` comes last, whatever became of it."""

    def __init__(
        self,
        instances: Instances,
        instance: _Instance,
        answer: dict[str, Any] | None,
        failure: str,
        *,
        is_cold: bool,
        waited_ns: int,
    ) -> None:
        """Take what `Instances.answer` found out."""
        self.answer = answer
        """As the bridge returned it; None if it did not."""
        self.failure = failure
        """Why there is no answer: a traceback, if there is one, and a line; empty if there is one."""
        self.is_cold = is_cold
        """Whether the instance was started for it."""
        self.waited_ns = waited_ns
        """How long it took to find an instance."""
        self._instances = instances
        self._instance = instance

    def settle(self) -> None:
        """Wait until the telemetry of it has been exported, then let the instance answer others; the answer is out."""
        self._instances._settled(self._instance, self._instance.settle())


class Instances:
    """Starts and ends them; safe from any thread."""

    def __init__(
        self, environ: Mapping[str, str], *, each_its_own: bool = False, loaded: Callable[[list[str]], object]
    ) -> None:
        """
        Begin without any.

        Args:
            environ: Of the processes; ``TRACEDBRIDGE_APP`` names the app.
            each_its_own: Start one for each event, and end it after that.
            loaded: Gets the source files that an instance has loaded.
        """
        self._environ = dict(environ)
        self._each_its_own = each_its_own
        self._loaded = loaded
        self._changed = threading.Condition()
        self._idle: list[_Instance] = []
        # All that have been started and not ended yet, those that are about to end included.
        self._all: set[_Instance] = set()
        self._ending: set[threading.Thread] = set()
        self._is_closed = False
        # When an instance was free last, or started.
        self._free_s = 0.0

    def answer(self, event: object) -> Answered:
        """
        Have an event answered.

        Raises:
            ClosedError: `close` was called.
            OSError: No process can be started.
        """
        begun_ns = time.monotonic_ns()
        while True:
            instance, is_cold = self._take()
            waited_ns = 0 if is_cold else time.monotonic_ns() - begun_ns
            try:
                answer, failure = instance.answer(event)
            except BaseException as error:
                instance.release()
                self._settled(instance, None)
                if isinstance(error, _NotTakenError):
                    # It had died before: whoever comes now has no part in that.
                    continue
                raise
            break
        return Answered(self, instance, answer, failure, is_cold=is_cold, waited_ns=waited_ns)

    def retire(self) -> bool:
        """Have those that are there answer no further event; say whether there were any."""
        with self._changed:
            had_any = any(not instance.is_retired for instance in self._all)
            for instance in self._all:
                instance.is_retired = True
            idle, self._idle = self._idle, []
            self._end(idle)
            self._changed.notify_all()
        return had_any

    def close(self) -> None:
        """End all, those that wait after lifespan shutdown and last export, those at work at once; may come twice."""
        with self._changed:
            self._is_closed = True
            self._idle = []
            self._end(self._all)
            self._changed.notify_all()
            ending = list(self._ending)
        for thread in ending:
            thread.join()

    def kill(self) -> None:
        """End all at once."""
        with self._changed:
            self._is_closed = True
            for instance in self._all:
                instance.kill()

    def _take(self) -> tuple[_Instance, bool]:
        came_s = time.monotonic()
        with self._changed:
            while True:
                if self._is_closed:
                    raise ClosedError("cannot answer the event: the server is ending")
                if self._idle:
                    return self._idle.pop().taken(), False
                working = sum(not (each.is_ending or (each.is_retired and not each.is_single)) for each in self._all)
                left_s = max(came_s, self._free_s) + _PATIENCE_S - time.monotonic()
                if not working or (working < _MOST and (self._each_its_own or left_s <= 0)):
                    instance = _Instance(self._environ, is_single=self._each_its_own)
                    self._all.add(instance)
                    # One at a time: this one may be all that was missing.
                    self._free_s = time.monotonic()
                    return instance.taken(), True
                self._changed.wait(left_s if left_s > 0 else None)

    def _settled(self, instance: _Instance, files: list[str] | None) -> None:
        """Take an instance back; ``files`` is None if it ends, or has ended."""
        if files:
            self._loaded(files)
        with self._changed:
            self._free_s = time.monotonic()
            if files is None or instance.is_retired or self._is_closed:
                instance.is_retired = True
                self._end([instance])
            else:
                self._idle.append(instance)
            self._changed.notify_all()

    def _end(self, instances: set[_Instance] | list[_Instance]) -> None:
        # In threads: an app may take seconds for its lifespan shutdown.
        for instance in instances:
            if not instance.is_ending:
                instance.is_ending = True
                thread = threading.Thread(target=self._end_one, args=(instance,), name="tracedbridge-end", daemon=True)
                self._ending.add(thread)
                thread.start()

    def _end_one(self, instance: _Instance) -> None:
        instance.end()
        with self._changed:
            self._all.discard(instance)
            self._ending.discard(threading.current_thread())
            self._changed.notify_all()


class _NotTakenError(Exception):
    """An instance died without a look at its event."""


class _Instance:
    """One process."""

    def __init__(self, environ: Mapping[str, str], *, is_single: bool) -> None:
        events_fd, to_child = os.pipe()
        from_child, answers_fd = os.pipe()
        try:
            # With our terminal as its standard input: a developer's breakpoint() works.
            self._child = subprocess.Popen(  # noqa: S603 - this Python, and a module of ours
                [sys.executable, "-m", "tracedbridge.serving.worker", str(events_fd), str(answers_fd)],
                env=environ,
                pass_fds=(events_fd, answers_fd),
            )
        except BaseException:
            os.close(to_child)
            os.close(from_child)
            raise
        finally:
            os.close(events_fd)
            os.close(answers_fd)
        self._to_child = os.fdopen(to_child, "wb")
        self._from_child = from_child
        self._lines: Iterator[bytes] = children.lines_of(self._child, from_child)
        # Whoever works with it reads from it; who comes last closes that.
        self._lock = threading.Lock()
        self._is_working = self._has_ended = False
        # It has taken an event before.
        self._is_ready = False
        # For one event only.
        self.is_single = is_single
        # Both under the lock of `Instances`.
        self.is_retired = is_single
        self.is_ending = False

    def taken(self) -> _Instance:
        """Note that somebody works with it from now on, until `settle` or `release`; return it."""
        self._is_working = True
        return self

    def answer(self, event: object) -> tuple[dict[str, Any] | None, str]:
        """
        Return the answer, or None and why there is none.

        Raises:
            _NotTakenError: It died without a look at the event.
        """
        try:
            self._to_child.write(json.dumps(event).encode() + b"\n")
            self._to_child.flush()
        except (BrokenPipeError, ValueError):
            # It is ending, or has died; what it told before that says more.
            pass
        taken = self._told()
        if taken is None and self._is_ready:
            raise _NotTakenError
        # Without having taken it, it can tell that it could not start.
        told = taken if taken is None or "failure" in taken else self._told()
        if told is None:
            return None, self._how_it_ended()
        self._is_ready = True
        return told.get("answer"), told.get("failure", "")

    def settle(self) -> list[str] | None:
        """Wait until telemetry has told the last event; return the loaded source files, None if the process ends."""
        told = self._told()
        self.release()
        return None if told is None else told["files"]

    def release(self) -> None:
        """Work with it no longer."""
        with self._lock:
            self._is_working = False
            if self._has_ended:
                os.close(self._from_child)

    def end(self) -> None:
        """Have it end by itself, if it waits for events, else by SIGTERM; who does not is killed. Once."""
        if self._is_working:
            children.end(self._child, signal.SIGTERM)
        else:
            # The end of its events.
            self._close()
            try:
                self._child.wait(children.END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
        self._close()
        with self._lock:
            self._has_ended = True
            if not self._is_working:
                os.close(self._from_child)

    def kill(self) -> None:
        """End it at once."""
        self._child.kill()

    def _close(self) -> None:
        try:
            self._to_child.close()
        except BrokenPipeError:
            return

    def _told(self) -> dict[str, Any] | None:
        line = next(self._lines, None)
        if line is None:
            return None
        told: dict[str, Any] = json.loads(line)
        return told

    def _how_it_ended(self) -> str:
        code = self._child.wait()
        how = f"died by {children.signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        return f"tracedbridge: could not answer the event: the app's process {how}\n"
