"""
Measures process start to first response against the nearest peers; prints a table and writes it to ``results/cold.md``.

Each run is a fresh process. All contenders of an app run in turns, and the ratios are medians of the rounds' ratios:
what the machine does meanwhile hits all.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import select
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from conditions import conditions
from contenders import APIGW_EVENT, VERCEL_EVENT
from warm import HERE, Child, running

RESULTS = HERE / "results" / "cold.md"

# One process takes half a second; one that takes so long hangs.
_TIMEOUT_S = 120

_PACKAGES = (
    "tracedbridge", "mangum", "fastapi", "opentelemetry-sdk", "opentelemetry-instrumentation-asgi",
    "opentelemetry-exporter-otlp-proto-http", "structlog",
)  # fmt: skip

# They change what is imported, from where or how fast, or what the platform is taken for.
_STRIPPED = (
    "AWS_", "COVERAGE_", "OTEL_", "TRACEDBRIDGE_", "VERCEL", "PYTHONDEVMODE", "PYTHONDONTWRITEBYTECODE",
    "PYTHONPROFILEIMPORTTIME", "PYTHONTRACEMALLOC",
)  # fmt: skip


class Contender(NamedTuple):
    """One way to answer, as `starting.py` knows it."""

    title: str
    environ: dict[str, str]
    needs: str | None = None
    has_telemetry: bool = True


class Run(NamedTuple):
    """What one process did."""

    took_ns: int
    modules: int


class Ratio(NamedTuple):
    """A median with its quartiles."""

    low: float
    middle: float
    high: float


CONTENDERS = {
    "off": Contender("tracedbridge, telemetry off", {"TRACEDBRIDGE_TELEMETRY": "off"}, has_telemetry=False),
    "after": Contender("tracedbridge, exported after the response", {"TRACEDBRIDGE_FLUSH": "after"}),
    "mangum": Contender('Mangum(lifespan="off")', {}, "mangum", has_telemetry=False),
    "mangum-sdk": Contender("Mangum, SDK, OTLP exporter, contrib middleware", {}, "mangum"),
    "eager": Contender(
        "tracedbridge, exported after the response, eager start",
        {"TRACEDBRIDGE_FLUSH": "after", "TRACEDBRIDGE_START": "eager"},
    ),
}

# App → title and package, and the bounds of "after": against "off", and against "mangum".
APPS = {
    "minimal": ("minimal ASGI app", None, {"off": 1.05, "mangum": 1.0}),
    "minimal_fastapi": ("FastAPI", "fastapi", {"off": 1.03, "mangum": 1.03}),
}


def run(app: str, name: str, endpoint: str, events: Path) -> Run:
    """Answer one event in a fresh process; fail if the answer is not right, or the end not clean."""
    contender = CONTENDERS[name]
    environ = {key: value for key, value in os.environ.items() if not key.startswith(_STRIPPED)}
    # The tree that this file is in, installed or not.
    environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    # The order of sets decides what some packages do first.
    environ |= {"PYTHONHASHSEED": "0", "OTEL_EXPORTER_OTLP_ENDPOINT": f"{endpoint}/{app}-{name}", **contender.environ}
    # Its size moves the stack, and the layout of memory alone is worth a few percent: by chance for each process, it is
    # nobody's advantage.
    environ["PADDING"] = "x" * random.randrange(4096)
    event = events / ("apigw" if name.startswith("mangum") else "vercel")
    ours, theirs = os.pipe()
    with open(ours, "rb", buffering=0) as told, tempfile.TemporaryFile("w+") as errors:
        command = [sys.executable, "-c", "import starting", name, app, str(event), str(theirs)]
        begun_ns = time.monotonic_ns()
        process = subprocess.Popen(
            command, cwd=HERE, env=environ, pass_fds=(theirs,), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=errors,
        )  # fmt: skip
        os.close(theirs)
        try:
            is_heard = select.select([told], [], [], _TIMEOUT_S)[0] and told.read(1)
            took_ns = time.monotonic_ns() - begun_ns
            code = process.wait(_TIMEOUT_S)
        finally:
            process.kill()
            process.wait()
        if code or not is_heard:
            errors.seek(0)
            raise SystemExit(f"{name} with {app} ended with exit code {code}:\n{errors.read()[-4000:]}")
        return Run(took_ns, int(told.read()))


def measured(app: str, names: list[str], rounds: int, sink: Child, endpoint: str) -> dict[str, list[Run]]:
    """Run the contenders of one app in turns; fail if one with telemetry did not deliver it."""
    runs: dict[str, list[Run]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        events = Path(folder)
        (events / "vercel").write_text(json.dumps(VERCEL_EVENT))
        (events / "apigw").write_text(json.dumps(APIGW_EVENT))
        # Once each, unmeasured: it fills the bytecode cache and the file system's.
        for name in names:
            run(app, name, endpoint, events)
        for number in range(rounds):
            # Each is in each place as often as the others, after one neighbour as often as after the other.
            first = number % len(names)
            turns = names[first:] + names[:first]
            for name in turns if number % 2 else turns[::-1]:
                runs[name].append(run(app, name, endpoint, events))
            print(f"\r{app}: {number + 1} of {rounds}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    counts = json.loads(sink.ask("count"))
    for name in names:
        got = counts.get(f"{app}-{name}", {}).get("servers", 0)
        # FastAPI makes such a span, too, and contrib does not tell it of its own.
        is_right = got == rounds + 1 if name != "mangum-sdk" else got >= rounds + 1
        if CONTENDERS[name].has_telemetry and not is_right:
            raise SystemExit(f"{name} with {app} ran {rounds + 1} times, but the sink got {got} SERVER spans")
        if not CONTENDERS[name].has_telemetry and got:
            raise SystemExit(f"{name} with {app} is to have no telemetry, but the sink got {got} SERVER spans")
    return runs


def _ratio(runs: dict[str, list[Run]], name: str, base: str) -> Ratio | None:
    if base not in runs or name == base:
        return None
    ratios = [one.took_ns / other.took_ns for one, other in zip(runs[name], runs[base], strict=True)]
    return Ratio(*statistics.quantiles(ratios, method="inclusive"))


def table(found: dict[str, dict[str, list[Run]]], names: list[str]) -> str:
    """Return the table in Markdown."""
    lines = [
        "| app | contender | ms | ÷ off | middle half | bound | | ÷ Mangum | middle half | bound | | modules |",
        "|---|---|--:|--:|--:|--:|---|--:|--:|--:|---|--:|",
    ]
    for app, runs in found.items():
        title, _, bounds = APPS[app]
        for name in names:
            if name not in runs:
                lines.append(f"| {title} | {CONTENDERS[name].title} | not installed | | | | | | | | | |")
                continue
            took_ms = statistics.median(each.took_ns for each in runs[name]) / 1e6
            cells = [title, CONTENDERS[name].title, f"{took_ms:.1f}"]
            for base in ("off", "mangum"):
                bound = bounds[base] if name == "after" else None
                ratio = _ratio(runs, name, base)
                cells += ["", ""] if ratio is None else [f"{ratio.middle:.3f}", f"{ratio.low:.3f} to {ratio.high:.3f}"]
                verdict = "" if bound is None or ratio is None else "ok" if ratio.middle <= bound else "**over**"
                cells += ["" if bound is None else f"{bound:g}", verdict]
            lines.append(f"| {' | '.join(cells)} | {max(each.modules for each in runs[name])} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100, help="processes of each contender (default: %(default)s)")
    parser.add_argument(
        "--only", choices=CONTENDERS, action="append", help="measure these and what they are compared to, write nothing"
    )
    parser.add_argument("--app", choices=APPS, action="append", help="with these apps only, write nothing")
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error("a spread needs 2 rounds at least")
    names = [name for name in CONTENDERS if not arguments.only or name in {"off", "mangum", *arguments.only}]
    there = [name for name in names if _has(CONTENDERS[name].needs)]
    found: dict[str, dict[str, list[Run]]] = {}
    with running("sink.py") as sink:
        endpoint = f"http://127.0.0.1:{sink.read()}"
        for app, (_, package, _) in APPS.items():
            if not arguments.app or app in arguments.app:
                found[app] = measured(app, there, arguments.rounds, sink, endpoint) if _has(package) else {}
    shown = f"{table(found, names)}\n\n{conditions('cold.py', f'{arguments.rounds} rounds', _PACKAGES)}\n"
    print(shown)
    if not arguments.only and not arguments.app:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(f"# Process start to first response\n\n{shown}")


def _has(package: str | None) -> bool:
    return package is None or importlib.util.find_spec(package) is not None


if __name__ == "__main__":
    main()
