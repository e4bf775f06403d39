"""The rules, by the tests that promtool runs, and what those must cover."""

from __future__ import annotations

import pytest
import yaml

from tests.dashboards.engine import promtool
from tests.dashboards.openmetrics import DASHBOARDS, series_names
from tracedbridge.telemetry.metrics import INSTRUMENTS

pytestmark = [pytest.mark.dashboards, pytest.mark.telemetry]

_FOLDER = DASHBOARDS / "prometheus"
_RULES = [rule for group in yaml.safe_load((_FOLDER / "rules.yml").read_text())["groups"] for rule in group["rules"]]


def test_rules_are_right() -> None:
    """promtool finds no fault in the rules, and their own tests pass."""
    assert f"{len(_RULES)} rules found" in promtool("check", "rules", _FOLDER / "rules.yml")
    assert "SUCCESS" in promtool("test", "rules", _FOLDER / "rules_test.yml")


def test_each_alert_is_tested() -> None:
    """Each alert fires in a test of promtool's; and each says in words what it found, of whom."""
    tests = yaml.safe_load((_FOLDER / "rules_test.yml").read_text())["tests"]
    fired = {
        case["alertname"] for test in tests for case in test.get("alert_rule_test", ()) if case["exp_alerts"]
    }  # fmt: skip
    alerts = [rule for rule in _RULES if "alert" in rule]
    assert fired == {rule["alert"] for rule in alerts}
    for rule in alerts:
        assert "$labels.faas_name" in rule["annotations"]["summary"]
        assert rule["annotations"]["description"]


def test_records_are_of_instruments() -> None:
    """A recording rule reads a metric of INSTRUMENTS; an alert reads what was recorded."""
    series = {name for each in INSTRUMENTS for name in series_names(each.name)}
    recorded = {rule["record"] for rule in _RULES if "record" in rule}
    for rule in _RULES:
        wanted = series if "record" in rule else recorded
        assert any(name in rule["expr"] for name in wanted), rule
        assert ("last_over_time" in rule["expr"]) == ("record" in rule)
