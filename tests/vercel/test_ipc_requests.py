"""Requests in IPC mode, with telemetry off: what is said of each one, what the app sees, what its client gets."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.vercel.conftest import KINDS
from tests.vercel.conversation import Conversation
from tests.vercel.frames import NOBODY, Ids
from tests.vercel.platform import Platform, internal_headers, new_ids

Start = Callable[..., Platform]

# More than fit into the buffers of a connection, on both sides.
LARGE_BYTES = 8_000_000


def told_kinds(platform: Platform, ids: Ids) -> list[str]:
    """Return what has been told of a request, its logs left out, once its end has come."""
    platform.ended(ids)
    return [frame.kind for frame in platform.frames_of(ids) if frame.kind != "log"]


# What is said of a request.


def test_a_request_begins_and_ends_once(platform: Platform) -> None:
    """``handler-started`` has the request's ids and the time of day; ``end`` comes after it, without an error."""
    before_ms = time.time_ns() // 1_000_000
    reply = platform.ask("/")
    after_ms = time.time_ns() // 1_000_000
    assert told_kinds(platform, reply.ids) == ["handler-started", "end"]
    (begun,) = platform.frames_of(reply.ids, "handler-started")
    assert before_ms <= begun.payload["handlerStartedAt"] <= after_ms
    assert "error" not in platform.ended(reply.ids).payload


def test_a_request_without_ids_is_nobodys(platform: Platform) -> None:
    """Without ids, and with one that is no number, a request is told as vercel-runtime tells it: as ``"0"`` and 0."""
    count = len(platform.frames_of(NOBODY, "end"))
    for header in ("x-nothing: 1", "x-vercel-internal-request-id: ten"):
        with platform.wire() as wire:
            wire.send("GET / HTTP/1.1", "host: a", "connection: close", header)
            assert wire.to_the_end().startswith(b"HTTP/1.1 200 ")
        count += 1
        # Its end comes after the response; the next message, of another request, after that.
        platform.ended(platform.ask("/").ids)
        assert len(platform.frames_of(NOBODY, "handler-started")) == count


@pytest.mark.parametrize("when", ["before", "middle", "after"])
def test_an_app_that_raises_is_told_with_its_end(platform: Platform, when: str) -> None:
    """Whenever an app raises, its ``end`` comes once, and says what it raised; a client gets no wrong response."""
    with platform.wire() as wire:
        ids = wire.ask("GET", f"/fails?when={when}", "connection: close")
        came = wire.to_the_end()
    assert told_kinds(platform, ids) == ["handler-started", "end"]
    error = json.dumps(platform.ended(ids).payload["error"])
    assert "BrokenError" in error
    assert f"broken {when}" in error
    head, _, body = came.partition(b"\r\n\r\n")
    if when == "after":
        assert (head[:12], body) == (b"HTTP/1.1 200", b"halfhalf")
    elif when == "middle" and head[:12] == b"HTTP/1.1 200":
        # It announced eight bytes: nobody takes this for the whole.
        assert b"content-length: 8" in head.lower()
        assert body == b"half"
    else:
        assert head[:12] == b"HTTP/1.1 500"
        assert b"broken" not in body


def test_a_failed_request_leaves_its_traceback(platform: Platform) -> None:
    """The traceback is a log message of the request that failed, before its end: vercel-runtime's is nobody's."""
    reply = platform.ask("/fails?when=before")
    platform.ended(reply.ids)
    told = platform.frames_of(reply.ids)
    assert told[-1].kind == "end"
    assert platform.logs(reply.ids).count("BrokenError: broken before") == 1
    assert "Traceback" in platform.logs(reply.ids)


def test_a_failed_request_does_not_cost_the_next(platform: Platform) -> None:
    """The instance goes on after each failure."""
    for when in ("before", "middle", "after"):
        with platform.wire() as wire:
            wire.ask("GET", f"/fails?when={when}", "connection: close")
            wire.to_the_end()
    assert platform.ask("/").status == 200


def test_a_ping_is_answered_and_not_told(platform: Platform) -> None:
    """``/_vercel/ping`` is 200 without the app, and nothing is said of it."""
    reply = platform.ask("/_vercel/ping")
    after = platform.ask("/")
    platform.ended(after.ids)
    assert (reply.status, reply.body) == (200, b"")
    assert platform.frames_of(reply.ids) == []


# What the app sees.


