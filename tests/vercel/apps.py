"""
Small apps of the three kinds, without a framework: `app`, `wsgi_app` and `Handler` do what the path of a request says.

Runs in a folder of its own, without the rest of the tests: it may import nothing of them.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import hashlib
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any, NamedTuple, Never
from urllib.parse import parse_qs, urlsplit

__all__ = ("Handler", "app", "wsgi_app")

# Whoever waits longer than this is in a test that fails.
HANG_S = 20.0

Headers = list[tuple[str, str]]


class Asked(NamedTuple):
    """A request, the same for the three kinds."""

    method: str
    path: str
    query: dict[str, str]
    headers: Headers
    body: bytes


class Start(NamedTuple):
    """A step: status and headers go out."""

    headers: Headers
    status: int = 200


class Meet(NamedTuple):
    """A step: waits until the test lets it go on."""

    name: str


class Done(NamedTuple):
    """A step: the response is whole, and the app goes on."""


class Endless(NamedTuple):
    """A step: sends, or waits, until the client has gone away, and prints how the app was told."""


Script = Iterator[Start | Meet | Done | Endless | bytes]
"""What an app does in one request, step by step; each kind does the steps in its own way."""


class BrokenError(Exception):
    """What these apps raise."""


me: contextvars.ContextVar[str] = contextvars.ContextVar("me", default="")


# What a request does.


def echo(asked: Asked) -> Script:
    """Answer with what came."""
    yield Start([("content-type", "application/json"), ("x-kept", "1"), ("x-kept", "2")])
    digest = hashlib.sha256(asked.body).hexdigest()
    yield json.dumps({**asked._asdict(), "body": len(asked.body), "sha256": digest}).encode()


def status(asked: Asked) -> Script:
    """Answer with a status and no body."""
    yield Start([], int(asked.query["code"]))


def large(asked: Asked) -> Script:
    """Answer with so many bytes, in one part."""
    size = int(asked.query["bytes"])
    yield Start([("content-length", str(size))])
    yield b"x" * size


def stream(asked: Asked) -> Script:
    """Send three parts, each after a meeting."""
    yield Start([("content-type", "text/plain")])
    for number in range(3):
        yield Meet(f"part {number}")
        yield f"part {number}\n".encode()


def leave(asked: Asked) -> Script:
    """Send one part, and then have the client go away."""
    yield Start([])
    yield b"first"
    yield Endless()


def fails(asked: Asked) -> Script:
    """Raise before, in the middle of, or after a response."""
    when = asked.query["when"]
    if when == "before":
        raise BrokenError(f"broken {when}")
    yield Start([("content-length", "8")])
    yield b"half"
    if when == "middle":
        raise BrokenError(f"broken {when}")
    yield b"half"
    yield Done()
    raise BrokenError(f"broken {when}")


def waits(asked: Asked) -> Script:
    """Answer after a meeting, and say whether everything is still this request's own."""
    name = asked.query["name"]
    before = me.get()
    me.set(name)
    print(f"before {name}")
    yield Meet(name)
    print(f"after {name}")
    yield Start([])
    yield f"{before}|{me.get()}|{name}".encode()


def says(asked: Asked) -> Script:
    """Write a line in one of many ways."""
    WAYS[asked.query["by"]](asked.query["text"])
    yield Start([])
    yield b"said"


def says_later(asked: Asked) -> Script:
    """Have a task, if there is a loop, print after the response has begun."""
    yield Start([])
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        print(asked.query["text"])
        yield b"said"
        return
    task = asyncio.create_task(_prints_after_a_turn(asked.query["text"]))
    yield b"said"
    yield Meet("task")
    assert task.done()


def says_after(asked: Asked) -> Script:
    """Leave a thread behind that prints when the request is over."""

    def work() -> None:
        meet("after")
        print(asked.query["text"])

    threading.Thread(target=work, daemon=True).start()
    yield Start([])
    yield b"said"


def floods(asked: Asked) -> Script:
    """Have six threads log so many bytes each, in one record, by way of logging and of print."""
    size = int(asked.query["bytes"])

    def log(number: int) -> None:
        text = f"{number}<" + str(number) * size + f">{number}"
        logging.getLogger("flood").warning("%s", text) if number % 2 else print(text)

    _in_threads(6, log)
    yield Start([])
    yield b"flooded"


def fetches(asked: Asked) -> Script:
    """Ask an HTTP server in one of many ways."""
    yield Start([])
    yield str(FETCHES[asked.query["by"]](asked.query["url"])).encode()


def exits(asked: Asked) -> Never:
    """End the process in the middle of a request."""
    print("the last words")
    os._exit(7)


SCRIPTS: dict[str, Callable[[Asked], Script]] = {
    "echo": echo, "exits": exits, "fails": fails, "fetches": fetches, "floods": floods, "large": large, "leave": leave,
    "says": says, "says-after": says_after, "says-later": says_later, "status": status, "stream": stream,
    "waits": waits,
}  # fmt: skip


