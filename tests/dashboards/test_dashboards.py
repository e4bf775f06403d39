"""The committed dashboards are the generated ones, and show what INSTRUMENTS has, and nothing else."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.dashboards.openmetrics import DASHBOARDS, series_names
from tracedbridge.telemetry.metrics import INSTRUMENTS

pytestmark = [pytest.mark.dashboards, pytest.mark.telemetry]

# It would have us write the schema that Grafana 12 reads behind a feature flag only.
_SDK_WARNS = pytest.mark.filterwarnings("ignore:Prefer using dashboardv2:DeprecationWarning")

_NAMES = ("coldstarts", "invocations", "telemetry")
_SERIES = {name: each for each in INSTRUMENTS for name in series_names(each.name)}


def _board(name: str) -> dict[str, Any]:
    board: dict[str, Any] = json.loads((DASHBOARDS / "grafana" / "dashboards" / f"{name}.json").read_text())
    return board


def _queries() -> list[str]:
    return [
        target["expr"] for name in _NAMES for panel in _board(name)["panels"] for target in panel.get("targets", ())
    ]


def _selected(query: str) -> set[str]:
    return set(re.findall(r"([a-zA-Z_:]\w*)\{", query))


@_SDK_WARNS
def test_committed_are_the_generated() -> None:
    """What dashboards/build.py writes is what the repository has, to the byte, and there is no other dashboard."""
    from dashboards.build import files

    generated = files()
    for path, text in generated.items():
        assert (DASHBOARDS / path).read_text(encoding="utf-8") == text, f"{path}: run python dashboards/build.py"
    there = {path.relative_to(DASHBOARDS) for path in (DASHBOARDS / "grafana" / "dashboards").iterdir()}
    assert there == {path for path in generated if path.suffix == ".json"}


def test_metrics_are_instruments() -> None:
    """A query selects series of INSTRUMENTS only, and by no function that is blind to series of one value."""
    for query in _queries():
        names = _selected(query)
        assert names
        assert names <= set(_SERIES), query
        assert not re.search(r"\b(rate|irate|increase|delta)\(", query), query


@_SDK_WARNS
def test_instruments_are_on_panels() -> None:
    """Each instrument is on a panel, or build.py says why not; what it says is no panel's is on none."""
    from dashboards.build import NOT_SHOWN

    shown = {_SERIES[name].name for query in _queries() for name in _selected(query)}
    assert shown | set(NOT_SHOWN) == {each.name for each in INSTRUMENTS}
    assert not shown & set(NOT_SHOWN)
    assert all(NOT_SHOWN.values())


def test_labels_are_of_their_instruments() -> None:
    """A query selects and groups by labels that its instruments have: a misspelt one would match everything."""
    common = {"faas_name", "service_version", "deployment_environment_name", "le"}
    # What a query adds itself.
    made = {"outcome"}
    for query in _queries():
        instruments = [_SERIES[name] for name in _selected(query)]
        known = {label.replace(".", "_") for each in instruments for label in each.attributes} | common | made
        for name, matchers in re.findall(r"(\w+)\{(.*?)\}", query):
            labels = {label.replace(".", "_") for label in _SERIES[name].attributes} | common
            assert set(re.findall(r"(\w+)(?:=~|!~|!=|=)", matchers)) <= labels, query
        for grouping in re.findall(r"(?:by|on) \((.*?)\)", query):
            assert {label.strip() for label in grouping.split(",") if label} <= known, query


@pytest.mark.parametrize("name", _NAMES)
def test_conventions(name: str) -> None:
    """Panels say what they show, in a unit, from the chosen data source; ids are their own; the crosshair is shared."""
    board = _board(name)
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert board["uid"] == f"tracedbridge-{name}"
    assert board["graphTooltip"] == 1
    assert [variable["name"] for variable in board["templating"]["list"]] == [
        "datasource", "environment", "function", "version",
    ]  # fmt: skip
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert len({panel["title"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["description"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        unit = panel["options"]["yAxis"] if panel["type"] == "heatmap" else panel["fieldConfig"]["defaults"]
        assert unit["unit"]
        for target in panel["targets"]:
            assert re.search(r"\$__interval|\$__range", target["expr"])
            assert bool(target.get("instant")) != bool(target.get("range"))
            # A value of the whole range is asked for once, a step of it at each step.
            assert target.get("range") or "$__interval" not in target["expr"]
