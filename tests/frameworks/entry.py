"""Sends events through ``vc_handler`` as a platform does: in a fresh process, with telemetry on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support import run_python

__all__ = ("through_vc_handler",)

# Answers go to a file: stdout belongs to the log lines.
_LAUNCHER = """
import json, sys

from tracedbridge import vc_handler

with open(sys.argv[1]) as asked:
    events = json.load(asked)
answers = [vc_handler(event, None) for event in events]
with open(sys.argv[2], "w") as answered:
    json.dump(answers, answered)
"""


def through_vc_handler(
    app: str, events: Sequence[object], folder: Path
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """
    Answer ``events`` in one process that is started for them.

    Args:
        app: As in ``TRACEDBRIDGE_APP``.
        events: In order.
        folder: An empty one to work in.

    Returns:
        What ``vc_handler`` returned, and the log lines from stdout that are JSON; Sanic writes others there.
    """
    asked, answered = folder / "events.json", folder / "answers.json"
    asked.write_text(json.dumps(events))
    ran = run_python("-c", _LAUNCHER, str(asked), str(answered), cwd=folder, app=app, telemetry="on")
    assert ran.returncode == 0, ran.stderr
    return json.loads(answered.read_text()), [
        json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")
    ]
