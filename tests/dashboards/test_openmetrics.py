"""The translator of the tests names and labels things as others do."""

from __future__ import annotations

import re

import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import REGISTRY, generate_latest

from tests.dashboards.openmetrics import labels_of, series_names, text_of
from tests.dashboards.simulation import Instance
from tracedbridge.telemetry.metrics import INSTRUMENTS, Metrics

pytestmark = [pytest.mark.dashboards, pytest.mark.telemetry]


def test_names_are_the_exporters() -> None:
    """Each instrument has the series names and the bucket labels that opentelemetry-exporter-prometheus gives it."""
    reader = PrometheusMetricReader()
    provider = MeterProvider([reader])
    metrics = Metrics(provider.get_meter("test"), "f")
    instance = Instance(1, "f", None, None)
    for each in INSTRUMENTS:
        metrics.record(each.name, 1, None)
        instance.record(each.name, 1)
    instance.push(0)
    exposed = generate_latest(REGISTRY).decode()
    provider.shutdown()
    theirs = _series(exposed)
    ours = _series(text_of(instance.pushes, is_live=True))
    for each in INSTRUMENTS:
        for name in series_names(each.name):
            assert name in theirs
            assert {float(le) for le in theirs[name]} == {float(le) for le in ours[name]}, name


def _series(text: str) -> dict[str, list[str]]:
    """Return name → values of ``le``."""
    series: dict[str, list[str]] = {}
    for line in text.splitlines():
        if found := re.match(r"(\w+)\{(.*?)\} ", line):
            series.setdefault(found[1], []).extend(re.findall(r'le="(.*?)"', found[2]))
    return series


def test_labels() -> None:
    """A point's own faas.name stands, a promoted attribute is a label, and another one of the resource is none."""
    resource = {"service.name": "s", "service.instance.id": "i", "faas.name": "of the resource", "host.name": "h"}
    assert labels_of({"faas.name": "f", "faas.coldstart": True, "http.response.status_code": 200}, resource) == {
        "service_name": "s", "service_instance_id": "i", "faas_name": "f", "faas_coldstart": "true",
        "http_response_status_code": "200", "job": "s", "instance": "i",
    }  # fmt: skip
