"""Backends that fail in every way: nobody who calls the function notices, and the log says it once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest

from tests.collector.answering import Answers, run
from tests.collector.backends import (
    Backend,
    answers,
    answers_grpc,
    closes_mid_answer,
    closes_without_answer,
    drips,
    is_silent,
    refuses,
    talks_nonsense,
)
from tests.support import event

pytestmark = [pytest.mark.collector, pytest.mark.telemetry]

Serve = Callable[[], AbstractContextManager[Backend]]

BUDGET_MS = 300

# Three budgets and a second: a machine that is busy takes its time, a flush without bound takes ten seconds.
GUARD_S = 3 * BUDGET_MS / 1000 + 1

# One cold and three warm invocations.
EVENTS = [event("GET", f"/items/{item}") for item in (1, 2, 3, 4)]

ONCE_EACH = Counter({"traces": 1, "metrics": 1, "logs": 1})

# Backends that nothing reaches.
UNREACHABLE = [
    pytest.param("http/protobuf", refuses, id="http refuses"),
    pytest.param("grpc", refuses, id="grpc refuses"),
]

# Backends that do not get as far as reading requests.
DEAF = [
    pytest.param("http/protobuf", is_silent, id="http silent"),
    pytest.param("http/protobuf", talks_nonsense, id="http nonsense"),
    pytest.param("grpc", is_silent, id="grpc silent"),
    pytest.param("grpc", talks_nonsense, id="grpc nonsense"),
]

# Backends that read requests and do nothing good with them.
FAILING = [
    pytest.param("http/protobuf", drips, id="http drips"),
    pytest.param("http/protobuf", closes_mid_answer, id="http closes mid-answer"),
    pytest.param("http/protobuf", closes_without_answer, id="http closes without answer"),
    pytest.param("http/protobuf", partial(answers, 302, location="http://127.0.0.1:9/"), id="http 302"),
    pytest.param("http/protobuf", partial(answers, 400), id="http 400"),
    pytest.param("http/protobuf", partial(answers, 429, retry_after="30"), id="http 429"),
    pytest.param("http/protobuf", partial(answers, 500), id="http 500"),
    pytest.param("http/protobuf", partial(answers, 503, retry_after="30"), id="http 503"),
    pytest.param("grpc", partial(answers_grpc, "UNAVAILABLE"), id="grpc UNAVAILABLE"),
    pytest.param("grpc", partial(answers_grpc, "PERMISSION_DENIED"), id="grpc PERMISSION_DENIED"),
]

UNSUPPORTING = [
    pytest.param("http/protobuf", partial(answers, 404), id="http 404"),
    pytest.param("http/protobuf", partial(answers, 405), id="http 405"),
    pytest.param("grpc", partial(answers_grpc, "UNIMPLEMENTED"), id="grpc UNIMPLEMENTED"),
]


@pytest.fixture(scope="module")
def untraced(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """Answer the events without telemetry."""
    return run("plain_shop", EVENTS, tmp_path_factory.mktemp("untraced"), {"TRACEDBRIDGE_TELEMETRY": "off"})


@pytest.mark.parametrize(("protocol", "serve"), UNREACHABLE)
def test_unreachable(protocol: str, serve: Serve, untraced: Answers, tmp_path: Path) -> None:
    """A backend that is not there changes no answer, holds nobody longer than the budget, and is told once."""
    with serve() as backend:
        traced = _traced(backend, protocol, tmp_path)
    _check_unnoticed(traced, untraced)
    assert _warned(traced) == ONCE_EACH


@pytest.mark.parametrize(("protocol", "serve"), DEAF)
def test_deaf(protocol: str, serve: Serve, untraced: Answers, tmp_path: Path) -> None:
    """Nor does one that takes connections and never answers what was asked."""
    with serve() as backend:
        traced = _traced(backend, protocol, tmp_path)
    _check_unnoticed(traced, untraced)
    # gRPC gives up by itself only, and this function may end before that.
    assert _warned(traced) <= ONCE_EACH
    assert backend.connections


@pytest.mark.parametrize(("protocol", "serve"), FAILING)
def test_failing(protocol: str, serve: Serve, untraced: Answers, tmp_path: Path) -> None:
    """Nor does one that gets all three signals and answers badly."""
    with serve() as backend:
        traced = _traced(backend, protocol, tmp_path)
    _check_unnoticed(traced, untraced)
    assert _warned(traced) == ONCE_EACH
    assert set(backend.requests) == set(ONCE_EACH)


@pytest.mark.parametrize(("protocol", "serve"), UNSUPPORTING)
def test_unsupporting(protocol: str, serve: Serve, untraced: Answers, tmp_path: Path) -> None:
    """A backend that does not take a signal is told once and asked once."""
    with serve() as backend:
        traced = _traced(backend, protocol, tmp_path)
    _check_unnoticed(traced, untraced)
    assert _warned(traced) == ONCE_EACH
    assert backend.requests == ONCE_EACH


def test_traces_only(untraced: Answers, tmp_path: Path) -> None:
    """A backend that takes traces only, as Jaeger, gets those of every invocation and nothing else twice."""
    with answers(200, but={"metrics": 404, "logs": 404}) as backend:
        traced = _traced(backend, "http/protobuf", tmp_path)
    _check_unnoticed(traced, untraced)
    assert _warned(traced) == Counter({"metrics": 1, "logs": 1})
    # The last one has the span of the shutdown.
    assert backend.requests == Counter({"traces": len(EVENTS) + 1, "metrics": 1, "logs": 1})


def _traced(backend: Backend, protocol: str, folder: Path) -> Answers:
    return run(
        "plain_shop",
        EVENTS,
        folder,
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": backend.endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "TRACEDBRIDGE_FLUSH": "before",
            "TRACEDBRIDGE_FLUSH_TIMEOUT_MS": str(BUDGET_MS),
        },
    )


def _check_unnoticed(traced: Answers, untraced: Answers) -> None:
    assert traced.results == untraced.results
    assert max(traced.seconds) < GUARD_S, f"the invocations took {traced.seconds} s"
    assert traced.close_s < GUARD_S, f"close() took {traced.close_s} s"
    assert traced.stderr == ""


def _warned(traced: Answers) -> Counter[str]:
    """Count our warnings by the signal that they name."""
    ours = [line for line in traced.lines() if line.get("logger", "").startswith("tracedbridge")]
    assert {line["level"] for line in ours} <= {"warning"}
    return Counter(signal for line in ours for signal in ONCE_EACH if signal in line["event"].split(":")[0].split())
