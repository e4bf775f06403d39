"""The command line, as a user runs it: a real process, a tiny app, standard output and standard error apart."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import tracedbridge

# A cold start with telemetry takes a second or two here; only a test that fails waits for so long.
TIMEOUT_S = 60

ECHO = """
import json

def app(environ, start_response):
    size = int(environ.get("CONTENT_LENGTH") or 0)
    headers = {key[5:]: value for key, value in environ.items() if key.startswith("HTTP_")}
    told = {
        "method": environ["REQUEST_METHOD"],
        "path": environ["PATH_INFO"],
        "query": environ["QUERY_STRING"],
        "length": environ.get("CONTENT_LENGTH"),
        "type": environ.get("CONTENT_TYPE"),
        "headers": headers,
        "body": environ["wsgi.input"].read(size).decode("latin-1"),
    }
    start_response("200 OK", [("content-type", "application/json")])
    return [json.dumps(told).encode()]
"""

HELLO = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"hello"})
"""


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment without any configuration of telemetry or streams, plus ``settings``."""
    ours = ("TRACEDBRIDGE_", "OTEL_", "VERCEL")
    # Unbuffered, as in many containers, what is written comes out in order by itself.
    streams = ("COLUMNS", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "PYTHONUNBUFFERED")
    environ = {name: value for name, value in os.environ.items() if not name.startswith((*ours, *streams))}
    environ["PYTHONPATH"] = str(Path(tracedbridge.__file__).parents[1])
    return {**environ, "TRACEDBRIDGE_TELEMETRY": "off", **settings}


def run(
    cwd: Path, *arguments: str, stdin: bytes = b"", settings: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run ``tracedbridge`` to its end, with telemetry off unless ``settings`` say otherwise."""
    return subprocess.run(
        [sys.executable, "-m", "tracedbridge", *arguments],
        cwd=cwd,
        env=environment(settings or {}),
        input=stdin,
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )


