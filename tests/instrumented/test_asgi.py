"""An instrumented ASGI app: what passes is what passed before, and what is told is what happened."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.instrumented.calling import Call, lifespan, scope
from tests.support import Receive, Scope, Send, no_lifespan, respond
from tests.telemetry.received import Received, drawn
from tracedbridge import instrument
from tracedbridge.errors import AppKindError

pytestmark = pytest.mark.telemetry

START = {"type": "http.response.start", "status": 200, "headers": []}
BODY = {"type": "http.response.body", "body": b"ok"}


@contextmanager
def instrumented(app: Any) -> Iterator[Any]:
    """Give the app instrumented; exports all at the end."""
    traced = instrument(app)
    try:
        yield traced
    finally:
        traced.close()


def sending(*messages: Any) -> Any:
    """Return an app that sends these."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        no_lifespan(scope)
        for message in messages:
            await send(message)

    return app


# What it is.


def test_its_shape(received: Received) -> None:
    """It takes three positional parameters by a coroutine function: what Vercel's runtime asks for."""
    with instrumented(sending(START, BODY)) as traced:
        assert inspect.iscoroutinefunction(type(traced).__call__)
        parameters = inspect.signature(traced).parameters.values()
        assert [parameter.kind for parameter in parameters] == [inspect.Parameter.POSITIONAL_OR_KEYWORD] * 3


def test_an_app_of_two_calls(received: Received) -> None:
    """An ASGI 2 app is served as ASGI 3."""

    def app(scope: Scope) -> Callable[[Receive, Send], Any]:
        async def serve(receive: Receive, send: Send) -> None:
            await respond(send, b"two")

        return serve

    with instrumented(app) as traced:
        assert Call(traced, scope())()[1]["body"] == b"two"
    assert received.server().attributes["http.response.status_code"] == 200


@pytest.mark.parametrize("app", [pytest.param(3, id="a number"), pytest.param(lambda one: one, id="a function of one")])
def test_what_is_no_app(app: Any) -> None:
    """It is refused by name."""
    with pytest.raises(AppKindError):
        instrument(app)


def test_a_handler_class() -> None:
    """It has a server of its own; the error says who serves it."""
    from http.server import BaseHTTPRequestHandler

    class Handler(BaseHTTPRequestHandler):
        pass

    with pytest.raises(AppKindError, match="vc_handler"):
        instrument(Handler)


# What passes.


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param([START, BODY], id="a response"),
        pytest.param([{}], id="no type"),
        pytest.param([None], id="no message"),
        pytest.param([{"type": "http.response.start"}], id="no status"),
        pytest.param([{"type": "http.response.start", "status": "200", "headers": []}, BODY], id="a status of text"),
        pytest.param([{**START, "headers": [("name", "text")]}, BODY], id="headers of text"),
        pytest.param([{**START, "headers": None}, BODY], id="headers that are none"),
        pytest.param([BODY], id="a body without a start"),
        pytest.param([START, {**BODY, "body": None}], id="a body that is none"),
        pytest.param([START, {**BODY, "body": "text"}], id="a body of text"),
        pytest.param([START, START, BODY, BODY], id="everything twice"),
        pytest.param([{**START, "trailers": True}, BODY, {"type": "http.response.trailers"}], id="trailers"),
        pytest.param([START, {"type": "http.response.pathsend", "path": "/tmp/x"}], id="a file by its path"),
        pytest.param([{"type": "http.response.push", "path": "/", "headers": []}, START, BODY], id="a push"),
    ],
)
def test_messages_pass_as_they_are(messages: list[Any], received: Received) -> None:
    """The server gets every message itself, malformed ones, too: what is wrong with them it says."""
    with instrumented(sending(*messages)) as traced:
        sent = Call(traced, scope())()
    assert len(sent) == len(messages)
    assert all(one is other for one, other in zip(sent, messages, strict=True))
    assert len(received.servers()) == 1


