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

__all__ = ("NOT_SENT", "TOO_MUCH", "UNSUPPORTED", "Account", "Export", "Outcome", "Sink", "Wire")

_logger = logging.getLogger("tracedbridge.telemetry")

# What came of one batch: "" for sent, else the reason why not.
Outcome = str

# 404 and 405 over HTTP, UNIMPLEMENTED over gRPC: a backend that does not take this signal, as Jaeger metrics.
UNSUPPORTED = "unsupported"
# The batch cannot be encoded, or is more than the backend takes at once: half of it may do.
NOT_SENT = "not_sent"
TOO_MUCH = frozenset((NOT_SENT, "http_413"))

# How long a failed sink is left alone: at first little more than the budget that it has cost, at most as long as
# somebody who has mended his collector would wait.
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0

# Points of delta temporality that wait: each is lost where a newer one takes its place.
_POINTS_LIMIT = 5000


class Account:
    """What became of the items of one exporter: ``produced == exported + sum(dropped.values()) + pending``, always."""

    __slots__ = ("dropped", "exported", "paused", "pending", "produced", "signal")

    def __init__(self, signal: Signal) -> None:
        """Count nothing yet."""
        self.signal = signal
        self.produced = self.exported = self.pending = 0
        self.dropped: dict[Outcome, int] = {}
        # How often its backend was left alone for a while, by reason; no items.
        self.paused: dict[Outcome, int] = {}


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

    @property
    def may_send_again(self) -> bool:
        """Whether a batch with that outcome may be sent again later."""

    @property
    def retry_after_s(self) -> float:
        """How long the backend asked to be left alone, in seconds."""

    @property
    def rejected(self) -> int:
        """How many items of a batch that was sent the backend did not take."""

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
        if signal == "metrics":
            # One collection is one request.
            self._limit, self._batch_limit = _POINTS_LIMIT, 1
        self._most = self._batch_limit
        self._queue: deque[Any] = deque()
        self._jobs: SimpleQueue[tuple[int, int, SimpleQueue[Sink]] | None] = SimpleQueue()
        # How many jobs the thread was given, and has done.
        self._given = self._done = 0
        self._thread: threading.Thread | None = None
        # Held by whoever uses the wire.
        self._busy = threading.Lock()
        # Held while a thread is started or told to end: of two flushes at once, one starts it.
        self._starting = threading.Lock()
        self._sent: list[Any] = []
        self._is_late = self._unsupported = self._warned = False
        # Until then (CLOCK_MONOTONIC) nothing is tried; and the next pause.
        self._resumes_ns = 0
        self._pause_s = _FIRST_PAUSE_S
        # Held for each change of the queue, so that the account is right at every moment.
        self._counting = threading.Lock()
        self._account = Account(signal)
        # Makes what is to be sent, where nobody puts it here; and whether its points are of delta temporality.
        self.collect: Callable[[], list[Any]] | None = None
        self.collects_delta = False

    def put(self, item: Any) -> None:
        """Queue an item for the next flush."""
        with self._counting:
            account = self._account
            if account.pending >= self._limit or self._unsupported:
                self._take_in(item, 1)
            else:
                # What it comes to nearly always, without the calls.
                account.produced += 1
                account.pending += 1
                self._queue.append(item)

    def drop(self, reason: Outcome, items: int) -> None:
        """Count items that never came here."""
        with self._counting:
            self._account.produced += items
            self._lose(reason, items)

    def account(self) -> Account:
        """Return what became of everything until now."""
        with self._counting:
            copy = Account(self.signal)
            copy.produced, copy.exported = self._account.produced, self._account.exported
            copy.pending, copy.dropped = self._account.pending, dict(self._account.dropped)
            copy.paused = dict(self._account.paused)
            return copy

    def has_work(self, *, insists: bool = False) -> bool:
        """Say whether a flush has something to do here; one that insists tries a backend that failed just now, too."""
        # A late one is still held by its backend: waiting for it again would take another budget.
        if self._is_late or self._unsupported or not (self._queue or self.collect):
            return False
        return insists or time.monotonic_ns() >= self._resumes_ns

    def has_batch(self) -> bool:
        """Say whether as many spans or records wait as go into one request, and could be sent now."""
        return self._account.pending >= self._batch_limit and self.signal != "metrics" and self.has_work()

    def send_at_once(self, deadline_ns: int) -> bool:
        """Send the first batch on this thread, if that waits for nobody; the answer is for `take_answer`."""
        if not self.wire.sends_at_once or not self._busy.acquire(blocking=False):
            return False
        try:
            self._sent = self._next_batch(may_collect=True)
            if self._sent:
                self.wire.send(self._sent, deadline_ns)
        except Exception as error:  # noqa: BLE001 - an exporter's own fault costs its batch, not the invocation
            self._failed(self._sent, type(error).__name__)
            self._sent = []
        return True

    def take_answer(self) -> bool:
        """Settle what `send_at_once` sent; say whether all is done, nothing left for the thread."""
        batch, self._sent = self._sent, []
        try:
            outcome = self.wire.outcome() if batch else ""
            if batch and self.wire.is_stale:
                self._put_back(batch)
            elif batch and not self._settle(batch, outcome):
                return True
        finally:
            self._busy.release()
        return self._unsupported or not self._queue

    def start(self, deadline_ns: int, done: SimpleQueue[Sink], *, may_collect: bool) -> None:
        """Have the queue sent by the thread until then, with a word to ``done``."""
        if self._has_thread():
            with self._counting:
                self._given += 1
                self._jobs.put((self._given, deadline_ns if may_collect else -deadline_ns, done))
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
        with self._counting:
            if self._done == self._given:
                # At the last moment: there is nothing to give up on.
                return
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
            number, signed_ns, done = job
            with self._busy:
                self._send_all(abs(signed_ns), may_collect=signed_ns > 0)
            with self._counting:
                self._done = number
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
                self._failed(batch, type(error).__name__)
                return
            if self.wire.is_stale and not tries:
                tries = 1
                self._put_back(batch)
            elif not self._settle(batch, outcome):
                return

    def _next_batch(self, *, may_collect: bool) -> list[Any]:
        collected = self.collect() if may_collect and self.collect is not None else []
        with self._counting:
            if collected and not self.collects_delta:
                # A point of now says all that one which is still here says.
                self._lose("superseded", sum(map(self._size, self._queue)), were_pending=True)
                self._queue.clear()
            for data in collected:
                self._take_in(data, _points(data))
            return [self._queue.popleft() for _ in range(min(self._most, len(self._queue)))]

    def _take_in(self, item: Any, size: int) -> None:
        account = self._account
        account.produced += size
        if self._unsupported:
            self._lose(UNSUPPORTED, size)
        elif account.pending + size > self._limit and account.pending:
            self._lose("queue_full", size)
        else:
            account.pending += size
            self._queue.append(item)

    def _lose(self, reason: Outcome, items: int, *, were_pending: bool = False) -> None:
        if items:
            self._account.dropped[reason] = self._account.dropped.get(reason, 0) + items
            self._account.pending -= items if were_pending else 0

    def _put_back(self, batch: list[Any]) -> None:
        with self._counting:
            # They are pending all the time, so that there is still room for them.
            self._queue.extendleft(reversed(batch))

    def _size(self, item: Any) -> int:
        return _points(item) if self.signal == "metrics" else 1

    def _settle(self, batch: list[Any], outcome: Outcome) -> bool:
        """Count what came of a batch, or keep it; say whether the next one may be sent now."""
        if not outcome:
            self._succeeded(sum(map(self._size, batch)))
            return True
        if outcome == UNSUPPORTED:
            self._give_up(batch)
        elif outcome in TOO_MUCH and len(batch) > 1:
            self._most = len(batch) // 2
            self._put_back(batch)
            return True
        elif self.wire.may_send_again:
            self._put_back(batch)
            self._pause(outcome)
        else:
            self._failed(batch, outcome)
            # The one item that was too much is gone; the others are not to blame.
            return outcome in TOO_MUCH
        return False

    def _succeeded(self, items: int) -> None:
        rejected = min(self.wire.rejected, items)
        with self._counting:
            self._account.exported += items - rejected
            self._account.pending -= items - rejected
            self._lose("rejected", rejected, were_pending=True)
            self._most = self._batch_limit
        self._resumes_ns, self._pause_s, self._warned = 0, _FIRST_PAUSE_S, False
        if rejected:
            self._warn(f"the backend rejected {rejected} of {items}")

    def _failed(self, batch: list[Any], reason: Outcome) -> None:
        with self._counting:
            self._lose(reason, sum(map(self._size, batch)), were_pending=True)
            self._most = self._batch_limit
        if reason == NOT_SENT:
            # An item's own fault: the backend has never heard of it.
            self._warn(reason)
        else:
            self._pause(reason)

    def _give_up(self, batch: list[Any]) -> None:
        with self._counting:
            self._unsupported = True
            self._lose(UNSUPPORTED, sum(map(self._size, (*batch, *self._queue))), were_pending=True)
            self._queue.clear()
        _logger.warning("the OTLP backend takes no %s: none are sent to it any more", self.signal)

    def _pause(self, reason: Outcome) -> None:
        with self._counting:
            self._account.paused[reason] = self._account.paused.get(reason, 0) + 1
        pause_s = max(self._pause_s, min(self.wire.retry_after_s, _LONGEST_PAUSE_S))
        self._resumes_ns = time.monotonic_ns() + int(pause_s * 1e9)
        self._pause_s = min(self._pause_s * 2, _LONGEST_PAUSE_S)
        self._warn(reason)

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
        # What `counted` has told already.
        self._told: dict[tuple[str, Signal, Outcome], int] = {}
        self._lock = threading.Lock()
        self._closed = False

    def sinks(self, signal: Signal) -> list[Sink]:
        """Return the sinks of a signal."""
        return [sink for sink in self._sinks if sink.signal == signal]

    def flush(self, budget_ms: float, *, is_last: bool = False) -> int:
        """
        Send what there is, for at most ``budget_ms``; return how long it took, in nanoseconds.

        A backend that has failed is left alone for a while, which costs nothing; the last flush tries it all the same.

        Where connections are open, this thread sends to all of them and then reads all answers: handing the work to
        three threads costs more than the work. What would wait (a handshake, a name server) is done by threads.
        """
        begun_ns = time.monotonic_ns()
        deadline_ns = begun_ns + int(budget_ms * 1e6)
        sinks = [sink for sink in self._sinks if sink.has_work(insists=is_last)]
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

    def has_batch(self) -> bool:
        """Say whether so much waits that it is time for a flush, so that the queues do not fill up."""
        return any(sink.has_batch() for sink in self._sinks)

    def close(self) -> None:
        """End the threads, once they are done with what they do, and close the connections."""
        self._closed = True
        for sink in self._sinks:
            sink.end()

    def accounts(self) -> list[Account]:
        """Return what became of everything until now, one account for each exporter."""
        return [sink.account() for sink in self._sinks]

    def counted(self) -> dict[tuple[str, Signal, Outcome], int]:
        """
        Return what has been counted since the last call, by signal.

        The first of each key is ``"produced"`` or ``"items"`` (sent, outcome ``""``, or dropped by reason), both in
        items, or ``"pauses"``: how often a backend was left alone, by reason.
        """
        now: dict[tuple[str, Signal, Outcome], int] = {}
        with self._lock:
            for account in self.accounts():
                told = {("produced", ""): account.produced, ("items", ""): account.exported}
                told |= {("items", reason): items for reason, items in account.dropped.items()}
                told |= {("pauses", reason): times for reason, times in account.paused.items()}
                for (what, outcome), count in told.items():
                    key = (what, account.signal, outcome)
                    now[key] = now.get(key, 0) + count
            before, self._told = self._told, now
        since = ((key, count - before.get(key, 0)) for key, count in now.items())
        return {key: count for key, count in since if count}


def _points(data: Any) -> int:
    return sum(
        len(metric.data.data_points)
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    )
