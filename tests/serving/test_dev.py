"""``tracedbridge dev``, as a user runs it: a real process behind HTTP, and its traces in the real viewer."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import HANG_S
from tests.test_cli import ECHO, LISTENING, TIMEOUT_S, environment, is_alive, run

pytestmark = pytest.mark.telemetry

# Answers with the number of its process, and does what its path says.
PLAIN = """
import os, signal, sys, time

def app(environ, start_response):
    does = environ["PATH_INFO"].strip("/")
    if does == "raise":
        raise ValueError("a broken app")
    if does == "exit":
        os._exit(7)
    if does == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if does == "sleep":
        open("asleep", "w").close()
        time.sleep(600)
    headers = [("content-type", "text/plain"), ("set-cookie", "a=1"), ("set-cookie", "b=2")]
    start_response("200 OK", headers)
    return [str(os.getpid()).encode()]
"""

LIFESPAN = """
import os
from pathlib import Path

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        Path("stopped").write_text(str(os.getpid()))
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})
"""

PROXIED = """
import os, urllib.request

def app(environ, start_response):
    inner = b"inner"
    if environ["PATH_INFO"] == "/outer":
        url = f"http://127.0.0.1:{environ['SERVER_PORT']}/inner"
        inner = urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=60).read()
    start_response("200 OK", [])
    return [str(os.getpid()).encode() + b" " + inner]
"""


class Reply:
    """What the app's port answered."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        """Read it whole."""
        self.status = response.status
        self.headers = response.msg
        self.body = response.read()


