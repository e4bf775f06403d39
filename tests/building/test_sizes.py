"""How large a function is, and what of it."""

from __future__ import annotations

from pathlib import Path

from tests.building.projects import make
from tracedbridge.building.sizes import LIMIT_BYTES, Size, size_of


def test_sizes(tmp_path: Path) -> None:
    """Each file counts, for the distribution that it came with; its bytecode, too."""
    folder = make(
        tmp_path,
        {
            "main.py": "x" * 10,
            "_vendor/one/a.py": "x" * 100,
            "_vendor/one/__pycache__/a.cpython-313.pyc": "x" * 50,
            "_vendor/other.py": "x" * 20,
            "_vendor/__pycache__/other.cpython-313.pyc": "x" * 5,
            "_vendor/Big_Name-1.0.dist-info/RECORD": "one/a.py,sha256=x,100\nother.py,sha256=y,20\n",
            "_vendor/loose/b.so": "x" * 1000,
        },
    )
    record = folder.joinpath("_vendor/Big_Name-1.0.dist-info/RECORD").stat().st_size
    assert size_of(folder) == Size(1185 + record, {"loose": 1000, "Big_Name": 175 + record})


def test_the_limit() -> None:
    """250 MB, unpacked."""
    assert LIMIT_BYTES == 262_144_000
    assert Size(LIMIT_BYTES, {}).over_bytes == 0
    assert Size(LIMIT_BYTES + 7, {}).over_bytes == 7
