"""Every signal says which function it is of, and which instance; what the user's variables say comes first."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.support import HANG_S, event
from tests.telemetry.apps import Pairs, asgi_around
from tests.telemetry.functions import run_function
from tests.telemetry.received import Received
from tracedbridge import create_bridge
from tracedbridge.telemetry.otlp import Value

pytestmark = pytest.mark.telemetry

APP = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
"""


def ok(headers: Pairs) -> str:
    """Answer anything."""
    return "ok"


def resource_of(received: Received) -> dict[str, Value]:
    """Return the resource after one invocation, which is the same on all three signals."""
    with create_bridge(asgi_around(ok)) as bridge:
        bridge(event(), None)
    resource = received.server().resource
    assert received.metric("faas.invocations").resource == resource
    assert received.log("invocation").resource == resource
    return resource


def test_local(received: Received) -> None:
    """Anywhere: the function by its file, an instance of its own, the host, the SDK, and nothing made up."""
    resource = resource_of(received)
    instance = resource["faas.instance"]
    assert isinstance(instance, str)
    assert len(instance) == 32
    sdk = {key: value for key, value in resource.items() if key.startswith("telemetry.sdk.")}
    assert set(sdk) == {"telemetry.sdk.language", "telemetry.sdk.name", "telemetry.sdk.version"}
    assert {key: value for key, value in resource.items() if key not in sdk} == {
        "service.name": "test_resource",
        "service.instance.id": instance,
        "faas.name": "test_resource",
        "faas.instance": instance,
        "host.name": socket.gethostname(),
    }
    assert received.metric("faas.invocations").points[0].attributes["faas.name"] == "test_resource"


def test_service_name(received: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    """OTEL_SERVICE_NAME names the service and the function, on resources, points and lines."""
    monkeypatch.setenv("OTEL_SERVICE_NAME", "shop")
    resource = resource_of(received)
    assert (resource["service.name"], resource["faas.name"]) == ("shop", "shop")
    assert received.metric("faas.invocations").points[0].attributes["faas.name"] == "shop"
    assert received.log("invocation").attributes["function"] == "shop"


def test_resource_attributes(received: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    """What OTEL_RESOURCE_ATTRIBUTES says wins over ours, and OTEL_SERVICE_NAME over that."""
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=no,faas.name=mine,host.name=box,team=a%20b")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "shop")
    resource = resource_of(received)
    assert {key: resource[key] for key in ("service.name", "faas.name", "host.name", "team")} == {
        "service.name": "shop", "faas.name": "mine", "host.name": "box", "team": "a b",
    }  # fmt: skip


def test_service_name_by_attributes(received: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without OTEL_SERVICE_NAME a service.name among the attributes names the service."""
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=shop")
    assert resource_of(received)["service.name"] == "shop"


def test_instances(received: Received) -> None:
    """Two instances of one function can be told apart."""
    resources = [resource_of_bridge(received, number) for number in range(2)]
    assert resources[0]["service.instance.id"] != resources[1]["service.instance.id"]


def resource_of_bridge(received: Received, number: int) -> dict[str, Value]:
    """Return the resource of the bridge with that number."""
    with create_bridge(asgi_around(ok)) as bridge:
        bridge(event(), None)
    return received.servers()[number].resource


VERCEL = {
    "VERCEL": "1",
    "VERCEL_ENV": "production",
    "VERCEL_URL": "shop-abc.vercel.app",
    "VERCEL_REGION": "fra1",
    "VERCEL_DEPLOYMENT_ID": "dpl_1",
    "VERCEL_PROJECT_ID": "prj_1",
    "VERCEL_GIT_COMMIT_SHA": "c0ffee",
    "VERCEL_GIT_COMMIT_REF": "main",
    "VERCEL_GIT_REPO_SLUG": "shop",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "2048",
    "AWS_LAMBDA_RUNTIME_API": "127.0.0.1:9",
    "AWS_REGION": "eu-central-1",
}


def test_vercel(tmp_path: Path, received: Received) -> None:
    """On Vercel the function is named by repository and entry, and its attributes are those that others use there."""
    (tmp_path / "api").mkdir()
    (tmp_path / "api" / "index.py").write_text(APP)
    headers = {"x-vercel-id": "fra1::iad1::abc-1", "x-real-ip": "192.0.2.7", "x-forwarded-for": "198.51.100.1"}
    run_function(
        tmp_path, "", [event(headers=headers), event(headers={"x-forwarded-for": "198.51.100.1, 10.0.0.1"})],
        TRACEDBRIDGE_APP="api/index.py", OTEL_EXPORTER_OTLP_ENDPOINT=received.endpoint,
        TRACEDBRIDGE_FLUSH_TIMEOUT_MS=str(HANG_S * 1000), **VERCEL,
    )  # fmt: skip
    first, second = received.servers()
    told = {key: value for key, value in first.resource.items() if not key.startswith("telemetry.sdk.")}
    assert {**told, "service.instance.id": "…", "faas.instance": "…"} == {
        "service.name": "shop/api/index",
        "service.version": "dpl_1",
        "service.instance.id": "…",
        "faas.name": "shop/api/index",
        "faas.version": "dpl_1",
        "faas.instance": "…",
        "faas.max_memory": 2048 * 2**20,
        "cloud.provider": "vercel",
        "cloud.region": "fra1",
        "deployment.environment.name": "production",
        "host.name": socket.gethostname(),
        "vcs.ref.head.name": "main",
        "vcs.ref.head.revision": "c0ffee",
        "vercel.deployment_id": "dpl_1",
        "vercel.host": "shop-abc.vercel.app",
        "vercel.project_id": "prj_1",
    }
    assert first.attributes["vercel.request_id"] == "abc-1"
    assert first.attributes["faas.invocation_id"] == "fra1::iad1::abc-1"
    assert first.attributes["cloud.resource_id"] == "dpl_1"
    assert (first.attributes["client.address"], second.attributes["client.address"]) == ("192.0.2.7", "198.51.100.1")
    assert len(str(second.attributes["faas.invocation_id"])) == 32
    assert "vercel.request_id" not in second.attributes


MAKES_ITS_BRIDGE = """
import json, sys
import tracedbridge

class App:
    '''As FastAPI() or Flask(): an object whose class is from somewhere else.'''
    async def __call__(self, scope, receive, send):
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

App.__module__ = "framework.applications"
app = App()
vc_handler = tracedbridge.create_bridge(app)
"""


def test_a_file_that_makes_its_bridge(tmp_path: Path, received: Received) -> None:
    """A file that calls ``create_bridge`` names the function, not the framework of the app object."""
    from tests.telemetry.functions import run_program

    (tmp_path / "index.py").write_text(MAKES_ITS_BRIDGE)
    done = run_program(
        tmp_path, f"import index\nindex.vc_handler({event()!r}, None)", OTEL_EXPORTER_OTLP_ENDPOINT=received.endpoint,
        TRACEDBRIDGE_FLUSH_TIMEOUT_MS=str(HANG_S * 1000),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert received.server().resource["service.name"] == "index"
