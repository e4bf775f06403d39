"""In Lambda's environment: what is answered, what is told, and when, with the process frozen in between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.aws.runtime_api import ARN, Environment
from tests.events.lambda_events import Asked, event_of
from tests.support import HANG_S
from tests.telemetry.received import Received, child_of
from tests.vercel.collecting import Collector, server_spans
from tracedbridge.serving.receiver import Receiver

pytest.importorskip("awslambdaric", reason="the runtime client is in the dev extra")
pytestmark = pytest.mark.telemetry

APP = """
import os, time
from contextlib import asynccontextmanager

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        print("lifespan shutdown", flush=True)
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] == "/crash":
        raise RuntimeError("out of stock")
    if scope["path"] == "/exit":
        raise SystemExit(3)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": scope["path"].encode()})
"""


PATIENT_MS = str(HANG_S * 1000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A function's folder."""
    tmp_path.joinpath("index.py").write_text(APP)
    return tmp_path


def ask(environment: Environment, path: str, **more: Any) -> Any:
    """Invoke by an HTTP API's event, and return the answer's payload."""
    return environment.invoke(event_of("http 2.0", Asked(path=path)), **more).payload


def test_cold_and_warm(folder: Path) -> None:
    """Each invocation is answered and told once; the process is frozen after each, when all is exported."""
    with Receiver() as receiver:
        with Environment("index.py", folder, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint) as environment:
            for number in range(3):
                assert ask(environment, f"/{number}")["body"] == f"/{number}"
                environment.wait_until_idle()
                assert len(Received(receiver).servers()) == number + 1
            assert list(environment.extensions.values()) == ["tracedbridge"]
            # After Init, and after each invocation.
            assert len(environment.frozen_ns) == 4
        received = Received(receiver)
    spans = received.servers()
    assert [span.attributes["faas.coldstart"] for span in spans] == [True, False, False]
    assert spans[0].resource["faas.name"] == "shop"
    assert spans[0].resource["cloud.provider"] == "aws"
    assert spans[0].attributes["cloud.resource_id"] == ARN
    assert spans[0].attributes["cloud.account.id"] == "123456789012"
    assert child_of(spans[0], received.span("cold start"))


def test_a_slow_collector(folder: Path) -> None:
    """The answer does not wait for it; the freeze does, as long as the flush timeout says."""
    collector = Collector()
    try:
        collector.hold()
        with Environment(
            "index.py", folder, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, TRACEDBRIDGE_FLUSH_TIMEOUT_MS=PATIENT_MS
        ) as environment:
            assert ask(environment, "/1")["body"] == "/1"
            # It was asked, and has not answered: the environment runs on.
            assert collector.is_asked.wait(HANG_S)
            assert len(environment.frozen_ns) == 1
            collector.let_go()
            environment.wait_until_idle()
            assert len(server_spans(collector)) == 1
    finally:
        collector.let_go()
        collector.close()


def test_no_extension(folder: Path) -> None:
    """Where none can be registered, an invocation is exported before its answer, but for the first."""
    with Receiver() as receiver:
        with Environment(
            "index.py", folder, takes_extensions=False, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint
        ) as environment:
            for number in range(2):
                ask(environment, f"/{number}")
            assert len(Received(receiver).servers()) == 2
            assert "could not register an extension: status 403" in environment.output


def test_an_exception(folder: Path) -> None:
    """It is a 500, and told."""
    with Receiver() as receiver:
        with Environment("index.py", folder, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint) as environment:
            assert ask(environment, "/crash")["statusCode"] == 500
            environment.wait_until_idle()
        assert Received(receiver).server().attributes["error.type"] == "RuntimeError"


def test_sigterm(folder: Path) -> None:
    """The app's lifespan shutdown runs, and what it leaves is exported, before the process ends."""
    with Receiver() as receiver:
        with Environment("index.py", folder, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint) as environment:
            ask(environment, "/1")
            environment.wait_until_idle()
            environment.end()
            assert "lifespan shutdown" in environment.output
        assert "lifespan shutdown" in [span.name for span in Received(receiver).spans]


def test_an_app_that_cannot_start(folder: Path) -> None:
    """Init fails with what is wrong, and that is exported before."""
    folder.joinpath("index.py").write_text("raise ValueError('no database')")
    with Receiver() as receiver:
        with Environment("index.py", folder, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint) as environment:
            environment.process.wait(HANG_S)
        assert "no database" in str(environment.init_error)
        assert Received(receiver).span("cold start").status == "error"


@pytest.mark.parametrize(
    ("worth", "is_parent", "links"), [("link", False, 1), ("parent", True, 0), ("ignore", False, 0)]
)
def test_xray(worth: str, is_parent: bool, links: int, folder: Path) -> None:
    """X-Ray's trace is linked, or what the setting says."""
    trace = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"
    with Receiver() as receiver:
        with Environment(
            "index.py", folder, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint, TRACEDBRIDGE_XRAY=worth
        ) as environment:
            ask(environment, "/0")
            ask(environment, "/1", trace=trace)
            environment.wait_until_idle()
        span = Received(receiver).servers()[-1]
    assert (span.trace_id == "5759e988bd862e3fe1be46a994272793") == is_parent
    assert (span.parent_id == "53995c3f42cd8ad8") == is_parent
    assert [link.span_id for link in span.links] == ["53995c3f42cd8ad8"] * links
