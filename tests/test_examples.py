"""The examples do what their README files say, through ``vc_handler`` and with telemetry on."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import tracedbridge
from tests.frameworks.entry import through_vc_handler
from tests.support import answer, event, run_python

pytestmark = pytest.mark.frameworks

EXAMPLES = Path(tracedbridge.__file__).parents[1] / "examples"

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"


class Exchange(NamedTuple):
    """A request to an example, and what is to come of it."""

    method: str
    path: str
    status: int
    route: str | None
    content: object
    """The answer's JSON; a string where it is text that holds this."""

    body: str = ""
    content_type: str = JSON
    error: str | None = None
    """``error`` of the log line."""


DJANGO = [
    Exchange("GET", "/items/3", 200, "/items/<int:item_id>", {"id": 3, "name": "plum"}),
    Exchange("GET", "/items/9", 404, "/items/<int:item_id>", "Not Found"),
    Exchange("GET", "/items/x", 404, None, "Not Found"),
    Exchange("GET", "/crash", 500, "/crash", "Server Error (500)", error="500"),
]
CASES = {
    "fastapi/index.py": [
        Exchange("GET", "/items/3", 200, "/items/{item_id}", {"id": 3, "name": "plum"}),
        Exchange("GET", "/price/3", 200, "/price/{item_id}", {"id": 3, "cents": 43}),
        Exchange("POST", "/orders/3", 201, "/orders/{item_id}", {"status": "placed"}),
        Exchange("GET", "/items/9", 404, "/items/{item_id}", {"detail": "no item 9"}),
        Exchange("GET", "/crash", 500, "/crash", "Internal Server Error", error="RuntimeError"),
    ],
    "flask/index.py": [
        Exchange("GET", "/items/3", 200, "/items/<int:item_id>", {"id": 3, "name": "plum"}),
        Exchange("POST", "/orders", 201, "/orders", {"item": "plum", "count": 2}, "item=plum&count=2", FORM),
        Exchange("POST", "/orders", 400, "/orders", "Bad Request", "count=2", FORM),
        Exchange("GET", "/crash", 500, "/crash", "Internal Server Error", error="500"),
    ],
    "django/index.py": DJANGO,
    "django/asgi.py": DJANGO,
    "handler/index.py": [
        Exchange("GET", "/?name=Ada", 200, None, {"hello": "Ada"}),
        Exchange("POST", "/", 200, None, {"hello": "Ada"}, '{"name": "Ada"}'),
        Exchange("POST", "/", 400, None, {"error": 'expected a body like {"name": "Ada"}'}, "Ada"),
        Exchange("PUT", "/", 501, None, "Unsupported method", error="501"),
    ],
}
# The other ones are of platforms, with projects in them.
FOLDERS = sorted(each.parent.name for each in EXAMPLES.glob("*/requirements.txt"))

# Where a module is not named after what installs it.
DISTRIBUTIONS = {"opentelemetry": "opentelemetry-api"}


def run_example(app: str, exchanges: list[Exchange], folder: Path) -> tuple[list[Any], list[dict[str, Any]]]:
    """Return the results of ``vc_handler`` for these requests, and its log lines."""
    events = [
        event(each.method, each.path, body=each.body, headers={"host": "localhost", "content-type": each.content_type})
        for each in exchanges
    ]
    return through_vc_handler(str(EXAMPLES / app), events, folder)


@pytest.mark.telemetry
@pytest.mark.parametrize(("app", "exchanges"), CASES.items(), ids=CASES)
def test_answers(app: str, exchanges: list[Exchange], tmp_path: Path) -> None:
    """Every route of an example answers as its code says, and leaves a log line with status, route and error."""
    results, lines = run_example(app, exchanges, tmp_path)
    for exchange, result in zip(exchanges, results, strict=True):
        told = answer(result)
        assert told.status == exchange.status, exchange
        if isinstance(exchange.content, str):
            assert exchange.content in told.body.decode()
        else:
            assert json.loads(told.body) == exchange.content
    invocations = [line for line in lines if line["event"] == "invocation"]
    assert [
        (line["method"], line["path"], line["status"], line.get("route"), line.get("error"), line["cold_start"])
        for line in invocations
    ] == [
        (each.method, each.path.partition("?")[0], each.status, each.route, each.error, first)
        for first, each in zip([True] + [False] * len(exchanges), exchanges, strict=False)
    ]


@pytest.mark.telemetry
def test_fastapi_lifespan(tmp_path: Path) -> None:
    """The lifespan of the FastAPI example is a noticeable part of its cold start, and only of that."""
    exchange = CASES["fastapi/index.py"][0]
    _, (cold, warm) = run_example("fastapi/index.py", [exchange, exchange], tmp_path)
    assert cold["cold_start_ms"] > cold["lifespan_ms"] >= 100
    assert "lifespan_ms" not in warm


@pytest.mark.telemetry
def test_fastapi_log_line(tmp_path: Path) -> None:
    """The line that the FastAPI example writes through structlog carries the ids of its invocation."""
    exchange = next(each for each in CASES["fastapi/index.py"] if each.path.startswith("/orders"))
    _, (own, invocation) = run_example("fastapi/index.py", [exchange], tmp_path)
    assert (own["event"], own["item_id"], invocation["event"]) == ("order placed", 3, "invocation")
    assert own["trace_id"] == invocation["trace_id"]
    assert own["invocation_id"] == invocation["invocation_id"]


def commands(folder: str) -> list[str]:
    """Return the command lines that an example's README shows."""
    lines = (EXAMPLES / folder / "README.md").read_text().splitlines()
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def invoke(command: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a ``tracedbridge`` command line of a README where its reader would, in the root of the repository."""
    program, *arguments = shlex.split(command)
    assert program == "tracedbridge"
    return run_python("-m", program, *arguments, cwd=EXAMPLES.parent, **settings)


@pytest.mark.parametrize("folder", FOLDERS)
def test_readme(folder: str) -> None:
    """Every command of a README runs every file of its example, and comes to a page that is there."""
    shown = commands(folder)
    assert {shlex.split(command)[2] for command in shown} == {
        f"examples/{app}" for app in CASES if app.startswith(f"{folder}/")
    }
    for command in shown:
        ran = invoke(command)
        assert ran.returncode == 0, ran.stderr
        statuses = {json.loads(line)["statusCode"] for line in ran.stdout.splitlines()}
        assert statuses <= ({500} if "/crash" in command else {200, 201}), command


@pytest.mark.parametrize("folder", FOLDERS)
def test_requirements(folder: str) -> None:
    """What an example imports, it requires."""
    imported: set[str] = set()
    for file in (EXAMPLES / folder).glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                imported.add(node.module.partition(".")[0])
    foreign = imported - sys.stdlib_module_names - {"index"}
    required = [re.split("[<>=]", line)[0] for line in (EXAMPLES / folder / "requirements.txt").read_text().split()]
    assert sorted(required) == sorted({DISTRIBUTIONS.get(name, name) for name in foreign} | {"tracedbridge"})


@pytest.mark.telemetry
def test_fastapi_trace() -> None:
    """The waterfall of the FastAPI example shows its own span in every invocation, and the cold start in one."""
    command = next(each for each in commands("fastapi") if "/price/" in each and "--repeat 2" in each)
    rows = [line.split("  ") for line in invoke(command, telemetry="on").stderr.splitlines()]
    names = Counter(next(filter(None, row), "").strip() for row in rows)
    assert (names["cold start"], names["lifespan startup"], names["look up price"]) == (1, 1, 2)
