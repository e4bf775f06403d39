"""The recorder agrees with ``-X importtime``, which watches the same imports in the same process from the inside."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import HANG_S
from tests.truth.apps import APPS
from tests.truth.importtime import Node, Timed, disagreements, folded, read_importtime
from tests.truth.runs import best_of, plain_environ

# The marks go the interpreter's way, so that they stand between its lines.
_DRIVER = """
import json, os
from tracedbridge.imports import Recording

recording = Recording()
os.write(2, b"<begin>\\n")
assert recording.open()
import function
recording.close()
os.write(2, b"<end>\\n")

def told(each):
    return {"name": each.name, "self_ns": each.self_ns, "children": [told(child) for child in each.children]}

with open("recorded.json", "w") as recorded:
    json.dump([told(root) for root in recording.roots], recorded)
"""


def timed_both_ways(folder: Path) -> tuple[list[Node], list[Timed]]:
    """Import ``function`` from ``folder`` once; return what was recorded, and what the interpreter says."""
    done = subprocess.run(
        (sys.executable, "-X", "importtime", "driver.py"),
        cwd=folder,
        env=plain_environ(),
        capture_output=True,
        text=True,
        timeout=3 * HANG_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    roots: list[Node] = json.loads((folder / "recorded.json").read_text())
    return roots, read_importtime(done.stderr, "<begin>", "<end>")


@pytest.mark.frameworks
@pytest.mark.parametrize("app", APPS)
def test_the_ten_longest(app: str, tmp_path: Path) -> None:
    """The ten modules that took longest by themselves are the same, in the same order up to ties of 10 %."""
    (tmp_path / "function.py").write_text(APPS[app])
    (tmp_path / "driver.py").write_text(_DRIVER)

    def attempt() -> list[str]:
        roots, theirs = timed_both_ways(tmp_path)
        assert len(theirs) > 100, "an app that imports little proves little"
        return disagreements(folded(roots, theirs), theirs)

    best_of(3, attempt)


def timed(**self_us: float) -> list[Timed]:
    """Return modules with these times."""
    return [Timed(name, each) for name, each in self_us.items()]


_FOUR = timed(a=400, b=300, c=210, d=200)


@pytest.mark.parametrize(
    ("ours", "wrong"),
    [
        pytest.param(timed(a=405, b=297, c=215, d=201), [], id="same order"),
        pytest.param(timed(a=400, b=300, c=200, d=205), [], id="a tie that swaps"),
        pytest.param(timed(a=280, b=300, c=210, d=200), ["a and b"], id="a swap that is no tie"),
        pytest.param(timed(a=400, b=300, c=200, d=260), ["c and d"], id="a tie by one clock only"),
        pytest.param(
            timed(a=400, b=200, c=210, d=300), ["b and c", "b and d", "c and d"], id="another one at the edge"
        ),
        pytest.param(timed(a=390, b=300, c=310, d=305), ["b and c", "b and d"], id="pushed over the edge"),
    ],
)
def test_the_comparison_of_three(ours: list[Timed], wrong: list[str]) -> None:
    """The comparison forgives two near times that changed places, also at the edge, and nothing else."""
    assert [each.partition(":")[0] for each in disagreements(ours, _FOUR, most=3)] == wrong


def test_ties_do_not_add_up() -> None:
    """Three times, each a tie with the next, may not turn round as a whole."""
    assert disagreements(timed(a=100, b=108, c=117), timed(a=117, b=108, c=100)) != []


def test_what_is_beyond_the_edge() -> None:
    """Modules that neither clock has among the longest may stand in any order."""
    assert disagreements(timed(a=9, b=1, c=2), timed(a=9, b=2, c=1), most=1) == []


def test_folding() -> None:
    """What the interpreter does not list is added to its importer, children and all; what is listed must be there."""
    inner: Node = {"name": "inner", "self_ns": 1_000, "children": []}
    by_name: Node = {"name": "by_name", "self_ns": 2_000, "children": [inner]}
    outer: Node = {"name": "outer", "self_ns": 4_000, "children": [by_name]}
    assert folded([outer], timed(inner=0, outer=0)) == timed(inner=1, outer=6)
    assert folded([outer], timed(outer=0)) == timed(outer=7)
    with pytest.raises(AssertionError, match="not recorded"):
        folded([outer], timed(inner=0, stranger=0, outer=0))


def test_reading() -> None:
    """Of what the interpreter writes only the lines between the marks count, whatever else is written there."""
    text = (
        "import time: self [us] | cumulative | imported package\n"
        "import time:       100 |        100 | before\n"
        "<begin>\n"
        "import time:        12 |         12 |   inner\n"
        "something else | of | an app\n"
        "import time:        30 |         42 | outer\n"
        "<end>\n"
        "import time:       100 |        100 | after\n"
    )
    assert read_importtime(text, "<begin>", "<end>") == timed(inner=12, outer=30)
