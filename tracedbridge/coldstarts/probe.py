"""
The child process of ``tracedbridge coldstart``: starts the app as the platform does, once, and tells what that took.

Its only argument is the event, as JSON. Its real standard output carries one line of JSON: a run, or ``null`` if the
app failed and that has been explained on standard error. What the app prints goes there, too.

At its top it imports only what every Python has loaded: whatever it did before the app would count as ours.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, BinaryIO

    from tracedbridge.boot import ColdStart
    from tracedbridge.imports import Import, Recording

__all__ = ("main",)

# Where an app imports; what is imported in other phases is ours, and is in their figures.
_PHASES_OF_IMPORTS = ("app_import", "app_resolve", "lifespan", "wait", "first_byte")


def main() -> int:
    """Tell one cold start and return the exit code: 0, or 1 if there was none."""
    # Taken away: the app shall find no arguments.
    event_text = sys.argv.pop()
    report = _real_stdout()
    own = _own_recording()
    try:
        from tracedbridge import vc_handler
    except BaseException as error:  # noqa: BLE001 - whatever an app raises is shown to its developer
        return _explain(report, error, "could not start the app")
    import json

    event = json.loads(event_text)
    asked_ns = time.monotonic_ns()
    try:
        answer = vc_handler(event, None)
    except BaseException as error:  # noqa: BLE001 - whatever an app raises is shown to its developer
        return _explain(report, error, "could not answer the event")
    answered_ns = time.monotonic_ns()
    if own is not None:
        own.close()
    cold_start = _cold_start(asked_ns, answered_ns)
    if cold_start is None:
        sys.stderr.write(
            "tracedbridge: could not measure: the process was up for long before tracedbridge was imported\n"
        )
        return _send(report, None)
    run = {**_run(cold_start, own or cold_start.imports), "status": answer["statusCode"]}
    return _send(report, {"run": run, "ready_ns": cold_start.ready_ns})


def _real_stdout() -> BinaryIO:
    """Return what file descriptor 1 was, and let it be standard error from now on."""
    real = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    # Else what the app prints would come after its traceback: a file is written in blocks.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # at start-up it is a TextIOWrapper
    return real


def _own_recording() -> Recording | None:
    """Begin to record the imports where telemetry, which does so otherwise, is off."""
    if os.environ.get("TRACEDBRIDGE_TELEMETRY") != "off":
        return None
    from tracedbridge.imports import Recording

    recording = Recording()
    return recording if recording.open() else None


def _cold_start(asked_ns: int, answered_ns: int) -> ColdStart | None:
    """Return the process's cold start with all its phases, the first response included."""
    from tracedbridge import boot

    cold_start = boot.first_of_process()
    if cold_start is not None and "first_byte" not in cold_start.durations_ns():
        # Only telemetry notes these.
        cold_start.mark("wait", asked_ns)
        cold_start.mark("first_byte", answered_ns)
    return cold_start


def _run(cold_start: ColdStart, recording: Recording | None) -> dict[str, Any]:
    durations_ns = cold_start.durations_ns()
    return {
        "phases": {phase: _ms(duration_ns) for phase, duration_ns in durations_ns.items()},
        "total_ms": _ms((cold_start.ready_ns or 0) - cold_start.begun_ns),
        "begins_with": cold_start.begins_with,
        "modules": cold_start.modules,
        "dropped": 0 if recording is None else recording.dropped,
        "imports": [] if recording is None else _imports(cold_start, recording),
    }


def _imports(cold_start: ColdStart, recording: Recording) -> list[dict[str, Any]]:
    """Return the app's imports, each after the one that asked for it, in the order in which they began."""
    from tracedbridge.origins import Origins, source_of

    recording.close()
    origins = Origins()
    told: list[dict[str, Any]] = []
    waiting: list[tuple[Import, int | None, str]] = []
    for root in sorted(recording.roots, key=_begun, reverse=True):
        phase = cold_start.phase_at(root.begun_ns) or "first_byte"
        if phase in _PHASES_OF_IMPORTS:
            waiting.append((root, None, phase))
    while waiting:
        each, parent, phase = waiting.pop()
        here = {
            "name": each.name,
            "parent": parent,
            "phase": phase,
            "begin_ms": _ms(each.begun_ns - cold_start.begun_ns),
            "total_ms": _ms(each.total_ns),
            "self_ms": _ms(each.self_ns),
            "find_ms": _ms(each.find_ns),
            "compile_ms": _ms(each.compile_ns),
            "source": source_of(each),
            "owner": origins.owner_of(each),
        }
        if each.error is not None:
            here["error"] = each.error
        waiting.extend((child, len(told), phase) for child in sorted(each.children, key=_begun, reverse=True))
        told.append(here)
    return told


def _begun(each: Import) -> int:
    return each.begun_ns


def _explain(report: BinaryIO, error: BaseException, what: str) -> int:
    from tracedbridge.serving.explaining import explanation

    sys.stderr.write(explanation(error, what))
    return _send(report, None)


def _send(report: BinaryIO, told: object) -> int:
    import json

    report.write(json.dumps(told).encode() + b"\n")
    # At once, and closed: a fork of the app must not write it again.
    report.close()
    return 1 if told is None else 0


def _ms(nanoseconds: int) -> float:
    return nanoseconds / 1e6


if __name__ == "__main__":
    sys.exit(main())