def test_internal_headers_do_not_reach_the_app(platform: Platform) -> None:
    """
    What the platform adds for the runtime is taken out, known or not, in upper and lower case; all else passes.

    vercel-runtime leaves ``x-vercel-sc-*`` to the app unless ``x-vercel-sc-no-header-leak`` came; the contract, never.
    """
    ids = new_ids()
    internal = {
        **internal_headers(ids, trace_id="4bf92f3577b34da6a3ce929d0e0e4736", span_id="00f067aa0ba902b7", later="x"),
        "X-Vercel-Internal-Deadline": "2096-11-23T12:00:00.5Z",
        "x-vercel-sc-headers": "{}",
        "x-vercel-sc-host": "cache.example",
        "x-vercel-sc-runtime-cache": "1",
    }
    others = {"x-vercel-id": "iad1::a", "x-vercel-forwarded-for": "192.0.2.1", "x-internal": "mine", "cookie": "a=1"}
    reply = platform.ask("/", headers={**internal, **others}, ids=ids)
    seen = dict(reply.told["headers"])
    assert not [name for name in seen if name.startswith(("x-vercel-internal-", "x-vercel-sc-"))]
    assert others.items() <= seen.items()


def test_a_token_gets_its_public_name(platform: Platform) -> None:
    """As vercel-runtime does: the internal OIDC token is ``x-vercel-oidc-token`` to the app, unless it has one."""
    told = platform.ask("/", headers={"x-vercel-internal-oidc-token": "secret"}).told
    assert dict(told["headers"])["x-vercel-oidc-token"] == "secret"
    both = {"x-vercel-internal-oidc-token": "secret", "x-vercel-oidc-token": "public"}
    told = platform.ask("/", headers=both).told
    assert [value for name, value in told["headers"] if name == "x-vercel-oidc-token"] == ["public"]


@pytest.mark.parametrize("deadline", ["soon", "2026-13-45T00:00:00Z", "2026-11-23T12:00:00", ""])
def test_a_deadline_that_is_none_is_ignored(platform: Platform, deadline: str) -> None:
    """What cannot be read as a time of RFC 3339 costs no request."""
    assert platform.ask("/", headers={"x-vercel-internal-deadline": deadline}).status == 200


def test_ids_that_are_strange_are_told_as_they_are(platform: Platform) -> None:
    """An id is any text, and a number may be large."""
    ids = Ids('a"b\\c::d', 2**53)
    platform.ask("/", ids=ids)
    assert told_kinds(platform, ids) == ["handler-started", "end"]


# HTTP, as its client has it.


def body_in_parts() -> Iterator[bytes]:
    """Give a body that has no length before its end."""
    for number in range(3):
        yield str(number).encode() * 70_000


@pytest.mark.parametrize("how", ["small", "large", "chunked", "empty"])
def test_bodies_arrive_whole(platform: Platform, how: str) -> None:
    """The app reads what its client sent; a handler class sees chunks as chunks, as in http.server."""
    whole = {"small": b"\x00\xff", "large": b"x" * LARGE_BYTES, "chunked": b"".join(body_in_parts()), "empty": b""}[how]
    reply = platform.ask("/", method="POST", body=body_in_parts() if how == "chunked" else whole)
    assert (reply.told["body"], reply.told["sha256"]) == (len(whole), hashlib.sha256(whole).hexdigest())


def test_large_responses_arrive_whole(platform: Platform) -> None:
    """What does not fit into any buffer comes to its last byte."""
    reply = platform.ask(f"/large?bytes={LARGE_BYTES}")
    assert reply.body == b"x" * LARGE_BYTES


def test_who_asks_before_sending_is_told_to_go_on(platform: Platform) -> None:
    """A client that expects ``100 Continue`` gets it, and then the response."""
    with platform.wire() as wire:
        wire.ask("POST", "/", "content-length: 5", "expect: 100-continue", "connection: close")
        assert wire.until(b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
        wire.socket.sendall(b"hello")
        came = wire.to_the_end()
    assert came.startswith(b"HTTP/1.1 200 ")
    assert b'"body": 5' in came


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [("HEAD", "/", 200), ("GET", "/status?code=204", 204), ("GET", "/status?code=304", 304)],
    ids=["HEAD", "204", "304"],
)
def test_responses_without_a_body_leave_the_connection_usable(
    platform: Platform, method: str, target: str, status: int
) -> None:
    """Nothing comes after the headers of such a response, so that the next one on its connection is understood."""
    with platform.wire() as wire:
        wire.ask(method, target)
        wire.ask("GET", "/status?code=202", "connection: close")
        came = wire.to_the_end()
    first, _, rest = came.partition(b"\r\n\r\n")
    assert first.startswith(f"HTTP/1.1 {status} ".encode())
    assert rest.startswith(b"HTTP/1.1 202 ")


def test_a_connection_is_kept(platform: Platform) -> None:
    """Several requests on one connection have an end each, and the connection stays open."""
    with platform.wire() as wire:
        for _ in range(3):
            ids = wire.ask("GET", "/large?bytes=4")
            assert wire.until(b"xxxx").startswith(b"HTTP/1.1 200 ")
            assert told_kinds(platform, ids) == ["handler-started", "end"]


