"""Behind each gateway of an emulated AWS, over real HTTP, the app sees what it sees under uvicorn."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl

import pytest

from tests.aws.stack import WAYS, Reply, Stack
from tests.events.lambda_events import ASKED, Asked
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
        "query": scope["query_string"].decode(), "server": scope["server"], "body": base64.b64encode(body).decode(),
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
            reply = ask(running.port, Case(name, asked.method, asked.target, asked.body, tuple(asked.own_headers)))
            assert reply is not None
            replies[name] = Reply(reply.status, list(reply.headers), reply.body)
    return replies


def seen(reply: Reply, asked: Asked) -> dict[str, Any]:
    """Return what the app saw, to compare: the headers that the client sent, and the path without its mount."""
    told = json.loads(reply.body)
    headers: dict[str, list[str]] = {name.lower(): [] for name, _ in asked.own_headers}
    for name, value in told["headers"]:
        if name in headers:
            headers[name].append(value)
    return {
        "method": told["method"],
        "path": told["path"].removeprefix(told["root"]) or "/",
        "query": parse_qsl(told["query"], keep_blank_values=True),
        # One with commas is the same to HTTP.
        "headers": {name: [part.strip() for part in ",".join(values).split(",")] for name, values in headers.items()},
        "body": base64.b64decode(told["body"]),
    }


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ASKED)
def test_the_request(name: str, way: str, stack: Stack, under_uvicorn: dict[str, Reply]) -> None:
    """Method, path, query, headers and body are the same, and so is the status."""
    asked = ASKED[name]
    reply = stack.ask(way, asked.method, asked.target, asked.own_headers, asked.body)
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


# The emulated Function URL tells its own host, however it was called.
@pytest.mark.parametrize("way", WAYS[1:])
def test_a_host_of_ipv6(way: str, stack: Stack) -> None:
    """Its brackets are no part of the server's name."""
    reply = stack.ask(way, "GET", "/x", [], b"", host="[2001:db8::1]:8080")
    told = json.loads(reply.body)
    assert ["host", "[2001:db8::1]:8080"] in told["headers"]
    assert told["server"] == ["2001:db8::1", 8080]


def test_the_mount(stack: Stack) -> None:
    """A REST API's stage is where the app is mounted."""
    told = json.loads(stack.ask("rest api", "GET", "/items/7", [], b"").body)
    assert (told["root"], told["path"]) == ("/prod", "/prod/items/7")
