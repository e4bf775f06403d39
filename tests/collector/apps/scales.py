"""
An ASGI app that measures and logs, with every instrument and every way to log, from its import on.

``SCALES_STRUCTLOG`` has it configure structlog by itself.
"""

from __future__ import annotations

import contextvars
import json
import logging
import os
import threading
import time
from collections.abc import Iterable
from typing import Any

import structlog
from opentelemetry import metrics, trace
from opentelemetry._logs import LogRecord, SeverityNumber, get_logger
from opentelemetry.metrics import CallbackOptions, Observation

if os.environ.get("SCALES_STRUCTLOG"):
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.JSONRenderer(),
        ],
        cache_logger_on_first_use=True,
    )

_tracer = trace.get_tracer("scales")
_meter = metrics.get_meter("scales", "2.0", schema_url="https://scales.test/schema")
_weighed = _meter.create_counter("scales.weighed", "{item}", "How many were weighed")
_waiting = _meter.create_up_down_counter("scales.waiting", "{item}", "How many wait")
_weight = _meter.create_histogram(
    "scales.weight", "g", "What they weigh", explicit_bucket_boundaries_advisory=[10.0, 20.0, 40.0]
)
_tilt = _meter.create_gauge("scales.tilt", "deg", "How far it leans")


def _age(options: CallbackOptions) -> Iterable[Observation]:
    yield Observation(7, {"part": "spring"})
    yield Observation(9, {"part": "pan"})


_meter.create_observable_gauge("scales.age", [_age], "a", "How old the parts are")
_meter.create_observable_counter("scales.turns", [lambda options: [Observation(40)]], "{turn}", "How often it turned")
_meter.create_observable_up_down_counter("scales.load", [lambda options: [Observation(-3)]], "g", "What is on it now")

_stdlib = logging.getLogger("scales")
_lines = structlog.get_logger("scales")
_api = get_logger("scales.api", "3.0")

_stdlib.warning("imported")
_lines.info("imported, too", where="import")
_weighed.add(5, {"when": "import"})


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Serve lifespan, and weigh what is asked for."""
    if scope["type"] == "lifespan":
        await receive()
        _stdlib.error("opens", extra={"shelf": "A"})
        _weighed.add(3, {"when": "lifespan"})
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    item = int(scope["path"].rpartition("/")[2])
    with _tracer.start_as_current_span("weigh"):
        _measure(item)
        _log(item)
    body = json.dumps({"item": item}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})


def _measure(item: int) -> None:
    _weighed.add(1, {"when": "request"})
    _weighed.add(0.5, {"when": "request"})
    _waiting.add(2)
    _waiting.add(-1)
    for grams in (5, 15, 15.5, 100, item):
        _weight.record(grams, {"kind": "nail"})
    _tilt.set(item / 2, {"axis": "x"})
    # One that did not exist before, twice by the same name.
    for _ in range(2):
        _meter.create_counter("scales.late").add(1)


def _log(item: int) -> None:
    _stdlib.warning("weighing %d", item)
    try:
        raise ValueError("too heavy")
    except ValueError:
        _stdlib.exception("failed")
    _lines.warning("weighed", item=item)
    _api.emit(
        LogRecord(
            timestamp=time.time_ns(),
            severity_text="NOTICE",
            severity_number=SeverityNumber.INFO2,
            body={"item": item, "parts": ["pan", "spring"]},
            attributes={"item": item},
            event_name="scales.read",
        )
    )

    def work() -> None:
        _stdlib.warning("from a thread")

    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,))
    thread.start()
    thread.join()
