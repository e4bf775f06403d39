"""``tracedbridge coldstart`` as a user runs it: real processes, tiny apps, standard output and standard error apart."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.coldstarts.measurements import import_of, measured, run_of
from tests.test_cli import TIMEOUT_S, app, environment, is_alive, last_line, run, running, sitecustomize
from tracedbridge.cli import main
from tracedbridge.coldstarts.runs import Import, read, write

ASGI = """
print("not an answer")
import plum

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        import pip_of_startup
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    import pip_of_request
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
"""

WSGI = """
import os
import plum

# More than a pipe holds, below Python's own streams.
os.write(1, b"x" * 200_000)

def app(environ, start_response):
    import pip_of_request
    assert (environ["REQUEST_METHOD"], environ["PATH_INFO"]) == ("PUT", "/a b")
    start_response("503 Service Unavailable", [])
    return [b"later"]
"""

HANDLER = """
from http.server import BaseHTTPRequestHandler

import plum

class handler(BaseHTTPRequestHandler):
    def do_GET(self):
        import pip_of_request
        self.send_response(200)
        self.end_headers()
"""


IMPORTS_OF_ASGI = [
    ("index", None, "app_import"),
    ("plum", "index", "app_import"),
    ("plum.stone", "plum", "app_import"),
    ("missing", "plum", "app_import"),
    ("pip_of_startup", None, "lifespan"),
    ("pip_of_request", None, "first_byte"),
]


def orchard(folder: Path, source: str) -> Path:
    """Write an app and the modules that it imports, one below another, and return its folder."""
    (folder / "plum").mkdir()
    (folder / "plum" / "__init__.py").write_text(
        "import plum.stone\ntry:\n    import missing\nexcept ImportError: pass\n"
    )
    (folder / "plum" / "stone.py").write_text("")
    for name in ("pip_of_startup", "pip_of_request"):
        (folder / f"{name}.py").write_text("")
    return app(folder, source)


def tree(imports: list[Import]) -> list[tuple[str, str | None, str]]:
    """Return name, parent's name and phase of the app's own imports, and of the one that it has not got."""
    return [
        (each["name"], None if each["parent"] is None else imports[each["parent"]]["name"], each["phase"])
        for each in imports
        if each["owner"] == "app" or each["name"] == "missing"
    ]


@pytest.mark.parametrize(
    ("source", "arguments", "status", "has_lifespan"),
    [
        pytest.param(ASGI, (), 200, True, id="asgi"),
        pytest.param(WSGI, ("--method", "PUT", "--path", "/a%20b?x=1"), 503, False, id="wsgi"),
        pytest.param(HANDLER, (), 200, False, id="handler class"),
    ],
)
def test_measurement(tmp_path: Path, source: str, arguments: tuple[str, ...], status: int, has_lifespan: bool) -> None:
    """Each run has the phases that add up to its total, and the app's imports in the phase that asked for them."""
    orchard(tmp_path, source)
    # Generous budgets hold, in silence.
    budgets = ("--max-total-ms", "60000", "--max-import", "plum=60000")
    done = run(
        tmp_path, "coldstart", "index.py", "-n", "2", *arguments, *budgets, "--json", "runs.json", "--html", "page.html"
    )
    assert done.returncode == 0, done.stderr.decode()
    notes = [b"tracedbridge: note: PUT /a%20b?x=1 was answered with 503: first_byte may be that of an error"]
    assert done.stderr.splitlines() == (notes if status == 503 else [])
    told = read(str(tmp_path / "runs.json"))
    assert (told["app"], told["telemetry"], len(told["runs"])) == ("index.py", "off", 2)
    for each in told["runs"]:
        phases = dict(each["phases"])
        assert each["status"] == status
        assert ("lifespan" in phases) is has_lifespan
        assert list(phases)[-2:] == ["wait", "first_byte"]
        before_ready = sum(phases.values()) - phases["wait"] - phases["first_byte"]
        assert before_ready == pytest.approx(each["total_ms"], abs=1e-3)
        assert min(phases.values()) >= 0
        # By the parent's own clock; the kernel tells the start of a process within half a tick.
        assert 0 < each["total_ms"] < each["spawn_ms"] + 5.5
        assert tree(each["imports"]) == [one for one in IMPORTS_OF_ASGI if has_lifespan or one[2] != "lifespan"]
        (missing,) = (one for one in each["imports"] if one["name"] == "missing")
        assert (missing["error"], missing["source"]) == ("ModuleNotFoundError", "nowhere")
        for one in each["imports"]:
            assert 0 <= one["self_ms"] <= one["total_ms"]
    shown = done.stdout.decode()
    assert shown.startswith("2 cold starts of index.py, ")
    assert "\x1b" not in shown
    assert "not an answer" not in shown
    rows = {line.split()[0] for line in shown.splitlines() if line}
    assert {"interpreter", "app_import", "total", "first_byte", "packages"} <= rows
    assert '<script type="application/json" id="run">' in (tmp_path / "page.html").read_text()


