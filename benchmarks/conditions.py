"""What the figures of a benchmark depend on, for the line below its table."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ("conditions",)


def conditions(script: str, amount: str, packages: tuple[str, ...]) -> str:
    """
    Return the command, the day, the commit, the machine and the versions, in Markdown.

    Args:
        script: File in this folder.
        amount: How much was measured, for people.
        packages: Whose versions matter; those that are not installed are left out.
    """
    versions = []
    for package in packages:
        with contextlib.suppress(PackageNotFoundError):
            versions.append(f"{package} {version(package)}")
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent, capture_output=True, text=True, check=False, timeout=30,
    ).stdout.strip()  # fmt: skip
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return (
        f"`{' '.join(['python', f'benchmarks/{script}', *sys.argv[1:]])}`, {today}, commit {commit or 'unknown'}, "
        f"{amount}\n\n"
        f"CPython {platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} CPUs; "
        f"{', '.join(versions)}"
    )
