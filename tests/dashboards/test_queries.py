"""Every query of the dashboards and rules, asked of a real Prometheus that holds the demo, says what the demo did."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.dashboards.engine import Engine, Series, program, promtool, running
from tests.dashboards.expectations import PANELS, RULES, Expected, Window, agrees, count, quantile
from tests.dashboards.openmetrics import DASHBOARDS, text_of
from tests.dashboards.simulation import BEGUN_S, ENDED_S, INSTANCES, Demo, Fact, Instance, simulate

pytestmark = [pytest.mark.dashboards, pytest.mark.telemetry]

_STEP_S = 300
_FILES = ("coldstarts", "invocations", "telemetry")
# What is chosen in the variables: everything, or what only a query with all three filters tells.
_CHOICES = {
    "everything": {},
    "one version": {"function": "api", "version": "v2", "environment": "production"},
}  # fmt: skip
_RULES_FILE = DASHBOARDS / "prometheus" / "rules.yml"


class _Target(NamedTuple):
    """One query of a panel."""

    file: str
    panel: str
    number: int
    expr: str
    is_instant: bool
    has_exemplars: bool

    def filled(self, range_s: float, step_s: float, choice: dict[str, str]) -> str:
        """Return the query as Grafana sends it."""
        variables = {
            "__interval_ms": f"{step_s * 1000:.0f}", "__interval": f"{step_s:.0f}s", "__range": f"{range_s:.0f}s",
            **{name: choice.get(name, ".*") for name in ("function", "version", "environment")},
        }  # fmt: skip
        filled = re.sub(r"\$(\w+)", lambda found: variables[found[1]], self.expr)
        assert "$" not in filled
        return filled


def _targets() -> list[_Target]:
    return [
        _Target(name, panel["title"], number, target["expr"], bool(target.get("instant")), bool(target.get("exemplar")))
        for name in _FILES
        for panel in json.loads((DASHBOARDS / "grafana" / "dashboards" / f"{name}.json").read_text())["panels"]
        for number, target in enumerate(panel.get("targets", ()))
    ]


_TARGETS = _targets()
_NAMES = [f"{target.file}-{target.panel}-{target.number}" for target in _TARGETS]


@pytest.fixture(scope="module")
def demo() -> Demo:
    """The two hours."""
    return simulate()


@pytest.fixture(scope="module")
def folder(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Prometheus' folder with the blocks of the demo and of what the rules recorded of it."""
    program("prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "demo.om").write_text(text_of(demo.pushes))
    promtool("tsdb", "create-blocks-from", "openmetrics", folder / "demo.om", folder / "data")
    with running(folder) as engine:
        # It writes blocks of what the rules would have recorded then.
        promtool(
            "tsdb", "create-blocks-from", "rules", f"--start={BEGUN_S:.0f}", f"--end={ENDED_S:.0f}",
            f"--url={engine.url}", f"--output-dir={folder / 'data'}", "--eval-interval=1m", _RULES_FILE,
        )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def live() -> Instance:
    """An instance that lives now: exemplars cannot be loaded, only scraped."""
    instance = Instance(4096, "api", "v2", "production")
    context = instance.trace()
    instance.record("faas.init_duration", 0.3, context, faas_trigger="http", tracedbridge_coldstart_kind="on_demand")
    instance.record("faas.invoke_duration", 0.02, instance.trace(), faas_trigger="http", faas_coldstart=True)
    instance.record("faas.invoke_duration", 0.3, instance.trace(), faas_trigger="http", faas_coldstart=False)
    instance.record("http.server.request.duration", 0.2, instance.trace(), http_request_method="GET", http_route="/")
    instance.push(0)
    return instance


@pytest.fixture(scope="module")
def engine(folder: Path, live: Instance) -> Iterator[Engine]:
    """A Prometheus with all of it, which also scrapes the live instance."""
    body = text_of(live.pushes, is_live=True).encode()
    scraped = threading.Semaphore(0)

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/openmetrics-text; version=1.0.0; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            scraped.release()

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the name is the base class's
            """Be silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            with running(folder, f"127.0.0.1:{server.server_port}", _RULES_FILE) as engine:
                # The third request comes after the answer to the first one has been stored.
                for _ in range(3):
                    assert scraped.acquire(timeout=30), "Prometheus does not scrape"
                yield engine
        finally:
            server.shutdown()


def _chosen(facts: list[Fact], choice: dict[str, str]) -> list[Fact]:
    labels = {"function": "faas_name", "version": "service_version", "environment": "deployment_environment_name"}
    return [fact for fact in facts if all(fact.labels.get(labels[key]) == value for key, value in choice.items())]


def _expected(target: _Target) -> Expected:
    return PANELS[target.file][target.panel][target.number]


def _faults(said: Series, expected: Expected, windows: list[Window]) -> tuple[list[str], int]:
    """Return where a query disagrees, and in how many windows there was something to say."""
    faults, told = [], 0
    for window in windows:
        true = expected(window)
        told += any(true.values())
        now = {key: points[window.ended_s] for key, points in said.items() if window.ended_s in points}
        if fault := agrees(now, true):
            faults.append(f"at {window.ended_s - BEGUN_S:.0f} s: {fault}")
    return faults, told


def test_each_query_has_an_expectation() -> None:
    """What a panel asks is in the table of what it must say, query by query."""
    asked = {(target.file, target.panel, target.number) for target in _TARGETS}
    told = {
        (file, panel, number)
        for file, panels in PANELS.items()
        for panel, expected in panels.items()
        for number in range(len(expected))
    }
    assert asked == told


def test_demo_is_whole(demo: Demo) -> None:
    """The demo has a cold start of each of its instances, most of which are pushed once or twice only."""
    starts = [fact for fact in demo.facts if fact.name == "faas.coldstarts"]
    pushes = [sum(push.resource["service.instance.id"] == f"{number:08x}" for push in demo.pushes)
              for number in range(1, INSTANCES + 1)]  # fmt: skip
    assert len(starts) == INSTANCES
    assert sum(each == 1 for each in pushes) > INSTANCES / 3
    assert max(pushes) > 5


@pytest.mark.parametrize("choice", _CHOICES.values(), ids=_CHOICES)
@pytest.mark.parametrize("target", _TARGETS, ids=_NAMES)
def test_panel(engine: Engine, demo: Demo, target: _Target, choice: dict[str, str]) -> None:
    """A panel says what the demo did: in each step of a chart, in the whole range and in the last part of it."""
    facts, expected = _chosen(demo.facts, choice), _expected(target)
    if target.is_instant:
        # In the shorter one, most instances are older than the range.
        for range_s in (7200.0, 2700.0):
            window = Window(facts, ENDED_S - range_s, ENDED_S, ENDED_S - range_s, ENDED_S)
            said = engine.at(target.filled(range_s, 60, choice), ENDED_S)
            faults, told = _faults(said, expected, [window])
            assert not faults
            assert told or choice, "a panel without data"
        return
    ends = [BEGUN_S + number * _STEP_S for number in range(1, int((ENDED_S - BEGUN_S) / _STEP_S) + 1)]
    windows = [Window(facts, end - _STEP_S, end, ENDED_S - 7200, ENDED_S) for end in ends]
    faults, told = _faults(
        engine.over(target.filled(7200, _STEP_S, choice), ends[0], ends[-1], _STEP_S), expected, windows
    )
    assert not faults
    assert told > 2 or choice, "a panel without data"


def test_usual_forms_are_wrong(engine: Engine, demo: Demo) -> None:
    """Over series that come once, increase() sees less than happened, and the last values of a range tell of more."""
    window = Window(demo.facts, ENDED_S - 2700, ENDED_S, ENDED_S - 2700, ENDED_S)
    true = sum(fact.name == "faas.coldstarts" for fact in window.told())
    (increased,) = engine.at("sum(increase(faas_coldstarts_total[45m]))", ENDED_S).values()
    (last,) = engine.at("sum(last_over_time(faas_coldstarts_total[45m]))", ENDED_S).values()
    assert increased[ENDED_S] < true / 2
    assert last[ENDED_S] > true


@pytest.mark.parametrize(
    "target", [target for target in _TARGETS if target.has_exemplars],
    ids=[name for name, target in zip(_NAMES, _TARGETS, strict=True) if target.has_exemplars],
)  # fmt: skip
def test_exemplars(engine: Engine, live: Instance, target: _Target) -> None:
    """A panel that shows exemplars finds those of its metric, by the ids of their traces."""
    metrics = set(re.findall(r"(\w+)_bucket\{", target.expr))
    assert len(metrics) == 1
    numbers = {"faas_init_duration_seconds": {1}, "faas_invoke_duration_seconds": {2, 3},
               "http_server_request_duration_seconds": {4}}[metrics.pop()]  # fmt: skip
    if 'faas_coldstart="' in target.expr:
        numbers = {2} if 'faas_coldstart="true"' in target.expr else {3}
    assert engine.exemplars(target.filled(7200, 60, {})) == {f"{4096 * 1000 + number:032x}" for number in numbers}


@pytest.mark.parametrize("name", _FILES)
def test_variables(engine: Engine, name: str) -> None:
    """The variables of a dashboard list what the demo has."""
    board = json.loads((DASHBOARDS / "grafana" / "dashboards" / f"{name}.json").read_text())
    listed = {}
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            found = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
            assert found
            listed[variable["name"]] = engine.values_of(found[2], found[1], BEGUN_S, ENDED_S)
    assert listed == {
        "environment": ["preview", "production"], "function": ["api", "cron", "worker"], "version": ["v1", "v2", "v7"],
    }  # fmt: skip


def test_documented_queries(engine: Engine, demo: Demo, moments: list[float]) -> None:
    """The queries for long ranges in docs/scaling.md say what the demo did."""
    text = (DASHBOARDS.parent / "docs" / "scaling.md").read_text()
    counted, quantiles = re.findall(r"`([^`]+made1m[^`]+)`", text)
    window = Window(demo.facts, BEGUN_S, moments[-1], BEGUN_S, ENDED_S)
    for query, expected in (
        (counted, count("faas.coldstarts", ("faas_name",))),
        (quantiles, quantile(0.95, "faas.init_duration")),
    ):
        said = engine.at(query, ENDED_S)
        now = {key: points[ENDED_S] for key, points in said.items()}
        assert not agrees(now, expected(window))


@pytest.fixture(scope="module")
def rules(engine: Engine) -> dict[str, dict[str, Any]]:
    """The rules, as Prometheus has loaded them."""
    return {rule["name"]: rule for rule in engine.rules()}


@pytest.fixture(scope="module")
def moments(engine: Engine) -> list[float]:
    """When the rules were evaluated: once a minute, at a second of the group's own."""
    recorded = engine.at("function:faas_coldstarts:made1m[2h]", ENDED_S)
    return sorted({at_s for points in recorded.values() for at_s in points})


def test_each_rule_has_an_expectation(rules: dict[str, dict[str, Any]]) -> None:
    """What the file has is in the table of what it must say."""
    assert set(rules) == set(RULES)


@pytest.mark.parametrize("name", RULES)
def test_rule(engine: Engine, demo: Demo, rules: dict[str, dict[str, Any]], moments: list[float], name: str) -> None:
    """A rule says what the demo did in its minutes; an alert is true of whom it is true, and of nobody at times."""
    whole = [moments[0] + 60 * number for number in range(int((moments[-1] - moments[0]) / 60) + 1)]
    windows = [Window(demo.facts, at_s - 60, at_s, BEGUN_S, ENDED_S) for at_s in whole]
    if rules[name]["type"] == "recording":
        said = engine.at(f"{name}[2h]", ENDED_S)
    else:
        said = engine.over(rules[name]["query"], whole[0], whole[-1], 60)
    faults, told = _faults(said, RULES[name], windows)
    assert not faults
    assert told > 2
    if rules[name]["type"] == "alerting":
        assert told < len(windows), "an alert that is always true"