FAILS_IN_STARTUP = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})
"""


@pytest.mark.parametrize(
    ("source", "tracebacks", "last"),
    [
        pytest.param(
            "print('before')\nraise ValueError('bad plum')", 1,
            "could not load app 'index.py': its import raised ValueError: bad plum", id="import error",
        ),
        pytest.param("import sys\nsys.exit(3)", 0, "could not start the app: the app called sys.exit(3)", id="exit"),
        pytest.param("plum = 1", 0, "could not load app 'index.py': 'index' has no 'app', ", id="no app"),
        pytest.param(FAILS_IN_STARTUP, 0, "no database", id="startup"),
        pytest.param(
            "import os\nos._exit(7)", 0, "the app's process ended with exit code 7 before it had answered", id="dies",
        ),
        pytest.param(
            "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", 0,
            "the app's process died by SIGSEGV before it had answered", id="crashes",
        ),
    ],
)  # fmt: skip
def test_broken_app(tmp_path: Path, source: str, tracebacks: int, last: str) -> None:
    """An app that does not come up is explained once, with what it printed, and nothing is written."""
    done = run(app(tmp_path, source), "coldstart", "index.py", "--json", "runs.json")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.count(b"Traceback") == tracebacks
    assert last in last_line(done)
    assert done.stderr.decode().count(last) == 1
    assert (b"before\n" in done.stderr) is ("before" in source)
    assert not (tmp_path / "runs.json").exists()


def test_progress_on_a_terminal(tmp_path: Path) -> None:
    """Who watches sees how far it is, and nothing of it stays."""
    master, slave = os.openpty()
    try:
        command = [sys.executable, "-m", "tracedbridge", "coldstart", "index.py", "-n", "1"]
        done = subprocess.run(
            command,
            cwd=orchard(tmp_path, ASGI),
            env=environment({"TERM": "xterm"}),
            stdout=subprocess.PIPE,
            stderr=slave,
            timeout=TIMEOUT_S,
            check=False,
        )
        seen = os.read(master, 65536)
    finally:
        os.close(master)
        os.close(slave)
    assert done.returncode == 0, seen
    assert b"warming up" in seen
    # The last thing is to erase the line.
    assert seen.rstrip().endswith(b"\x1b[2K")


def test_missing_app(tmp_path: Path) -> None:
    """An app that is not there is told in one line."""
    done = run(tmp_path, "coldstart", "peach.py")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, b"", 1)
    assert last_line(done).startswith("tracedbridge: could not load app 'peach.py': no file ")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "the following arguments are required: APP"),
        ([" "], "APP is empty"),
        (["a.py", "-n", "0"], "-n 0: expected 1 or more"),
        (["a.py", "-n", "x"], "invalid int value: 'x'"),
        (["a.py", "--path", "x"], "--path 'x': expected a path that starts with /"),
        (["a.py", "--method", "G T"], "--method 'G T': expected GET"),
        (["a.py", "--max-total-ms", "x"], "--max-total-ms: 'x': expected milliseconds, zero or more"),
        (["a.py", "--max-total-ms", "nan"], "--max-total-ms: 'nan': expected milliseconds, zero or more"),
        (["a.py", "--max-import", "numpy"], "--max-import: 'numpy': expected PKG=MS"),
        (["a.py", "--max-import", "=5"], "--max-import: '=5': expected PKG=MS"),
        (["a.py", "--max-import", "numpy.linalg=5"], "'numpy.linalg=5': expected PKG=MS, with a top-level package"),
        (["a.py", "--max-import", "numpy=-1"], "--max-import: '-1': expected milliseconds, zero or more"),
        (["a.py", "--timeout-s", "0"], "--timeout-s: '0': expected seconds, more than zero"),
        (["a.py", "--json", "x", "--html", "./x"], "--json and --html name the same file"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else "",
)
def test_bad_arguments(capsys: pytest.CaptureFixture[str], arguments: list[str], told: str) -> None:
    """What cannot be meant is refused before anything is started, with the exit code for wrong usage."""
    with pytest.raises(SystemExit) as ended:
        main(["coldstart", *arguments])
    assert ended.value.code == 2
    assert told in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param(["--json", "no/folder"], "could not write 'no/folder': No such file or directory", id="json"),
        pytest.param(["--html", "."], "could not write '.': Is a directory", id="html"),
        pytest.param(["--compare", "no.json"], "could not read the runs in 'no.json': No such file", id="no file"),
        pytest.param(["--compare", "index.py"], "could not read the runs in 'index.py': it is no JSON", id="no JSON"),
    ],
)
def test_bad_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    """A file that cannot be written, or read, is found out before the app is started."""
    monkeypatch.chdir(app(tmp_path, "import pathlib\npathlib.Path('started').touch()"))
    assert main(["coldstart", "index.py", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"tracedbridge: {told}")
    assert os.listdir() == ["index.py"]


SLOW = """
import plum
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"ok"]
"""


def test_budgets_and_comparison(tmp_path: Path) -> None:
    """What got slower is told from noise, and a budget that does not hold fails with the names of the culprits."""
    app(tmp_path, SLOW)
    # Long enough for every machine, however busy, to see that nothing else took so long.
    (tmp_path / "plum.py").write_text("import time\ntime.sleep(0.5)\n")
    # All the runs have this much, so that only the app is slower.
    before = run_of([import_of("plum", 1, 1), import_of("index", 2, 1)], app_import=2)
    write(measured([before] * 9), str(tmp_path / "before.json"))
    budgets = ("--max-total-ms", "50.5", "--max-import", "plum=50", "--max-import", "pear=1", "--max-import", "time=9")
    done = run(tmp_path, "coldstart", "index.py", "-n", "9", "--compare", "before.json", *budgets)
    assert done.returncode == 1
    shown = done.stdout.decode()
    changes = shown[shown.index("before: 9 cold starts of index.py") :].splitlines()
    verdicts = {line.split()[0]: line.split()[-1] for line in changes}
    assert (verdicts["app_import"], verdicts["total"]) == ("slower", "slower")
    (plum,) = (line for line in changes if line.startswith("import plum"))
    assert plum.split()[2:4] == ["1.00", "ms"]
    assert plum.split()[-1] == "slower"
    lines = [line.removeprefix("tracedbridge: ") for line in done.stderr.decode().splitlines()]
    assert "note: --max-import pear: it was never imported" in lines
    assert any(line.startswith("note: compared with another python: 3.13.1 before, ") for line in lines) is (
        "Python 3.13.1," not in shown.splitlines()[0]
    )
    broken = [line for line in lines if line.startswith("over budget: ")]
    culprits = "; the largest phase is app_import ("
    assert broken[0].startswith("over budget: the median total is ")
    assert " more than --max-total-ms 50.5" + culprits in broken[0]
    assert broken[1].startswith("over budget: the import of plum takes 5")
    assert " more than --max-import plum=50" + culprits in broken[1]
    assert "the package with most self time is plum (5" in broken[1]
    assert re.search(
        r", what grew most: app_import by \d+(\.\d+)? ms \(slower\), import plum by .* ms \(slower\)$", broken[1]
    )
    assert len(broken) == 2


TELLS = """
import json, os, sys
names = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS",
         "OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER", "OTEL_LOGS_EXPORTER", "TRACEDBRIDGE_IMPORTS", "PLUM",
         "__VC_PY_BOOT_START_MS")
