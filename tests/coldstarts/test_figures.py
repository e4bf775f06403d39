"""The figures count each moment once, and take for a change only what is more than noise."""

from __future__ import annotations

import pytest

from tests.coldstarts.measurements import import_of, run_of
from tracedbridge.coldstarts.figures import changes, middle_run, modules, packages, phases
from tracedbridge.coldstarts.runs import Import as Told
from tracedbridge.coldstarts.runs import Run
from tracedbridge.imports import Import
from tracedbridge.origins import Origins, packages_of


def recorded(name: str, begun_ms: int, ended_ms: int, parent: Import | None = None) -> Import:
    """Return an import as the recorder leaves it."""
    each = Import(name, parent)
    each.begun_ns, each.ended_ns = begun_ms * 1_000_000, ended_ms * 1_000_000
    if parent is not None:
        parent.nested_ns += each.total_ns
        parent.children = [*parent.children, each]
    return each


def test_packages_are_those_of_the_spans() -> None:
    """Each package's modules, self and total time are what `packages_of` says, a package below itself included."""
    shop = recorded("shop", 0, 100)
    fruit = recorded("fruit", 10, 90, shop)
    recorded("fruit.plum", 20, 50, fruit)
    back = recorded("shop.till", 50, 80, fruit)
    recorded("fruit.pear", 60, 70, back)
    broken = recorded("stone", 85, 88, fruit)
    broken.error = "ImportError"
    told: list[Told] = []
    places: dict[Import, int] = {}
    for each in shop.walk():
        places[each] = len(told)
        told.append(
            import_of(
                each.name,
                each.total_ns / 1e6,
                each.self_ns / 1e6,
                None if each.parent is None else places[each.parent],
            )
        )
        if each.error is not None:
            told[-1]["error"] = each.error
    ours = [(cost.name, cost.modules, cost.self_ms, cost.total_ms) for cost in packages([run_of(told)])]
    theirs = packages_of([shop], Origins())
    assert ours == [(each.name, each.modules, each.self_ns / 1e6, each.total_ns / 1e6) for each in theirs]
    assert [(name, total_ms) for name, _, _, total_ms in ours] == [("fruit", 80), ("shop", 100), ("stone", 3)]


def test_modules() -> None:
    """A module's figures are medians over all runs, zero where it was not imported; most of its runs say its source."""
    slow = import_of("plum", 30, 30)
    slow["source"] = "source"
    fast = import_of("plum", 10, 10)
    runs = [run_of([slow]), run_of([slow, import_of("pear", 2, 2)]), run_of([fast])]
    shown = [(cost.name, cost.self_ms, cost.is_compiled) for cost in modules(runs)]
    assert shown == [("plum", 30, True), ("pear", 0, False)]


def test_owner_of_a_package_with_a_missing_module() -> None:
    """A module that was not found does not tell whose its package is."""
    missing = import_of("shop.soap", 5, 1)
    missing.update({"source": "nowhere", "owner": "third_party", "error": "ModuleNotFoundError"})
    assert [cost.owner for cost in packages([run_of([missing, import_of("shop", 4, 4, parent=0)])])] == ["app"]


def test_phases() -> None:
    """A phase that a run has not had took no time in it; the wait for our event is no phase of the app's."""
    runs = [run_of(app_import=10), run_of(app_import=12, lifespan=3)]
    assert phases(runs) == {"app_import": [10, 12], "first_byte": [5, 5], "lifespan": [0, 3]}


@pytest.mark.parametrize(("totals", "expected"), [([3, 1, 2], 2), ([4, 1, 3, 2], 2)])
def test_middle_run(totals: list[float], expected: float) -> None:
    """The run of the chart is one that was measured."""
    assert middle_run([run_of(app_import=total) for total in totals])["total_ms"] == expected


def runs_around(app_import_ms: float, plum_ms: float, count: int) -> list[Run]:
    """Return so many runs, each a tenth of a millisecond longer than the one before."""
    return [
        run_of(
            [import_of("plum", plum_ms + number / 10, plum_ms + number / 10)],
            interpreter=20,
            app_import=app_import_ms + number / 10,
        )
        for number in range(count)
    ]


@pytest.mark.parametrize(
    ("app_import_ms", "plum_ms", "count", "expected"),
    [
        pytest.param(100, 50, 10, ["noise", "noise", "noise"], id="the same"),
        pytest.param(100.05, 50.05, 10, ["noise", "noise", "noise"], id="a little later each"),
        pytest.param(130, 80, 10, ["slower", "slower", "slower"], id="slower"),
        pytest.param(100, 20, 10, ["noise", "noise", "faster"], id="only a package, faster"),
        pytest.param(100.95, 50, 10, ["noise", "noise", "noise"], id="apart, but by less than 1 ms"),
        pytest.param(130, 80, 5, ["too few runs"] * 3, id="too few"),
    ],
)
def test_changes(app_import_ms: float, plum_ms: float, count: int, expected: list[str]) -> None:
    """What is slower or faster is told from noise, for the phases, the total and the packages."""
    found = changes(runs_around(100, 50, count), runs_around(app_import_ms, plum_ms, count))
    assert [change.name for change in found] == ["interpreter", "app_import", "total", "first_byte", "import plum"]
    verdicts = {change.name: change.verdict for change in found}
    assert [verdicts[name] for name in ("app_import", "total", "import plum")] == expected
    # What has not changed at all.
    assert verdicts["interpreter"] in ("noise", "too few runs")


def test_package_that_came_or_went() -> None:
    """A package that only one side imported took no time on the other."""
    before = [run_of([import_of("plum", 40, 40)], app_import=100) for _ in range(10)]
    after = [run_of([import_of("pear", 60, 60)], app_import=100) for _ in range(10)]
    rows = [(each.name, each.before_ms, each.after_ms, each.verdict) for each in changes(before, after)[-2:]]
    assert rows == [("import pear", 0, 60, "slower"), ("import plum", 40, 0, "faster")]
