"""Responses say which trace they belong to, if they are asked to."""

from __future__ import annotations

import re

import pytest

from tests.support import Receive, Scope, Send, answer, event, no_lifespan, respond
from tests.telemetry.apps import KINDS, Pairs, app_around, asgi_around
from tests.telemetry.received import Received
from tracedbridge import create_bridge
from tracedbridge.messages import Kind

pytestmark = pytest.mark.telemetry

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize("start", ["deferred", "eager"])
@pytest.mark.parametrize(
    ("headers", "flags"),
    [
        pytest.param({}, "03", id="a trace of its own"),
        pytest.param({"traceparent": PARENT}, "01", id="the caller's trace"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_told(
    kind: Kind, headers: dict[str, str], flags: str, start: str, received: Received, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both headers name the span that is exported; the first response tells its cold start, too."""
    monkeypatch.setenv("TRACEDBRIDGE_TRACE_RESPONSE", "on")
    monkeypatch.setenv("TRACEDBRIDGE_START", start)
    with create_bridge(app_around(kind, lambda _: "ok")) as bridge:
        cold, warm = (answer(bridge(event(headers=headers))) for _ in range(2))
    for told, span in zip((cold, warm), received.servers(), strict=True):
        here = f"00-{span.trace_id}-{span.span_id}-{flags}"
        assert told.headers["traceresponse"] == [here]
        assert told.headers["server-timing"][0].startswith(f'traceparent;desc="{here}"')
    phases = dict(re.findall(r"([a-z_]+);dur=([0-9.]+)", cold.headers["server-timing"][0]))
    span = received.span("cold start")
    shown = {name: span.attributes[f"tracedbridge.coldstart.{name}_ms"] for name in phases if name != "wait"}
    assert {"app_import", "app_resolve", "bridge", "telemetry"} <= set(shown)
    assert {name: float(took) for name, took in phases.items() if name != "wait"} == pytest.approx(shown, abs=0.051)
    assert "dur=" not in warm.headers["server-timing"][0]


def test_what_the_app_says(received: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    """An app's own traceresponse stays alone, its own server-timing stays first."""
    monkeypatch.setenv("TRACEDBRIDGE_TRACE_RESPONSE", "on")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        no_lifespan(scope)
        await respond(send, headers=[(b"traceresponse", b"mine"), (b"server-timing", b"db;dur=1")])

    with create_bridge(app) as bridge:
        response = answer(bridge(event()))
    assert response.headers["traceresponse"] == ["mine"]
    first, ours = response.headers["server-timing"]
    assert first == "db;dur=1"
    assert received.server().span_id in ours


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="not asked for"),
        pytest.param({"TRACEDBRIDGE_TRACE_RESPONSE": "on", "OTEL_SDK_DISABLED": "true"}, id="nothing is traced"),
        pytest.param({"TRACEDBRIDGE_TRACE_RESPONSE": "on", "TRACEDBRIDGE_TELEMETRY": "off"}, id="telemetry off"),
    ],
)
def test_not_told(settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """No header is added where nobody asked, or where there is no trace."""
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with create_bridge(asgi_around(plain)) as bridge:
        response = answer(bridge(event()))
    assert not {"traceresponse", "server-timing"} & set(response.headers)


def plain(headers: Pairs) -> str:
    """Answer."""
    return "ok"