# A test run in the background ignores signals and passes that on to what it starts.
LISTENING = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from tracedbridge.cli import main
sys.exit(main())
"""


@contextmanager
def running(cwd: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``tracedbridge`` while the block runs."""
    with subprocess.Popen(
        [sys.executable, "-c", LISTENING, *arguments],
        cwd=cwd,
        env=environment({}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture(name="echo")
def echo_app(tmp_path: Path) -> Path:
    """A folder with an ``index.py`` that answers with what it was asked."""
    return app(tmp_path, ECHO)


def app(folder: Path, source: str) -> Path:
    """Write ``index.py`` and return its folder."""
    (folder / "index.py").write_text(source)
    return folder


def answers(done: subprocess.CompletedProcess[bytes]) -> list[Any]:
    """Return the answers on standard output, which must carry nothing else, of a run that must have succeeded."""
    assert done.returncode == 0, done.stderr.decode()
    return [json.loads(line) for line in done.stdout.splitlines()]


def echoed(done: subprocess.CompletedProcess[bytes]) -> dict[str, Any]:
    """Return what the one request looked like to the app."""
    (answer,) = answers(done)
    told: dict[str, Any] = json.loads(answer["body"])
    return told


def last_line(done: subprocess.CompletedProcess[bytes]) -> str:
    """Return the last line on standard error."""
    return done.stderr.decode().splitlines()[-1]


# What is asked.


def test_request_of_the_command_line(echo: Path) -> None:
    """METHOD and PATH become an event with the headers of Vercel's proxy."""
    told = echoed(run(echo, "invoke", "index.py", "GET", "/a%20b?x=1"))
    assert told == {
        "method": "GET",
        "path": "/a b",
        "query": "x=1",
        "length": None,
        "type": None,
        "headers": {
            "HOST": "localhost",
            "X_FORWARDED_PROTO": "http",
            "X_FORWARDED_FOR": "127.0.0.1",
            "X_REAL_IP": "127.0.0.1",
        },
        "body": "",
    }


def test_own_headers_win(echo: Path) -> None:
    """-H overrides what we would send, in any case, may come twice and anywhere on the line."""
    told = echoed(
        run(
            echo, "invoke", "-H", "HOST: shop.example", "index.py", "POST", "-H", "content-length:2", "/",
            "-d", "ab", "-H", "Accept: a", "-H", "accept:b", "--header", "X-Empty:",
        )
    )  # fmt: skip
    assert told["headers"]["HOST"] == "shop.example"
    assert told["headers"]["ACCEPT"] in ("a,b", "a, b")
    assert told["headers"]["X_EMPTY"] == ""
    assert (told["length"], told["body"]) == ("2", "ab")


@pytest.mark.parametrize(
    ("argument", "stdin", "body"),
    [
        pytest.param('{"a": "é"}', b"", '{"a": "é"}'.encode(), id="text"),
        pytest.param("", b"", b"", id="empty"),
        pytest.param("@data.bin", b"", b"\x00\xff\n", id="binary file"),
        pytest.param("@-", b"piped\n", b"piped\n", id="standard input"),
    ],
)
def test_data(echo: Path, argument: str, stdin: bytes, body: bytes) -> None:
    """-d sends text, a file or standard input byte by byte, with its length."""
    (echo / "data.bin").write_bytes(b"\x00\xff\n")
    told = echoed(run(echo, "invoke", "index.py", "POST", "/", "-d", argument, stdin=stdin))
    assert (told["length"], told["body"].encode("latin-1")) == (str(len(body)), body)


def test_chunked_data_has_no_length(tmp_path: Path) -> None:
    """A transfer-encoding of the user's own keeps our content-length out, as HTTP wants it."""
    source = """
from http.server import BaseHTTPRequestHandler
class handler(BaseHTTPRequestHandler):
    def do_POST(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(repr(self.headers["content-length"]).encode())
"""
    done = run(
        app(tmp_path, source), "invoke", "index.py", "POST", "/", "-d", "0\r\n\r\n", "-H", "Transfer-Encoding: chunked"
    )
    assert answers(done)[0]["body"] == "None"


@pytest.mark.parametrize("name", ["event.json", "-"])
def test_whole_event(echo: Path, name: str) -> None:
    """--event takes the event from a file or standard input as it is."""
    request = {"method": "PUT", "path": "/x", "headers": {"a": "b"}, "body": "aGk=", "encoding": "base64"}
    event = json.dumps({"Action": "Invoke", "body": json.dumps(request)}).encode()
    (echo / "event.json").write_bytes(event)
    told = echoed(run(echo, "invoke", "index.py", "--event", name, stdin=event))
    assert (told["method"], told["path"], told["headers"]["A"], told["body"]) == ("PUT", "/x", "b", "hi")


def test_one_process_answers_all(tmp_path: Path) -> None:
    """--repeat invokes in one process, in which the app is loaded once; each answer is a line."""
    source = (
        ECHO.replace("import json", "import json, os\ncount = 0")
        .replace('start_response("200 OK", []', "")
        .replace("    size =", "    global count\n    count += 1\n    size =")
        .replace('"method": environ["REQUEST_METHOD"]', '"count": count, "pid": os.getpid()')
    )
    lines = answers(run(app(tmp_path, source), "invoke", "index.py", "GET", "/", "--repeat", "3"))
    told = [json.loads(line["body"]) for line in lines]
    assert [each["count"] for each in told] == [1, 2, 3]
    assert len({each["pid"] for each in told}) == 1


def test_large_bodies_do_not_block(echo: Path) -> None:
    """Requests and answers larger than any pipe pass, several in one run."""
    (echo / "data.bin").write_bytes(b"x" * 300_000)
    done = run(echo, "invoke", "index.py", "POST", "/", "-d", "@data.bin", "--repeat", "4")
    assert [len(json.loads(line["body"])["body"]) for line in answers(done)] == [300_000] * 4


# What is answered.

NOISY = """
import os, subprocess, sys
print("at import")
def app(environ, start_response):
    print("print")
    os.write(1, b"descriptor 1\\n")
    sys.stdout.buffer.write(b"buffer\\n")
    sys.stdout.flush()
    sys.__stdout__.write("original\\n")
    subprocess.run(["echo", "a child"], check=True)
    start_response("200 OK", [])
    return [b"answer"]
"""


def test_standard_output_carries_answers_only(tmp_path: Path) -> None:
    """Whatever the app and its children write to standard output comes out on standard error, in order."""
    done = run(app(tmp_path, NOISY), "invoke", "index.py", "GET", "/")
    assert [answer["body"] for answer in answers(done)] == ["answer"]
    assert done.stderr.decode().splitlines() == [
        "at import", "print", "descriptor 1", "buffer", "original", "a child",
    ]  # fmt: skip


def test_bodies_only(tmp_path: Path) -> None:
    """--body writes the bytes of the bodies and not one more, of text as of anything else."""
    source = """
bodies = iter([b"\\x00\\xff", "é".encode(), b""])
def app(environ, start_response):
    start_response("200 OK", [])
    return [next(bodies)]
"""
    done = run(app(tmp_path, source), "invoke", "index.py", "GET", "/", "--repeat", "3", "--body")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"\x00\xff" + "é".encode(), b"")


def test_app_without_input(tmp_path: Path) -> None:
    """An app that reads standard input finds it empty: the events are not for its eyes."""
    source = """
import sys
def app(environ, start_response):
    start_response("200 OK", [])
    return [repr(sys.stdin.read()).encode()]
"""
    assert answers(run(app(tmp_path, source), "invoke", "index.py", "GET", "/"))[0]["body"] == "''"


def test_http_errors_are_answers(tmp_path: Path) -> None:
    """A 500 is an answer: the exit code is 0 and nothing is said about it."""
    (answer,) = answers(run(app(tmp_path, WSGI_RAISES), "invoke", "index.py", "GET", "/"))
    assert (answer["statusCode"], answer["body"]) == (500, "Internal Server Error")


# What goes wrong.


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param([], "COMMAND", id="nothing"),
        pytest.param(["fly"], "'fly'", id="no such command"),
        pytest.param(["invoke"], "APP", id="no app"),
        pytest.param(["invoke", " ", "GET", "/"], "APP is empty", id="empty app"),
        pytest.param(["invoke", "index.py"], "METHOD and PATH missing", id="no request"),
        pytest.param(["invoke", "index.py", "/"], "PATH missing", id="no method"),
        pytest.param(["invoke", "index.py", "GET", "/", "/"], "unrecognized arguments: /", id="too much"),
        pytest.param(["invoke", "index.py", "GET", "/", "-H", "x"], "-H 'x': expected 'Name: value'", id="no colon"),
        pytest.param(["invoke", "index.py", "GET", "/", "-H", ": x"], "expected 'Name: value'", id="no header name"),
        pytest.param(["invoke", "index.py", "GET", "/", "--repeat", "0"], "--repeat 0", id="repeat nothing"),
        pytest.param(["invoke", "index.py", "GET", "/", "--repeat", "x"], "'x'", id="repeat no number"),
        pytest.param(["invoke", "index.py", "GET", "/", "--event", "e"], "--event gives", id="two requests"),
        pytest.param(["invoke", "index.py", "--event", "e", "-d", "x"], "--event gives", id="event and data"),
        pytest.param(["invoke", "index.py", "--event", "none.json"], "'none.json': No such file", id="no event file"),
        pytest.param(["invoke", "index.py", "--event", "."], "'.': Is a directory", id="event is a folder"),
        pytest.param(["invoke", "index.py", "--event", "-"], "standard input: it is no JSON", id="event is no JSON"),
        pytest.param(["invoke", "index.py", "POST", "/", "-d", "@none"], "'none': No such file", id="no data file"),
    ],
)
def test_wrong_usage(echo: Path, arguments: list[str], told: str) -> None:
    """A wrong command line ends with exit code 2 and a last line that says what is wrong; nothing is run."""
    done = run(echo, *arguments, stdin=b"{")
    assert (done.returncode, done.stdout) == (2, b"")
    assert last_line(done).startswith("tracedbridge")
    assert told in last_line(done)
    assert b"Traceback" not in done.stderr


