"""What is told of an event that is no HTTP request: the same as of one, with what has caused it."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry import trace

from tests.support import event
from tests.telemetry.apps import Pairs, asgi_around
from tests.telemetry.functions import json_lines
from tests.telemetry.received import Received, drawn
from tracedbridge import AppKindError, create_bridge

pytestmark = pytest.mark.telemetry

tracer = trace.get_tracer("shop")


def ok(headers: Pairs) -> str:
    """Answer anything."""
    return "ok"


@pytest.mark.parametrize(
    ("cause", "trigger"),
    [
        ({"source": "aws.events", "detail-type": "Scheduled Event", "detail": {}}, "timer"),
        ({"Records": [{"eventSource": "aws:sqs", "body": "x"}]}, "pubsub"),
        ({"Records": [{"EventSource": "aws:sns", "Sns": {}}]}, "pubsub"),
        ({"Records": [{"eventSource": "aws:s3", "s3": {}}]}, "datasource"),
        ({"eventSource": "aws:kafka", "records": {}}, "pubsub"),
        ({"source": "shop.orders", "detail-type": "sold", "detail": {}}, "pubsub"),
        ({"warm": True}, "other"),
        ("ping", "other"),
    ],
)
def test_it_is_told(cause: Any, trigger: str, received: Received, capsys: pytest.CaptureFixture[str]) -> None:
    """One SERVER span with the app's own below it, one line, one of each metric, all with the trigger."""

    def take(event: Any, context: object) -> dict[str, Any]:
        with tracer.start_as_current_span("work"):
            return {"took": event, "with": context}

    with create_bridge(asgi_around(ok), on_event=take) as bridge:
        assert bridge(cause, "context") == {"took": cause, "with": "context"}
        assert bridge(event(), None)["statusCode"] == 200
    first, second = received.servers()
    assert drawn([span for span in received.spans if span.trace_id == first.trace_id]).splitlines()[-1] == "  work"
    assert first.attributes["faas.trigger"] == trigger
    assert first.attributes["faas.coldstart"] is True
    assert not [name for name in first.attributes if name.startswith(("http.", "url.", "client."))]
    assert second.attributes["faas.trigger"] == "http"
    lines = [line for line in json_lines(capsys.readouterr().out) if line["event"] == "invocation"]
    assert [line.get("trigger") for line in lines] == [trigger, None]
    assert "status" not in lines[0]
    assert received.counts("faas.invocations", "faas.trigger") == {(trigger,): 1, ("http",): 1}
    # Nobody has asked by HTTP but once.
    assert sum(point.count for point in received.histogram("http.server.request.duration")) == 1


def test_it_fails(received: Received, capsys: pytest.CaptureFixture[str]) -> None:
    """What it raises is the platform's, which tries again; it is told before."""

    def fail(event: Any, context: object) -> None:
        raise ValueError("out of stock")

    with create_bridge(asgi_around(ok), on_event=fail) as bridge, pytest.raises(ValueError, match="out of stock"):
        bridge({"Records": [{"eventSource": "aws:sqs"}]}, None)
    span = received.server()
    assert (span.status, span.attributes["error.type"]) == ("error", "ValueError")
    assert received.counts("faas.errors", "faas.trigger", "error.type") == {("pubsub", "ValueError"): 1}
    (line,) = (line for line in json_lines(capsys.readouterr().out) if line["event"] == "invocation")
    assert (line["level"], line["error"], line["error_message"]) == ("error", "ValueError", "out of stock")


def test_it_cannot_be_asynchronous() -> None:
    """It is refused when the bridge is made, and not with the first event."""

    async def take(event: Any, context: object) -> None:
        """Never called."""

    with pytest.raises(AppKindError, match=r"on_event.*coroutine"):
        create_bridge(asgi_around(ok), on_event=take)
