"""
Collects what the providers produce and sends it within a budget that holds, whatever the backend does.

A flush gives all exporters the same deadline. To those with an open connection it sends by itself and then reads all
answers; what may have to wait for somebody is done by a thread of the exporter, and left behind when it is late.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

from opentelemetry import context as context_api
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY

from tracedbridge.telemetry.environment import size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tracedbridge.telemetry.environment import Signal

__all__ = ("Export", "Outcome", "Sink", "Wire")

_logger = logging.getLogger("tracedbridge.telemetry")

# What came of one batch: "" for sent, else the reason why it was dropped.
Outcome = str

# 404 and 405 over HTTP, UNIMPLEMENTED over gRPC: a backend that does not take this signal, as Jaeger metrics.
UNSUPPORTED = "unsupported"


class Wire(Protocol):
    """One exporter, as a sink uses it; one batch at a time."""

    exporter: Any

    @property
    def sends_at_once(self) -> bool:
        """Whether `send` waits for nobody now, so that the caller's own thread can do it."""

    @property
    def is_stale(self) -> bool:
        """Whether the batch met a connection that had been closed long before, and is to be sent again."""

    def send(self, batch: list[Any], deadline_ns: int) -> None:
        """Send a batch, until that time (CLOCK_MONOTONIC)."""

    def outcome(self) -> Outcome:
        """Wait for the answer to it and return what came of it."""

    def abort(self) -> None:
        """End `send` or `outcome`, from another thread, where that can be done."""

    def close(self) -> None:
        """Give back what is open."""


