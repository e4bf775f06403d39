"""What the front of ``tracedbridge dev`` makes of requests that need no process; the rest is in `test_dev`."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest

from tracedbridge.serving import front
from tracedbridge.serving.front import Front, Served
from tracedbridge.serving.fronts import FRONTS
from tracedbridge.serving.instances import Answered, ClosedError
from tracedbridge.serving.listening import HEADERS, TARGET


class Settling:
    """An instance that has answered; counts how often it was settled."""

    waited_ns = 0
    is_cold = False

    def __init__(self, answer: dict[str, Any] | None, failure: str) -> None:
        """Answer with that."""
        self.answer = answer
        self.failure = failure
        self.settled = 0

    def settle(self) -> None:
        """Count."""
        self.settled += 1


class Instances:
    """Instances of no function."""

    def __init__(self, answer: dict[str, Any] | None = None, failure: str = "", error: Exception | None = None) -> None:
        """Answer, or raise."""
        self.answered = Settling(answer, failure)
        self.error = error
        self.events: list[Any] = []

    def answer(self, event: Any) -> Any:
        """Answer as one was told."""
        self.events.append(event)
        if self.error is not None:
            raise self.error
        return self.answered


class Response:
    """What a front answered."""

    def __init__(self, instances: Instances, **environ: Any) -> None:
        """Ask a front for ``/``."""
        self.served: list[Served] = []
        asked = Front(instances, FRONTS["vercel"], self.served.append, before=lambda: None)  # type: ignore[arg-type]
        self.status = ""
        self.headers: dict[str, str] = {}
        chunks = asked({**ENVIRON, "wsgi.input": io.BytesIO(), **environ}, self._start)
        self.body = b"".join(chunks)
        close: Callable[[], object] = getattr(chunks, "close", lambda: None)
        close()

    def _start(self, status: str, headers: list[tuple[str, str]], *_: Any) -> Any:
        self.status, self.headers = status, dict(headers)


ENVIRON: dict[str, Any] = {"REQUEST_METHOD": "GET", TARGET: "/", HEADERS: [("Host", "x")], "REMOTE_ADDR": "127.0.0.1"}
ANSWER = {"statusCode": 200, "headers": {"content-type": ["text/plain"]}, "body": "hello"}


@pytest.mark.parametrize(
    ("client", "tells"),
    [
        pytest.param("127.0.0.1", True, id="this machine"),
        pytest.param("::1", True, id="this machine by IPv6"),
        pytest.param("192.168.1.7", False, id="another machine"),
    ],
)
def test_failures(client: str, tells: bool) -> None:
    """Why the function failed is told to this machine only, as text that no browser takes for more."""
    instances = Instances(None, "Traceback: <script>secret</script>\n")
    response = Response(instances, REMOTE_ADDR=client)
    assert response.status == "502 Bad Gateway"
    assert (b"secret" in response.body) is tells
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.headers["x-content-type-options"] == "nosniff"
    (served,) = response.served
    assert (served.status, "secret" in served.failure) == (502, True)
    assert instances.answered.settled == 1


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        pytest.param(ClosedError("it is ending"), "503 Service Unavailable", b"it is ending\n", id="ending"),
        pytest.param(OSError(11, "no more"), "502 Bad Gateway", b"could not start a process", id="no process"),
    ],
)
def test_no_instance(error: Exception, status: str, said: bytes) -> None:
    """Without an instance there is an answer that says why, and nothing is told of an invocation."""
    response = Response(Instances(error=error))
    assert (response.status, response.served) == (status, [])
    assert said in response.body


@pytest.mark.parametrize(
    ("method", "answer", "length", "body"),
    [
        pytest.param("GET", {}, "5", b"hello", id="told by us"),
        pytest.param("GET", {"headers": {"content-length": ["5"]}}, "5", b"hello", id="told by the app"),
        pytest.param("GET", {"statusCode": 204, "body": ""}, None, b"", id="no content"),
        pytest.param("GET", {"statusCode": 304, "body": ""}, None, b"", id="not modified"),
        pytest.param("HEAD", {"headers": {"content-length": ["5"]}, "body": ""}, "5", b"", id="head"),
        pytest.param("HEAD", {"body": ""}, None, b"", id="head, unknown"),
        pytest.param("GET", {"body": "/w==", "encoding": "base64"}, "1", b"\xff", id="binary"),
        pytest.param("GET", {"statusCode": 299}, "5", b"hello", id="a status without a name"),
    ],
)
def test_lengths(method: str, answer: dict[str, Any], length: str | None, body: bytes) -> None:
    """A body's length is told where there can be a body."""
    response = Response(Instances({**ANSWER, **answer}), REQUEST_METHOD=method)
    assert (response.headers.get("content-length"), response.body) == (length, body)
    assert response.status.startswith(str(answer.get("statusCode", 200)))


@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.parametrize(("more", "status"), [pytest.param(0, 200, id="enough"), pytest.param(1, 413, id="too much")])
def test_large_bodies(more: int, status: int, is_chunked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body as long as may be is taken, a longer one refused, whether its length is told or not."""
    monkeypatch.setattr(front, "_MAX_BODY_BYTES", 1000)
    body = b"x" * (1000 + more)
    told: dict[str, Any] = {"wsgi.input_terminated": True} if is_chunked else {"CONTENT_LENGTH": str(len(body))}
    instances = Instances(ANSWER)
    response = Response(instances, REQUEST_METHOD="POST", **told, **{"wsgi.input": io.BytesIO(body)})
    assert response.status.startswith(f"{status} ")
    assert len(instances.events) == (status == 200)


def test_a_broken_body() -> None:
    """A client that goes away in the middle of its body is no event."""
    instances = Instances(ANSWER)
    response = Response(instances, REQUEST_METHOD="POST", CONTENT_LENGTH="10", **{"wsgi.input": io.BytesIO(b"short")})
    assert response.status == "400 Bad Request"
    assert instances.events == []


@pytest.mark.parametrize(
    ("told", "trace_id"),
    [
        pytest.param(
            ["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"], "0af7651916cd43dd8448eb211c80319c", id="ours"
        ),
        pytest.param(["mine"], "", id="the app's own"),
        pytest.param([], "", id="none"),
    ],
)
def test_trace_ids(told: list[str], trace_id: str) -> None:
    """The trace of an answer is the one that its header names."""
    response = Response(Instances({**ANSWER, "headers": {"traceresponse": told}}))
    assert [served.trace_id for served in response.served] == [trace_id]


def test_a_stand_in_of_this_file() -> None:
    """What stands for an answered event here has all that the real one has."""
    public = {name for name in vars(Answered(None, None, None, "", is_cold=True, waited_ns=0)) if name[0] != "_"}  # type: ignore[arg-type]
    assert public | {"settle"} <= {*dir(Settling), *vars(Settling(None, ""))}
