"""Tells how large a function is, and which of its packages are."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from tracedbridge.building.entry import VENDOR

__all__ = ("LIMIT_BYTES", "Size", "size_of")

LIMIT_BYTES = 250 * 1024 * 1024
"""Of a function, unpacked."""


class Size(NamedTuple):
    """How large a function is."""

    total_bytes: int
    # By distribution, the largest first.
    packages: dict[str, int]

    @property
    def over_bytes(self) -> int:
        """By how much it is too large; zero or less if it is not."""
        return self.total_bytes - LIMIT_BYTES


def size_of(folder: Path) -> Size:
    """Return the size of a function's folder, unpacked."""
    vendored = folder / VENDOR
    owners = _owners(vendored)
    packages: Counter[str] = Counter()
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            file = Path(place, name)
            size = file.stat().st_size
            total += size
            if file.is_relative_to(vendored):
                packages[_owner(file.relative_to(vendored), owners)] += size
    return Size(total, dict(packages.most_common()))


def _owners(vendored: Path) -> dict[str, str]:
    """Return the distribution that each file came with, by its path."""
    owners: dict[str, str] = {}
    for record in vendored.glob("*.dist-info/RECORD"):
        name = record.parent.name.partition("-")[0]
        for line in record.read_text(encoding="utf-8", errors="replace").splitlines():
            # "flask/app.py,sha256=…,123"
            owners[line.partition(",")[0]] = name
    return owners


def _owner(file: Path, owners: dict[str, str]) -> str:
    if file.parent.name == "__pycache__":
        # Compiled here: "__pycache__/app.cpython-313.pyc" is "app.py"'s.
        file = file.parent.parent / (file.name.partition(".")[0] + ".py")
    top = file.parts[0]
    return owners.get(file.as_posix()) or top.partition("-")[0].removesuffix(".py")
