"""An ASGI app that sleeps where cold starts do, notes it by its own clock, and leaves its notes at shutdown."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from tracedbridge import boot

__all__ = ("app",)

# By name: in the tests' own tree it has another one.
orchard = import_module("orchard")


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Serve lifespan and everything else."""
    if scope["type"] == "lifespan":
        await receive()
        orchard.sleep("lifespan", 40)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        leave_notes()
        await send({"type": "lifespan.shutdown.complete"})
        return
    import_module("orchard.harvest")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"plum"})


def leave_notes() -> None:
    """Write what the clock noted, and the boot record, to ``notes.json``."""
    cold_start = boot.first_of_process()
    assert cold_start is not None
    assert cold_start.imports is not None
    imports = [
        {
            "name": each.name,
            "importer": each.parent and each.parent.name,
            "phase": cold_start.phase_at(each.begun_ns),
            "self_ns": each.self_ns,
            "find_ns": each.find_ns,
        }
        for each in cold_start.imports.walk()
    ]
    notes = {"slept_ns": orchard.NOTES, "imports": imports, "phases_ns": cold_start.durations_ns()}
    Path("notes.json").write_text(json.dumps(notes))
