"""Makes projects of files."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

__all__ = ("APP", "make")

APP = "async def app(scope, receive, send): ...\n"
"""A module with an app."""


def make(folder: Path, files: Mapping[str, str]) -> Path:
    """Write files by their paths below a folder, and return it without symbolic links in its path."""
    for name, source in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(source))
    return folder.resolve()
