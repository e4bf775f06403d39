"""Receives OTLP/HTTP on a free port of 127.0.0.1 and keeps the newest of what was sent."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from werkzeug.wrappers import Request

from tracedbridge.serving.intake import PATHS, Intake, Taken
from tracedbridge.serving.listening import HOST, Listener, bound

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from tracedbridge.serving.intake import Signal
    from tracedbridge.serving.waterfall import Span

__all__ = ("MAX_RECORDS", "Receiver")

# For each signal: a thousand invocations of ten spans, some ten megabytes.
MAX_RECORDS = 10_000


class Receiver:
    """
    An OTLP/HTTP backend on a free port of 127.0.0.1, which listens from its construction until ``close()``.

    Takes protobuf and JSON, plain, gzip and deflate. What arrives is kept in memory, the oldest is dropped first.
    """

    def __init__(self, *, max_records: int = MAX_RECORDS) -> None:
        """Listen, and keep at most ``max_records`` records of each signal."""
        self._lock = threading.Lock()
        self._records: dict[Signal, deque[Any]] = {signal: deque(maxlen=max_records) for signal in PATHS.values()}
        self._received = 0
        self._intake = Intake(self._take)
        app = Request.application(self._intake.answer)
        self._listener = Listener(app, bound([0]), name="tracedbridge-receiver", prepare=self._intake.load)

    @property
    def endpoint(self) -> str:
        """The base URL, as ``OTEL_EXPORTER_OTLP_ENDPOINT`` wants it."""
        return f"http://{HOST}:{self._listener.port}"

    @property
    def spans(self) -> tuple[Span, ...]:
        """The spans, in the order of their arrival."""
        return self._kept("traces")

    @property
    def metrics(self) -> tuple[object, ...]:
        """The metrics, in the order of their arrival; one record for each time that a metric came."""
        return self._kept("metrics")

    @property
    def logs(self) -> tuple[object, ...]:
        """The log records, in the order of their arrival."""
        return self._kept("logs")

    @property
    def dropped(self) -> int:
        """How many records had to make room for newer ones."""
        with self._lock:
            return self._received - sum(map(len, self._records.values()))

    @property
    def refusals(self) -> tuple[str, ...]:
        """Why requests were refused, one line for each of the first few."""
        return self._intake.refusals

    def close(self) -> None:
        """Take what has been sent whole, end all connections and threads, and listen no more; records stay."""
        self._listener.close()

    def __enter__(self) -> Self:
        """Return the receiver itself, which listens already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def _take(self, taken: Taken) -> None:
        with self._lock:
            self._received += len(taken.records)
            self._records[taken.signal].extend(taken.records)

    def _kept(self, signal: Signal) -> tuple[Any, ...]:
        with self._lock:
            return tuple(self._records[signal])