class Dev:
    """A running ``tracedbridge dev``."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        """Read what it writes until its end."""
        self.process = process
        self._told = bytearray()
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        app = self.said(rb" on http://([0-9.]+):([0-9]+)/\n")
        self.host, self.port = app[1].decode(), int(app[2])
        self.viewer_port = int(self.said(rb"its traces on http://127\.0\.0\.1:([0-9]+)/")[1])

    def _read(self) -> None:
        assert self.process.stderr is not None
        while chunk := os.read(self.process.stderr.fileno(), 65536):
            with self._more:
                self._told += chunk
                self._more.notify_all()
        with self._more:
            self._more.notify_all()

    @property
    def console(self) -> str:
        """All that it has written until now, the app's own output included."""
        with self._more:
            return self._told.decode()

    def said(self, pattern: bytes, times: int = 1) -> re.Match[bytes]:
        """Wait until it has written that so often; return the last."""

        def found() -> list[re.Match[bytes]]:
            return list(re.finditer(pattern, self._told))

        with self._more:
            came = self._more.wait_for(lambda: len(found()) >= times, TIMEOUT_S)
            assert came, self._told.decode()
            return found()[times - 1]

    def ask(
        self, target: str = "/", method: str = "GET", body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Send one request."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=TIMEOUT_S)
        try:
            connection.request(method, target, body, dict(headers or {}))
            return Reply(connection.getresponse())
        finally:
            connection.close()

    def pid(self, target: str = "/") -> int:
        """Return the number of the process that answers."""
        reply = self.ask(target)
        assert reply.status == 200, reply.body
        return int(reply.body.split()[0])

    def viewer(self, path: str) -> Any:
        """Ask the viewer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.viewer_port, timeout=TIMEOUT_S)
        try:
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def end(self, number: int = signal.SIGINT) -> int:
        """Have it end and return its exit code."""
        self.process.send_signal(number)
        code = self.process.wait(TIMEOUT_S)
        self.join()
        return code

    def join(self) -> None:
        """Wait until all that it wrote has been read."""
        self._reader.join(HANG_S)


@contextmanager
def serving(
    folder: Path, *options: str, settings: Mapping[str, str] | None = None, name: str = "index.py"
) -> Iterator[Dev]:
    """Run ``tracedbridge dev`` on free ports while the block runs."""
    command = [sys.executable, "-c", LISTENING, "dev", name, "--port", "0", "--viewer-port", "0", *options]
    with subprocess.Popen(
        command,
        cwd=folder,
        env={**environment({}), "TRACEDBRIDGE_TELEMETRY": "on", **(settings or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        dev = Dev(process)
        try:
            yield dev
            if process.poll() is None:
                assert dev.end(signal.SIGTERM) == 128 + signal.SIGTERM
        finally:
            process.kill()
            dev.join()


def source(folder: Path, text: str) -> Path:
    """Write ``index.py`` and return its folder."""
    (folder / "index.py").write_text(text)
    return folder


def is_gone(pid: int) -> bool:
    """Wait for the end of a process; say whether it came."""
    until_s = time.monotonic() + HANG_S
    while is_alive(pid):
        if time.monotonic() > until_s:
            return False
        time.sleep(0.02)
    return True


def chunks() -> Iterator[bytes]:
    """Yield a body whose length nobody knows before."""
    yield from (b"one ", b"two ", b"three")


PLATFORMS = ("vercel", "aws")


@pytest.mark.parametrize(
    ("method", "target", "body", "expected"),
    [
        pytest.param(
            "GET",
            "/a%2Fb/%C3%A4?x=1&y=%20",
            None,
            {"path": "/a/b/ä", "query": "x=1&y=%20", "length": None},
            id="target",
        ),
        pytest.param("GET", "http://else.example/p?q=1", None, {"path": "/p", "query": "q=1"}, id="absolute target"),
        pytest.param("POST", "/", b"\x00\xff\x80", {"body": "\x00\xff\x80", "length": "3"}, id="binary body"),
        pytest.param("PUT", "/", chunks, {"body": "one two three", "length": "13"}, id="chunked body"),
        pytest.param("POST", "/", b"x" * 3_000_000, {"length": "3000000"}, id="large body"),
    ],
)
def test_requests(echo: Dev, method: str, target: str, body: Any, expected: dict[str, str | None]) -> None:
    """The app gets the request as it was sent."""
    reply = echo.ask(target, method, body() if callable(body) else body, {"content-type": "a/b"})
    assert reply.status == 200
    told = json.loads(reply.body)
    assert {key: told[key].encode("latin-1").decode() if key == "path" else told[key] for key in expected} == expected
    assert (told["method"], told["type"]) == (method, "a/b")


def test_request_headers(echo: Dev) -> None:
    """Repeated headers arrive, hop-by-hop ones do not, and who the client is says the front."""
    connection = http.client.HTTPConnection("127.0.0.1", echo.port, timeout=TIMEOUT_S)
    connection.putrequest("GET", "/")
    for name, value in [
        ("X-Twice", "1"), ("X-Twice", "2"), ("Connection", "X-Secret"), ("X-Secret", "s"), ("TE", "trailers"),
        ("X-Forwarded-For", "6.6.6.6"), ("X-Real-IP", "6.6.6.6"),
    ]:  # fmt: skip
        connection.putheader(name, value)
    connection.endheaders()
    headers = json.loads(Reply(connection.getresponse()).body)["headers"]
    connection.close()
    assert headers["X_TWICE"] in ("1,2", "1, 2")
    assert headers["X_FORWARDED_FOR"] == "127.0.0.1"
    # Vercel's own.
    assert headers.get("X_REAL_IP") in ("127.0.0.1", None)
    assert headers["HOST"] == headers["X_FORWARDED_HOST"] == f"127.0.0.1:{echo.port}"
    assert not {"TE", "CONNECTION", "X_SECRET", "TRANSFER_ENCODING"} & set(headers)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_responses(platform: str, tmp_path: Path) -> None:
    """The app's headers come as it gave them, repeated ones apart; HEAD has no body; nothing is invented."""
    with serving(source(tmp_path, PLAIN), "--platform", platform) as dev:
        reply, head = dev.ask(), dev.ask(method="HEAD")
    assert reply.headers.get_all("set-cookie") == ["a=1", "b=2"]
    assert reply.headers["content-type"] == "text/plain"
    assert int(reply.headers["content-length"]) == len(reply.body) > 0
    assert (head.status, head.body) == (200, b"")


@pytest.fixture(name="echo", scope="module", params=PLATFORMS)
def echo_app(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    """A server whose app tells what it was asked."""
    with serving(source(tmp_path_factory.mktemp("echo"), ECHO), "--platform", request.param) as dev:
        yield dev


@pytest.mark.parametrize("platform", PLATFORMS)
def test_traces(platform: str, tmp_path: Path) -> None:
    """A response names its trace, which is in the viewer and on the console; the first one has the cold start."""
    with serving(source(tmp_path, PLAIN), "--platform", platform) as dev:
        cold, warm = dev.ask("/items?token=%1b[31m"), dev.ask("/warm")
        dev.said(rb"\nGET /warm  200 ")
        dev.said(rb"GET +\S+ .* 200\n\Z")
        traces = {trace["traceId"]: trace for trace in dev.viewer("/api/viewer/traces")["traces"]}
        console = dev.console
        viewer_port = dev.viewer_port
    ids = [reply.headers["traceresponse"].split("-")[1] for reply in (cold, warm)]
    assert [traces[trace_id]["cold"] for trace_id in ids] == ["on_demand", None]
    for reply, is_cold in ((cold, True), (warm, False)):
        timing = reply.headers["server-timing"]
        assert f'traceparent;desc="{reply.headers["traceresponse"]}"' in timing
        assert ("app_import;dur=" in timing) is is_cold
    assert re.search(
        rf"\nGET /items\?token=%1b\[31m  200  [0-9.]+ m?s  cold  http://127.0.0.1:{viewer_port}/#/trace/{ids[0]}\n",
        console,
    )
    assert f"trace {ids[0]}" in console
    assert "  cold start " in console
    assert f"trace {ids[1]}" in console
    assert "\x1b" not in console


@pytest.mark.parametrize(
    ("options", "processes"), [pytest.param((), 1, id="warm"), pytest.param(("--cold",), 3, id="each one cold")]
)
def test_processes(tmp_path: Path, options: tuple[str, ...], processes: int) -> None:
    """One process answers all requests, or each its own, which ends after its answer."""
    with serving(source(tmp_path, PLAIN), *options) as dev:
        pids = [dev.pid() for _ in range(3)]
        assert len(set(pids)) == processes
        if options:
            assert all(is_gone(pid) for pid in pids)
            colds = [each["traceId"] for each in dev.viewer("/api/viewer/coldstarts")["coldstarts"]]
            assert len(set(colds)) == processes


@pytest.mark.parametrize("name", ["index.py", "index:app"])
def test_a_change(tmp_path: Path, name: str) -> None:
    """After a change of the source, of a module that it imports or of a new file the next request is a cold start."""
    (tmp_path / "other.py").write_text("")
    with serving(source(tmp_path, PLAIN), name=name) as dev:
        first = dev.pid()
        assert dev.pid() == first
        (tmp_path / "other.py").write_text("more = 1")
        second = dev.pid()
        source(tmp_path, PLAIN.replace("str(os.getpid())", "str(-os.getpid())"))
        third = dev.pid()
        (tmp_path / "new.py").write_text("")
        dev.said(rb"new\.py changed: the next request")
        assert third < 0
        assert len({first, second, -third, dev.pid()}) == 4
        assert is_gone(first)
        assert is_gone(second)


def test_a_module_elsewhere(tmp_path: Path) -> None:
    """What the app has loaded from outside of its folder is looked at, too."""
    lib = tmp_path / "lib"
    lib.mkdir()
    (lib / "shared.py").write_text("")
    folder = tmp_path / "api"
    folder.mkdir()
    with serving(source(folder, f"import sys; sys.path.append({str(lib)!r})\nimport shared\n" + PLAIN)) as dev:
        first = dev.pid()
        dev.said(rb"\nGET /  200 ")
        (lib / "shared.py").write_text("changed = True")
        assert dev.pid() != first


def test_a_broken_app(tmp_path: Path) -> None:
    """An app that cannot be imported is a 502 with its traceback, an error trace, and tried again next time."""
    with serving(source(tmp_path, "import json\n\n1 / 0\n")) as dev:
        reply = dev.ask()
        assert reply.status == 502
        dev.said(rb"\ntracedbridge: could not")
        for text in (reply.body.decode(), dev.console):
            assert 'index.py", line 3' in text
            assert "ZeroDivisionError" in text
            assert "tracedbridge: could not" in text
        assert reply.headers["content-type"] == "text/plain; charset=utf-8"
        dev.said(rb"\nGET /  502 .*cold ")
        dev.said("\ncold start .*✗\n  import app .*✗\n".encode())
        source(tmp_path, PLAIN)
        assert dev.ask().status == 200


@pytest.mark.parametrize(
    ("does", "how"),
    [pytest.param("exit", "ended with exit code 7", id="exit"), pytest.param("kill", "died by SIGKILL", id="signal")],
)
def test_a_dying_app(tmp_path: Path, does: str, how: str) -> None:
    """A process that dies is a 502 that says how; the next request gets a new one, also if it died unasked."""
    with serving(source(tmp_path, PLAIN)) as dev:
        first = dev.pid()
        reply = dev.ask(f"/{does}")
        assert (reply.status, reply.body.decode()) == (
            502, f"tracedbridge: could not answer the event: the app's process {how}\n",
        )  # fmt: skip
        second = dev.pid()
        dev.said(rb"\nGET /  200 ", times=2)
        os.kill(second, signal.SIGKILL)
        assert len({first, second, dev.pid()}) == 3


def test_a_raising_app(tmp_path: Path) -> None:
    """An app that raises is answered as on the platform, and its process goes on; one that is to raise is a 502."""
    with serving(source(tmp_path, PLAIN)) as dev:
        first = dev.pid()
        assert dev.ask("/raise").status == 500
        assert dev.pid() == first
        dev.said(rb"GET .* 500 .*ValueError")
    with serving(tmp_path, settings={"TRACEDBRIDGE_RAISE_ERRORS": "on"}) as dev:
        first = dev.pid()
        reply = dev.ask("/raise")
        assert reply.status == 502
        assert b"ValueError: a broken app" in reply.body
        assert dev.pid() == first


def test_an_app_that_calls_itself(tmp_path: Path) -> None:
    """A request that finds all instances at work gets another one after a while, as on the platform."""
    with serving(source(tmp_path, PROXIED)) as dev:
        outer, inner, _ = dev.ask("/outer").body.split()
    assert outer != inner


def test_many_at_once(tmp_path: Path) -> None:
    """Requests that come together are all answered, each once, and a quick app needs one instance for them."""
    with serving(source(tmp_path, PLAIN)) as dev:
        dev.pid()
        with ThreadPoolExecutor(20) as pool:
            pids = list(pool.map(dev.pid, [f"/{number}" for number in range(60)]))
        assert len(pids) == 60
        assert len(set(pids)) == 1
        dev.said(rb"\nGET /[0-9]+  200 ", times=60)


def test_the_end(tmp_path: Path) -> None:
    """Ctrl-C runs lifespan shutdown, saves what is exported last, and leaves no process behind."""
    with serving(source(tmp_path, LIFESPAN), "--save", "saved.jsonl") as dev:
        pid = dev.pid()
        assert dev.end() == 0
        assert dev.console.count("tracedbridge: ending") == 1
    assert (tmp_path / "stopped").read_text() == str(pid)
    assert not is_alive(pid)
    assert "lifespan shutdown" in (tmp_path / "saved.jsonl").read_text()


def test_the_end_of_a_request(tmp_path: Path) -> None:
    """Who is at work when the end comes is ended, too, and his client gets an answer."""
    with serving(source(tmp_path, PLAIN)) as dev, ThreadPoolExecutor(1) as pool:
        pid = dev.pid()
        asleep = pool.submit(dev.ask, "/sleep")
        until_s = time.monotonic() + HANG_S
        while not (tmp_path / "asleep").exists() and time.monotonic() < until_s:
            time.sleep(0.01)
        assert dev.end() == 0
        assert asleep.result(TIMEOUT_S).status == 502
    assert not is_alive(pid)


def test_a_death_of_ours(tmp_path: Path) -> None:
    """However we end, an instance that waits for events ends with us."""
    with serving(source(tmp_path, PLAIN)) as dev:
        pid = dev.pid()
        dev.end(signal.SIGKILL)
    assert is_gone(pid)


def test_saved_and_viewed(tmp_path: Path) -> None:
    """What was saved is opened again by ``tracedbridge view``, with the same traces."""
    with serving(source(tmp_path, PLAIN), "--save", "saved.jsonl") as dev:
        dev.ask("/one")
        dev.ask("/two")
        dev.said(rb"\nGET /two  200 ")
        before = dev.viewer("/api/viewer/traces")["traces"]
    command = [sys.executable, "-c", LISTENING, "view", "saved.jsonl", "--viewer-port", "0"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment({}), stderr=subprocess.PIPE) as process:
        try:
            assert process.stderr is not None
            said = process.stderr.readline().decode()
            told = re.fullmatch(r"tracedbridge: saved\.jsonl on http://127\.0\.0\.1:([0-9]+)/; Ctrl-C ends\n", said)
            assert told, said
            connection = http.client.HTTPConnection("127.0.0.1", int(told[1]), timeout=TIMEOUT_S)
            connection.request("GET", "/api/viewer/traces")
            assert json.loads(connection.getresponse().read())["traces"] == before
            connection.close()
            process.send_signal(signal.SIGINT)
            assert process.wait(TIMEOUT_S) == 0
        finally:
            process.kill()
    assert len(before) == 2


@pytest.mark.parametrize(
    ("settings", "said", "comes"),
    [
        pytest.param(
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
                "OTEL_EXPORTER_OTLP_HEADERS": "authorization=secret",
                "OTEL_TRACES_EXPORTER": "none",
            },
            "goes to the viewer, whatever OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_HEADERS, "
            "OTEL_TRACES_EXPORTER says",
            True,
            id="another backend",
        ),
        pytest.param({"TRACEDBRIDGE_TELEMETRY": "off"}, "TRACEDBRIDGE_TELEMETRY=off", False, id="telemetry off"),
        pytest.param({"OTEL_SDK_DISABLED": "true"}, "OTEL_SDK_DISABLED=true", False, id="sdk disabled"),
    ],
)
def test_settings(tmp_path: Path, settings: dict[str, str], said: str, comes: bool) -> None:
    """All goes to the viewer wherever else it was to go; who switches telemetry off is told that nothing will come."""
    with serving(source(tmp_path, PLAIN), settings=settings) as dev:
        assert dev.ask().status == 200
        dev.said(rb"\nGET /  200 ")
        assert bool(dev.viewer("/api/viewer/traces")["traces"]) is comes
        assert said in dev.console
        assert "secret" not in dev.console


def test_another_port(echo: Dev, tmp_path: Path) -> None:
    """A port that is taken is no error: the next free one is used, and told."""
    ports = ("--port", str(echo.port), "--viewer-port", str(echo.viewer_port))
    with serving(source(tmp_path, PLAIN), *ports) as dev:
        assert echo.port < dev.port <= echo.port + 50
        assert echo.viewer_port < dev.viewer_port <= echo.viewer_port + 51
        assert dev.ask().status == 200


def test_another_address(tmp_path: Path) -> None:
    """Who opens the app to others is warned; the viewer stays where it is."""
    with serving(source(tmp_path, PLAIN), "--host", "127.0.0.2") as dev:
        assert dev.host == "127.0.0.2"
        assert dev.ask().status == 200
        assert "warning: the app listens on 127.0.0.2, where others may reach it" in dev.console
        assert dev.viewer("/api/viewer/state")["endpoint"] == f"http://127.0.0.1:{dev.viewer_port}"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(("dev",), "APP", id="no app"),
        pytest.param(("dev", ""), "APP is empty", id="an empty app"),
        pytest.param(("dev", "nowhere.py"), "there is no file", id="no such file"),
        pytest.param(("dev", "index.py", "--platform", "moon"), "expected one of vercel, aws", id="no such platform"),
        pytest.param(("dev", "index.py", "--port", "70000"), "ports end at 65535", id="no such port"),
        pytest.param(("dev", "index.py", "--host", "1.2.3.4"), "choose another address", id="no address of ours"),
        pytest.param(("dev", "index.py", "--ui-dir", "."), "no index.html", id="no UI"),
        pytest.param(("view",), "FILE", id="no file"),
        pytest.param(("view", "nowhere.jsonl"), "could not read 'nowhere.jsonl'", id="no such file to view"),
        pytest.param(("view", "index.py"), "line 1", id="another file"),
    ],
)
def test_wrong_usage(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    """Wrong usage ends with a message that says what to do, and without a traceback."""
    done = run(source(tmp_path, PLAIN), *arguments)
    assert done.returncode in (1, 2)
    assert said in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()
