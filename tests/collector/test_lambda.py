"""In Lambda's environment, frozen between invocations: a real collector gets every one of them, once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.collector.conftest import Collector
from tests.collector.sink import attributes_of
from tests.events.lambda_events import KINDS, Asked, event_of
from tests.support import HANG_S

pytest.importorskip("awslambdaric", reason="the runtime client is in the dev extra")
from tests.aws.runtime_api import Environment

pytestmark = [pytest.mark.collector, pytest.mark.telemetry]

_APP = """
from opentelemetry import trace

tracer = trace.get_tracer("shop")

async def app(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError
    with tracer.start_as_current_span("work", attributes={"path": scope["path"]}):
        if scope["path"] == "/crash":
            raise RuntimeError("out of stock")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["path"].encode()})
"""


def test_every_invocation_once(collector: Collector, tmp_path: Path) -> None:
    """By each format, with and without a failure: as many SERVER spans as answers, each with the app's own below it."""
    tmp_path.joinpath("index.py").write_text(_APP)
    asked: dict[str, str] = {}
    with Environment(
        "index.py",
        tmp_path,
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint("http/protobuf"),
        TRACEDBRIDGE_FLUSH_TIMEOUT_MS=str(HANG_S * 1000),
    ) as environment:
        for turn in range(4):
            for kind in KINDS:
                path = "/crash" if turn == 2 else f"/{turn}"
                answer = environment.invoke(event_of(kind, Asked(path=path)))
                assert answer.payload["statusCode"] == (500 if turn == 2 else 200)
                asked[answer.number] = path
        environment.wait_until_idle()
        assert len(environment.frozen_ns) == len(asked) + 1
    sink = collector.drained()
    servers = {
        str(attributes_of(each.item.attributes)["faas.invocation_id"]): each.item
        for each in sink.spans
        if each.item.name.startswith("GET")
    }
    assert Counter(each.item.name.startswith("GET") for each in sink.spans)[True] == len(asked)
    assert set(servers) == set(asked)
    work = {
        each.item.parent_span_id: attributes_of(each.item.attributes) for each in sink.spans if each.item.name == "work"
    }
    assert {number: work[span.span_id]["path"] for number, span in servers.items()} == asked
    lines = Counter(
        str(attributes_of(each.item.attributes)["invocation_id"])
        for each in sink.logs
        if each.item.body.string_value == "invocation"
    )
    assert lines == dict.fromkeys(asked, 1)
