"""Real installers build real projects, and what they built is started as the platform starts it."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import tracedbridge
from tests.building.projects import make
from tests.support import HANG_S, answer, event
from tests.telemetry.received import Received
from tests.vercel.platform import VARIABLES, Platform, configuration
from tracedbridge.building import sizes
from tracedbridge.cli import main
from tracedbridge.serving.receiver import Receiver

pytestmark = [pytest.mark.frameworks, pytest.mark.telemetry]

SOURCE = Path(tracedbridge.__file__).parents[1]
# An installer asks PyPI, where it has nothing in its cache.
INSTALLER_S = 600.0

HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"
ON_VERCEL = pytest.mark.skipif(HERE == "3.11", reason="Vercel has no Python 3.11, so none is here to start it")
ARCH = "arm64" if os.uname().machine in ("arm64", "aarch64") else "x86_64"
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="what is built runs on Linux")

# pydantic-core and markupsafe are compiled.
SHOP = {
    "pyproject.toml": """
        [project]
        name = "shop"
        version = "1"
        requires-python = ">=3.12"
        dependencies = ["fastapi", "flask", "tzdata; sys_platform == 'win32'"]
    """,
    "main.py": """
        from fastapi import FastAPI
        from pydantic import BaseModel

        from prices import price

        class Item(BaseModel):
            number: int
            cents: int

        app = FastAPI()

        @app.get("/items/{number}")
        def item(number: int) -> Item:
            return Item(number=number, cents=price(number))
    """,
    "prices.py": "def price(number):\n    return number * 100\n",
    "api/hello/[name].py": """
        from flask import Flask, request

        app = Flask(__name__)

        @app.get("/api/hello/<name>")
        def hello(name):
            return {"hello": name, "told": request.args["name"]}
    """,
    "api/_shared.py": "raise RuntimeError('imported')",
    "public/robots.txt": "User-agent: *",
    "secret.pem": "secret",
    ".gitignore": "*.pem\n",
}


def built(project: Path, *options: str) -> Path:
    """Build a project in a process of its own, with this tracedbridge, and return its output."""
    done = subprocess.run(
        (sys.executable, "-m", "tracedbridge", "build", str(project), "--tracedbridge", str(SOURCE), *options),
        cwd=project, env={**os.environ, "PYTHONPATH": str(SOURCE)}, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=INSTALLER_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "vercel deploy --prebuilt" in done.stdout
    return project / ".vercel" / "output"


@pytest.fixture(scope="module", params=["uv", "pip"])
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of the shop for this machine, by each installer."""
    project = make(tmp_path_factory.mktemp("shop"), SHOP)
    python = "3.12" if HERE == "3.11" else HERE
    return built(project, "--installer", str(request.param), "--python", python, "--arch", ARCH)


def tags(function: Path) -> set[str]:
    """Return the platform tags of a function's wheels that are compiled, and "any" for the others."""
    told = "".join(file.read_text() for file in function.glob("_vendor/*.dist-info/WHEEL"))
    lines = [line.removeprefix("Tag: ") for line in told.splitlines() if line.startswith("Tag: ")]
    return {line.rpartition("-")[2] for line in lines}


def test_the_tree(shop: Path) -> None:
    """Two functions, each with all of the project but what it ignores; files for the platform; routes to them."""
    assert sorted(file.relative_to(shop / "functions").as_posix() for file in shop.rglob(".vc-config.json")) == [
        "api/hello/[name].func/.vc-config.json",
        "index.func/.vc-config.json",
    ]
    assert json.loads(shop.joinpath("config.json").read_text()) == {
        "version": 3,
        "routes": [
            {"handle": "filesystem"},
            {"src": "^/api/hello/([^/]+)$", "dest": "/api/hello/[name]?name=$1"},
            {"src": "/(.*)", "dest": "/index"},
        ],
    }
    assert shop.joinpath("static", "robots.txt").read_text() == "User-agent: *"
    for function in ("index.func", "api/hello/[name].func"):
        folder = shop / "functions" / function
        own = {file.relative_to(folder).as_posix() for file in folder.rglob("*.py") if "_vendor" not in file.parts}
        assert own == {"main.py", "prices.py", "api/hello/[name].py", "api/_shared.py", "tracedbridge_entry.py"}
        assert not folder.joinpath("secret.pem").exists()
        assert not [path for path in folder.rglob("*") if path.is_symlink()]


