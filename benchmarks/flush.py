"""
Measures what a dead backend costs, and what many invocations do; prints tables and writes them to ``results/flush.md``.

All contenders are processes of their own and run in turns, a block of calls each. What is added is the median of the
rounds' differences: what the machine does meanwhile hits all.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

from backends import Backend, Fault, refused_endpoint
from conditions import conditions
from flushing import Reading
from warm import HERE, Child, running

RESULTS = HERE / "results" / "flush.md"

_PACKAGES = ("tracedbridge", "opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http", "structlog")

_SIGNALS = 3

# The flush timeout of the contenders. Over it comes what the machine needs to wake somebody who has waited.
_BUDGET_MS = 500
_WAKING_MS = 50

# The breaker's first pause is a second, and each is twice as long as the one before: the design, not a setting.
_FIRST_PAUSE_S = 1.0

# Calls of one block; and how many more than a queue of 2048 holds.
_BREAKER_CALLS = 40
_FILLING_CALLS = 2500

# What is served before anything is measured: enough for every cache, lazy import and thread.
_WARM_UP_CALLS = 100

# A call each 10 ms; from the failure on for longer than a budget, and not so long that the breaker tries again.
_FAULT_EVERY_S = 0.01
_FAULT_S = 0.8
# Whoever sends in batches meets the failure with the next one.
_UNMET_S = 10.0
_FAULTS: tuple[Fault, ...] = ("refusing", "silent", "slow")

_CHECKPOINTS = (1_000, 10_000, 100_000)
_GROWTH_CALLS = 100
# A figure of a checkpoint is one of the calls just before it.
_LAST_CALLS = 1_000


def ask(child: Child, line: str) -> Reading:
    """Have a contender make calls."""
    return Reading(*json.loads(child.ask(line)))


def breaker(rounds: int) -> str:
    """Return the table of what a call costs while the breaker is open; nobody may connect or start a thread then."""
    lines = [
        "| exported | queue | dead, µs | none, µs | added, µs | CPU added, µs | connects | allowed | threads | |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for name, title in (("asgi-exported", "before the response"), ("asgi-after", "after the response")):
        with (
            Backend() as backend,
            running("flushing.py", name, backend.endpoint) as dead,
            running("flushing.py", f"{name}-none", backend.endpoint) as none,
        ):
            for child in (dead, none):
                child.read()
                # While the backend works, whoever needs a thread has it.
                ask(child, f"settle {_WARM_UP_CALLS}")
            backend.fail("refusing")
            first = ask(dead, "settle 1")
            failed_s = time.monotonic()
            if first.connects < _SIGNALS:
                raise SystemExit(f"{name} connected {first.connects} times: its breaker has no reason to be open")
            for queue in ("not yet full", "full"):
                begun_s = time.monotonic()
                filling = [ask(dead, f"call {_FILLING_CALLS}")] if queue == "full" else []
                # Not even what it still has to do for those calls is to run into the next ones.
                filling.append(ask(dead, "settle 0"))
                ask(none, "settle 0")
                readings: dict[Child, list[Reading]] = {dead: [], none: []}
                for number in range(rounds):
                    for child in (dead, none) if number % 2 else (none, dead):
                        readings[child].append(ask(child, f"call {_BREAKER_CALLS}"))
                for child in (dead, none):
                    readings[child].append(ask(child, "settle 0"))
                # One more for a probe at the border.
                allowed = _SIGNALS * (_probes(time.monotonic() - failed_s) - _probes(begun_s - failed_s) + 1)
                connects = sum(each.connects for each in (*filling, *readings[dead]))
                starts = sum(each.thread_starts for each in (*filling, *readings[dead]))
                dead_us, none_us = (
                    [each.took_ns / _BREAKER_CALLS / 1e3 for each in readings[child][:-1]] for child in (dead, none)
                )
                added_us = statistics.median(one - other for one, other in zip(dead_us, none_us, strict=True))
                dead_cpu_us, none_cpu_us = (
                    sum(each.cpu_ns for each in readings[child]) / rounds / _BREAKER_CALLS / 1e3
                    for child in (dead, none)
                )
                verdict = "ok" if connects <= allowed and not starts else "**over**"
                lines.append(
                    f"| {title} | {queue} | {statistics.median(dead_us):.0f} | {statistics.median(none_us):.0f} "
                    f"| {added_us:.0f} | {dead_cpu_us - none_cpu_us:.0f} | {connects} | {allowed} | {starts} "
                    f"| {verdict} |"
                )
    return "\n".join(lines)


def _probes(elapsed_s: float) -> int:
    """Return how often a dead backend may have been tried again by then."""
    return int(math.log2(max(elapsed_s, 0.0) / _FIRST_PAUSE_S + 1))


def first_failures(samples: int) -> str:
    """Return the table of what the calls take longer, when a backend that worked fails; fail if none has met that."""
    lines = [
        "| exported | backend | the worst call, ms | all together, ms | most, ms | budget, ms | |",
        "|---|---|--:|--:|--:|--:|---|",
    ]
    for name, title in (("asgi-exported", "before the response"), ("asgi-after", "after the response")):
        for fault in _FAULTS:
            worst_ms, all_ms = [], []
            for _ in range(samples):
                with Backend() as backend, running("flushing.py", name, backend.endpoint) as child:
                    child.read()
                    ask(child, f"settle {_WARM_UP_CALLS}")
                    usual_ms = statistics.median(_one_call_ms(child)[0] for _ in range(_WARM_UP_CALLS // 4))
                    ask(child, "settle 0")
                    backend.fail(fault)
                    took_ms = _failing_calls_ms(child, backend)
                    # A call is cheaper where nothing is sent; but one budget for each call must not pass for usual.
                    usual_ms = min(usual_ms, statistics.median(took_ms))
                    worst_ms.append(max(took_ms) - usual_ms)
                    all_ms.append(sum(took_ms) - usual_ms * len(took_ms))
            verdict = "ok" if max(all_ms) <= _BUDGET_MS + _WAKING_MS else "**over**"
            lines.append(
                f"| {title} | {fault} | {statistics.median(worst_ms):.1f} | {statistics.median(all_ms):.1f} "
                f"| {max(all_ms):.1f} | {_BUDGET_MS} | {verdict} |"
            )
    return "\n".join(lines)


def _failing_calls_ms(child: Child, backend: Backend) -> list[float]:
    """Make calls until a while after one of them, or what it has left behind, has met the failure."""
    took_ms = []
    until_s, is_met = time.monotonic() + _UNMET_S, False
    while time.monotonic() < until_s:
        one_ms, connects = _one_call_ms(child)
        took_ms.append(one_ms)
        if not is_met and (backend.failed or connects):
            until_s, is_met = time.monotonic() + _FAULT_S, True
    if not is_met:
        raise SystemExit(f"nobody has met in {_UNMET_S:g} s that the backend has failed")
    return took_ms


def _one_call_ms(child: Child) -> tuple[float, int]:
    time.sleep(_FAULT_EVERY_S)
    reading = ask(child, "call 1")
    return reading.took_ns / 1e6, reading.connects


def growth(most: int) -> str:
    """Return the table of cost and memory after more and more calls; fail if a backend that works did not get all."""
    checkpoints = [each for each in _CHECKPOINTS if each <= most]
    lines = [
        "| telemetry | calls | µs a call | CPU, µs a call | resident, MiB | peak, MiB | traced, KiB | growth, KiB |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    with running("sink.py") as sink, refused_endpoint() as refused, ExitStack() as stack:
        working = f"http://127.0.0.1:{sink.read()}"
        subjects = {
            "off": ("asgi-off", refused),
            "on, backend works": ("asgi-auto", working),
            "on, backend dead": ("asgi-auto", refused),
        }
        timed, traced = {}, {}
        for title, (name, endpoint) in subjects.items():
            timed[title] = stack.enter_context(running("flushing.py", name, f"{endpoint}/timed"))
            traced[title] = stack.enter_context(running("flushing.py", name, f"{endpoint}/traced", "traced"))
        for child in (*timed.values(), *traced.values()):
            child.read()
            ask(child, f"settle {_WARM_UP_CALLS}")
        readings: dict[str, list[Reading]] = {title: [] for title in subjects}
        traced_kib: dict[str, list[float]] = {title: [] for title in subjects}
        told: dict[str, list[str]] = {title: [] for title in subjects}
        got = {"timed": 0, "traced": 0}
        made = 0
        for checkpoint in checkpoints:
            while made < checkpoint:
                made += _GROWTH_CALLS
                is_last = made == checkpoint
                for title, child in timed.items():
                    # What waits is part of what the calls cost.
                    readings[title].append(ask(child, f"{'settle' if is_last else 'call'} {_GROWTH_CALLS}"))
                if made % _LAST_CALLS == 0:
                    for title, child in traced.items():
                        reading = ask(child, f"{'settle' if is_last else 'call'} {_LAST_CALLS}")
                        if is_last:
                            traced_kib[title].append(reading.traced_bytes / 1024)
                    _add(got, sink)
                    print(f"\r{made} of {checkpoints[-1]} calls", end="", file=sys.stderr, flush=True)
            for title in subjects:
                told[title].append(_growth_line(title, made, readings[title], traced_kib[title]))
        print(file=sys.stderr)
        stack.close()
        _add(got, sink)
    made += _WARM_UP_CALLS
    if set(got.values()) != {made}:
        raise SystemExit(f"{made} calls each were made with a backend that works, but it got {got} SERVER spans")
    return "\n".join([*lines, *(line for each in told.values() for line in each)])


def _add(got: dict[str, int], sink: Child) -> None:
    for sender, counts in json.loads(sink.ask("count")).items():
        got[sender] += counts.get("servers", 0)


def _growth_line(title: str, made: int, readings: list[Reading], traced_kib: list[float]) -> str:
    last = readings[-_LAST_CALLS // _GROWTH_CALLS :]
    took_us = statistics.median(each.took_ns for each in last) / _GROWTH_CALLS / 1e3
    cpu_us = sum(each.cpu_ns for each in last) / _LAST_CALLS / 1e3
    return (
        f"| {title} | {made} | {took_us:.0f} | {cpu_us:.0f} | {last[-1].resident_kib / 1024:.1f} "
        f"| {last[-1].peak_kib / 1024:.1f} | {traced_kib[-1]:.0f} | {traced_kib[-1] - traced_kib[0]:+.0f} |"
    )


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--rounds", type=int, default=34, help="with the breaker open (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=7, help="of each first failure (default: %(default)s)")
    parser.add_argument("--most", type=int, default=_CHECKPOINTS[-1], help="calls of a process (default: %(default)s)")
    parser.add_argument("--only", choices=("breaker", "first", "growth"), action="append", help="write nothing")
    arguments = parser.parse_args()
    if arguments.most < _CHECKPOINTS[0]:
        parser.error(f"--most must be {_CHECKPOINTS[0]} at least")
    parts: dict[str, tuple[str, Callable[[], str]]] = {
        "breaker": ("The breaker is open", lambda: breaker(arguments.rounds)),
        "first": ("The first failure", lambda: first_failures(arguments.samples)),
        "growth": ("Many invocations", lambda: growth(arguments.most)),
    }
    shown = ""
    for part, (title, table) in parts.items():
        if not arguments.only or part in arguments.only:
            shown += f"## {title}\n{table()}\n\n"
    amount = f"{arguments.rounds} rounds, {arguments.samples} samples"
    shown += f"{conditions('flush.py', amount, _PACKAGES)}\n"
    print(shown)
    if not arguments.only:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(f"# Flush\n\n{shown}")


if __name__ == "__main__":
    main()
