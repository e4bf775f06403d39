"""``vc_handler`` in a fresh process: which app it loads, when, how often, and what it says when it cannot."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support import event, run_python

ASGI = """
async def {name}(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError
    await send({{"type": "http.response.start", "status": 200, "headers": []}})
    await send({{"type": "http.response.body", "body": b"{body}"}})
"""

WSGI = """
def {name}(environ, start_response):
    start_response("200 OK", [])
    return [b"{body}"]
"""

HANDLER = """
from http.server import BaseHTTPRequestHandler

class {name}(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{body}")
"""

# Prints the body of one answer, or what was raised instead and what it was raised from, a line each.
CALL = f"""
import sys
try:
    from tracedbridge import vc_handler
except Exception as error:
    print(type(error).__name__, type(error.__cause__).__name__, str(error).replace(chr(10), "|"), sep=chr(10))
    sys.exit(1)
print(vc_handler({event()!r}, None)["body"])
"""


def asgi(body: str, name: str = "app") -> str:
    return ASGI.format(name=name, body=body)


def wsgi(body: str, name: str = "app") -> str:
    return WSGI.format(name=name, body=body)


def handler(body: str, name: str = "handler") -> str:
    return HANDLER.format(name=name, body=body)


def lay_out(folder: Path, files: Mapping[str, str]) -> None:
    """Write ``files`` below ``folder``."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def load(folder: Path, files: Mapping[str, str], **settings: str) -> subprocess.CompletedProcess[str]:
    """Lay ``files`` out in ``folder`` and answer one event there in a fresh process."""
    lay_out(folder, files)
    return run_python("-W", "error", "-c", CALL, cwd=folder, **settings)


FORMS: dict[str, tuple[dict[str, str], str | None]] = {
    "nothing said": ({"index.py": asgi("hello")}, None),
    "empty": ({"index.py": asgi("hello")}, ""),
    "file": ({"main.py": asgi("hello")}, "main.py"),
    "file in a folder": ({"api/main.py": asgi("hello")}, "api/main.py"),
    "file from here": ({"api/main.py": asgi("hello")}, "./api/main.py"),
    "file and variable": ({"main.py": asgi("no") + asgi("hello", "site")}, "main.py:site"),
    "file and attribute": (
        {"main.py": "class web:\n    pass\n" + wsgi("hello") + "web.site = app\n"},
        "main.py:web.site",
    ),
    "brackets": ({"api/[hello].py": asgi("hello")}, "api/[hello].py"),
    "brackets and variable": ({"[...hello].py": asgi("hello", "site")}, "[...hello].py:site"),
    "dash": ({"my-app.py": asgi("hello")}, "my-app.py"),
    "digit": ({"2026.py": asgi("hello")}, "2026.py"),
    "dots": ({"a.b.py": asgi("hello")}, "a.b.py"),
    "space": ({"my app.py": asgi("hello")}, "my app.py"),
    "name of a standard module": ({"api/json.py": asgi("hello")}, "api/json.py"),
    "name of a standard module that it imports": (
        {"api/json.py": "from json import dumps\n" + asgi("hello")},
        "api/json.py",
    ),
    "name of our package": ({"api/tracedbridge.py": asgi("hello")}, "api/tracedbridge.py"),
    "module": ({"main.py": asgi("hello")}, "main:app"),
    "module of a package": ({"web/__init__.py": "", "web/main.py": asgi("hello", "site")}, "web.main:site"),
    "package": ({"web/__init__.py": asgi("hello")}, "web:app"),
    "namespace package": ({"web/main.py": asgi("hello")}, "web.main:app"),
    "module without variable": ({"web/main.py": asgi("hello")}, "web.main"),
}


@pytest.mark.parametrize(("files", "app"), FORMS.values(), ids=FORMS.keys())
def test_forms(files: dict[str, str], app: str | None, tmp_path: Path) -> None:
    """``TRACEDBRIDGE_APP`` names a file, a file with a variable or a module with one; ``index.py`` if not set."""
    settings = {} if app is None else {"app": app}
    done = load(tmp_path, files, **settings)
    assert (done.stdout, done.stderr) == ("hello\n", "")


def test_absolute_path(tmp_path: Path) -> None:
    """A file may be named by its absolute path."""
    lay_out(tmp_path, {"elsewhere/main.py": asgi("hello"), "here/index.py": asgi("no")})
    done = run_python("-c", CALL, cwd=tmp_path / "here", app=str(tmp_path / "elsewhere" / "main.py") + ":app")
    assert done.stdout == "hello\n", done.stderr


LAMBDA = "\ndef {name}(event, context):\n    raise AssertionError\n"
ORDER = {
    "app": (asgi("hello"), "hello"),
    "application": (wsgi("hello", "application"), "hello"),
    "handler, ASGI": (asgi("hello", "handler"), "hello"),
    "handler, WSGI": (wsgi("hello", "handler"), "hello"),
    "handler class": (handler("hello"), "hello"),
    "Handler class": (handler("hello", "Handler"), "hello"),
    "handler class before Handler class": (handler("no", "Handler") + handler("hello"), "hello"),
    "handler class before app": (asgi("no") + handler("hello"), "hello"),
    "Handler class before app": (asgi("no") + handler("hello", "Handler"), "hello"),
    "app before application": (wsgi("no", "application") + wsgi("hello"), "hello"),
    "app before another handler": (wsgi("no", "handler") + asgi("hello"), "hello"),
    "application before another handler": (asgi("no", "handler") + wsgi("hello", "application"), "hello"),
    "app beside a Lambda handler": (LAMBDA.format(name="handler") + asgi("hello"), "hello"),
    "imported handler base is no app": (
        "from http.server import BaseHTTPRequestHandler\n" + asgi("hello"), "hello"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("source", "body"), ORDER.values(), ids=ORDER.keys())
def test_order(source: str, body: str, tmp_path: Path) -> None:
    """Without a variable: a class ``handler`` or ``Handler``, then ``app``, ``application``, any other ``handler``."""
    done = load(tmp_path, {"index.py": source})
    assert (done.stdout, done.stderr) == (f"{body}\n", "")


# name: files, TRACEDBRIDGE_APP, the error, its cause, words of its message
ERRORS: dict[str, tuple[dict[str, str], str, str, str, tuple[str, ...]]] = {
    "no file": ({}, "main.py", "AppNotFoundError", "NoneType", ("'main.py'", "no file", "TRACEDBRIDGE_APP")),
    "no index.py": ({}, "", "AppNotFoundError", "NoneType", ("index.py", "TRACEDBRIDGE_APP")),
    "folder": ({"main.py/x": ""}, "main.py", "AppNotFoundError", "NoneType", ("'main.py'", "no file")),
    "no module": ({}, "nowhere:app", "AppNotFoundError", "NoneType", ("'nowhere:app'", "no module 'nowhere'")),
    "no module in a package": (
        {"web/__init__.py": ""}, "web.main:app", "AppNotFoundError", "NoneType", ("no module 'web.main'",)
    ),
    "module in a module": (
        {"web.py": ""}, "web.main:app", "AppNotFoundError", "NoneType", ("'web.main:app'", "'web.main'")
    ),
    "no variable in a file": (
        {"main.py": wsgi("no", "site")}, "main.py:app", "AppNotFoundError", "NoneType",
        ("'main.py:app'", "no attribute 'app'", "found: site"),
    ),
    "no variable in a module": (
        {"main.py": wsgi("no", "site")}, "main:app", "AppNotFoundError", "NoneType",
        ("'main:app'", "no attribute 'app'", "found: site"),
    ),
    "nothing by one of the names": (
        {"main.py": wsgi("no", "site")}, "main.py", "AppNotFoundError", "NoneType",
        ("'main.py'", "'app'", "'application'", "found: site", "TRACEDBRIDGE_APP=main.py:"),
    ),
    "empty file": ({"main.py": ""}, "main.py", "AppNotFoundError", "NoneType", ("'main.py'", "found: nothing")),
    "no form": ({}, "what is this", "AppNotFoundError", "NoneType", ("'what is this'", "path/to/file.py:variable")),
    "nothing before the colon": ({}, ":app", "AppNotFoundError", "NoneType", ("':app'", "path/to/file.py:variable")),
    "nothing after the colon": ({"main.py": asgi("no")}, "main.py:", "AppNotFoundError", "NoneType", ("'main.py:'",)),
    "variable is no name": ({"main.py": asgi("no")}, "main.py:a b", "AppNotFoundError", "NoneType", ("'main.py:a b'",)),
    "import raises": (
        {"main.py": "1 / 0"}, "main.py", "AppImportError", "ZeroDivisionError",
        ("'main.py'", "ZeroDivisionError: division by zero"),
    ),
    "import of a module raises": (
        {"main.py": "1 / 0"}, "main:app", "AppImportError", "ZeroDivisionError",
        ("'main:app'", "ZeroDivisionError: division by zero"),
    ),
    "syntax error": ({"main.py": "def"}, "main.py", "AppImportError", "SyntaxError", ("'main.py'", "SyntaxError")),
    "NUL in the source": ({"main.py": "\0"}, "main.py", "AppImportError", "SyntaxError", ("'main.py'",)),
    "missing dependency": (
        {"main.py": "import nowhere"}, "main.py", "AppImportError", "ModuleNotFoundError", ("'main.py'", "'nowhere'")
    ),
    "missing dependency of a module": (
        {"main.py": "import nowhere"}, "main:app", "AppImportError", "ModuleNotFoundError", ("'main:app'", "'nowhere'")
    ),
    "no app": ({"main.py": "app = 5"}, "main.py", "AppKindError", "NoneType", ("'main.py'", "'app'", "int", "ASGI")),
    "variable is no app": ({"main.py": "site = 5"}, "main.py:site", "AppKindError", "NoneType", ("int", "ASGI")),
    "Lambda handler": (
        {"main.py": LAMBDA.format(name="handler")}, "main.py", "AppKindError", "NoneType",
        ("'handler'", "event, context", "Lambda handler"),
    ),
    "failed startup": (
        {
            "main.py": "async def app(scope, receive, send):\n    await receive()\n"
            "    await send({'type': 'lifespan.startup.failed', 'message': 'no database'})\n"
        },
        "main.py", "StartupError", "NoneType", ("no database",),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("files", "app", "error", "cause", "words"), ERRORS.values(), ids=ERRORS.keys())
def test_errors(
    files: dict[str, str], app: str, error: str, cause: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    """What cannot be loaded is a named error that says what was asked for, what is wrong and what would do."""
    done = load(tmp_path, files, app=app)
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines()[:2] == [error, cause]
    said = done.stdout.splitlines()[2]
    assert [word for word in words if word not in said] == []
    assert "|" not in said


def test_load_is_tried_again(tmp_path: Path) -> None:
    """A load that failed leaves no half module behind: the next access runs the file anew and raises anew."""
    lay_out(tmp_path, {"index.py": "print('run')\n1 / 0"})
    script = """
import sys, tracedbridge
for _ in range(2):
    try:
        tracedbridge.vc_handler
    except tracedbridge.AppImportError as error:
        print(repr(error.__cause__), "index" in sys.modules)
"""
    done = run_python("-c", script, cwd=tmp_path)
    assert done.stdout.splitlines() == ["run", "ZeroDivisionError('division by zero') False"] * 2, done.stderr


def test_import_leaves(tmp_path: Path) -> None:
    """SystemExit at import goes through."""
    done = load(tmp_path, {"index.py": "import sys; sys.exit(7)"})
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")


MODULE_FACTS = """
import sys, pickle
print(__name__ in sys.modules and sys.modules[__name__].__dict__ is globals(), __file__)
import neighbour

class Kept:
    pass

# Both look the module up by its name.
pickle.loads(pickle.dumps(Kept()))
"""


@pytest.mark.parametrize("name", ["main.py", "[hello].py"])
def test_module(name: str, tmp_path: Path) -> None:
    """While a file is loaded it is in ``sys.modules``, knows its path, and its folder can be imported from."""
    files = {f"api/{name}": MODULE_FACTS + asgi("hello"), "api/neighbour.py": ""}
    done = load(tmp_path, files, app=f"api/{name}")
    assert done.stdout.splitlines() == [f"True {(tmp_path / 'api' / name).resolve()}", "hello"], done.stderr


def test_late_import(tmp_path: Path) -> None:
    """A neighbour can still be imported in a request."""
    late = WSGI.replace("start_response(", "import neighbour; start_response(").format(name="app", body="hello")
    done = load(tmp_path, {"api/main.py": late, "api/neighbour.py": ""}, app="api/main.py")
    assert done.stdout == "hello\n", done.stderr


def test_dataclass_in_a_file(tmp_path: Path) -> None:
    """Dataclasses with postponed annotations, which look their module up, work in a file that is no identifier."""
    source = (
        "from __future__ import annotations\nfrom dataclasses import dataclass, KW_ONLY\n"
        "@dataclass\nclass Item:\n    _: KW_ONLY\n    size: int = 1\n"
    )
    done = load(tmp_path, {"[item].py": source + asgi("hello")}, app="[item].py")
    assert done.stdout == "hello\n", done.stderr


def test_name_of_a_loaded_module(tmp_path: Path) -> None:
    """An app's file with the name of a loaded module takes its place nowhere."""
    script = "import json\n" + CALL + "import json as again; print(again is json and json.dumps([]))"
    lay_out(tmp_path, {"api/json.py": asgi("hello")})
    done = run_python("-c", script, cwd=tmp_path, app="api/json.py")
    assert done.stdout == "hello\n[]\n", done.stderr


# name: what index.py is, how it is run
SELF_LOADS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "imported": ("{app}\nfrom tracedbridge import vc_handler\n", ("-c", "import index"), "index.py"),
    "imported first": ("from tracedbridge import vc_handler\n{app}", ("-c", "import index"), "index.py"),
    "run": ("{app}\nfrom tracedbridge import vc_handler\n", ("index.py",), "index.py"),
    "attribute": ("import tracedbridge\n{app}\ntracedbridge.vc_handler\n", ("-c", "import index"), "index.py"),
    "named as a module": ("{app}\nfrom tracedbridge import vc_handler\n", ("-c", "import index"), "index:app"),
    "loaded by us": ("{app}\nfrom tracedbridge import vc_handler\n", ("-c", CALL), ""),
}


@pytest.mark.parametrize(("source", "arguments", "app"), SELF_LOADS.values(), ids=SELF_LOADS.keys())
def test_self_load(source: str, arguments: tuple[str, ...], app: str, tmp_path: Path) -> None:
    """An app's file that imports ``vc_handler`` is not loaded twice; the error says what to write instead."""
    lay_out(tmp_path, {"index.py": "print('run')\n" + source.format(app=asgi("no"))})
    done = run_python(*arguments, cwd=tmp_path, **({"app": app} if app else {}))
    assert done.returncode == 1
    assert done.stdout.splitlines().count("run") == 1
    said = done.stdout + done.stderr
    assert "SelfLoadError" in said
    assert "create_bridge(app)" in said
    assert "TRACEDBRIDGE_APP=index.py" in said


def test_what_to_write_instead(tmp_path: Path) -> None:
    """What the error of a file that loads itself proposes works: a bridge at its end, by that name."""
    source = asgi("hello") + "\nimport tracedbridge\nvc_handler = tracedbridge.create_bridge(app)\n"
    lay_out(tmp_path, {"index.py": source})
    script = f"import index; print(index.vc_handler({event()!r}, None)['body'])"
    done = run_python("-W", "error", "-c", script, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("hello\n", "")


def test_entry_beside_the_app(tmp_path: Path) -> None:
    """An entry file that imports ``vc_handler`` serves the app of another file."""
    lay_out(tmp_path, {"entry.py": "from tracedbridge import vc_handler\n", "index.py": asgi("hello")})
    script = f"import entry; print(entry.vc_handler({event()!r}, None)['body'])"
    done = run_python("-c", script, cwd=tmp_path)
    assert done.stdout == "hello\n", done.stderr


def test_app_that_is_loaded(tmp_path: Path) -> None:
    """An app's file that somebody has imported before is not run again: its app is taken."""
    lay_out(tmp_path, {"index.py": "print('run')\n" + asgi("hello")})
    done = run_python("-c", "import index\n" + CALL, cwd=tmp_path)
    assert done.stdout == "run\nhello\n", done.stderr


STARTS_NOTHING = {
    "import": "import tracedbridge",
    "star import": "from tracedbridge import *; create_bridge",
    "other name": "from tracedbridge import create_bridge, TracedBridgeError",
    "dir": "import tracedbridge; dir(tracedbridge)",
    "unknown name": "import tracedbridge; hasattr(tracedbridge, 'nothing')",
    "bridge": "import tracedbridge; tracedbridge.create_bridge(lambda environ, start_response: []).close()",
}


@pytest.mark.parametrize("script", STARTS_NOTHING.values(), ids=STARTS_NOTHING.keys())
def test_starts_nothing(script: str, tmp_path: Path) -> None:
    """Only asking for ``vc_handler`` loads the app; a star import does not."""
    lay_out(tmp_path, {"index.py": "raise SystemExit('loaded')"})
    done = run_python("-W", "error", "-c", script + "\nprint('vc_handler' in globals())", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "False\n", "")


def test_loaded_once_under_threads(tmp_path: Path) -> None:
    """Threads that ask for ``vc_handler`` at once get the same bridge; the app is loaded and started once."""
    source = (
        "import threading\nprint('run', flush=True)\n"
        # Until others have had their chance to load it, too; the first to come must not wait for them for ever.
        "threading.Event().wait(0.2)\n" + asgi("hello").replace("raise NotImplementedError", "print('started'); return")
    )
    script = """
import threading, tracedbridge
together = threading.Barrier(5)
found = []

def ask():
    together.wait(10)
    found.append(tracedbridge.vc_handler)

threads = [threading.Thread(target=ask, daemon=True) for _ in range(5)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(15)
print(len(found), len(set(map(id, found))), found[0] is tracedbridge.vc_handler)
"""
    lay_out(tmp_path, {"index.py": source})
    done = run_python("-W", "error", "-c", script, cwd=tmp_path)
    assert done.stdout.splitlines() == ["run", "started", "5 1 True"], done.stderr


def test_result_is_plain(tmp_path: Path) -> None:
    """What ``vc_handler`` returns is a dict that can be JSON, and it takes keywords and the platform's context."""
    lay_out(tmp_path, {"index.py": asgi("hello")})
    script = f"""
import json
from tracedbridge import vc_handler
print(json.dumps(vc_handler({event()!r}, None)))
print(json.dumps(vc_handler(event={event()!r}, context=object())))
"""
    done = run_python("-c", script, cwd=tmp_path)
    expected = {"statusCode": 200, "headers": {}, "body": "hello"}
    assert [json.loads(line) for line in done.stdout.splitlines()] == [expected] * 2, done.stderr


def test_no_telemetry_is_imported(tmp_path: Path) -> None:
    """With telemetry off, neither OpenTelemetry nor structlog is imported to answer an event."""
    lay_out(tmp_path, {"index.py": asgi("hello")})
    script = CALL + "print([name for name in ('opentelemetry', 'structlog') if name in sys.modules])"
    done = run_python("-c", script, cwd=tmp_path)
    assert done.stdout == "hello\n[]\n", done.stderr
