"""Reads what ``-X importtime`` says, and compares it with a recording of the same imports."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypedDict

__all__ = ("Node", "Timed", "disagreements", "folded", "read_importtime")

# Two times so near to each other may change places.
_TIE = 1.1


class Node(TypedDict):
    """One recorded import, as the process that recorded it wrote it down."""

    name: str
    self_ns: int
    children: list[Node]


class Timed(NamedTuple):
    """One module and its self time, in microseconds."""

    name: str
    self_us: float


def read_importtime(stderr: str, begin: str, end: str) -> list[Timed]:
    """
    Read what the interpreter wrote between two lines, in its order: a module comes when its import has ended.

    Source: CPython, import.c, ``import time: %9ld | %10ld | %*s%s``: self, cumulative, indent, name.
    """
    lines = stderr.splitlines()
    between = lines[lines.index(begin) + 1 : lines.index(end)]
    timed = []
    for line in between:
        mark, _, rest = line.partition(":")
        if mark == "import time":
            self_us, _, name = rest.split("|")
            timed.append(Timed(name.strip(), float(self_us)))
    return timed


def folded(roots: Iterable[Node], listed: Sequence[Timed]) -> list[Timed]:
    """
    Return what was recorded in the order and with the names of ``listed``.

    What the interpreter did not list, because it came by ``importlib.import_module``, is added to its importer.

    Raises:
        AssertionError: Something is listed that was not recorded, or not in this order.
    """
    found: list[Timed] = []

    def visit(node: Node) -> float:
        """Return what is left for the importer."""
        self_us = node["self_ns"] / 1e3 + sum([visit(child) for child in node["children"]])
        if len(found) < len(listed) and listed[len(found)].name == node["name"]:
            found.append(Timed(node["name"], self_us))
            return 0.0
        return self_us

    for root in roots:
        visit(root)
    assert len(found) == len(listed), f"not recorded after {found[-3:]}: {listed[len(found)]}"
    return found


def disagreements(ours: Sequence[Timed], theirs: Sequence[Timed], most: int = 10) -> list[str]:
    """
    Tell where two clocks do not agree on which modules took longest, and in which order; nothing if they agree.

    Any two modules of either list's longest must stand in the same order in both, or both clocks must say that they
    are a tie. That covers the edge: what only one of the two lists has stands there before something that only the
    other one has.

    Args:
        ours: As many as ``theirs``, the same modules in the same order.
        theirs: By the other clock.
        most: How many of the longest are compared.
    """
    assert [each.name for each in ours] == [each.name for each in theirs]

    # By place, not by name: a module may be imported twice.
    def longest(timed: Sequence[Timed]) -> list[int]:
        return sorted(range(len(timed)), key=lambda place: -timed[place].self_us)[:most]

    compared = sorted({*longest(ours), *longest(theirs)})
    wrong = []
    for index, one in enumerate(compared):
        for other in compared[index + 1 :]:
            pairs = [(timed[one].self_us, timed[other].self_us) for timed in (ours, theirs)]
            is_swapped = (pairs[0][0] - pairs[0][1]) * (pairs[1][0] - pairs[1][1]) < 0
            if is_swapped and not all(max(pair) <= _TIE * min(pair) for pair in pairs):
                names = f"{ours[one].name} and {ours[other].name}"
                wrong.append(f"{names}: {pairs[0][0]:.0f} and {pairs[0][1]:.0f} µs recorded, {pairs[1]} by importtime")
    return wrong
