"""Compiles a function ahead of its first cold start."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from tracedbridge.building.interpreters import interpreter_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tracedbridge.building.vendoring import Target

__all__ = ("compile_all", "compile_by")

_TIMEOUT_S = 600.0


def compile_all(folder: Path, target: Target, say: Callable[[str], None]) -> str | None:
    """
    Compile all that is in a folder; what does not compile, such as a template, is left as it is.

    The bytecode is not compared with its source when it is loaded: a deployment changes the times of files, and a
    function that may not write would compile everything in each cold start.

    Returns:
        The interpreter that did; None if this machine has none of the target's version, whose bytecode nobody else
        writes.
    """
    python = interpreter_of(target.python)
    if python is None:
        say(
            f"no Python {target.python} found here, so there is no bytecode: each cold start compiles what it imports; "
            f"install it, or build for one that is here with --python"
        )
        return None
    return python if compile_by(python, folder, [folder], say) else None


def compile_by(python: str, folder: Path, places: Sequence[Path], say: Callable[[str], None]) -> bool:
    """
    Compile files, or all in folders, and say whether that went well.

    Args:
        python: The interpreter.
        folder: Which the bytecode does not name.
        places: Below it.
        say: Is told why it went wrong.
    """
    command = (
        python, "-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash", "-s", str(folder),
        *map(str, places),
    )  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)  # noqa: S603 - a Python, and a module of its own
    # 1 is for files that do not compile.
    if done.returncode not in (0, 1):
        say(f"{python} could not compile: {done.stderr.strip()[-500:]}")
    return done.returncode in (0, 1)
