"""What the runs say together: medians by phase, by module and by top-level package, and what changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tracedbridge.coldstarts import noise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tracedbridge.coldstarts.noise import Verdict
    from tracedbridge.coldstarts.runs import Import, Run
    from tracedbridge.origins import Owner, Source

__all__ = ("AFTER_READY", "Change", "Cost", "changes", "middle_run", "modules", "packages", "phases", "totals")

# Phases that are no part of the total.
AFTER_READY = ("wait", "first_byte")

# Of packages, by self time: as many as one can read, and each makes the test of the others a little harder.
_COMPARED_PACKAGES = 10


class Cost:
    """What one module or one top-level package took in each of the runs; nothing where it was not imported."""

    __slots__ = ("modules", "name", "owner", "self_values_ms", "sources", "total_values_ms")

    def __init__(self, name: str, runs: int) -> None:
        """Count nothing yet."""
        self.name = name
        self.owner: Owner = "third_party"
        self.sources: list[Source] = []
        # How many, in the run that had most.
        self.modules = 0
        self.self_values_ms = [0.0] * runs
        self.total_values_ms = [0.0] * runs

    @property
    def self_ms(self) -> float:
        """The median of what it took by itself."""
        return noise.median(self.self_values_ms)

    @property
    def total_ms(self) -> float:
        """The median of what it took, everything that it imported included."""
        return noise.median(self.total_values_ms)

    @property
    def is_compiled(self) -> bool:
        """Whether mostly there was no ``.pyc`` file that could be used."""
        return self.sources.count("source") * 2 > len(self.sources)

    @property
    def source(self) -> Source:
        """From what it was loaded in the end."""
        return self.sources[-1]


class Change(NamedTuple):
    """What a row of the table was and is, in milliseconds, and whether that is more than noise."""

    name: str
    before_ms: float
    after_ms: float
    verdict: Verdict

    @property
    def is_package(self) -> bool:
        """Whether it is the self time of a package, and no phase."""
        return self.name.startswith("import ")

    @property
    def difference_ms(self) -> float:
        """How much it grew."""
        return self.after_ms - self.before_ms


def phases(runs: Sequence[Run]) -> dict[str, list[float]]:
    """Return what each phase took in each run, in milliseconds; without the wait, which is our own doing."""
    names = dict.fromkeys(name for run in runs for name in run["phases"] if name != "wait")
    return {name: [run["phases"].get(name, 0.0) for run in runs] for name in names}


def totals(runs: Iterable[Run]) -> list[float]:
    """Return how long each run took until the app was ready, in milliseconds."""
    return [run["total_ms"] for run in runs]


def middle_run(runs: Sequence[Run]) -> Run:
    """Return the run whose total is the median one, the shorter of the two in the middle."""
    return sorted(runs, key=lambda run: run["total_ms"])[(len(runs) - 1) // 2]


def modules(runs: Sequence[Run]) -> list[Cost]:
    """Return what each module took, the dearest by itself first; what was imported twice is added up."""
    return _costs(runs, lambda name: name)


def packages(runs: Sequence[Run]) -> list[Cost]:
    """Return what each top-level package took, as `tracedbridge.origins.packages_of` counts it."""
    return _costs(runs, lambda name: name.partition(".")[0])


def changes(before: Sequence[Run], after: Sequence[Run]) -> list[Change]:
    """Return what became of each phase, the total, and the packages that took longest by themselves on either side."""
    rows: dict[str, tuple[list[float], list[float]]] = {}
    phases_before, phases_after = phases(before), phases(after)
    for name in sorted({**phases_after, **phases_before}, key=AFTER_READY.__contains__):
        if name in AFTER_READY:
            rows.setdefault("total", (totals(before), totals(after)))
        rows[name] = (phases_before.get(name, [0.0] * len(before)), phases_after.get(name, [0.0] * len(after)))
    rows.setdefault("total", (totals(before), totals(after)))
    packages_before = {cost.name: cost for cost in packages(before)}
    packages_after = {cost.name: cost for cost in packages(after)}
    for name in _dearest(packages_before, packages_after):
        rows[f"import {name}"] = (
            packages_before.get(name, Cost(name, len(before))).self_values_ms,
            packages_after.get(name, Cost(name, len(after))).self_values_ms,
        )
    enough = noise.is_enough(len(before), len(after), len(rows))
    adjusted = noise.holm([noise.mann_whitney(*row) for row in rows.values()])
    told = []
    for (name, row), probability in zip(rows.items(), adjusted, strict=True):
        was_ms, is_ms = noise.median(row[0]), noise.median(row[1])
        told.append(
            Change(name, was_ms, is_ms, noise.verdict(probability, is_ms - was_ms) if enough else "too few runs")
        )
    return told


def _dearest(before: dict[str, Cost], after: dict[str, Cost]) -> list[str]:
    def self_ms(name: str) -> float:
        return max(costs[name].self_ms for costs in (before, after) if name in costs)

    return sorted({*before, *after}, key=lambda name: (-self_ms(name), name))[:_COMPARED_PACKAGES]


def _costs(runs: Sequence[Run], group_of: Callable[[str], str]) -> list[Cost]:
    costs: dict[str, Cost] = {}
    for index, run in enumerate(runs):
        counts: dict[str, int] = {}
        # Of each import: what it is a part of already.
        above: list[frozenset[str]] = []
        for each in run["imports"]:
            group = group_of(each["name"])
            cost = costs.get(group)
            if cost is None:
                cost = costs[group] = Cost(group, len(runs))
            _add(cost, each)
            counts[group] = counts.get(group, 0) + ("error" not in each)
            cost.self_values_ms[index] += each["self_ms"]
            outside = frozenset[str]() if each["parent"] is None else above[each["parent"]]
            if group not in outside:
                # Each moment once.
                cost.total_values_ms[index] += each["total_ms"]
            above.append(outside | {group})
        for group, count in counts.items():
            costs[group].modules = max(costs[group].modules, count)
    return sorted(costs.values(), key=lambda cost: (-cost.self_ms, -cost.total_ms, cost.name))


def _add(cost: Cost, each: Import) -> None:
    # The first of its modules that was found tells whose it is.
    if all(source == "nowhere" for source in cost.sources):
        cost.owner = each["owner"]
    cost.sources.append(each["source"])