told = {name: os.environ.get(name) for name in names}
raise ImportError(json.dumps([told, sys.argv[1:], sys.stdin.read(), os.getcwd()]))
"""


def test_process_of_the_app(tmp_path: Path) -> None:
    """The app finds the user's environment and folder, but no backend, no arguments and nothing on standard input."""
    settings = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/v1/traces",
        "OTEL_EXPORTER_OTLP_HEADERS": "a=b",
        "OTEL_TRACES_EXPORTER": "otlp, console",
        "OTEL_METRICS_EXPORTER": "otlp",
        "TRACEDBRIDGE_IMPORTS": "off",
        "PLUM": "ripe",
        "__VC_PY_BOOT_START_MS": "1",
    }
    done = run(app(tmp_path, TELLS), "coldstart", "index.py", settings=settings, stdin=b"not for the app")
    environ, arguments, stdin, folder = json.loads(last_line(done).partition("ImportError: ")[2])
    assert environ == {
        "OTEL_EXPORTER_OTLP_ENDPOINT": None,
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": None,
        "OTEL_EXPORTER_OTLP_HEADERS": "a=b",
        "OTEL_TRACES_EXPORTER": "console",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": None,
        "TRACEDBRIDGE_IMPORTS": "summary",
        "PLUM": "ripe",
        "__VC_PY_BOOT_START_MS": None,
    }
    assert (arguments, stdin, os.path.realpath(folder)) == ([], "", os.path.realpath(tmp_path))


