"""Finds a Python of a version on this machine."""

from __future__ import annotations

import shutil
import subprocess
import sys

__all__ = ("interpreter_of",)

_TIMEOUT_S = 30.0


def interpreter_of(version: str) -> str | None:
    """
    Return the path of an interpreter of that version; None if there is none.

    Args:
        version: ``"3.12"``.
    """
    if f"{sys.version_info[0]}.{sys.version_info[1]}" == version and sys.implementation.name == "cpython":
        return sys.executable
    candidates = [shutil.which(f"python{version}")]
    if (uv := shutil.which("uv")) is not None:
        candidates.append(_answer(uv, "python", "find", "--no-project", version) or None)
    for candidate in candidates:
        # What is on the path may be a shim of pyenv's that refuses.
        if candidate and _answer(candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])") == version:
            return candidate
    return None


def _answer(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)  # noqa: S603 - what the user has on his path
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