def test_repeated_headers_are_kept(platform: Platform) -> None:
    """A response with a header twice has it twice."""
    assert [value for name, value in platform.ask("/").headers if name == "x-kept"] == ["1", "2"]


def test_paths_are_decoded_once(platform: Platform, kind: str) -> None:
    """``%2F`` and spaces reach ASGI and WSGI decoded, UTF-8 as each says it, and handler classes as they were sent."""
    seen = platform.ask("/caf%C3%A9%20a%2525?q=%20").told["path"]
    assert (
        seen
        == {
            "asgi": "/café a%25",
            "wsgi": "/café a%25".encode().decode("latin-1"),
            "http_server": "/caf%C3%A9%20a%2525",
        }[kind]
    )


def test_what_is_no_http_is_not_told(platform: Platform) -> None:
    """A client that speaks no HTTP gets a 400, and is no request."""
    before = len(platform.frames_of(NOBODY, "handler-started"))
    with platform.wire() as wire:
        wire.send("spam")
        assert wire.to_the_end().startswith(b"HTTP/1.1 400 ")
    platform.ended(platform.ask("/").ids)
    assert len(platform.frames_of(NOBODY, "handler-started")) == before


# Streams.


def test_a_stream_is_seen_part_by_part(platform: Platform) -> None:
    """The client has each part before the app makes the next one, and its end comes after the last."""
    ids = new_ids()
    with ThreadPoolExecutor(1) as pool:
        # The first meeting is before the first part: no server need send its headers earlier.
        meeting = pool.submit(platform.met, "part 0")
        opened = pool.submit(lambda: meeting.result().release())
        with platform.open("/stream", ids=ids) as response:
            opened.result()
            for number in range(3):
                if number:
                    platform.met(f"part {number}").release()
                assert response.read1(100) == f"part {number}\n".encode()
                if number < 2:
                    assert platform.frames_of(ids, "end") == []
            assert response.read() == b""
    assert told_kinds(platform, ids) == ["handler-started", "end"]


def test_a_client_that_leaves_is_noticed(platform: Platform, kind: str) -> None:
    """An app learns that its client has gone away in the way of its kind, and the request ends once, with no error."""
    ids = new_ids()
    with platform.open("/leave", ids=ids) as response:
        assert response.read1(5) == b"first"
    assert told_kinds(platform, ids) == ["handler-started", "end"]
    how = {"asgi": "http.disconnect", "wsgi": "close()", "http_server": "OSError"}[kind]
    assert f"told by {how}" in platform.logs(ids)
    assert "error" not in platform.ended(ids).payload


# Many at once.

MANY = 200


def test_many_requests_run_at_once_and_do_not_mix(start: Start, kind: str) -> None:
    """200 requests that are all under way keep their own context variables, and each line says whose it is."""
    platform = start(KINDS[kind])
    calls = {f"r{number}": new_ids() for number in range(MANY)}
    with ThreadPoolExecutor(MANY) as pool:
        replies = {
            name: pool.submit(platform.ask, f"/waits?name={name}", ids=ids, is_pooled=False)
            for name, ids in calls.items()
        }
        # All are there before the first goes on.
        for meeting in [platform.met(name) for name in calls]:
            meeting.release()
        for name, reply in replies.items():
            assert reply.result().body == f"|{name}|{name}".encode()
    for name, ids in calls.items():
        assert told_kinds(platform, ids) == ["handler-started", "end"]
        assert platform.logs(ids).split() == ["before", name, "after", name]


# WebSockets, of ASGI apps; WSGI and handler classes know none.


def test_a_websocket_flows_once_its_end_is_told(instances: Callable[[str], Platform]) -> None:
    """
    The ``end`` of a conversation's request comes when it has been accepted, and once.

    The table does not say so; vercel-runtime does: its platform passes messages on only when the request has ended.
    """
    platform, ids = instances("asgi"), new_ids()
    with Conversation(platform.port, "/socket", internal_headers(ids)) as conversation:
        assert conversation.is_accepted
        assert told_kinds(platform, ids) == ["handler-started", "end"]
        conversation.send("hello")
        assert conversation.receive() == "hello"
        conversation.close()
    # What is told of it later is told before this.
    platform.ended(platform.ask("/").ids)
    assert told_kinds(platform, ids) == ["handler-started", "end"]
    assert not platform.violations


@pytest.mark.parametrize("said", ["hello", b"\x00\xff", "x" * 200_000], ids=["text", "bytes", "large"])
def test_a_websocket_echoes(instances: Callable[[str], Platform], said: str | bytes) -> None:
    """Messages go both ways, whole, and the request has one end."""
    platform, ids = instances("asgi"), new_ids()
    with Conversation(platform.port, "/socket", internal_headers(ids)) as conversation:
        assert conversation.is_accepted
        conversation.send(said)
        assert conversation.receive() == said
        conversation.close()
    assert told_kinds(platform, ids) == ["handler-started", "end"]
    assert not platform.violations


