"""Writes a folder beside the one that it is to replace, and replaces only what it made before."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tracedbridge.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ("MARKER", "new_tree")

MARKER = ".tracedbridge.json"
"""Says, in a tree, that it is ours."""


@contextmanager
def new_tree(project: Path, output: Path) -> Iterator[Path]:
    """
    Give an empty folder, which takes the place of ``output`` when the block has ended without an exception.

    Args:
        project: Whose output it is; no symbolic links in its path.
        output: Absolute.

    Raises:
        Refusal: ``output`` is none that we may write.
    """
    _refuse_foreign(project, output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        # On the same file system: it is renamed at the end.
        tree = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    except OSError as error:
        raise Refusal(f"could not write to {str(output.parent)!r}: {error}") from None
    try:
        yield tree
        tree.joinpath(MARKER).write_text(json.dumps({"made_by": "tracedbridge build"}) + "\n")
        # A temporary folder is its owner's alone.
        tree.chmod(0o755)
        _put(tree, output)
    finally:
        shutil.rmtree(tree, ignore_errors=True)


def _put(tree: Path, output: Path) -> None:
    old: Path | None = None
    if output.exists():
        old = tree.with_name(tree.name + "-old")
        output.rename(old)
    try:
        tree.rename(output)
    except OSError:
        if old is not None:
            old.rename(output)
        raise
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def _refuse_foreign(project: Path, output: Path) -> None:
    why = None
    real = Path(os.path.realpath(output))
    if output.is_symlink():
        why = "it is a symbolic link"
    elif project.is_relative_to(real):
        why = "the project is in it"
    elif output.exists() and not output.is_dir():
        why = "it is no folder"
    elif output.is_dir() and any(output.iterdir()) and not (output / MARKER).is_file():
        why = "it holds what `tracedbridge build` did not make; delete it"
    if why is not None:
        raise Refusal(f"will not write to {str(output)!r}: {why}, or name another with --output")
