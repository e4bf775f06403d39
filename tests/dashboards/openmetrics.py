"""
What instances push, as OpenMetrics text: for tests only, as nobody can load OTLP of two hours into Debian's Prometheus.

Names are those that ``opentelemetry-exporter-prometheus`` gives; labels of the resource are those that
``dashboards/prometheus/prometheus.yml`` has promoted, besides ``job`` and ``instance`` as Prometheus' OTLP receiver
sets them.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import HistogramDataPoint, Metric

from tracedbridge.telemetry.metrics import BY_NAME

if TYPE_CHECKING:
    from tests.dashboards.simulation import Push

__all__ = ("DASHBOARDS", "labels_of", "name_of", "series_names", "text_of")

DASHBOARDS = Path(__file__).resolve().parents[2] / "dashboards"

_SUFFIXES = {"s": "_seconds", "By": "_bytes"}


def name_of(instrument: str) -> str:
    """Return the name of an instrument in Prometheus, without what its series add."""
    # A unit in braces is an annotation, and no suffix.
    return _sanitized(instrument) + _SUFFIXES.get(BY_NAME[instrument].unit, "")


def series_names(instrument: str) -> tuple[str, ...]:
    """Return the names of the series of an instrument."""
    name = name_of(instrument)
    if BY_NAME[instrument].kind == "counter":
        return (f"{name}_total",)
    return (f"{name}_bucket", f"{name}_count", f"{name}_sum")


def labels_of(attributes: Mapping[str, Any], resource: Mapping[str, Any]) -> dict[str, str]:
    """Return the labels of a point; its own attribute stands where the resource has one of the same name."""
    told = {name: resource[name] for name in _promoted() if name in resource}
    labels = {_sanitized(key): _text(value) for key, value in {**told, **attributes}.items()}
    return {**labels, "job": resource["service.name"], "instance": resource["service.instance.id"]}


def text_of(pushes: Iterable[Push], *, is_live: bool = False) -> str:
    """Return pushes as OpenMetrics, with timestamps; a live scrape has exemplars instead."""
    families: dict[str, dict[str, list[str]]] = {}
    for push in sorted(pushes, key=lambda push: push.at_s):
        stamp = "" if is_live else f" {push.at_s}"
        for metric in push.metrics:
            family = families.setdefault(metric.name, {})
            for name, labels, value, exemplar in _samples(metric, push.resource):
                inner = ",".join(f"{key}={json.dumps(text)}" for key, text in labels.items())
                series = f"{name}{{{inner}}}"
                shown = _exemplar(exemplar) if is_live and exemplar is not None else ""
                family.setdefault(series, []).append(f"{series} {value}{stamp}{shown}")
    lines: list[str] = []
    for instrument, family in families.items():
        lines.append(f"# TYPE {name_of(instrument)} {BY_NAME[instrument].kind}")
        for samples in family.values():
            lines += samples
    return "\n".join((*lines, "# EOF", ""))


def _samples(
    metric: Metric, resource: Mapping[str, Any]
) -> Iterable[tuple[str, dict[str, str], float, Exemplar | None]]:
    name = name_of(metric.name)
    for point in metric.data.data_points:
        labels = labels_of(point.attributes or {}, resource)
        if not isinstance(point, HistogramDataPoint):
            assert not hasattr(point, "scale"), "an exponential histogram"
            yield f"{name}_total", labels, point.value, None
            continue
        bounds = (*point.explicit_bounds, float("inf"))
        count, below = 0, float("-inf")
        for bound, items in zip(bounds, point.bucket_counts, strict=True):
            count += items
            inside = [each for each in point.exemplars if below < each.value <= bound]
            le = "+Inf" if bound == float("inf") else str(float(bound))
            yield f"{name}_bucket", {**labels, "le": le}, count, inside[0] if inside else None
            below = bound
        yield f"{name}_count", labels, point.count, None
        yield f"{name}_sum", labels, point.sum, None


def _exemplar(exemplar: Exemplar) -> str:
    assert exemplar.trace_id is not None
    return f' # {{trace_id="{exemplar.trace_id:032x}"}} {exemplar.value}'


def _sanitized(name: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_]", "_", name)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@functools.cache
def _promoted() -> tuple[str, ...]:
    config = yaml.safe_load((DASHBOARDS / "prometheus" / "prometheus.yml").read_text())
    return tuple(config["otlp"]["promote_resource_attributes"])
