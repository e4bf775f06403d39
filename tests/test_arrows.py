"""Imports run one way, and telemetry's libraries stay in telemetry's folder."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tracedbridge

PACKAGE = Path(tracedbridge.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# From top to bottom: a module imports only what is on its own line or below. Imports inside functions count, too.
LAYERS = (
    ("cli", "__main__"),
    ("commands",),
    ("serving", "coldstarts", "building"),
    ("instrumented",),
    ("create",),
    ("extension",),
    ("bridge", "ending"),
    ("telemetry",),
    ("events", "apps", "platforms", "loading"),
    ("answers", "kinds", "untraced"),
    ("protocols",),
    ("messages", "settings", "boot"),
    ("imports", "origins"),
    ("errors", "headers", "refusal", "children", "inline"),
)
LAYER_OF = {name: number for number, names in enumerate(LAYERS) for name in names}
TELEMETRY_LIBRARIES = ("opentelemetry", "structlog", "google", "grpc", "requests")


def _module_name(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def _imported(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            names.add(node.module or "")
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def _layer(module: str) -> int | None:
    parts = module.split(".")
    if parts[0] != "tracedbridge" or len(parts) < 2:
        return None
    return LAYER_OF.get(parts[1])


def test_every_module_has_its_layer() -> None:
    """A new top-level module is put into LAYERS, so that its arrows are checked."""
    names = {_module_name(file).split(".")[1] for file in FILES if _module_name(file) != "tracedbridge"}
    names.add("telemetry")
    assert names == set(LAYER_OF)


@pytest.mark.parametrize("file", FILES, ids=_module_name)
def test_no_arrow_turns_round(file: Path) -> None:
    """A module imports only from its own layer or from those below."""
    here = _layer(_module_name(file))
    for imported in _imported(file):
        there = _layer(imported)
        # The public names of the package are resolved lazily, from anywhere.
        if here is not None and there is not None:
            assert there >= here, f"{_module_name(file)} imports {imported}"


@pytest.mark.parametrize("file", FILES, ids=_module_name)
def test_telemetry_libraries_stay_in_telemetry(file: Path) -> None:
    """Nothing outside telemetry/ imports opentelemetry, structlog or what they bring."""
    if "telemetry" in file.relative_to(PACKAGE).parts:
        return
    outside = {name for name in _imported(file) if name.split(".")[0] in TELEMETRY_LIBRARIES}
    assert not outside


def test_telemetry_is_asked_for_by_table_strings_only() -> None:
    """Nobody outside telemetry/ imports it: what is switched off, or deleted, is not missed."""
    for file in FILES:
        if "telemetry" not in file.relative_to(PACKAGE).parts:
            assert not {name for name in _imported(file) if name.startswith("tracedbridge.telemetry")}, file


def test_the_core_loads_neither_telemetry_nor_frameworks() -> None:
    """With telemetry off a WSGI app is served without opentelemetry, structlog, werkzeug or asyncio."""
    program = """
import os, sys
os.environ["TRACEDBRIDGE_TELEMETRY"] = "off"
import tracedbridge
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"ok"]
with tracedbridge.create_bridge(app) as bridge:
    assert bridge({"body": '{"method": "GET", "path": "/", "headers": {}}'}, None)["body"] == "ok"
print(sorted({name.split(".")[0] for name in sys.modules}
             & {"opentelemetry", "structlog", "werkzeug", "asyncio", "requests", "google", "logging"}))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True,
        env={"PYTHONPATH": str(PACKAGE.parent), "COVERAGE_PROCESS_START": "", "COVERAGE_PROCESS_CONFIG": ""},
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
