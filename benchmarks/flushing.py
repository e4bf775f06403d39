"""
What `flush.py` runs: one contender of `contenders.py`, and what a look at its process tells besides the time.

Run as ``flushing.py NAME ENDPOINT [traced]``: it prints a line when it has started; on each line ``call N`` on stdin it
makes so many calls and prints the fields of a `Reading` as JSON; on ``settle N`` it sends what waits before it does.
``traced`` has tracemalloc count after the first line, which makes calls several times as dear.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any, NamedTuple

from contenders import CONTENDERS

# As CPython 3.11 and 3.12 call it, and 3.13.
_THREAD_STARTS = ("_thread.start_new_thread", "_thread.start_joinable_thread")


class Reading(NamedTuple):
    """What some calls came to."""

    # Of the calls alone, by the clock.
    took_ns: int
    # Since the last reading, all threads: CPU time, attempts to connect, threads started.
    cpu_ns: int
    connects: int
    thread_starts: int
    # Resident now, and at most so far; 0 where there is no /proc.
    resident_kib: int
    peak_kib: int
    # What tracemalloc counts after a collection; 0 without it.
    traced_bytes: int


class Audit:
    """Counts what a flush may do behind one's back."""

    def __init__(self) -> None:
        """Listen from now on; an audit hook cannot be taken back."""
        self.connects = self.thread_starts = 0
        sys.addaudithook(self._heard)

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "socket.connect":
            self.connects += 1
        elif event in _THREAD_STARTS:
            self.thread_starts += 1


def memory_kib() -> tuple[int, int]:
    """Return what is resident, and the peak, which somebody may have reset."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0, 0
    found = {name: value for name, _, value in (line.partition(":") for line in lines)}
    return int(found["VmRSS"].split()[0]), int(found["VmHWM"].split()[0])


def main() -> None:
    """Call and tell, as told on stdin."""
    name, endpoint, *more = sys.argv[1:]
    # Log lines go to stdout as usual, but not between our numbers.
    numbers = os.fdopen(os.dup(1), "w", buffering=1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        # A dead backend is told there, once each time, and on purpose.
        os.dup2(nowhere.fileno(), 2)
    contender = CONTENDERS[name]
    os.environ.update(contender.environ, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
    running = contender.make()
    audit = Audit()
    cpu_ns = time.process_time_ns()
    connects = thread_starts = most_kib = 0
    print("started", file=numbers)
    for line in sys.stdin:
        words = line.split()
        calls = range(int(words[1]))
        begun_ns = time.perf_counter_ns()
        for _ in calls:
            answer = running.call()
        took_ns = time.perf_counter_ns() - begun_ns
        if answer["statusCode"] != 200:
            raise SystemExit(f"wrong answer: {answer}")
        if words[0] == "settle":
            running.settle()
        resident_kib, peak_kib = memory_kib()
        most_kib = max(most_kib, resident_kib, peak_kib)
        traced_bytes = 0
        if tracemalloc.is_tracing():
            gc.collect()
            traced_bytes = tracemalloc.get_traced_memory()[0]
        elif "traced" in more:
            tracemalloc.start()
        before = cpu_ns, connects, thread_starts
        cpu_ns, connects, thread_starts = time.process_time_ns(), audit.connects, audit.thread_starts
        since = (now - then for now, then in zip((cpu_ns, connects, thread_starts), before, strict=True))
        print(json.dumps([took_ns, *since, resident_kib, most_kib, traced_bytes]), file=numbers)
    running.close()


if __name__ == "__main__":
    main()
