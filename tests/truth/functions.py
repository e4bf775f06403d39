"""Runs a function in a fresh process with telemetry on, and returns what it exported."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support import HANG_S
from tests.telemetry.functions import run_function
from tests.telemetry.received import Received, child_of
from tracedbridge.serving.receiver import Receiver
from tracedbridge.telemetry.otlp import SpanRecord, Value

__all__ = ("Spans", "exported", "number")


class Spans:
    """What one process exported."""

    def __init__(self, every: Sequence[SpanRecord]) -> None:
        """Keep them in order of start."""
        self.every = sorted(every, key=lambda span: span.start_ns)

    def named(self, name: str) -> SpanRecord:
        """Return the one span of that name."""
        (found,) = [span for span in self.every if span.name == name]
        return found

    def server(self) -> SpanRecord:
        """Return the one SERVER span of ours."""
        (found,) = [span for span in self.every if span.kind == "server" and span.scope.name == "tracedbridge"]
        return found

    def parent(self, span: SpanRecord) -> SpanRecord:
        """Return the parent of a span that has one."""
        (found,) = [each for each in self.every if child_of(each, span)]
        return found

    def below(self, span: SpanRecord) -> list[SpanRecord]:
        """Return everything below a span, parents first."""
        children = [each for each in self.every if child_of(span, each)]
        return [each for child in children for each in (child, *self.below(child))]


def exported(folder: Path, source: str, event: object, **environ: str) -> Spans:
    """
    Answer one event in a fresh process, and return its spans.

    Args:
        folder: An empty one to work in.
        source: Of ``index.py``; none if empty.
        event: The only one.
        environ: Settings, with their full names.
    """
    with Receiver() as receiver, pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            # To be watched line by line costs time of its own.
            if name.startswith("COVERAGE_"):
                patch.delenv(name)
        ran = run_function(
            folder,
            source,
            [event],
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
            TRACEDBRIDGE_FLUSH_TIMEOUT_MS=str(HANG_S * 1000),
            **environ,
        )
        assert (ran.code, ran.stderr) == (0, "")
        assert [answer["statusCode"] for answer in ran.answers] == [200]
        assert receiver.refusals == ()
        return Spans(Received(receiver).spans)


def number(value: Value) -> float:
    """Return an attribute that is a number."""
    assert isinstance(value, int | float)
    return float(value)