def script_of(asked: Asked) -> Script:
    """Return what a request asks for by the first part of its path."""
    return SCRIPTS.get(asked.path.split("/")[1], echo)(asked)


# How to say something.


def _by_print(text: str) -> None:
    print(text)


def _by_print_to_stderr(text: str) -> None:
    print(text, file=sys.stderr)


def _by_pieces(text: str) -> None:
    for piece in text:
        print(piece, end="")
    print()


def _by_bytes(text: str) -> None:
    sys.stdout.buffer.write(f"{text}\n".encode())
    sys.stdout.flush()


def _by_structlog(text: str) -> None:
    import structlog

    structlog.get_logger().warning(text)


def _by_exception(text: str) -> None:
    try:
        raise BrokenError(text)
    except BrokenError:
        logging.getLogger("shop").exception("caught it")


def _by_warnings(text: str) -> None:
    warnings.warn(text, UserWarning, stacklevel=2)


def _by_subprocess(text: str) -> None:
    subprocess.run([sys.executable, "-c", f"print({text!r}, flush=True)"], check=True, timeout=HANG_S)


def _by_thread(text: str) -> None:
    _in_threads(1, lambda _: print(text))


def _by_executor(text: str) -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        executor.submit(contextvars.copy_context().run, print, text).result(HANG_S)


WAYS: dict[str, Callable[[str], None]] = {
    "bytes": _by_bytes,
    "debug": lambda text: _logs(logging.DEBUG, text),
    "info": lambda text: _logs(logging.INFO, text),
    "warning": lambda text: _logs(logging.WARNING, text),
    "error": lambda text: _logs(logging.ERROR, text),
    "critical": lambda text: _logs(logging.CRITICAL, text),
    "descriptor 1": lambda text: _writes(1, text),
    "descriptor 2": lambda text: _writes(2, text),
    "exception": _by_exception,
    "executor": _by_executor,
    "pieces": _by_pieces,
    "print": _by_print,
    "print to stderr": _by_print_to_stderr,
    "structlog": _by_structlog,
    "subprocess": _by_subprocess,
    "thread": _by_thread,
    "warnings": _by_warnings,
}


def _logs(level: int, text: str) -> None:
    logger = logging.getLogger("shop")
    logger.setLevel(logging.DEBUG)
    logger.log(level, "%s", text)


def _writes(descriptor: int, text: str) -> None:
    os.write(descriptor, f"{text}\n".encode())


def _in_threads(count: int, work: Callable[[int], None]) -> None:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_S)


async def _prints_after_a_turn(text: str) -> None:
    await asyncio.sleep(0)
    print(text)


# How to ask.


def _by_urllib(url: str) -> int:
    import urllib.request

    with urllib.request.urlopen(url, timeout=HANG_S) as response:
        return int(response.status)


def _by_http_client(url: str) -> int:
    import http.client

    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=HANG_S)
    connection.request("GET", f"{parts.path}?{parts.query}")
    with connection.getresponse() as response:
        response.read()
    connection.close()
    return response.status


def _by_httpx(url: str) -> int:
    import httpx

    return int(httpx.get(url, timeout=HANG_S).status_code)


def _by_async_httpx(url: str) -> int:
    import httpx

    async def ask() -> int:
        async with httpx.AsyncClient(timeout=HANG_S) as client:
            return int((await client.get(url)).status_code)

    # On a loop of its own: this one, if there is one, is busy with us.
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        return executor.submit(contextvars.copy_context().run, asyncio.run, ask()).result(HANG_S)


FETCHES: dict[str, Callable[[str], int]] = {
    "http.client": _by_http_client,
    "httpx": _by_httpx,
    "httpx, async": _by_async_httpx,
    "urllib": _by_urllib,
}


# Meetings with the test.