IMPORTS_BADLY = "def inner():\n    raise ValueError('broken config')\ninner()\n"
WSGI_RAISES = "def app(environ, start_response):\n    raise ValueError('boom')\n"
APP_OF = "def app(environ, start_response):\n    {}\n    start_response('200 OK', [])\n    return [b'ok']\n"


@pytest.mark.parametrize(
    ("source", "name", "told"),
    [
        pytest.param(HELLO, "none.py", "could not load app 'none.py': no file", id="no such file"),
        pytest.param(HELLO, "no_such:app", "no module 'no_such'", id="no such module"),
        pytest.param(HELLO, "index.py:none", "has no attribute 'none'", id="no such variable"),
        pytest.param("app = 7", "index.py", "could not load app 'index.py'", id="no app"),
        pytest.param(IMPORTS_BADLY, "index.py", "its import raised ValueError: broken config", id="import raises"),
        pytest.param("def app(:", "index.py", "SyntaxError", id="syntax error"),
        pytest.param("import no_such_library", "index.py", "no_such_library", id="missing library"),
        pytest.param("import sys; sys.exit(3)", "index.py", "the app called sys.exit(3)", id="exit at import"),
        pytest.param(
            "import os; os._exit(0)", "index.py", "exit code 0 after it had answered 0 of 1 event", id="gone at import"
        ),
        pytest.param(
            "import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "index.py", "died by SIGKILL", id="killed"
        ),
        pytest.param(
            APP_OF.format("raise SystemExit('no')"), "index.py", "called sys.exit('no')", id="exit in request"
        ),
    ],
)
def test_failures(tmp_path: Path, source: str, name: str, told: str) -> None:
    """What keeps an event from its answer is said in the last line; the exit code is 1."""
    done = run(app(tmp_path, source), "invoke", name, "GET", "/")
    assert (done.returncode, done.stdout) == (1, b"")
    assert last_line(done).startswith("tracedbridge: ")
    assert told in last_line(done)


