"""Behind each gateway of an emulated AWS, over real HTTP, the app sees what it sees under uvicorn."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import pytest

from tests.aws.stack import WAYS, Reply, Stack
from tests.instrumented.servers import Case, ask, served

pytest.importorskip("ministack", reason="it comes with the dev extra")
pytest.importorskip("boto3", reason="it comes with the dev extra")
pytestmark = [pytest.mark.frameworks, pytest.mark.telemetry]

APP = """
import base64, json

async def app(scope, receive, send):
    assert scope["type"] == "http"
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    told = {
        "method": scope["method"], "path": scope["path"], "root": scope["root_path"],
        "query": scope["query_string"].decode(), "body": base64.b64encode(body).decode(),
        "headers": [[name.decode(), value.decode("latin-1")] for name, value in scope["headers"]],
    }
    if b"binary" in scope["query_string"]:
        headers, data = [(b"content-type", b"image/png")], bytes(range(256))
    else:
        headers, data = [(b"content-type", b"application/json")], json.dumps(told).encode()
    headers += [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"x-app", b"here")]
    status = 201 if b"created" in scope["query_string"] else 200
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})
"""


class Ask(NamedTuple):
    """One request."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


ASKED = {
    "plain": Ask("GET", "/items/7"),
    "root": Ask("GET", "/"),
    "space": Ask("GET", "/a%20b"),
    "percent": Ask("GET", "/100%25/x"),
    "unicode": Ask("GET", "/caf%C3%A9/%F0%9F%90%8D"),
    "plus": Ask("GET", "/a+b?c=d+e"),
    "repeated keys": Ask("GET", "/?a=1&a=2&b=3"),
    "encoded query": Ask("GET", "/?a=%26%3D%2B&caf%C3%A9=1"),
    "empty value": Ask("GET", "/?a=&b=1"),
    "cookies": Ask("GET", "/", (("cookie", "a=1; b=2"),)),
    "headers": Ask("GET", "/", (("x-one", "1"), ("X-Mixed-Case", "Two"))),
    "text": Ask("POST", "/", (("content-type", "text/plain"),), "caf\u00e9".encode()),
    "json": Ask("PUT", "/x", (("content-type", "application/json"),), b'{"a": 1}'),
    "form": Ask("POST", "/", (("content-type", "application/x-www-form-urlencoded"),), b"a=1&b=x+y"),
    "binary": Ask("POST", "/", (("content-type", "application/octet-stream"),), bytes(range(256))),
    "delete": Ask("DELETE", "/items/7"),
    "created": Ask("POST", "/?created=1", (("content-type", "text/plain"),), b"x"),
}

# A load balancer that sends no lists has the last of several values.
LAST_ONLY = {("repeated keys", "load balancer")}
# The emulated one decodes what is in its lists, and the real one does not.
DECODED = {("encoded query", "load balancer, lists")}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The emulated AWS."""
    with Stack(tmp_path_factory.mktemp("stack"), APP) as stack:
        yield stack


@pytest.fixture(scope="module")
def under_uvicorn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reply]:
    """What the same app answers there."""
    folder = tmp_path_factory.mktemp("uvicorn")
    folder.joinpath("plain_app.py").write_text(APP)
    replies = {}
    with served("uvicorn", None, "plain_app:app", "--app-dir", str(folder)) as running:
        for name, asked in ASKED.items():
            reply = ask(running.port, Case(name, asked.method, asked.target, asked.body, asked.headers))
            assert reply is not None
            replies[name] = Reply(reply.status, list(reply.headers), reply.body)
    return replies


def seen(reply: Reply, asked: Ask) -> dict[str, Any]:
    """Return what the app saw, to compare: the headers that the client sent, and the path without its mount."""
    told = json.loads(reply.body)
    names = {name.lower() for name, _ in asked.headers}
    return {
        "method": told["method"],
        "path": told["path"].removeprefix(told["root"]) or "/",
        "query": parse_qsl(told["query"], keep_blank_values=True),
        "headers": sorted(pair for pair in told["headers"] if pair[0] in names),
        "body": base64.b64decode(told["body"]),
    }


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ASKED)
def test_the_request(name: str, way: str, stack: Stack, under_uvicorn: dict[str, Reply]) -> None:
    """Method, path, query, headers and body are the same, and so is the status."""
    asked = ASKED[name]
    reply = stack.ask(way, asked.method, asked.target, list(asked.headers), asked.body)
    assert reply.status == under_uvicorn[name].status
    told, expected = seen(reply, asked), seen(under_uvicorn[name], asked)
    if (name, way) in LAST_ONLY:
        expected["query"] = list(dict(expected["query"]).items())
    if (name, way) in DECODED:
        del told["query"], expected["query"]
    assert told == expected


@pytest.mark.parametrize("way", WAYS)
def test_the_answer(way: str, stack: Stack) -> None:
    """A binary body, a header and each cookie reach the client."""
    # A REST API turns base64 back into bytes for who accepts such.
    reply = stack.ask(way, "GET", "/?binary=1", [("accept", "image/png")], b"")
    assert reply.body == bytes(range(256))
    assert ("x-app", "here") in [(name.lower(), value) for name, value in reply.headers]
    cookies = [value for name, value in reply.headers if name.lower() == "set-cookie"]
    assert sorted(cookies) == ["a=1", "b=2"]


def test_the_mount(stack: Stack) -> None:
    """A REST API's stage is where the app is mounted."""
    told = json.loads(stack.ask("rest api", "GET", "/items/7", [], b"").body)
    assert (told["root"], told["path"]) == ("/prod", "/prod/items/7")