@pytest.mark.telemetry
def test_with_telemetry(tmp_path: Path) -> None:
    """With telemetry on its cost is a phase of its own, the same imports are the app's, and no backend hears of it."""
    from tracedbridge.serving.receiver import Receiver

    with Receiver() as backend:
        settings = {"TRACEDBRIDGE_TELEMETRY": "on", "OTEL_EXPORTER_OTLP_ENDPOINT": backend.endpoint}
        done = run(
            orchard(tmp_path, ASGI), "coldstart", "index.py", "-n", "1", "--json", "runs.json", settings=settings
        )
    assert (done.returncode, done.stderr) == (0, b"")
    assert (list(backend.spans), list(backend.refusals)) == ([], [])
    told = read(str(tmp_path / "runs.json"))
    (one,) = told["runs"]
    assert told["telemetry"] == "on"
    assert one["phases"]["telemetry"] > one["phases"]["app_resolve"]
    assert tree(one["imports"]) == IMPORTS_OF_ASGI
    assert {each["name"].partition(".")[0] for each in one["imports"]}.isdisjoint({"opentelemetry", "tracedbridge"})


HANGS = """
import os, threading
print("hanging", flush=True)
with open("pid", "w") as pid:
    pid.write(str(os.getpid()))
threading.Event().wait()
"""


def pid_in(fifo: int) -> int:
    """Return the process id that the app writes into a FIFO."""
    readable, _, _ = select.select([fifo], [], [], TIMEOUT_S)
    assert readable, "the app was not started"
    return int(os.read(fifo, 100))


@pytest.fixture(name="pid")
def pid_fifo(tmp_path: Path) -> Iterator[int]:
    """The reading end of a FIFO, ``pid`` in the app's folder."""
    os.mkfifo(tmp_path / "pid")
    descriptor = os.open(tmp_path / "pid", os.O_RDONLY | os.O_NONBLOCK)
    yield descriptor
    os.close(descriptor)


def test_timeout(tmp_path: Path, pid: int) -> None:
    """An app that hangs is killed, with a message and what it has printed."""
    done = run(app(tmp_path, HANGS), "coldstart", "index.py", "--timeout-s", "2")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.splitlines() == [
        b"hanging",
        b"tracedbridge: the app's process was killed: it had not answered after 2 s; --timeout-s allows more",
    ]
    assert not is_alive(pid_in(pid))


@pytest.mark.parametrize(
    ("number", "code", "told"),
    [(signal.SIGINT, 130, b"tracedbridge: interrupted\n"), (signal.SIGTERM, 143, b""), (signal.SIGHUP, 129, b"")],
)
def test_ending_the_command_ends_the_app(
    tmp_path: Path, pid: int, number: signal.Signals, code: int, told: bytes
) -> None:
    """Ctrl-C, SIGTERM and a closed terminal end the command and the app's process, quietly."""
    with running(app(tmp_path, HANGS), "coldstart", "index.py") as process:
        hanging = pid_in(pid)
        process.send_signal(number)
        output, errors = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, output, errors) == (code, b"", told)
    assert not is_alive(hanging)


def test_rich_is_missing(tmp_path: Path) -> None:
    """Without rich the command says what to install before it starts the app."""
    hidden = sitecustomize(tmp_path, "import sys\nsys.modules['rich'] = None\n")
    done = run(tmp_path, "coldstart", "index.py", settings=hidden)
    assert (done.returncode, done.stdout) == (1, b"")
    assert last_line(done) == (
        "tracedbridge: cannot show the tables without rich; run: pip install 'tracedbridge[cli]'"
    )


def test_help(tmp_path: Path) -> None:
    """The help says what is not counted, and that nothing is exported."""
    done = run(tmp_path, "coldstart", "-h")
    told = " ".join(done.stdout.decode().split())
    assert done.returncode == 0
    assert "the first, is not counted" in told
    assert "nothing is exported" in told
    assert "coldstart: measure" in " ".join(run(tmp_path, "-h").stdout.decode().split())