def test_traceback_is_the_apps(tmp_path: Path) -> None:
    """An import that raises shows its own frames, none of ours and none of the import system's."""
    done = run(app(tmp_path, IMPORTS_BADLY), "invoke", "index.py", "GET", "/")
    shown = re.findall(r'File "([^"]+)", line (\d+), in (\S+)', done.stderr.decode())
    index = str(tmp_path / "index.py")
    assert shown == [(index, "3", "<module>"), (index, "2", "inner")]
    assert "\nValueError: broken config\n" in done.stderr.decode()


ASYNC_RAISES = (
    "async def app(scope, receive, send):\n    assert scope['type'] == 'http'\n    raise ValueError('boom')\n"
)


@pytest.mark.parametrize(("source", "line"), [(WSGI_RAISES, 2), (ASYNC_RAISES, 3)], ids=["wsgi", "asgi"])
def test_raised_errors_show_the_apps_traceback(tmp_path: Path, source: str, line: int) -> None:
    """With TRACEDBRIDGE_RAISE_ERRORS the app's exception ends the run, with its own frames and no other."""
    done = run(
        app(tmp_path, source),
        "invoke",
        "index.py",
        "GET",
        "/",
        "--repeat",
        "2",
        settings={"TRACEDBRIDGE_RAISE_ERRORS": "1"},
    )
    assert (done.returncode, done.stdout) == (1, b"")
    shown = re.findall(r'File "([^"]+)", line (\d+), in (\S+)', done.stderr.decode())
    assert shown == [(str(tmp_path / "index.py"), str(line), "app")]
    assert "could not answer event 1 of 2: the app raised ValueError" in last_line(done)


def test_event_of_no_format(echo: Path) -> None:
    """An event that the bridge does not know is a failure that says so, without a traceback."""
    done = run(echo, "invoke", "index.py", "--event", "-", stdin=b'{"version": "7"}')
    assert (done.returncode, done.stdout) == (1, b"")
    assert last_line(done).startswith("tracedbridge: could not answer event 1 of 1: ")
    assert b"Traceback" not in done.stderr


def test_death_between_two_answers(tmp_path: Path) -> None:
    """Answers that were given before the app's process died are printed; the death is reported."""
    source = "count = 0\n" + APP_OF.format(
        "import os, signal\n    global count\n    count += 1\n    if count == 2: os.kill(os.getpid(), signal.SIGSEGV)"
    )
    done = run(app(tmp_path, source), "invoke", "index.py", "GET", "/", "--repeat", "3", "--body")
    assert (done.returncode, done.stdout) == (1, b"ok")
    assert last_line(done) == "tracedbridge: the app's process died by SIGSEGV after it had answered 1 of 3 events"