def test_what_a_conversation_says_is_its_requests(instances: Callable[[str], Platform]) -> None:
    """
    What an app prints in a conversation, at any time of it, belongs to its request.

    Its end has been told by then; vercel-runtime forgets whose it is.
    """
    platform, ids = instances("asgi"), new_ids()
    with Conversation(platform.port, "/socket", internal_headers(ids)) as conversation:
        for word in ("first", "second"):
            conversation.send(word)
            conversation.receive()
        conversation.close()
    platform.wait_for("log", ids, saying="heard second")
    assert platform.logs(ids) == "heard first\nheard second\n"
    assert not platform.violations


def test_a_conversation_that_fails_is_told(instances: Callable[[str], Platform]) -> None:
    """The traceback of an app that raises in a conversation is told, its client is sent away, no second end comes."""
    platform, ids = instances("asgi"), new_ids()
    with Conversation(platform.port, "/socket", internal_headers(ids)) as conversation:
        conversation.send("break")
        # RFC 6455: an internal error, or an end without a goodbye, which is uvicorn's.
        assert conversation.receive() in (1011, 1006)
    assert platform.wait_for("log", saying="BrokenError: broken conversation")
    platform.ended(platform.ask("/").ids)
    assert told_kinds(platform, ids) == ["handler-started", "end"]
    assert not platform.violations


def test_a_websocket_sees_no_internal_headers(instances: Callable[[str], Platform]) -> None:
    """A conversation's headers are cleaned as a request's are."""
    platform, ids = instances("asgi"), new_ids()
    with Conversation(platform.port, "/socket", {**internal_headers(ids), "x-mine": "1"}) as conversation:
        conversation.send("headers")
        names = json.loads(str(conversation.receive()))
    assert "x-mine" in names
    assert not [name for name in names if name.startswith("x-vercel-internal-")]
    platform.ended(ids)


def test_a_refused_websocket_ends(platform: Platform, kind: str) -> None:
    """An app that refuses a conversation, and a kind that knows none, have one end each and no error."""
    ids = new_ids()
    with Conversation(platform.port, "/refused", internal_headers(ids)) as conversation:
        assert not conversation.is_accepted
    assert told_kinds(platform, ids) == ["handler-started", "end"]
    assert "error" not in platform.ended(ids).payload


def test_a_websocket_that_fails_before_it_begins_says_so(instances: Callable[[str], Platform]) -> None:
    """An app that raises instead of accepting is told as one that raised, and its client is refused."""
    platform, ids = instances("asgi"), new_ids()
    with Conversation(platform.port, "/fails", internal_headers(ids)) as conversation:
        assert not conversation.is_accepted
    assert told_kinds(platform, ids) == ["handler-started", "end"]
    assert "broken before" in json.dumps(platform.ended(ids).payload["error"])
    assert not platform.violations


# The end of the instance.


def test_sigterm_lets_requests_end(start: Start, kind: str) -> None:
    """A request that runs is answered and told to its end, lifespan is shut down, and the process ends with 0."""
    platform = start(KINDS[kind])
    port, ids = platform.port, new_ids()
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(platform.ask, "/waits?name=slow", ids=ids, is_pooled=False)
        meeting = platform.met("slow")
        platform.terminate()
        _wait_until_refused(port)
        meeting.release()
        assert reply.result().body == b"|slow|slow"
    assert platform.exit_code() == 0
    assert told_kinds(platform, ids) == ["handler-started", "end"]
    if kind == "asgi":
        assert "lifespan shutdown" in platform.logs()


def test_sigterm_ends_an_idle_instance(start: Start, kind: str) -> None:
    """A connection that is kept alive, and has nothing to ask, keeps no instance from ending."""
    platform = start(KINDS[kind])
    assert platform.ask("/").status == 200
    platform.terminate()
    assert platform.exit_code() == 0


def test_a_platform_that_is_gone_is_no_crash(start: Start) -> None:
    """Without anybody to tell, requests are answered still."""
    platform = start(KINDS["asgi"])
    assert platform.ask("/").status == 200
    platform.hang_up()
    assert [platform.ask("/says?by=print&text=a").status for _ in range(3)] == [200] * 3


def _wait_until_refused(port: int) -> None:
    """Wait until a server that was told to end takes nobody any more: then it has noticed."""
    import socket

    until_s = time.monotonic() + 20
    while time.monotonic() < until_s:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            return
    raise AssertionError("the server still takes connections")
