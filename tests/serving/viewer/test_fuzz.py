"""
Whatever is sent, the viewer says what was wrong with it, takes the next good request, and prints nothing.

The statuses are those of the OTLP specification, and a refusal's body is a google.rpc.Status.
"""

from __future__ import annotations

import gzip
import http.client
import io
import json
import socket
import tracemalloc
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from google.rpc.status_pb2 import Status
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from tests.serving.viewer.test_app import (
    JSON,
    PLANTED,
    PROTOBUF,
    SIGNALS,
    TRACE_ID,
    Asker,
    body,
    counts,
    document,
)
from tests.serving.viewer.test_server import ask, told
from tests.support import HANG_S
from tracedbridge.serving import waterfall
from tracedbridge.serving.viewer.server import Viewer

pytestmark = pytest.mark.telemetry

COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    # Without the time, which would make each run another one.
    "gzip": lambda content: gzip.compress(content, mtime=0),
    "deflate": zlib.compress,
}

# Where the path, the type and the encoding are right.
STATUSES = (200, 400, 413)

PAGES = (
    "/api/viewer/state",
    "/api/viewer/traces",
    f"/api/viewer/traces/{TRACE_ID}",
    f"/api/viewer/traces/{TRACE_ID}/jaeger.json",
    "/api/viewer/coldstarts",
    "/api/viewer/metrics",
    "/api/viewer/logs",
    "/api/v3/services",
    f"/api/v3/traces/{TRACE_ID}",
    "/api/v3/trace-summaries?query.startTimeMin=2020-01-01T00:00:00Z&query.startTimeMax=2050-01-01T00:00:00Z",
    f"/api/traces/{TRACE_ID}",
)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from([PLANTED, TRACE_ID, "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def check(asker: Asker, signal: str, reply: TestResponse, content_type: str) -> None:
    """Check an answer, that what is shown of it can be shown, and that the next request is taken."""
    assert reply.status_code in STATUSES, reply.text
    assert reply.content_type == content_type
    if reply.status_code != 200:
        message = (
            Status.FromString(reply.data).message if content_type == PROTOBUF else json.loads(reply.data)["message"]
        )
        assert asker.app.refusals[-1].isprintable()
        assert message
    for path in PAGES:
        assert asker.get(path).status_code in (200, 404), path
    before = asker.store.seq
    assert asker.post(f"/v1/{signal}", body(signal), content_type=PROTOBUF).status_code == 200
    assert asker.store.seq == before + 1


def sent(asker: Asker, signal: str, content: bytes, content_type: str, encoding: str) -> TestResponse:
    """Send a body under headers that are right."""
    headers = {"content_encoding": encoding} if encoding else {}
    return asker.post(f"/v1/{signal}", content or b" " * (content_type == JSON), content_type=content_type, **headers)


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Cut or change bytes, at least one of which is left."""
    if draw(st.booleans()):
        content = content[: draw(st.integers(1, len(content)))]
    changed = bytearray(content)
    for position in draw(st.lists(st.integers(0, len(changed) - 1), max_size=4)):
        changed[position] = draw(st.integers(0, 255))
    return bytes(changed)


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("content_type", [PROTOBUF, JSON])
@pytest.mark.parametrize("encoding", COMPRESSIONS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_damaged_bodies(signal: str, content_type: str, encoding: str, data: st.DataObject) -> None:
    """A body that was cut, or changed on its way, before it was compressed or after, is taken or refused."""
    content = body(signal, content_type, PLANTED)
    if data.draw(st.booleans(), label="damaged before it is compressed"):
        content = COMPRESSIONS[encoding](data.draw(damaged(content)))
    else:
        content = data.draw(damaged(COMPRESSIONS[encoding](content)))
    asker = Asker()
    check(asker, signal, sent(asker, signal, content, content_type, encoding), content_type)


def nodes(node: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each place in a document that holds a value, as container and key."""
    for key, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
        yield node, key
        if isinstance(value, dict | list):
            yield from nodes(value)


@pytest.mark.parametrize("signal", SIGNALS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_wrong_types(signal: str, data: st.DataObject) -> None:
    """A document with anything at all in one or two of its places is taken or refused."""
    told = document(signal)
    for _ in range(data.draw(st.integers(1, 2))):
        container, key = data.draw(st.sampled_from(list(nodes(told))))
        container[key] = data.draw(json_values)
    asker = Asker()
    check(asker, signal, sent(asker, signal, json.dumps(told).encode(), JSON, ""), JSON)


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from(SIGNALS),
    st.binary(min_size=1, max_size=300),
    st.sampled_from([PROTOBUF, JSON]),
    st.sampled_from(list(COMPRESSIONS)),
)
def test_any_bytes(signal: str, content: bytes, content_type: str, encoding: str) -> None:
    """Bytes without any sense are taken or refused."""
    asker = Asker()
    check(asker, signal, sent(asker, signal, content, content_type, encoding), content_type)


header_values = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=30)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["GET", "POST", "HEAD", "PUT", "OPTIONS", "TRACE", "\x1b[31m"]),
    st.text(max_size=30).map(lambda text: f"/{text}") | st.sampled_from([*PAGES, "/v1/traces", "/jaeger/", "/"]),
    st.lists(
        st.tuples(
            st.sampled_from(
                ["content-type", "content-encoding", "if-none-match", "range", "accept", "cookie", "traceparent"]
            ),
            header_values,
        )
    ),
)
def test_any_request(method: str, path: str, headers: list[tuple[str, str]]) -> None:
    """Any path, method and headers get an answer that is no error of ours."""
    asker = Asker()
    named = {name.replace("-", "_"): value for name, value in headers}
    reply = asker.get(path, method, **named)
    assert reply.status_code in (200, 206, 304, 308, 400, 403, 404, 405, 411, 415, 416)
    assert "X-Content-Type-Options" in reply.headers