HANGS = """
import os, sys, threading
def app(environ, start_response):
    print("hanging in", os.getpid(), flush=True)
    threading.Event().wait()
"""


def is_alive(pid: int) -> bool:
    """Say whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_ending_the_command_ends_the_app(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """Ctrl-C, SIGTERM and a closed terminal end the command and the app's process, quietly."""
    with running(app(tmp_path, HANGS), "invoke", "index.py", "GET", "/") as process:
        assert process.stderr is not None
        hanging = int(process.stderr.readline().split()[-1])
        process.send_signal(number)
        output, errors = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, output) == (code, b"")
    assert b"Traceback" not in errors
    assert not is_alive(hanging)


def test_second_interrupt_kills(tmp_path: Path) -> None:
    """An app that does not end by Ctrl-C is killed by the next one."""
    source = (
        HANGS
        + """
import os, signal
# Not print(): the signal may come while the app is inside of its own.
signal.signal(signal.SIGINT, lambda *_: os.write(2, b"not now\\n"))
"""
    )
    with running(app(tmp_path, source), "invoke", "index.py", "GET", "/") as process:
        assert process.stderr is not None
        hanging = int(process.stderr.readline().split()[-1])
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline() == b"not now\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 130
    assert not is_alive(hanging)


def sitecustomize(folder: Path, source: str) -> dict[str, str]:
    """Return settings under which every Python of the run does ``source`` first."""
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(source)
    return {"PYTHONPATH": os.pathsep.join((str(folder / "site"), environment({})["PYTHONPATH"]))}


def test_child_that_dies_at_once(echo: Path) -> None:
    """A Python that dies before it has read the event is reported, however large the event is."""
    (echo / "data.bin").write_bytes(b"x" * 300_000)
    dies = "import os, sys\nif 'tracedbridge.serving.invoke' in sys.orig_argv: os._exit(7)\n"
    done = run(echo, "invoke", "index.py", "POST", "/", "-d", "@data.bin", settings=sitecustomize(echo, dies))
    assert (done.returncode, done.stdout) == (1, b"")
    assert (
        last_line(done) == "tracedbridge: the app's process ended with exit code 7 after it had answered 0 of 1 event"
    )


def test_process_that_the_app_leaves_behind(tmp_path: Path) -> None:
    """A process that the app forked and left behind does not hold the command, though it holds its output open."""
    source = APP_OF.format("import os, signal\n    pid = os.fork() or signal.pause()\n    print(pid, flush=True)")
    with running(app(tmp_path, source), "invoke", "index.py", "GET", "/", "--body") as process:
        assert process.stderr is not None
        assert process.stdout is not None
        left_behind = int(process.stderr.readline())
        try:
            code = process.wait(TIMEOUT_S)
            assert is_alive(left_behind)
        finally:
            os.kill(left_behind, signal.SIGKILL)
        assert (code, process.stdout.read()) == (0, b"ok")


def test_reader_that_leaves(echo: Path) -> None:
    """A reader that goes away after one line is no traceback."""
    (echo / "data.bin").write_bytes(b"x" * 300_000)
    with running(echo, "invoke", "index.py", "POST", "/", "-d", "@data.bin", "--repeat", "3") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        select.select([process.stdout], [], [], TIMEOUT_S)
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(TIMEOUT_S) == 1
    assert errors == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a full device")