def test_the_configuration(shop: Path) -> None:
    """What Vercel reads of a function."""
    assert configuration(shop / "functions" / "index.func") == {
        "runtime": f"python{'3.12' if HERE == '3.11' else HERE}",
        "handler": "tracedbridge_entry.vc_handler",
        "architecture": ARCH,
        "environment": {"PYTHONPATH": "_vendor", "PYTHONDONTWRITEBYTECODE": "1"},
        "supportsResponseStreaming": True,
    }


def test_the_wheels(shop: Path) -> None:
    """They are for Linux, whatever this machine is; some of them are compiled, and tzdata is for Windows only."""
    machine = "aarch64" if ARCH == "arm64" else "x86_64"
    found = tags(shop / "functions" / "index.func")
    assert "any" in found
    compiled = found - {"any"}
    assert compiled
    assert all(tag.startswith("manylinux") and tag.endswith(machine) for tag in compiled)
    assert not list(shop.glob("functions/index.func/_vendor/tzdata*"))


@ON_VERCEL
def test_the_bytecode(shop: Path) -> None:
    """Every module that compiles has bytecode of this Python, which is loaded without a look at its source."""
    folder = shop / "functions" / "index.func"
    for source in (
        "main.py",
        "tracedbridge_entry.py",
        "_vendor/fastapi/applications.py",
        "_vendor/typing_extensions.py",
    ):
        place = folder / source
        (compiled,) = place.parent.glob(f"__pycache__/{place.stem}.{sys.implementation.cache_tag}.pyc")
        # PEP 552: the flags of a hash that is not checked.
        assert compiled.read_bytes()[4:8] == b"\x01\0\0\0"
        assert str(shop).encode() not in compiled.read_bytes()


# What is asked of each function, and what it answers.
ASKED = {
    "index": ("/items/7", {"number": 7, "cents": 700}),
    "api/hello/[name]": ("/api/hello/Ada?name=Ada", {"hello": "Ada", "told": "Ada"}),
}