def test_headers_that_can_be_read_once(received: Received) -> None:
    """The server can still read them."""
    with instrumented(sending({**START, "headers": iter([(b"a", b"b")])}, BODY)) as traced:
        sent = Call(traced, scope())()
    assert list(sent[0]["headers"]) == [(b"a", b"b")]


def test_the_server_sees_what_the_app_leaves(received: Received) -> None:
    """A route, a user, whatever the app puts into its scope, is in the server's, but for our headers."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["user"] = "Ada"
        assert any(name == b"traceparent" for name, _ in scope["headers"])
        await respond(send)

    with instrumented(app) as traced:
        call = Call(traced, told := scope())
        call()
    assert told["user"] == "Ada"
    assert told["headers"] == [(b"host", b"shop.example")]


@pytest.mark.parametrize(
    "told",
    [
        pytest.param(scope(headers=None), id="no headers"),
        pytest.param(scope() | {"method": None}, id="no method"),
        pytest.param(scope() | {"path": b"/", "raw_path": None}, id="a path of bytes"),
        pytest.param({"type": "http"}, id="nothing but its type"),
    ],
)
def test_a_scope_that_is_none(told: dict[str, Any], received: Received) -> None:
    """The app is called with it."""
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append({**scope, "headers": told.get("headers")})
        await respond(send)

    with instrumented(app) as traced:
        Call(traced, told)()
    assert seen == [{"headers": None, **told}]


def test_a_scope_of_another_type(received: Received) -> None:
    """It passes, and is not told."""
    with instrumented(sending(BODY)) as traced:
        call = Call(traced, {"type": "smtp"})
        with pytest.raises(NotImplementedError):
            call()
    assert received.servers() == []


# How it ends.


class OwnError(Exception):
    """An app's own."""


def test_what_the_server_raises(received: Received) -> None:
    """It reaches the app, which may go on."""
    caught: list[Exception] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        try:
            await send(BODY)
        except RuntimeError as error:
            caught.append(error)
            await send(BODY)

    with instrumented(app) as traced:
        call = Call(traced, scope())
        call.fails_at[1] = error = RuntimeError("not now")
        assert call() == [START, BODY, BODY]
    assert caught == [error]
    assert received.server().status == "unset"


@pytest.mark.parametrize(
    ("ending", "raised", "error", "events"),
    [
        pytest.param("raise before", OwnError, "OwnError", ["exception"], id="raises before its response"),
        pytest.param("raise amid", OwnError, "OwnError", ["first byte", "exception"], id="raises in its response"),
        pytest.param("raise after", OwnError, "OwnError", ["first byte", "exception"], id="raises after its response"),
        pytest.param("nothing", None, "AppProtocolError", ["exception"], id="returns without a response"),
        pytest.param("amid", None, "AppProtocolError", ["first byte", "exception"], id="returns in its response"),
        pytest.param("gone", None, None, ["first byte", "client disconnected"], id="hears that nobody listens"),
        pytest.param("gone, raise", OSError, None, ["first byte", "client disconnected"], id="raises for it"),
        pytest.param("own cancellation", asyncio.CancelledError, "CancelledError", ["exception"], id="cancels itself"),
    ],
)
def test_an_end(
    ending: str, raised: type[BaseException] | None, error: str | None, events: list[str], received: Received
) -> None:
    """What the app raises reaches the server, and its span says what it was."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        match ending:
            case "raise before":
                raise OwnError
            case "own cancellation":
                raise asyncio.CancelledError
            case "nothing":
                return
        await send({**START})
        match ending:
            case "raise amid":
                raise OwnError
            case "raise after":
                await send(BODY)
                raise OwnError
            case "gone" | "gone, raise":
                assert (await receive())["type"] == "http.disconnect"
                if ending == "gone, raise":
                    raise ConnectionResetError

    with instrumented(app) as traced:
        call = Call(traced, scope(), [{"type": "http.disconnect"}])
        if raised is None:
            call()
        else:
            with pytest.raises(raised):
                call()
    span = received.server()
    assert span.attributes.get("error.type") == error
    assert [event.name for event in span.events] == events


def test_a_server_that_cancels(received: Received) -> None:
    """The app is cancelled, and its invocation is one that nobody waits for any more."""
    came: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        try:
            await asyncio.Event().wait()
        finally:
            came.append("cleaned")

    async def serve(traced: Any) -> None:
        task = asyncio.create_task(Call(traced, scope()).run())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with instrumented(app) as traced:
        asyncio.run(serve(traced))
    assert came == ["cleaned"]
    span = received.server()
    assert span.status == "unset"
    assert "client disconnected" in [event.name for event in span.events]


# The lifespan.


def living(*, startup: Any = None, shutdown: Any = None) -> Any:
    """Return an app whose lifespan sends these; an exception is raised instead."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await respond(send)
            return
        for part, does in (("startup", startup), ("shutdown", shutdown)):
            assert (await receive())["type"] == f"lifespan.{part}"
            if isinstance(does, Exception):
                raise does
            await send(does or {"type": f"lifespan.{part}.complete"})

    return app


