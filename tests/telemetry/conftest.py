"""Fixtures of the telemetry tests: a real receiver, and the proof that a closed bridge leaves nothing behind."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import structlog
from opentelemetry import _logs, metrics, propagate, trace
from opentelemetry import context as context_api
from opentelemetry.util._once import Once

import tracedbridge.telemetry
from tests.support import HANG_S
from tests.telemetry.received import Received
from tracedbridge import boot
from tracedbridge.serving.receiver import Receiver

# A thread of ours ends as soon as it sees that it shall; one that does not fails its test.
_END_S = 5.0


class Process(NamedTuple):
    """What of the process a bridge may change while it is open."""

    tracer_provider: object
    meter_provider: object
    logger_provider: object
    propagator: object
    context: object
    call_handlers: object
    last_resort: object
    root_handlers: object
    structlog_is_configured: bool
    structlog_processors: object
    structlog_bound: object
    sigterm: object
    threads: tuple[str, ...]


def _join(thread: threading.Thread) -> None:
    while True:
        try:
            thread.join(_END_S)
        except RuntimeError:
            # It is just about to begin.
            continue
        return


def process() -> Process:
    """Take down how the process is now; threads that are about to end get the time to."""
    ours = [thread for thread in threading.enumerate() if thread.name.startswith("tracedbridge-")]
    for thread in ours:
        _join(thread)
    return Process(
        trace.get_tracer_provider(),
        metrics.get_meter_provider(),
        _logs.get_logger_provider(),
        propagate.get_global_textmap(),
        dict(context_api.get_current()),
        logging.Logger.callHandlers,
        logging.lastResort,
        [handler for handler in logging.root.handlers if not type(handler).__module__.startswith("_pytest")],
        structlog.is_configured(),
        [type(each) if not hasattr(each, "__name__") else each for each in structlog.get_config()["processors"]],
        dict(structlog.contextvars.get_contextvars()),
        signal.getsignal(signal.SIGTERM),
        tuple(thread.name for thread in ours if thread.is_alive()),
    )


@pytest.fixture(autouse=True)
def nothing_stays_changed() -> Iterator[None]:
    """After each test, and the end of its bridges, the process is as it was."""
    before = process()
    yield
    assert process() == before


@pytest.fixture(autouse=True)
def plain_environment(nothing_stays_changed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is configured but by the test, and nothing is remembered from the one before."""
    for name in os.environ:
        if name.startswith(("OTEL_", "TRACEDBRIDGE_", "VERCEL", "AWS_", "__VC_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    # Most tests look at what has come as soon as an answer is there.
    monkeypatch.setenv("TRACEDBRIDGE_FLUSH", "before")
    # Else the first bridge of the test run, and only that one, has the age of this process in its cold start.
    monkeypatch.setattr("tracedbridge.boot._first", boot.ColdStart())
    # Told once a process; each test is to hear it.
    monkeypatch.setattr(tracedbridge.telemetry, "_told", set())
    # In development mode it logs a warning where the machine is slow.
    monkeypatch.setattr(logging.getLogger("asyncio"), "disabled", True)


@pytest.fixture
def received(plain_environment: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Received]:
    """What a real OTLP receiver gets, to which all three signals are sent, in time however slow the machine is."""
    with Receiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        monkeypatch.setenv("TRACEDBRIDGE_FLUSH_TIMEOUT_MS", str(HANG_S * 1000))
        yield Received(receiver)
        assert receiver.refusals == ()


_PLACES: dict[str, tuple[str, Any]] = {
    "traces": ("opentelemetry.trace._TRACER_PROVIDER", trace.set_tracer_provider),
    "metrics": ("opentelemetry.metrics._internal._METER_PROVIDER", metrics.set_meter_provider),
    "logs": ("opentelemetry._logs._internal._LOGGER_PROVIDER", _logs.set_logger_provider),
}


@pytest.fixture
def own_providers(plain_environment: None, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """
    Set providers as an app does, by signal: ``own_providers(traces=provider)``.

    The API's own setters are used, and what they did is undone after the test; in a process they work once.
    """
    for place, _ in _PLACES.values():
        monkeypatch.setattr(place, None)
        monkeypatch.setattr(f"{place}_SET_ONCE", Once())
    # Meters, other than tracers and loggers, come from whom this one was told last.
    monkeypatch.setattr("opentelemetry.metrics._internal._PROXY_METER_PROVIDER._real_meter_provider", None)

    def put(**providers: object) -> None:
        for name, provider in providers.items():
            _PLACES[name][1](provider)

    return put
