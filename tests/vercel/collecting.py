"""An OTLP backend for tests of when something is exported: it can be waited for, and told to hold what comes."""

from __future__ import annotations

import threading
from collections.abc import Callable

from tests.collector.sink import ReceivedSpan, Sink, attributes_of
from tests.support import HANG_S

__all__ = ("Collector", "invocation_of", "parent_of", "server_spans")

SERVER = 2


class Collector(Sink):
    """Listens from its construction to ``close()``."""

    def __init__(self) -> None:
        self._came = threading.Condition()
        self._may_answer = threading.Event()
        self._may_answer.set()
        self.is_asked = threading.Event()
        super().__init__()

    def hold(self) -> None:
        """Take nothing that comes from now on, before `let_go`."""
        self.is_asked.clear()
        self._may_answer.clear()

    def let_go(self) -> None:
        """Take what is held, and all that comes."""
        self._may_answer.set()

    def take(self, path: str, body: bytes) -> bytes:
        """Keep what was sent; see `Sink.take`."""
        self.is_asked.set()
        assert self._may_answer.wait(HANG_S)
        answer = super().take(path, body)
        with self._came:
            self._came.notify_all()
        return answer

    def wait_until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds of what came; fail if it does not."""
        with self._came:
            assert self._came.wait_for(holds, HANG_S), [span.item.name for span in self.spans]


def server_spans(collector: Sink) -> list[ReceivedSpan]:
    """Return the SERVER spans that came, in order."""
    return [span for span in collector.spans if span.item.kind == SERVER]


def parent_of(span: ReceivedSpan) -> tuple[str, str]:
    """Return a span's trace, and the id of its parent span, in hex."""
    return span.item.trace_id.hex(), span.item.parent_span_id.hex()


def invocation_of(span: ReceivedSpan) -> str:
    """Return the invocation that a span tells of."""
    return str(attributes_of(span.item.attributes).get("faas.invocation_id", ""))
