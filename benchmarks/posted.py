"""
Measures when a Lambda function's response is posted, with collectors that answer, lag, refuse and say nothing.

Prints a table and writes it to ``results/posted.md``. The real runtime client runs in an emulated environment
(`tests.aws.runtime_api`), which is frozen between invocations. Environments take turns, an invocation each; what is
measured is from the moment in which the event is there to be taken until the response has come.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from backends import Backend, refused_endpoint  # noqa: E402 - after the path
from conditions import conditions  # noqa: E402 - as above

from tests.aws.runtime_api import Environment  # noqa: E402 - as above
from tests.events.lambda_events import Asked, event_of  # noqa: E402 - as above

RESULTS = HERE / "results" / "posted.md"

_PACKAGES = ("tracedbridge", "awslambdaric", "opentelemetry-sdk", "structlog")

# Never measured: what is loaded after the first response, and with the second invocation.
_WARM_UP = 3

# Environments for the first invocation, of each case; the last ones go on.
_FIRST = 5

_CASES: dict[str, tuple[str, dict[str, str]]] = {
    "telemetry off": ("refusing", {"TRACEDBRIDGE_TELEMETRY": "off"}),
    "the collector answers": ("", {}),
    "it answers late": ("slow", {}),
    "it refuses connections": ("refusing", {}),
    "it never answers": ("silent", {}),
    "it never answers; exported before the response": ("silent", {"TRACEDBRIDGE_FLUSH": "before"}),
}

_EVENT = event_of("function url", Asked(path="/hello", query="a=1"))


def measured(rounds: int) -> dict[str, tuple[list[float], list[float]]]:
    """Return the times of first invocations and those of the rounds, in milliseconds, by case."""
    found: dict[str, tuple[list[float], list[float]]] = {title: ([], []) for title in _CASES}
    with ExitStack() as stack:
        bytecode = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for number in range(_FIRST):
            environments = {}
            for title in list(_CASES) if number % 2 else list(_CASES)[::-1]:
                # An environment that has its first event ready starts no other one beside it.
                environments[title] = _started(title, stack, bytecode)
                found[title][0].append(_invocation_ms(environments[title]))
                environments[title].wait_until_idle()
        turns = [(title, environments[title]) for title in _CASES]
        for number in range(-_WARM_UP, rounds):
            for title, environment in turns if number % 2 else turns[::-1]:
                took_ms = _invocation_ms(environment)
                if number >= 0:
                    found[title][1].append(took_ms)
    return found


def _started(title: str, stack: ExitStack, bytecode: Path) -> Environment:
    fault, environ = _CASES[title]
    backend = stack.enter_context(Backend())
    if fault in ("slow", "silent"):
        backend.fail(fault)
    endpoint = stack.enter_context(refused_endpoint()) if fault == "refusing" else backend.endpoint
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    (folder / "index.py").write_text((HERE / "minimal.py").read_text())
    told: dict[str, Any] = {
        **environ,
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        # Bytecode, as a deployment has it: the first of the environments writes it, here and not in the tree.
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(bytecode),
    }
    return stack.enter_context(Environment("index.py", folder, **told))


def _invocation_ms(environment: Environment) -> float:
    environment.wait_until_idle()
    begun_ns = time.monotonic_ns()
    answer = environment.invoke(_EVENT)
    assert answer.payload["statusCode"] == 200, answer
    return (answer.posted_ns - begun_ns) / 1e6


def table(found: dict[str, tuple[list[float], list[float]]]) -> str:
    """Return the table in Markdown."""
    off_ms = found["telemetry off"][1]
    lines = [
        "| | first, ms: median | warm, ms: median | 95th percentile | added to telemetry off, median of the rounds |",
        "|---|--:|--:|--:|--:|",
    ]
    for title, (firsts_ms, times_ms) in found.items():
        added_ms = statistics.median(one - other for one, other in zip(times_ms, off_ms, strict=True))
        late_ms = statistics.quantiles(times_ms, n=20)[-1]
        lines.append(
            f"| {title} | {statistics.median(firsts_ms):.1f} | {statistics.median(times_ms):.2f} | {late_ms:.2f} "
            f"| {added_ms:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    text = "\n\n".join(
        ("# When a response is posted", table(measured(rounds)), conditions("posted.py", f"{rounds} rounds", _PACKAGES))
    )
    print(text)
    RESULTS.write_text(text + "\n")


if __name__ == "__main__":
    main()