def test_full_disk(echo: Path) -> None:
    """An answer that cannot be written is a failure that says why."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "tracedbridge", "invoke", "index.py", "GET", "/"],
            cwd=echo,
            env=environment({}),
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=TIMEOUT_S,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == b"tracedbridge: could not write to standard output: No space left on device\n"


def test_help_and_version(tmp_path: Path) -> None:
    """-h and --version answer on standard output and succeed."""
    assert b"METHOD PATH" in run(tmp_path, "invoke", "-h").stdout
    assert b"invoke" in run(tmp_path, "-h").stdout
    version = run(tmp_path, "--version")
    assert (version.returncode, version.stdout.decode()) == (0, f"tracedbridge {tracedbridge.__version__}\n")


def test_the_command_line_is_cheap_to_import() -> None:
    """Importing the command line loads no server, no telemetry and nothing that draws."""
    program = "import sys, tracedbridge.cli; print([m for m in sys.modules if m.split('.')[0] in {0}])"
    heavy = {"opentelemetry", "structlog", "werkzeug", "rich", "asyncio", "google", "subprocess", "http"}
    done = subprocess.run(
        [sys.executable, "-c", program.format(heavy)],
        env=environment({}),
        capture_output=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    assert done.stdout == b"[]\n"


# Where the telemetry goes.


def plain_lines(done: subprocess.CompletedProcess[bytes]) -> list[str]:
    """Return the lines on standard error that are no log lines."""
    return [line for line in done.stderr.decode().splitlines() if not line.startswith("{")]


def rows(done: subprocess.CompletedProcess[bytes]) -> list[tuple[str, str]]:
    """Return name and last words of each line of the waterfall, headings left out."""
    lines = [re.split(r" *[█▏▎▍▌▋▊▉▐▕]+ *", line) for line in plain_lines(done)]
    return [(parts[0].rstrip(), re.sub(r"^[\d.]+ .?s *", "", parts[-1])) for parts in lines if len(parts) > 1]


ON = {"TRACEDBRIDGE_TELEMETRY": "on"}


@pytest.mark.telemetry
def test_waterfall(tmp_path: Path) -> None:
    """By default the spans that were really exported are drawn on standard error, the first invocation as cold."""
    done = run(app(tmp_path, HELLO), "invoke", "index.py", "GET", "/x", "--repeat", "2", settings=ON)
    assert [answer["body"] for answer in answers(done)] == ["hello", "hello"]
    shown = rows(done)
    servers = [row for row in shown if row[0] == "GET"]
    assert servers == [("GET", "cold  200"), ("GET", "200")]
    assert shown[0] == servers[0]
    assert "    import app" in [name for name, _ in shown]
    headings = [line for line in plain_lines(done) if line.startswith("trace ")]
    assert re.fullmatch(r"trace [0-9a-f]{32}  \d spans  [\d.]+ m?s  index", headings[0])
    logged = [json.loads(line) for line in done.stderr.decode().splitlines() if line.startswith("{")]
    assert [line["trace_id"] for line in logged] == [heading.split()[1] for heading in headings[:2]]


@pytest.mark.telemetry
def test_failed_load_is_drawn(tmp_path: Path) -> None:
    """An app that cannot be imported leaves spans, too, with what went wrong."""
    done = run(app(tmp_path, IMPORTS_BADLY), "invoke", "index.py", "GET", "/", settings=ON)
    assert (done.returncode, done.stdout) == (1, b"")
    assert ("  import app", "✗ ValueError") in rows(done)
    assert "tracedbridge: could not load app 'index.py': its import raised ValueError" in done.stderr.decode()


@pytest.mark.telemetry
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}, id="proxy"),
        pytest.param({"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"}, id="another protocol"),
        pytest.param({"OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"}, id="gzip"),
    ],
)
def test_settings_that_would_lead_elsewhere(tmp_path: Path, settings: dict[str, str]) -> None:
    """Our receiver is reached also where the environment has a proxy or wants another protocol."""
    done = run(app(tmp_path, HELLO), "invoke", "index.py", "GET", "/", settings={**ON, **settings})
    assert len(answers(done)) == 1
    assert ("GET", "cold  200") in rows(done)


@pytest.mark.telemetry
def test_configured_endpoint(tmp_path: Path) -> None:
    """With an endpoint set the spans go there, one line says where, and its password stays untold."""
    from tracedbridge.serving.receiver import Receiver

    with Receiver() as backend:
        host = backend.endpoint.removeprefix("http://")
        endpoint = f"http://user:secret@{host}"
        done = run(
            app(tmp_path, HELLO),
            "invoke",
            "index.py",
            "GET",
            "/",
            settings={**ON, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint},
        )
    assert len(answers(done)) == 1
    assert plain_lines(done) == [f"tracedbridge: the spans went to {host} (OTEL_EXPORTER_OTLP_ENDPOINT), no waterfall"]
    assert b"secret" not in done.stderr
    assert "GET" in [span.name for span in backend.spans]


@pytest.mark.telemetry
@pytest.mark.parametrize(
    ("settings", "told"),
    [
        pytest.param({"OTEL_TRACES_EXPORTER": "none"}, ["no spans over OTLP, no waterfall: OTEL_TRACES_EXPORTER=none"]),
        pytest.param(
            {"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://127.0.0.1:9/v1/logs"},
            ["no spans, no waterfall: OTEL_EXPORTER_OTLP_LOGS_ENDPOINT is set, but no endpoint for traces"],
        ),
        pytest.param(
            {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "127.0.0.1:9/token"},
            ["the spans went to 127.0.0.1:9 (OTEL_EXPORTER_OTLP_TRACES_ENDPOINT), no waterfall"],
        ),
        pytest.param(
            {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://[x"},
            ["the spans went to an endpoint that is no URL (OTEL_EXPORTER_OTLP_TRACES_ENDPOINT), no waterfall"],
        ),
        pytest.param(
            {"OTEL_TRACES_EXPORTER": "otlp"}, ["the spans went to localhost:4318, the default endpoint, no waterfall"]
        ),
        pytest.param(
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            ["the spans went to localhost:4317, the default endpoint, no waterfall"],
        ),
        pytest.param({"OTEL_SDK_DISABLED": "True"}, []),
        pytest.param({"TRACEDBRIDGE_TELEMETRY": "off"}, []),
        pytest.param({"TRACEDBRIDGE_TELEMETRY": "No"}, []),
        pytest.param(
            {"OTEL_TRACES_SAMPLER": "always_off"},
            ["no spans arrived, so there is no waterfall: the log lines above may say why"],
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_spans_that_go_elsewhere(tmp_path: Path, settings: dict[str, str], told: list[str]) -> None:
    """Without a waterfall one line says what became of the spans; with telemetry off nothing is said."""
    done = run(app(tmp_path, HELLO), "invoke", "index.py", "GET", "/", settings={**ON, **settings})
    assert len(answers(done)) == 1
    ours = [line for line in plain_lines(done) if line.startswith("tracedbridge: ")]
    assert ours == [f"tracedbridge: {line}" for line in told]
    assert rows(done) == []


@pytest.mark.telemetry
def test_console_exporter_is_no_answer(tmp_path: Path) -> None:
    """The console exporter, which writes to standard output, comes out on standard error."""
    done = run(
        app(tmp_path, HELLO), "invoke", "index.py", "GET", "/", settings={**ON, "OTEL_TRACES_EXPORTER": "console"}
    )
    assert len(answers(done)) == 1
    assert b'"name": "GET"' in done.stderr
    assert last_line(done) == "tracedbridge: no spans over OTLP, no waterfall: OTEL_TRACES_EXPORTER=console"


@pytest.mark.telemetry
def test_bad_switch_is_one_warning(tmp_path: Path) -> None:
    """A bad TRACEDBRIDGE_TELEMETRY is told once, although two processes read it, and means on."""
    done = run(app(tmp_path, HELLO), "invoke", "index.py", "GET", "/", settings={"TRACEDBRIDGE_TELEMETRY": "maybe"})
    assert len(answers(done)) == 1
    assert done.stderr.count(b"TRACEDBRIDGE_TELEMETRY") == 1
    assert ("GET", "cold  200") in rows(done)


@pytest.mark.telemetry
def test_rich_is_missing(tmp_path: Path) -> None:
    """Without rich the answers come all the same, and the last line says what to install."""
    hidden = sitecustomize(tmp_path, "import sys\nsys.modules['rich.console'] = None\n")
    done = run(app(tmp_path, HELLO), "invoke", "index.py", "GET", "/", settings={**ON, **hidden})
    assert len(answers(done)) == 1
    assert last_line(done).endswith("run: pip install 'tracedbridge[cli]'")


@pytest.mark.telemetry
def test_decoder_is_missing(tmp_path: Path) -> None:
    """Spans that our receiver could not decode are not passed over in silence."""
    broken = """
import sys
if "tracedbridge" in sys.orig_argv:
    sys.modules["google.rpc"] = None
"""
    settings = {**ON, **sitecustomize(tmp_path, broken)}
    done = run(app(tmp_path, HELLO), "invoke", "index.py", "GET", "/", settings=settings)
    assert len(answers(done)) == 1
    assert last_line(done).startswith("tracedbridge: the local receiver did not take everything: cannot decode")
    assert "google.rpc" in last_line(done)