@ON_VERCEL
@ON_LINUX
@pytest.mark.parametrize("function", ASKED)
def test_events(function: str, shop: Path) -> None:
    """Started as the platform starts it, with nothing else on the path, the handler answers an event."""
    folder = shop / "functions" / f"{function}.func"
    config = configuration(folder)
    module, _, name = config["handler"].rpartition(".")
    path, expected = ASKED[function]
    code = f"import json, sys; from {module} import {name}; print(json.dumps({name}(json.load(sys.stdin), None)))"
    with Receiver() as receiver:
        told = {**VARIABLES, **config["environment"], "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint}
        done = subprocess.run(
            (sys.executable, "-S", "-c", code),
            cwd=folder, env=told, input=json.dumps(event("GET", path)), capture_output=True, text=True,
            timeout=3 * HANG_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        span = Received(receiver).server()
    result = next(json.loads(line) for line in done.stdout.splitlines() if "statusCode" in line)
    assert json.loads(answer(result).body) == expected
    assert span.attributes["faas.coldstart"] is True
    assert span.resource["faas.name"] == f"shop/{'main' if function == 'index' else function}"


@ON_VERCEL
@ON_LINUX
@pytest.mark.parametrize("function", ASKED)
def test_ipc(function: str, shop: Path) -> None:
    """The same handler serves over a socket where the platform has one."""
    path, expected = ASKED[function]
    with Platform("", built=shop / "functions" / f"{function}.func") as platform:
        reply = platform.ask(path)
        assert reply.told == expected
        assert "error" not in platform.ended(reply.ids).payload
        platform.terminate()
        assert platform.exit_code() == 0
        assert platform.violations == []


def test_another_machine(tmp_path: Path) -> None:
    """Wheels of the other architecture are taken, and versions from the lock."""
    project = make(tmp_path, {"main.py": "from flask import Flask\napp = Flask(__name__)\n", **_locked()})
    output = built(project, "--arch", "arm64", "--python", "3.13")
    function = output / "functions" / "index.func"
    assert {tag for tag in tags(function) if tag != "any"} <= {
        tag for tag in tags(function) if tag.startswith("manylinux") and tag.endswith("aarch64")
    }
    assert function.joinpath("_vendor", "markupsafe").is_dir()
    assert list(function.glob("_vendor/werkzeug-3.1.3.dist-info"))
    assert configuration(function)["architecture"] == "arm64"


@functools.cache
def _locked() -> dict[str, str]:
    """Return a pyproject.toml and the uv.lock of it, which has an older version than there is."""
    import tempfile

    from uv import find_uv_bin

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        told = '[project]\nname = "shop"\nversion = "1"\nrequires-python = ">=3.11"\ndependencies = ["flask"]\n'
        place.joinpath("pyproject.toml").write_text(told + '[tool.uv]\nconstraint-dependencies = ["werkzeug==3.1.3"]\n')
        subprocess.run(
            (find_uv_bin(), "lock", "--quiet", "--python", sys.executable), cwd=place, timeout=INSTALLER_S, check=True
        )
        return {"pyproject.toml": told, "uv.lock": place.joinpath("uv.lock").read_text()}


def refused(capsys: pytest.CaptureFixture[str], arguments: Sequence[str]) -> str:
    """Return what the command says when it fails."""
    assert main(["build", *arguments]) != 0
    return capsys.readouterr().err


@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_what_cannot_be_installed(installer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The installer's last lines are told, and nothing is written."""
    files = {"main.py": "app = 1", "requirements.txt": "tracedbridge-is-no-such-package==1\n"}
    project = make(tmp_path, files)
    said = refused(capsys, [str(project), "--installer", installer, "--python", "3.13", "--tracedbridge", str(SOURCE)])
    assert "tracedbridge-is-no-such-package" in said
    assert "could not install" in said
    assert not project.joinpath(".vercel", "output").exists()


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        pytest.param({}, [], "found no app", id="no app"),
        pytest.param({"_vendor/a.py": ""}, ["--entrypoint", "x.py"], "'_vendor'", id="our folder"),
        pytest.param({"tracedbridge_entry.py": ""}, ["--entrypoint", "x.py"], "rename it", id="our module"),
        pytest.param({"main.py": "app = 1"}, ["--output", "."], "the project is in it", id="the project as output"),
        pytest.param(
            {"main.py": "app = 1"}, ["--tracedbridge", "./no.whl", "--output", "out"], "no.whl", id="no such wheel"
        ),
        pytest.param({"main.py": "app = 1", ".python-version": "3.9"}, [], "3.12, 3.13, 3.14", id="an old Python"),
    ],
)
def test_refused(
    files: dict[str, str],
    options: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What cannot be built is refused in one line that names what to do, and nothing is left behind."""
    project = make(tmp_path, {"x.py": "app = 1" if "--entrypoint" in options else "", **files})
    monkeypatch.chdir(project)
    before = sorted(project.rglob("*"))
    assert message in refused(capsys, [".", *options])
    assert [path for path in sorted(project.rglob("*")) if path.name != ".vercel"] == before


def test_too_large(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A function over the limit is written, said to be too large with what is largest, and is a failure."""
    monkeypatch.setattr(sizes, "LIMIT_BYTES", 1_000_000)
    project = make(tmp_path, {"main.py": "app = 1", "vercel.json": "{}"})
    code = main(["build", str(project), "--python", "3.13", "--tracedbridge", str(SOURCE)])
    told = capsys.readouterr()
    assert code == 1
    assert "index is" in told.err
    assert "too large" in told.err
    assert "protobuf" in told.err
    assert "vercel.json is not read" in told.err
    assert project.joinpath(".vercel", "output", "config.json").is_file()


def test_a_variable_that_is_named(tmp_path: Path) -> None:
    """A module of a package in src, and its variable, are what the entry serves."""
    files: dict[str, Any] = {
        "pyproject.toml": '[tool.vercel]\nentrypoint = "shop.web:site"\n',
        "src/shop/__init__.py": "",
        "src/shop/web.py": """
            from .names import NAME

            def site(environ, start_response):
                start_response("200 OK", [])
                return [NAME]
        """,
        "src/shop/names.py": "NAME = b'plum'\n",
    }
    output = built(make(tmp_path, files), "--python", "3.12" if HERE == "3.11" else HERE)
    folder = output / "functions" / "index.func"
    if HERE == "3.11":
        return
    with Platform("", built=folder) as platform:
        assert platform.ask("/").body == b"plum"
