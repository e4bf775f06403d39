"""In Lambda's environment: what is answered, what is told, and when, with the process frozen in between."""

from __future__ import annotations

import sys
import time
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


# The runtime client waits in C before that, where no handler of Python's is called.
handles_signals = pytest.mark.skipif(
    sys.version_info < (3, 12), reason="Python's handlers of signals are called on Lambda from 3.12 on"
)

PATIENT_MS = str(HANG_S * 1000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A function's folder."""
    tmp_path.joinpath("index.py").write_text(APP)
    return tmp_path


def ask(environment: Environment, path: str, **more: Any) -> Any:
    """Invoke by an HTTP API's event, and return the answer's payload."""
    return environment.invoke(event_of("http 2.0", Asked(path=path)), **more).payload


@pytest.mark.parametrize("flush", ["auto", "after"])
def test_cold_and_warm(flush: str, folder: Path) -> None:
    """Each invocation is answered and told once; the process is frozen after each, when all is exported."""
    with Receiver() as receiver:
        with Environment(
            "index.py", folder, TRACEDBRIDGE_FLUSH=flush, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint
        ) as environment:
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


@handles_signals
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


def test_system_exit(folder: Path) -> None:
    """The process ends as the app wants it, with nothing posted; the invocation is told all the same."""
    with Receiver() as receiver:
        with Environment("index.py", folder, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint) as environment:
            ask(environment, "/1")
            environment.wait_until_idle()
            environment.send(event_of("http 2.0", Asked(path="/exit")))
            assert environment.process.wait(HANG_S) == 3
            assert len(environment.answered(1)) == 1
        told = Received(receiver).servers()[-1]
    assert told.attributes["error.type"] == "SystemExit"


@handles_signals
def test_sigterm_with_a_collector_that_is_gone(folder: Path) -> None:
    """Shutdown and last export come to an end before Lambda's 500 ms do, and the handler of before has its turn."""
    folder.joinpath("index.py").write_text(
        "import os, signal\n"
        "def ended(number, frame):\n"
        "    print('the handler of before', flush=True)\n"
        # SystemExit would wait for the runtime client's own thread.
        "    os._exit(7)\n"
        "signal.signal(signal.SIGTERM, ended)\n" + APP.replace('print("life', 'time.sleep(0.1); print("life')
    )
    collector = Collector()
    try:
        collector.hold()
        with Environment(
            "index.py", folder, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, TRACEDBRIDGE_FLUSH_TIMEOUT_MS=PATIENT_MS
        ) as environment:
            ask(environment, "/1")
            assert collector.is_asked.wait(HANG_S)
            begun_s = time.monotonic()
            assert environment.end() == 7
            took_s = time.monotonic() - begun_s
            lines = environment.output.splitlines()
            assert lines.index("lifespan shutdown") < lines.index("the handler of before")
            # Of 0.4 s: what a busy machine adds is not ours. That it is no flush timeout, and no second, is.
            assert took_s < 3 * 0.4 + 1
    finally:
        collector.let_go()
        collector.close()


@handles_signals
def test_sigterm_with_an_app_that_does_not_end(folder: Path) -> None:
    """It is given up early enough for the export: of the shutdown, which is told as failed."""
    stubborn = APP.replace('        print("life', '        import asyncio; await asyncio.sleep(60); print("life')
    folder.joinpath("index.py").write_text(stubborn)
    with Receiver() as receiver:
        with Environment("index.py", folder, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint) as environment:
            ask(environment, "/1")
            environment.wait_until_idle()
            begun_s = time.monotonic()
            environment.end()
            took_s = time.monotonic() - begun_s
        shutdown = Received(receiver).span("lifespan shutdown")
    assert shutdown.status == "error"
    assert took_s < 3 * 0.4 + 1


def test_snapshot(folder: Path) -> None:
    """What came before it is exported before it; what is restored has ids of its own, and a cold start: the restore."""
    with Receiver() as receiver:
        with Environment(
            "index.py",
            folder,
            AWS_LAMBDA_INITIALIZATION_TYPE="snap-start",
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
        ) as environment:
            environment.wait_until_idle()
            initialized = Received(receiver).span("cold start")
            assert not Received(receiver).servers()
            environment.restore()
            for number in range(2):
                assert ask(environment, f"/{number}")["body"] == f"/{number}"
            environment.wait_until_idle()
        received = Received(receiver)
    assert initialized.attributes["tracedbridge.coldstart.kind"] == "proactive"
    first, second = received.servers()
    restored = [span for span in received.spans if span.name == "cold start"][-1]
    assert restored.attributes["tracedbridge.coldstart.kind"] == "restored"
    assert (first.attributes["faas.coldstart"], second.attributes["faas.coldstart"]) == (True, False)
    assert initialized.resource["service.instance.id"] != restored.resource["service.instance.id"]
    assert restored.resource["service.instance.id"] == first.resource["service.instance.id"]
    assert len({initialized.trace_id, first.trace_id, second.trace_id}) == 3


def test_managed_instances(folder: Path) -> None:
    """Each of the runtime's processes has its own cold start and instance; they are not stopped, so none waits."""
    # Each process has one: the first to have it waits for the other.
    meet = f"""
    os.makedirs("met", exist_ok=True)
    open(os.path.join("met", str(os.getpid())), "w").close()
    until_s = time.monotonic() + {HANG_S}
    while len(os.listdir("met")) < 2 and time.monotonic() < until_s:
        time.sleep(0.01)
"""
    crash = '    if scope["path"] == "/crash"'
    folder.joinpath("index.py").write_text(APP.replace(crash, meet + crash))
    with Receiver() as receiver:
        with Environment(
            "index.py", folder, freezes=False, AWS_LAMBDA_MAX_CONCURRENCY="2",
            AWS_LAMBDA_INITIALIZATION_TYPE="lambda-managed-instances", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
        ) as environment:  # fmt: skip
            numbers = {environment.send(event_of("http 2.0", Asked(path="/x"))) for _ in range(8)}
            assert set(environment.answered(8)) == numbers
            assert environment.extensions == {}
            until_s = time.monotonic() + HANG_S
            while len(Received(receiver).servers()) < 8 and time.monotonic() < until_s:
                time.sleep(0.05)
        spans = Received(receiver).servers()
    assert {span.attributes["faas.invocation_id"] for span in spans} == numbers
    cold = [span.resource["service.instance.id"] for span in spans if span.attributes["faas.coldstart"]]
    assert len(cold) == len(set(cold)) == 2
    assert {span.resource["service.instance.id"] for span in spans} == set(cold)


@pytest.mark.parametrize(("waits_s", "asks"), [(0.0, False), (1.5, True)])
def test_a_handler_around_ours(waits_s: float, asks: bool, folder: Path) -> None:
    """One that answers by itself is not held until the function's timeout; one that asks late loses nothing."""
    folder.joinpath("around.py").write_text(
        "import time\n"
        "from tracedbridge import handler as ours\n"
        "def handler(event, context):\n"
        f"    time.sleep({waits_s})\n"
        f"    return ours(event, context) if {asks} else {{'statusCode': 204}}\n"
    )
    with Receiver() as receiver:
        with Environment(
            "index.py", folder, handler="around.handler", timeout_s=4 * HANG_S,
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint, TRACEDBRIDGE_FLUSH_TIMEOUT_MS=PATIENT_MS,
        ) as environment:  # fmt: skip
            for number in range(2):
                told = ask(environment, f"/{number}")
                assert told["statusCode"] == (200 if asks else 204)
                if asks:
                    # Exported before the answer.
                    assert len(Received(receiver).servers()) == number + 1
            # Within less than the time that it has.
            environment.wait_until_idle()
        assert len(Received(receiver).servers()) == (2 if asks else 0)
