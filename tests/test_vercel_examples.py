"""The projects of examples/vercel answer, and are told, in every way in which their README deploys them."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import tracedbridge
from tests.frameworks.entry import through_vc_handler
from tests.support import answer, event
from tests.telemetry.received import Received
from tests.vercel.platform import ENTRY, Platform
from tracedbridge.serving.receiver import Receiver

pytestmark = [pytest.mark.frameworks, pytest.mark.telemetry]

SOURCE = Path(tracedbridge.__file__).parents[1]
EXAMPLES = SOURCE / "examples" / "vercel"
# By project: what the platform imports by itself, and what we serve.
PROJECTS = {"fastapi": "main.py", "flask": "main.py", "handler": "index.py"}
RUNTIME = "import vercel_runtime.vc_init\n"

ASKED = {"/price/3": (200, {"id": 3, "cents": 43}), "/price/9": (404, None), "/countdown": (200, b"3\n2\n1\n")}
HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"
INSTALLER_S = 600.0


def is_as_expected(path: str, status: int, body: bytes) -> bool:
    """Say whether that is the shop's answer."""
    expected_status, content = ASKED[path]
    if status != expected_status:
        return False
    if isinstance(content, bytes):
        return body == content
    return content is None or json.loads(body) == content


def asked_through(platform: Platform) -> None:
    """Send all requests, and have the platform end them."""
    for path in ASKED:
        reply = platform.ask(path)
        assert is_as_expected(path, reply.status, reply.body), path
        assert "error" not in platform.ended(reply.ids).payload


def test_all_of_them() -> None:
    """No project is forgotten here."""
    assert sorted(PROJECTS) == sorted(each.parent.name for each in EXAMPLES.glob("*/pyproject.toml"))


@pytest.mark.parametrize("project", PROJECTS)
def test_events(project: str, tmp_path: Path) -> None:
    """By events, each request is answered and told once."""
    events = [event("GET", path, headers={"host": "localhost"}) for path in ASKED]
    results, lines = through_vc_handler(str(EXAMPLES / project / PROJECTS[project]), events, tmp_path)
    for path, result in zip(ASKED, results, strict=True):
        told = answer(result)
        assert is_as_expected(path, told.status, told.body), path
    assert [line["path"] for line in lines if line["event"] == "invocation"] == list(ASKED)


@pytest.mark.parametrize("way", ["ours", "Vercel's runtime"])
@pytest.mark.parametrize("project", PROJECTS)
def test_served(project: str, way: str) -> None:
    """Served by us, or by Vercel's runtime, each request is one SERVER span with the cold start in the first."""
    folder = EXAMPLES / project
    options: dict[str, Any] = {"PYTHONPATH": os.pathsep.join((str(SOURCE), str(folder)))}
    if way == "ours":
        entry = ENTRY
    elif find_spec("vercel_runtime") is None:
        pytest.skip("vercel_runtime is not installed: it has no release for 3.11")
    else:
        entry = RUNTIME
        told = tomllib.loads(folder.joinpath("pyproject.toml").read_text())["tool"]["vercel"]["entrypoint"]
        module, _, variable = told.partition(":")
        options |= {
            "__VC_HANDLER_ENTRYPOINT": f"{module}.py",
            "__VC_HANDLER_ENTRYPOINT_ABS": str(folder / f"{module}.py"),
            "__VC_HANDLER_MODULE_NAME": module,
            "__VC_HANDLER_VARIABLE_NAME": variable,
        }
    with Receiver() as receiver:
        app = str(folder / PROJECTS[project])
        with Platform(app, entry=entry, endpoint=receiver.endpoint, **options) as platform:
            asked_through(platform)
        spans = Received(receiver).servers()
    assert [span.attributes["url.path"] for span in spans] == list(ASKED)
    assert [span.attributes["faas.coldstart"] for span in spans] == [True, False, False]


@pytest.mark.skipif(HERE == "3.11", reason="Vercel has no Python 3.11, so none is here to start it")
@pytest.mark.skipif(sys.platform != "linux", reason="what is built runs on Linux")
@pytest.mark.parametrize("project", PROJECTS)
def test_built(project: str, tmp_path: Path) -> None:
    """What the README's command builds answers."""
    (command,) = re.findall(
        r"^\$ tracedbridge (build) examples/vercel/fastapi$", (EXAMPLES / "README.md").read_text(), re.MULTILINE
    )
    arch = "arm64" if os.uname().machine in ("arm64", "aarch64") else "x86_64"
    done = subprocess.run(
        (
            sys.executable, "-m", "tracedbridge", command, str(EXAMPLES / project), "--output", str(tmp_path / "out"),
            "--tracedbridge", str(SOURCE), "--python", HERE, "--arch", arch,
        ),
        env={**os.environ, "PYTHONPATH": str(SOURCE)}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=INSTALLER_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with Platform("", built=tmp_path / "out" / "functions" / "index.func") as platform:
        asked_through(platform)


@pytest.mark.parametrize("project", PROJECTS)
def test_dependencies(project: str) -> None:
    """What a project imports, it depends on."""
    imported: set[str] = set()
    for file in (EXAMPLES / project).glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                imported.add(node.module.partition(".")[0])
    foreign = {{"opentelemetry": "opentelemetry-api"}.get(name, name) for name in imported - sys.stdlib_module_names}
    told = tomllib.loads((EXAMPLES / project / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {re.split(r"[<>=\[]", each)[0] for each in told} == foreign | {"tracedbridge"}