def test_a_lifespan(received: Received) -> None:
    """Its messages pass; its startup is in the cold start, its shutdown a span."""
    with instrumented(living()) as traced:

        async def serve() -> list[Any]:
            life = lifespan(traced)
            await life.run()
            return life.sent

        sent = asyncio.run(serve())
    assert [message["type"] for message in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    names = [span.name for span in received.spans]
    assert names.count("lifespan shutdown") == 1


FAILED = {"type": "lifespan.startup.failed", "message": "no database"}
FAILED_LATE = {"type": "lifespan.shutdown.failed", "message": "no disk"}


@pytest.mark.parametrize(
    ("app", "line"),
    [
        pytest.param(living(startup=FAILED), "no database", id="startup failed"),
        pytest.param(living(startup=OwnError("no database")), None, id="startup raises"),
        pytest.param(living(shutdown=FAILED_LATE), "no disk", id="shutdown failed"),
    ],
)
def test_a_lifespan_that_fails(app: Any, line: str | None, received: Received) -> None:
    """The server hears of it as without us."""

    def outcome(app: Any) -> tuple[list[Any], str]:
        life = lifespan(app)
        try:
            return life(), ""
        except OwnError as error:
            return life.sent, str(error)

    with instrumented(app) as traced:
        assert outcome(traced) == outcome(app)
    told = " ".join(str(span.attributes) + str([event.attributes for event in span.events]) for span in received.spans)
    assert line is None or line in told


def test_no_lifespan(received: Received) -> None:
    """An app without one is served without one, and raises as it does."""
    with instrumented(sending(START, BODY)) as traced:
        with pytest.raises(NotImplementedError):
            lifespan(traced)()
        Call(traced, scope())()
    assert drawn(received.servers()).startswith("GET")


# Who else watches.


def test_twice(received: Received) -> None:
    """An app that is instrumented twice is told once."""
    with instrumented(sending(START, BODY)) as inner, instrumented(inner) as outer:
        Call(outer, scope())()
    assert len(received.servers()) == 1
    assert len([record for record in received.logs if record.body == "invocation"]) == 1


def test_telemetry_off() -> None:
    """The app gets what the server has: its scope and its functions themselves."""
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend((scope, receive, send))

    traced: Any = instrument(app, telemetry=False)
    told = (scope(), object(), object())
    asyncio.run(traced(*told))
    assert all(one is other for one, other in zip(seen, told, strict=True))


def test_trace_headers(received: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    """A response says its trace where it is asked to; the app's message stays as it is."""
    monkeypatch.setenv("TRACEDBRIDGE_TRACE_RESPONSE", "on")
    message = {**START, "headers": [(b"server-timing", b"db;dur=1")]}
    with instrumented(sending(message, BODY)) as traced:
        sent = Call(traced, scope())()
    (_, mine), *ours = sent[0]["headers"]
    assert mine == b"db;dur=1"
    assert {name for name, _ in ours} == {b"traceresponse", b"server-timing"}
    assert all(received.server().span_id.encode() in value for _, value in ours)
    assert message["headers"] == [(b"server-timing", b"db;dur=1")]