def meet(name: str) -> None:
    """Say that we are here, and wait."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as gate:
        gate.settimeout(HANG_S)
        gate.connect(os.environ["TEST_GATE"])
        gate.sendall(f"{name}\n".encode())
        gate.recv(1)


async def meet_soon(name: str) -> None:
    """Say that we are here, and wait, while the loop goes on."""
    reader, writer = await asyncio.open_unix_connection(os.environ["TEST_GATE"])
    writer.write(f"{name}\n".encode())
    await asyncio.wait_for(reader.read(1), HANG_S)
    writer.close()


# The three kinds.


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """ASGI 3."""
    if scope["type"] == "lifespan":
        await _live(receive, send)
    elif scope["type"] == "websocket":
        await _converse(scope, receive, send)
    else:
        await _serve(scope, receive, send)


async def _live(receive: Any, send: Any) -> None:
    await receive()
    print("lifespan startup")
    # Given by the test that measures it, and wants it to be seen.
    await asyncio.sleep(float(os.environ.get("TEST_STARTUP_S", "0")))
    await send({"type": "lifespan.startup.complete"})
    await receive()
    print("lifespan shutdown")
    await send({"type": "lifespan.shutdown.complete"})


async def _converse(scope: dict[str, Any], receive: Any, send: Any) -> None:
    assert (await receive())["type"] == "websocket.connect"
    if scope["path"] == "/refused":
        await send({"type": "websocket.close", "code": 1000})
        return
    if scope["path"] == "/fails":
        raise BrokenError("broken before")
    await send({"type": "websocket.accept", "headers": []})
    while (message := await receive())["type"] == "websocket.receive":
        print(f"heard {message.get('text')}")
        if message.get("text") == "headers":
            names = sorted(name.decode() for name, _ in scope["headers"])
            await send({"type": "websocket.send", "text": json.dumps(names)})
        elif message.get("text") == "break":
            raise BrokenError("broken conversation")
        else:
            await send({key: message[key] for key in ("text", "bytes") if message.get(key) is not None}
                       | {"type": "websocket.send"})  # fmt: skip


async def _serve(scope: dict[str, Any], receive: Any, send: Any) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
    query = scope["query_string"].decode("latin-1")
    is_whole = False
    for step in script_of(_asked(scope["method"], scope["path"], query, headers, body)):
        if isinstance(step, Start):
            raw = [(name.encode(), value.encode()) for name, value in step.headers]
            await send({"type": "http.response.start", "status": step.status, "headers": raw})
        elif isinstance(step, Meet):
            await meet_soon(step.name)
        elif isinstance(step, Done):
            await send({"type": "http.response.body", "body": b""})
            is_whole = True
        elif isinstance(step, Endless):
            while (await receive())["type"] != "http.disconnect":
                pass
            print("told by http.disconnect")
            return
        else:
            await send({"type": "http.response.body", "body": step, "more_body": True})
    if not is_whole:
        await send({"type": "http.response.body", "body": b""})


def wsgi_app(environ: dict[str, Any], start_response: Any) -> _Parts:
    """WSGI: up to its headers in the call, the rest as it is iterated, what comes after it in ``close()``."""
    headers = [(key[5:].replace("_", "-").lower(), value) for key, value in environ.items() if key[:5] == "HTTP_"]
    length = int(environ.get("CONTENT_LENGTH") or 0)
    body = environ["wsgi.input"].read(length) if length else b""
    script = script_of(_asked(environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["QUERY_STRING"], headers, body))
    for step in script:
        if isinstance(step, Start):
            start_response(f"{step.status} Told", step.headers)
            break
        assert isinstance(step, Meet)
        meet(step.name)
    return _Parts(script)


class _Parts:
    """The body of a WSGI response."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._is_endless = False

    def __iter__(self) -> Iterator[bytes]:
        for step in self._script:
            if isinstance(step, Meet):
                meet(step.name)
            elif isinstance(step, Done):
                return
            elif isinstance(step, Endless):
                self._is_endless = True
                until_s = time.monotonic() + HANG_S
                while time.monotonic() < until_s:
                    yield b"x" * 65_536
            else:
                assert isinstance(step, bytes)
                yield step

    def close(self) -> None:
        """Do what is left."""
        if self._is_endless:
            print("told by close()")
            return
        for _ in self._script:
            pass


class Handler(BaseHTTPRequestHandler):
    """A class of ``http.server``."""

    def do_GET(self) -> None:
        """Do as the path says."""
        parts = urlsplit(self.path)
        body = self._chunks() if "transfer-encoding" in self.headers else self._body()
        headers = [(name.lower(), value) for name, value in self.headers.items()]
        for step in script_of(_asked(self.command, parts.path, parts.query, headers, body)):
            if isinstance(step, Start):
                self.send_response(step.status)
                for name, value in step.headers:
                    self.send_header(name, value)
                self.end_headers()
            elif isinstance(step, Meet):
                meet(step.name)
            elif isinstance(step, Endless):
                self._write_until_it_fails()
            elif not isinstance(step, Done):
                self._write(step)

    do_HEAD = do_POST = do_GET  # noqa: N815 - the names that they have in http.server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name that it has in http.server
        """Say nothing: what a test looks for is what it has asked for."""

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def _chunks(self) -> bytes:
        # That is a handler's own affair in http.server.
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _write(self, part: bytes) -> None:
        if self.command != "HEAD":
            self.wfile.write(part)
            self.wfile.flush()

    def _write_until_it_fails(self) -> None:
        until_s = time.monotonic() + HANG_S
        try:
            while time.monotonic() < until_s:
                self._write(b"x" * 65_536)
        except OSError:
            print("told by OSError")
            raise


def _asked(method: str, path: str, query: str, headers: Headers, body: bytes) -> Asked:
    return Asked(method, path, {name: values[0] for name, values in parse_qs(query).items()}, headers, body)


if "TEST_SAY_EARLY" in os.environ:
    print("early print")
    logging.getLogger("shop").warning("early record")
    os.write(2, b"early descriptor\n")
if "TEST_SAY_MUCH_BYTES" in os.environ:
    for _number in range(4):
        print(f"part {_number} " + "y" * (int(os.environ["TEST_SAY_MUCH_BYTES"]) // 4))
