"""Tells on the terminal what became of each request: a line, and the waterfall of its trace."""

from __future__ import annotations

import sys
import threading
from collections import deque
from typing import TYPE_CHECKING

from tracedbridge.serving import waterfall

if TYPE_CHECKING:
    from typing import TextIO

    from tracedbridge.serving.front import Served
    from tracedbridge.serving.viewer.store import Store, Trace

__all__ = ("Console",)

_RICH_IS_MISSING = "no waterfalls here without rich; run: pip install 'tracedbridge[cli]'"

# A cold start that failed, or came long before its request, is a trace of its own.
_ROOTS = ("cold start", "startup")

# Telemetry of the request before: the first time it loads the SDK.
_LONG_WAIT_NS = 50_000_000

# So many such traces are remembered, so that none is drawn twice.
_REMEMBERED = 100


class Console:
    """Writes whole requests, one after the other, whichever thread comes."""

    def __init__(self, store: Store, url: str, file: TextIO | None = None) -> None:
        """
        Args:
            store: Where the spans come to.
            url: Of the viewer's page.
            file: Standard error if None.
        """
        self._store = store
        self._url = url
        self._file = sys.stderr if file is None else file
        self._lock = threading.Lock()
        self._drawn: deque[str] = deque(maxlen=_REMEMBERED)
        self._can_draw = True

    def say(self, line: str) -> None:
        """Write a line of ours."""
        with self._lock:
            self._write(f"tracedbridge: {waterfall.printable(line)}\n")

    def answered(self, served: Served) -> None:
        """Write what a request came to, whose telemetry has been exported."""
        with self._lock:
            took = waterfall.duration(served.took_ns)
            cold = "  cold" if served.is_cold else ""
            if served.waited_ns >= _LONG_WAIT_NS:
                cold += f"  after a wait of {waterfall.duration(served.waited_ns)} for the instance"
            asked = waterfall.printable(f"{served.method} {served.target}")
            traces = self._traces(served.trace_id)
            where = f"  {self._url}#/trace/{traces[0].trace_id}" if traces else ""
            self._write(f"\n{asked}  {served.status}  {took}{cold}{where}\n")
            for trace in traces:
                self._draw(trace)

    def _traces(self, trace_id: str) -> list[Trace]:
        """Return the trace of an invocation, and those of cold starts that are new."""
        own = self._store.trace(trace_id)
        traces = [] if own is None else [own]
        for trace in self._store.traces(limit=_REMEMBERED):
            if trace.root.name in _ROOTS and trace.trace_id not in (trace_id, *self._drawn):
                self._drawn.append(trace.trace_id)
                traces.append(trace)
        return traces

    def _draw(self, trace: Trace) -> None:
        if not self._can_draw:
            return
        try:
            waterfall.draw(trace.spans, self._file)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "rich":
                raise
            self._can_draw = False
            self._write(f"tracedbridge: {_RICH_IS_MISSING}\n")

    def _write(self, text: str) -> None:
        self._file.write(text)
        self._file.flush()
