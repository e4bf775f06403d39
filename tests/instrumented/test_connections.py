"""Under every real server: streams, clients that go away, conversations, work after the response, the server's end."""

from __future__ import annotations

import http.client
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.instrumented.servers import HOST, SERVERS, VERCEL_ENTRY, Case, ask, environ, served, vercel_handler
from tests.support import HANG_S
from tests.telemetry.received import Received, child_of
from tests.vercel.conversation import Conversation
from tests.vercel.platform import Platform, internal_headers, new_ids
from tracedbridge.serving.receiver import Receiver

pytestmark = [pytest.mark.telemetry, pytest.mark.frameworks]

ASGI = [name for name, server in SERVERS.items() if server.kind == "asgi"]
# Vercel's runtime ends at once when it is told to.
GRACEFUL = [name for name, server in SERVERS.items() if server.command]


@pytest.fixture
def gate(tmp_path: Path) -> str:
    """A pipe: whoever opens it to read waits for somebody who opens it to write."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    return str(path)


@contextmanager
def streaming(port: int, path: str) -> Iterator[http.client.HTTPResponse]:
    """Send a request and give its response, of which the head has come; closes the connection at the end."""
    connection = http.client.HTTPConnection(HOST, port, timeout=HANG_S)
    try:
        connection.request("GET", path, headers=internal_headers(new_ids()))
        with connection.getresponse() as response:
            yield response
    finally:
        connection.close()


@pytest.mark.parametrize("name", SERVERS)
def test_a_part_passes_at_once(name: str, gate: str) -> None:
    """The client has a part of the response while the app has not made the next one."""
    with Receiver() as receiver:
        with served(name, receiver.endpoint, GATE=gate) as running:
            with streaming(running.port, "/gated") as response:
                first = response.read(len(b"begun,"))
                with open(gate, "w"):
                    rest = response.read()
        line = Received(receiver).log("invocation")
    assert (first, rest) == (b"begun,", b"done")
    assert line.attributes["bytes_out"] == len(b"begun,done")


@pytest.mark.parametrize("name", SERVERS)
def test_a_client_that_goes_away(name: str) -> None:
    """The app hears of it as it would without us, and its invocation is told as one that nobody waited for."""
    with Receiver() as receiver:
        with served(name, receiver.endpoint) as running, streaming(running.port, "/endless") as response:
            assert response.read(5) == b"more,"
            response.close()
        received = Received(receiver)
        span = received.server()
    assert "client disconnected" in [event.name for event in span.events]
    assert span.status == "unset"
    assert received.span("tidy up").trace_id == span.trace_id


@pytest.mark.parametrize("name", GRACEFUL)
def test_a_request_that_runs_when_the_server_is_told_to_end(name: str, gate: str) -> None:
    """It is answered to its last byte, and told."""
    with Receiver() as receiver:
        with (
            served(name, receiver.endpoint, GATE=gate) as running,
            streaming(running.port, "/gated") as response,
        ):
            assert response.read(6) == b"begun,"
            running.process.send_signal(signal.SIGTERM)
            with open(gate, "w"):
                assert response.read() == b"done"
        received = Received(receiver)
    assert [span.name for span in received.servers()] == ["GET /gated"]


@pytest.mark.parametrize("name", ASGI)
def test_a_conversation(name: str) -> None:
    """It goes on as without us, and is one SERVER span with the app's below it."""
    with Receiver() as receiver:
        with served(name, receiver.endpoint) as running:
            with Conversation(running.port, "/talk", internal_headers(new_ids())) as conversation:
                assert conversation.is_accepted
                conversation.send("hello")
                assert conversation.receive() == "heard hello"
                assert conversation.receive() == 1000
        received = Received(receiver)
    (span,) = [span for span in received.spans if span.kind == "server"]
    assert span.name == "HTTP /talk"
    assert child_of(span, received.span("listen"))


@pytest.mark.parametrize("name", ASGI)
def test_work_after_the_response(name: str) -> None:
    """The span of a request ends with its response's last byte; what the app does then is in its trace."""
    with Receiver() as receiver:
        with served(name, receiver.endpoint) as running:
            reply = ask(running.port, Case("later", "GET", "/later"))
            assert reply is not None
            assert reply.body == b"soon"
        received = Received(receiver)
        span, after = received.server(), received.span("afterwards")
    assert child_of(span, after)
    assert span.end_ns < after.end_ns


def test_a_server_without_lifespan() -> None:
    """What it has answered is told, although it ends by the signal, which leaves no time for anything."""
    with Receiver() as receiver:
        with served("uvicorn", receiver.endpoint, "", "--lifespan", "off") as running:
            for number in range(3):
                assert ask(running.port, Case(str(number), "GET", f"/items/{number}")) is not None
        assert running.process.returncode == -signal.SIGTERM
        assert len(Received(receiver).servers()) == 3


@pytest.mark.parametrize("name", ["gunicorn-sync", "gunicorn-gthread", "gunicorn-uvicorn"])
def test_a_worker_that_is_forked_when_the_app_is_loaded(name: str) -> None:
    """Each request that it answers is told."""
    with Receiver() as receiver:
        # One: gunicorn forgets a SIGTERM that reaches a worker which has just been forked, as an idle one may be.
        with served(name, receiver.endpoint, "", "--preload") as running:
            for number in range(8):
                assert ask(running.port, Case(str(number), "GET", f"/items/{number}")) is not None
        assert running.process.returncode == 0, running.said
        assert len(Received(receiver).servers()) == 8


@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
def test_vercels_runtime_waits_for_the_export(kind: str) -> None:
    """Its ``end`` comes when the backend has the invocation: the platform may freeze the process then."""
    if find_spec("vercel_runtime") is None:
        pytest.skip("vercel_runtime is not installed: it has no release for 3.11")
    with Receiver() as receiver:
        told = environ(receiver.endpoint)
        handed = {name: told[name] for name in ("PYTHONPATH", "INSTRUMENT", "TRACEDBRIDGE_FLUSH_TIMEOUT_MS")}
        exported: list[int] = []
        with Platform(
            "",
            files=None,
            built=None,
            endpoint=receiver.endpoint,
            entry=VERCEL_ENTRY,
            **vercel_handler(f"shop_{kind}:app"),
            **handed,
        ) as platform:
            platform.on_frame = lambda frame: (
                exported.append(len(Received(receiver).servers())) if frame.kind == "end" else None
            )
            for number in range(3):
                reply = platform.ask(f"/items/{number}")
                platform.ended(reply.ids)
    assert exported == [1, 2, 3]
