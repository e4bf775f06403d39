"""The files around the dashboards agree with each other: versions, ports, addresses, paths."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.dashboards.openmetrics import DASHBOARDS

pytestmark = [pytest.mark.dashboards, pytest.mark.telemetry]


def _yaml(path: str) -> Any:
    return yaml.safe_load((DASHBOARDS / path).read_text())


@pytest.fixture
def services() -> dict[str, Any]:
    """The services of compose.yaml."""
    found: dict[str, Any] = _yaml("compose.yaml")["services"]
    return found


def _ports(service: dict[str, Any]) -> dict[int, int]:
    """Return container's port → host's port; fail if one is open to others than this machine."""
    ports = {}
    for each in service["ports"]:
        host, outer, inner = each.split(":")
        assert host == "127.0.0.1", each
        ports[int(inner)] = int(outer)
    return ports


def test_images_are_pinned(services: dict[str, Any]) -> None:
    """Three containers, of the versions that go together."""
    assert {name: service["image"] for name, service in services.items()} == {
        "jaeger": "jaegertracing/jaeger:2.20.0", "prometheus": "prom/prometheus:v3.12.0",
        "grafana": "grafana/grafana:12.4.2",
    }  # fmt: skip


def test_ports_are_of_this_machine(services: dict[str, Any]) -> None:
    """No port is open to others, none is asked for twice, and none is the one that tracedbridge dev serves on."""
    ports = [port for service in services.values() for port in _ports(service).values()]
    assert len(set(ports)) == len(ports)
    assert 3000 not in ports


def test_mounts_are_there(services: dict[str, Any]) -> None:
    """What a container mounts is in the repository, or is a volume; what its configuration names is mounted."""
    volumes = set(_yaml("compose.yaml")["volumes"])
    inside: dict[str, Path] = {}
    for service in services.values():
        for mount in service["volumes"]:
            source, target, *_ = mount.split(":")
            if source.startswith("./"):
                assert (DASHBOARDS / source).is_dir(), mount
                inside[target] = DASHBOARDS / source
            else:
                assert source in volumes
    grafana = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    ui = _yaml("jaeger/config.yaml")["extensions"]["jaeger_query"]["ui"]["config_file"]
    named = (services["jaeger"]["command"][1], ui, *_yaml("prometheus/prometheus.yml")["rule_files"], grafana)
    for path in map(Path, named):
        assert (inside[str(path.parent)] / path.name).is_file(), path
    provider = _yaml("grafana/provisioning/dashboards/tracedbridge.yaml")["providers"][0]
    assert provider["options"]["path"] in inside


def test_jaeger_takes_all_signals() -> None:
    """OTLP of all signals comes in; metrics go on to Prometheus' receiver, logs nowhere; what is used is there."""
    config = _yaml("jaeger/config.yaml")
    pipelines = config["service"]["pipelines"]
    assert set(pipelines) == {"traces", "metrics", "logs"}
    for pipeline in pipelines.values():
        assert pipeline["receivers"] == ["otlp"]
        for kind in ("receivers", "processors", "exporters"):
            assert set(pipeline[kind]) <= set(config[kind])
    assert set(config["service"]["extensions"]) == set(config["extensions"])
    assert pipelines["logs"]["exporters"] == ["nop"]
    (exporter,) = pipelines["metrics"]["exporters"]
    assert config["exporters"][exporter]["endpoint"] == "http://prometheus:9090/api/v1/otlp"
    assert (
        config["exporters"]["jaeger_storage_exporter"]["trace_storage"]
        in (config["extensions"]["jaeger_storage"]["backends"])
    )
    protocols = config["receivers"]["otlp"]["protocols"]
    assert {name: each["endpoint"] for name, each in protocols.items()} == {
        "grpc": "0.0.0.0:4317", "http": "0.0.0.0:4318",
    }  # fmt: skip


def test_prometheus_takes_what_jaeger_sends(services: dict[str, Any]) -> None:
    """The OTLP receiver and the exemplars are on, and the labels that the dashboards choose by are promoted."""
    assert {"--web.enable-otlp-receiver", "--enable-feature=exemplar-storage"} <= set(services["prometheus"]["command"])
    promoted = _yaml("prometheus/prometheus.yml")["otlp"]["promote_resource_attributes"]
    # Without the instance, all of them would be one corrupt series.
    assert {"service.version", "deployment.environment.name", "service.instance.id"} <= set(promoted)


def test_links_lead_somewhere(services: dict[str, Any]) -> None:
    """Links from Grafana to Jaeger and back use the ports of compose.yaml and the ids of the dashboards."""
    jaeger, grafana = _ports(services["jaeger"])[16686], _ports(services["grafana"])[3000]
    sources = {
        source["type"]: source for source in _yaml("grafana/provisioning/datasources/tracedbridge.yaml")["datasources"]
    }
    (exemplars,) = sources["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert exemplars["name"] == "trace_id"
    # Grafana takes one of two dollars away when it reads the file.
    assert exemplars["url"] == f"http://localhost:{jaeger}/trace/$${{__value.raw}}"
    assert sources["jaeger"]["url"] == "http://jaeger:16686"
    text = (DASHBOARDS / "jaeger" / "ui.json").read_text()
    uids = {
        json.loads(path.read_text())["uid"] for path in (DASHBOARDS / "grafana" / "dashboards").glob("*.json")
    }  # fmt: skip
    links = re.findall(r"http://localhost:(\d+)/d/([\w-]+)", text)
    assert {int(port) for port, _ in links} == {grafana}
    assert {uid for _, uid in links} == uids
    # What a link is made of is in its pattern.
    for pattern in json.loads(text)["linkPatterns"]:
        assert set(re.findall(r"#\{(.*?)\}", pattern["url"] + pattern["text"])) <= {pattern["key"]}