def zeros(compressor: Any, size: int) -> bytes:
    """Compress so many zeros without having them."""
    chunk = bytes(1_000_000)
    return b"".join([*(compressor.compress(chunk) for _ in range(size // len(chunk))), compressor.flush()])


def deep(depth: int) -> bytes:
    """Nest lists of attribute values in protobuf so deep."""
    inner = b""
    for _ in range(depth):
        for field in (0x0A, 0x2A):
            inner = bytes([field]) + varint(len(inner)) + inner
    # body of a record, records of a scope, scopes of a resource, resources of a request.
    for field in (0x2A, 0x12, 0x12, 0x0A):
        inner = bytes([field]) + varint(len(inner)) + inner
    return inner


def varint(number: int) -> bytes:
    """Encode a length as protobuf does."""
    encoded = b""
    while number > 127:
        encoded += bytes([number & 127 | 128])
        number >>= 7
    return encoded + bytes([number])


@pytest.mark.parametrize(
    ("signal", "make", "content_type", "encoding", "status"),
    [
        pytest.param(
            "traces", lambda: zeros(zlib.compressobj(wbits=31), 200_000_000), PROTOBUF, "gzip", 413, id="gzip"
        ),
        pytest.param("logs", lambda: zeros(zlib.compressobj(), 200_000_000), JSON, "deflate", 413, id="deflate"),
        pytest.param(
            "traces",
            lambda: zeros(zlib.compressobj(wbits=-15), 200_000_000),
            PROTOBUF,
            "deflate",
            413,
            id="raw deflate",
        ),
        pytest.param("traces", lambda: gzip.compress(gzip.compress(b"")), PROTOBUF, "gzip", 400, id="gzip in gzip"),
        pytest.param("traces", lambda: gzip.compress(b"") * 2_000 + b"x", PROTOBUF, "gzip", 400, id="many members"),
        pytest.param("traces", lambda: b'{"resourceSpans":' + b"[" * 200_000, JSON, "", 400, id="deep JSON"),
        pytest.param("traces", lambda: b'{"n":' + b"9" * 100_000 + b"}", JSON, "", 400, id="long number"),
        pytest.param("logs", lambda: deep(5_000), PROTOBUF, "", 400, id="deep protobuf"),
    ],
)
def test_bombs(
    monkeypatch: pytest.MonkeyPatch,
    signal: str,
    make: Callable[[], bytes],
    content_type: str,
    encoding: str,
    status: int,
) -> None:
    """What would grow a thousandfold, or deeper than the stack, is refused, and memory does not follow it."""
    monkeypatch.setattr("tracedbridge.telemetry.otlp.MAX_BODY_BYTES", 1_000_000)
    content = make()
    asker = Asker()
    tracemalloc.start()
    try:
        reply = sent(asker, signal, content, content_type, encoding)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert reply.status_code == status
    assert peak_bytes < 20_000_000
    check(asker, signal, reply, content_type)


@pytest.fixture(name="viewer", scope="module")
def running_viewer() -> Iterator[Viewer]:
    """A viewer on a free port, the same for all tests: it has to survive them all."""
    with Viewer(0) as viewer:
        yield viewer


LARGE_BYTES = 100_000_000


@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("content_encoding", ["", "gzip"])
def test_100_mb(viewer: Viewer, monkeypatch: pytest.MonkeyPatch, is_chunked: bool, content_encoding: str) -> None:
    """A body of 100 MB is refused with 413, which its sender gets to read, and is never in memory as a whole."""
    if is_chunked:
        # Without a length so much is read before it is known to be too much.
        monkeypatch.setattr("tracedbridge.telemetry.otlp.MAX_BODY_BYTES", 1_000_000)
    chunk = bytes(1_000_000)
    seq = viewer.store.seq
    tracemalloc.start()
    try:
        status, answer = ask_large(
            viewer, (chunk for _ in range(LARGE_BYTES // len(chunk))), is_chunked, content_encoding
        )
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert status == 413
    assert "more than" in Status.FromString(answer).message
    # werkzeug takes ten at a time to let the sender read the answer.
    assert peak_bytes < 40_000_000
    assert viewer.store.seq == seq
    assert ask(viewer, "POST", "/v1/traces", body("traces"), content_type=PROTOBUF)[0] == 200


def ask_large(viewer: Viewer, chunks: Iterable[bytes], is_chunked: bool, content_encoding: str) -> tuple[int, bytes]:
    """Send a body in pieces, all of it, and return status and body of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", viewer.port, timeout=HANG_S)
    try:
        headers = {"Content-Type": PROTOBUF, "Content-Encoding": content_encoding}
        if not is_chunked:
            headers["Content-Length"] = str(LARGE_BYTES)
        connection.request("POST", "/v1/traces", chunks, headers, encode_chunked=is_chunked)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


PIECES = [
    b"POST", b"GET", b" ", b"/v1/traces", b"/", b"/api/viewer/state", b" HTTP/1.1", b" HTTP/1.0", b" HTTP/2", b"\r\n",
    b"\n", b"Host: localhost\r\n", b"Content-Length: 5\r\n", b"Content-Length: -1\r\n", b"\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Content-Type: application/json\r\n", b"Content-Encoding: gzip\r\n",
    b"Expect: 100-continue\r\n", b"{}", b"0\r\n\r\n", b"ffffffffff\r\n", b"\x1b[31m", b"\x00", b"\xff", b": ",
    b"http://[", b"Upgrade: websocket\r\n",
]  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(PIECES) | st.binary(max_size=5), max_size=15))
def test_any_bytes_on_the_socket(viewer: Viewer, capfd: pytest.CaptureFixture[str], pieces: list[bytes]) -> None:
    """Whatever is no HTTP ends its own connection, with an answer or without, and nothing else."""
    with socket.create_connection(("127.0.0.1", viewer.port), timeout=HANG_S) as connection:
        connection.sendall(b"".join(pieces))
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    assert not received or received.startswith(b"HTTP/1.1 ")
    assert b" 500 " not in received.partition(b"\r\n")[0]
    assert told(viewer, "state")["endpoint"] == viewer.endpoint
    assert capfd.readouterr() == ("", "")


def test_what_is_planted_stays_text(capfd: pytest.CaptureFixture[str]) -> None:
    """
    Markup, scripts and control characters reach neither the console nor a header, and a browser only inside of JSON.

    They are planted in each name, attribute and log line, and in path, headers and refused bodies.
    """
    with Viewer(0) as viewer:
        for signal in SIGNALS:
            assert ask(viewer, "POST", f"/v1/{signal}", body(signal, text=PLANTED), content_type=PROTOBUF)[0] == 200
        assert counts(viewer.store) == (1, 1, 1)
        header = PLANTED.partition("\r\n")[0]
        for path, headers in (
            ("/%1B%5B31m%0D%0ASet-Cookie:%20owned=1<script>", {}),
            ("/v1/%1B%5B31m<script>", {"content_type": PROTOBUF}),
            ("/", {"origin": header}),
            ("/", {"host": header}),
            ("/v1/traces", {"content_type": header, "content_encoding": header}),
            ("/v1/traces", {"content_type": JSON, "content_encoding": header}),
        ):
            named = {"user_agent": header, **headers}
            assert ask(viewer, "POST", path, PLANTED.encode("utf-8"), **named)[0] in (403, 404, 405, 415)
        assert len(viewer.refusals) == 5
        assert all(map(str.isprintable, viewer.refusals))
        for path in PAGES:
            head, text = raw_answer(viewer, path)
            assert b"\r\nContent-Type: application/json\r\n" in head
            assert b"owned" not in head
            assert text.isascii()
            assert text.decode().isprintable()
            json.loads(text)
        assert "owned" in json.dumps(told(viewer, "traces"))
    assert capfd.readouterr() == ("", "")
    console = io.StringIO()
    waterfall.draw((span for trace in viewer.store.traces() for span in trace.spans), console, width=200)
    assert "script" in console.getvalue()
    assert console.getvalue().replace("\n", "").isprintable()


def raw_answer(viewer: Viewer, path: str) -> tuple[bytes, bytes]:
    """Return head and body of an answer as they come over the wire."""
    with socket.create_connection(("127.0.0.1", viewer.port), timeout=HANG_S) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    head, _, text = received.partition(b"\r\n\r\n")
    return head + b"\r\n", text
