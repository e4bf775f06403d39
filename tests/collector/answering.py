"""
A fresh process that answers events through ``vc_handler``, and what came of it.

As a program (``answering.py RESULTS``) it takes the events on stdin, as JSON, and writes to RESULTS what `run` returns.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ("APPS", "Answers", "run")

APPS = Path(__file__).with_name("apps")

# Cold start, calls and exit; only a test that fails waits for so long.
_TIMEOUT_S = 60.0

# Where the tests themselves may run: what it says is not what a test says.
_FOREIGN = ("TRACEDBRIDGE_", "OTEL_", "VERCEL", "AWS_", "__VC_")


class Answers(NamedTuple):
    """What the process answered and wrote."""

    results: list[dict[str, Any]]
    seconds: list[float]
    close_s: float
    stdout: str
    stderr: str

    def lines(self) -> list[dict[str, Any]]:
        """Return the log lines on stdout; each must be JSON."""
        return [json.loads(line) for line in self.stdout.splitlines()]


def run(
    app: str, events: list[dict[str, str]], folder: Path, environ: dict[str, str], *, fails: bool = False
) -> Answers:
    """
    Answer events, one cold and the rest warm, and close.

    Args:
        app: A file in `APPS`, without ``.py``.
        events: Vercel's.
        folder: For the results.
        environ: Besides the tests' own environment, which is stripped of all that means something to us.
        fails: The app cannot start, which is to be the end of the process.
    """
    results = folder / "results.json"
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(_FOREIGN)}
    done = subprocess.run(
        [sys.executable, __file__, results],
        cwd=APPS,
        env={
            **inherited,
            # An editable install need not be there.
            "PYTHONPATH": os.pathsep.join(
                [str(Path(__file__).parents[2]), *filter(None, [inherited.get("PYTHONPATH")])]
            ),
            "TRACEDBRIDGE_APP": f"{app}.py",
            **environ,
        },
        input=json.dumps(events),
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if fails:
        assert done.returncode == 1, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return Answers([], [], 0.0, done.stdout, done.stderr)
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    told = json.loads(results.read_text())
    return Answers(told["results"], told["seconds"], told["close_s"], done.stdout, done.stderr)


def main() -> None:
    """Answer the events on stdin."""
    events = json.load(sys.stdin)
    from tracedbridge import vc_handler

    results, seconds = [], []
    for event in events:
        begun_s = time.perf_counter()
        results.append(vc_handler(event, None))
        seconds.append(time.perf_counter() - begun_s)
    begun_s = time.perf_counter()
    vc_handler.close()
    told = {"results": results, "seconds": seconds, "close_s": time.perf_counter() - begun_s}
    Path(sys.argv[1]).write_text(json.dumps(told))


if __name__ == "__main__":
    main()