class Sink:
    """One exporter with its queue, and a thread for when sending would wait for somebody."""

    def __init__(self, signal: Signal, name: str, wire: Wire) -> None:
        """
        Args:
            signal: What it takes.
            name: Of the exporter, for people.
            wire: The exporter.
        """
        self.signal = signal
        self.name = name
        self.wire = wire
        prefix = "OTEL_BLRP" if signal == "logs" else "OTEL_BSP"
        # 2048 and 512: the specification's defaults for batch processors.
        self._limit = size(f"{prefix}_MAX_QUEUE_SIZE", 2048)
        self._batch_limit = min(size(f"{prefix}_MAX_EXPORT_BATCH_SIZE", 512), self._limit)
        self._queue: deque[Any] = deque()
        self._jobs: SimpleQueue[tuple[int, SimpleQueue[Sink]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        # Held by whoever uses the wire.
        self._busy = threading.Lock()
        # Held while a thread is started or told to end: of two flushes at once, one starts it.
        self._starting = threading.Lock()
        self._sent: list[Any] = []
        self._is_late = self._unsupported = self._warned = False
        # Called with (signal, outcome, number of items); Export sets it.
        self.count: Callable[[Signal, Outcome, int], None] = lambda *_: None
        # Makes what is to be sent, where nobody puts it here.
        self.collect: Callable[[], list[Any]] | None = None

    def put(self, item: Any) -> None:
        """Queue an item for the next flush."""
        if self._unsupported:
            self.count(self.signal, UNSUPPORTED, 1)
        elif len(self._queue) >= self._limit:
            self.count(self.signal, "queue_full", 1)
        else:
            self._queue.append(item)

    def has_work(self) -> bool:
        """Say whether a flush has something to do here."""
        # A late one is still held by its backend: waiting for it again would take another budget.
        return not (self._is_late or self._unsupported) and bool(self._queue or self.collect)

    def send_at_once(self, deadline_ns: int) -> bool:
        """Send the first batch on this thread, if that waits for nobody; the answer is for `take_answer`."""
        if not self.wire.sends_at_once or not self._busy.acquire(blocking=False):
            return False
        try:
            self._sent = self._next_batch(may_collect=True)
            if self._sent:
                self.wire.send(self._sent, deadline_ns)
        except Exception as error:  # noqa: BLE001 - an exporter's own fault costs its batch, not the invocation
            self._settle(self._sent, type(error).__name__)
            self._sent = []
        return True

    def take_answer(self) -> bool:
        """Settle what `send_at_once` sent; say whether all is done, nothing left for the thread."""
        batch, self._sent = self._sent, []
        try:
            outcome = self.wire.outcome() if batch else ""
            if self.wire.is_stale:
                self._queue.extendleft(reversed(batch))
            elif batch:
                self._settle(batch, outcome)
        finally:
            self._busy.release()
        return self._unsupported or not self._queue

    def start(self, deadline_ns: int, done: SimpleQueue[Sink], *, may_collect: bool) -> None:
        """Have the queue sent by the thread until then, with a word to ``done``."""
        if self._has_thread():
            self._jobs.put((deadline_ns if may_collect else -deadline_ns, done))
            return
        # CPython 3.12.0 and 3.12.1 start no thread at exit: this one waits, as long as its sockets do.
        with self._busy:
            self._send_all(deadline_ns, may_collect=may_collect)
        done.put(self)

    def _has_thread(self) -> bool:
        with self._starting:
            if self._thread is None:
                thread = threading.Thread(target=self._work, name=f"tracedbridge-{self.signal}", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    return False
                self._thread = thread
            return True

    def leave(self) -> None:
        """Give up on what is under way; its thread is free again as soon as its socket is."""
        self._is_late = True
        self.wire.abort()
        self._warn("no answer within the budget")

    def end(self) -> None:
        """Have the thread end when it is done, and give back what is open."""
        with self._starting:
            if self._thread is not None:
                self._jobs.put(None)
                self._thread = None
                return
        if self._busy.acquire(blocking=False):
            self.wire.close()
            self._busy.release()

    def _work(self) -> None:
        # What the exporters do themselves (HTTP calls, log lines) is not the app's to see.
        context_api.attach(context_api.set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
        while (job := self._jobs.get()) is not None:
            signed_ns, done = job
            with self._busy:
                self._send_all(abs(signed_ns), may_collect=signed_ns > 0)
            self._is_late = False
            done.put(self)
        with self._busy:
            self.wire.close()

    def _send_all(self, deadline_ns: int, *, may_collect: bool) -> None:
        tries = 0
        while time.monotonic_ns() < deadline_ns and (batch := self._next_batch(may_collect=may_collect)):
            may_collect = False
            try:
                self.wire.send(batch, deadline_ns)
                outcome = self.wire.outcome()
            except Exception as error:  # noqa: BLE001 - an exporter's own fault must not end its thread
                outcome = type(error).__name__
            if self.wire.is_stale and not tries:
                tries = 1
                self._queue.extendleft(reversed(batch))
                continue
            self._settle(batch, outcome)
            if outcome:
                return

    def _next_batch(self, *, may_collect: bool) -> list[Any]:
        if may_collect and self.collect is not None:
            # A point of now says all that one which is still here says.
            self._queue.clear()
            self._queue.extend(self.collect())
        batch: list[Any] = []
        while self._queue and len(batch) < self._batch_limit:
            batch.append(self._queue.popleft())
        return batch

    def _settle(self, batch: list[Any], outcome: Outcome) -> None:
        self.count(self.signal, outcome, sum(map(_points, batch)) if self.signal == "metrics" else len(batch))
        if outcome == UNSUPPORTED:
            self._unsupported = True
            self._queue.clear()
            _logger.warning("the OTLP backend takes no %s: none are sent to it any more", self.signal)
        elif outcome:
            self._warn(outcome)
        else:
            self._warned = False

    def _warn(self, reason: str) -> None:
        # Once until it works again: a dead backend must not fill the app's log.
        if not self._warned:
            self._warned = True
            _logger.warning("could not export %s by %s: %s", self.signal, self.name, reason)


class Export:
    """All sinks, and the one deadline they share."""

    def __init__(self, sinks: Iterable[Sink]) -> None:
        """Flush these sinks."""
        self._sinks = list(sinks)
        # Signal and outcome ("" is sent) → number of items, since the last look.
        self._counts: dict[tuple[Signal, Outcome], int] = {}
        self._lock = threading.Lock()
        self._closed = False
        for sink in self._sinks:
            sink.count = self.count

    def sinks(self, signal: Signal) -> list[Sink]:
        """Return the sinks of a signal."""
        return [sink for sink in self._sinks if sink.signal == signal]

    def flush(self, budget_ms: float) -> int:
        """
        Send what there is, for at most ``budget_ms``; return how long it took, in nanoseconds.

        Where connections are open, this thread sends to all of them and then reads all answers: handing the work to
        three threads costs more than the work. What would wait (a handshake, a name server) is done by threads.
        """
        begun_ns = time.monotonic_ns()
        deadline_ns = begun_ns + int(budget_ms * 1e6)
        sinks = [sink for sink in self._sinks if sink.has_work()]
        done: SimpleQueue[Sink] = SimpleQueue()
        token = context_api.attach(context_api.set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
        try:
            sent = [sink for sink in sinks if sink.send_at_once(deadline_ns)]
            waiting = {sink for sink in sinks if sink not in sent}
            for sink in waiting:
                sink.start(deadline_ns, done, may_collect=True)
            for sink in sent:
                if not sink.take_answer() and time.monotonic_ns() < deadline_ns:
                    sink.start(deadline_ns, done, may_collect=False)
                    waiting.add(sink)
        finally:
            context_api.detach(token)
        while waiting:
            left_s = (deadline_ns - time.monotonic_ns()) / 1e9
            try:
                waiting.discard(done.get(timeout=max(left_s, 0.0)))
            except Empty:
                break
        for sink in waiting:
            sink.leave()
        if self._closed:
            # An invocation that outlived close(): no thread is left waiting for another.
            self.close()
        return time.monotonic_ns() - begun_ns

    def close(self) -> None:
        """End the threads, once they are done with what they do, and close the connections."""
        self._closed = True
        for sink in self._sinks:
            sink.end()

    def counted(self) -> dict[tuple[Signal, Outcome], int]:
        """Return how many items were sent and dropped since the last call, by signal and outcome."""
        with self._lock:
            counts, self._counts = self._counts, {}
        return counts

    def count(self, signal: Signal, outcome: Outcome, items: int) -> None:
        """Count items that were sent ("") or dropped."""
        with self._lock:
            self._counts[signal, outcome] = self._counts.get((signal, outcome), 0) + items


def _points(data: Any) -> int:
    return sum(
        len(metric.data.data_points)
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    )
