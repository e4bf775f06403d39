"""
Runs what CI runs, each part in an environment of its own; `make test` calls it with nothing but the standard library.

main    checks (ruff, mypy) and the whole suite with coverage, on the Python that runs this
others  the suite on the other supported Pythons, found by running them
lowest  the same on the lowest allowed versions of the dependencies, without the frameworks
bare    the suite without its telemetry tests, in a copy whose telemetry/ is deleted

Only main runs the tests of the viewer's page in a browser and of the dashboards in a Prometheus.
"""

from __future__ import annotations

import argparse
import glob
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENVS = ROOT / ".venvs"
VERSIONS = ("3.11", "3.12", "3.13")
PARTS = ("main", "others", "lowest", "bare")

# They test JavaScript and PromQL, which no other Python changes, and take more than two minutes.
NOT_TWICE = "not browser and not dashboards"
# The same tests, where what they import is not installed.
FOLDERS_NOT_TWICE = ("tests/serving/page", "tests/dashboards")

# 25 minutes: the whole matrix has 45, and a test that hangs must not take CI's 90.
TIMEOUT_S = 1500


def run(*command: str | Path, cwd: Path = ROOT, env: dict[str, str] | None = None) -> None:
    """Run a command, shown; exit as it exits if it fails."""
    print("+", *command, flush=True)
    begun_s = time.monotonic()
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env={**os.environ, **(env or {})}, timeout=TIMEOUT_S, check=False
    )
    print(f"  {time.monotonic() - begun_s:.0f} s", flush=True)
    if done.returncode:
        sys.exit(done.returncode)


def interpreters() -> dict[str, str]:
    """
    Return version → path of the supported Pythons that really run.

    A `python3.12` on PATH may be pyenv's shim, which refuses: only what answers counts.
    """
    found: dict[str, str] = {}
    homes = (os.environ.get("PYENV_ROOT", ""), str(Path.home() / ".pyenv"), "/opt/pyenv", "/usr/local", "/usr")
    for version in VERSIONS:
        candidates = [sys.executable, shutil.which(f"python{version}") or ""]
        for home in filter(None, homes):
            candidates += sorted(glob.glob(f"{home}/versions/{version}.*/bin/python"), reverse=True)
            candidates.append(f"{home}/bin/python{version}")
        for candidate in filter(None, candidates):
            try:
                answer = subprocess.run(
                    [candidate, "-c", "import sys, venv; print('%d.%d' % sys.version_info[:2])"],
                    capture_output=True, text=True, timeout=30, check=False,
                )  # fmt: skip
            except (OSError, subprocess.TimeoutExpired):
                continue
            if answer.stdout.strip() == version:
                found[version] = candidate
                break
    return found


def environment(name: str, python: str, *install: str) -> Path:
    """Make a new virtual environment, install into it and return its folder of programs."""
    folder = VENVS / name
    shutil.rmtree(folder, ignore_errors=True)
    run(python, "-m", "venv", folder)
    programs = folder / "bin"
    run(programs / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *install)
    return programs


def main_part() -> None:
    """Check and test everything on this Python."""
    programs = environment("main", sys.executable, "--editable", ".[dev]")
    run(programs / "ruff", "check", ".")
    run(programs / "ruff", "format", "--check", ".")
    run(programs / "mypy")
    run(programs / "coverage", "erase")
    run(programs / "coverage", "run", "-m", "pytest", "-q", env={"PYTHONDEVMODE": "1"})
    run(programs / "coverage", "combine", "--quiet")
    run(programs / "coverage", "report")


def others_part() -> None:
    """Test on the other supported Pythons; in CI a missing one fails."""
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    found = interpreters()
    for version in VERSIONS:
        if version == here:
            continue
        if version not in found:
            print(f"no Python {version} found: its tests did not run", flush=True)
            if os.environ.get("CI"):
                sys.exit(1)
            continue
        programs = environment(f"py{version}", found[version], "--editable", ".[dev]")
        run(programs / "python", "-m", "pytest", "-q", "-m", NOT_TWICE, env={"PYTHONDEVMODE": "1"})


def lowest_part() -> None:
    """Test on the lowest versions that pyproject.toml allows for what users install."""
    programs = environment("lowest", sys.executable, "uv")
    uv = programs / "uv"
    python = programs / "python"
    install = (uv, "pip", "install", "--quiet", "--python", python)
    run(*install, "--resolution", "lowest-direct", "--editable", ".[cli,grpc,vercel]")
    run(*install, "pytest", "hypothesis", "rotel")
    run(uv, "pip", "list", "--python", python)
    ignored = [f"--ignore={folder}" for folder in FOLDERS_NOT_TWICE]
    run(python, "-m", "pytest", "-q", "-m", "not frameworks", *ignored)


def bare_part() -> None:
    """Test that the bridge answers with the folder of telemetry deleted."""
    programs = VENVS / "main" / "bin"
    if not programs.exists():
        environment("main", sys.executable, "--editable", ".[dev]")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "tracedbridge"
        files = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
        ).stdout.split("\0")
        for file in filter(None, files):
            if not file.startswith("tracedbridge/telemetry/") and (ROOT / file).is_file():
                (copy / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / file, copy / file)
        # The copy before the editable install of the original.
        env = {"PYTHONPATH": str(copy), "TRACEDBRIDGE_TEST_BARE": "1"}
        run(programs / "python", "-m", "pytest", "-q", "-m", f"not telemetry and {NOT_TWICE}", cwd=copy, env=env)


def main() -> None:
    """Run the parts that were asked for, in order."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--only", choices=PARTS, action="append", help="run this part, not all")
    asked = parser.parse_args().only or PARTS
    parts = {"main": main_part, "others": others_part, "lowest": lowest_part, "bare": bare_part}
    for name in PARTS:
        if name in asked:
            print(f"== {name}", flush=True)
            parts[name]()


if __name__ == "__main__":
    main()
