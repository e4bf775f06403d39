"""
Events that are no HTTP request: what they are, and what takes them.

Source: AWS, "Invoking Lambda with events from other AWS services"; OpenTelemetry, "faas.trigger".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracedbridge.errors import EventError

if TYPE_CHECKING:
    from tracedbridge.messages import Event

__all__ = ("refusal", "trigger_of")

_HTTP = "a Vercel event, {'body': '<JSON text>'}, or one of API Gateway, a Function URL or a load balancer"


_TRIGGERS = {
    "aws:sqs": "pubsub",
    "aws:sns": "pubsub",
    "aws:kinesis": "pubsub",
    "aws:kafka": "pubsub",
    "SelfManagedKafka": "pubsub",
    "aws:mq": "pubsub",
    "aws:rmq": "pubsub",
    "aws:s3": "datasource",
    "aws:dynamodb": "datasource",
    "aws:docdb": "datasource",
}


def refusal(event: Event) -> EventError:
    """Return the error for an event that no format knows."""
    told = _described(event)
    if not isinstance(event, dict):
        return EventError(f"cannot read event {told}: expected {_HTTP}")
    context = event.get("requestContext")
    if isinstance(context, dict) and "connectionId" in context:
        return EventError(
            "cannot read an event of a WebSocket API: its messages are no HTTP requests; use an HTTP API or a Function "
            "URL for the app, and take these by create_bridge(app, on_event=...)"
        )
    records = event.get("Records")
    if isinstance(records, list) and records and isinstance(records[0], dict) and "cf" in records[0]:
        return EventError(
            "cannot read an event of Lambda@Edge, which has no request body and other limits; have CloudFront ask a "
            "Function URL instead"
        )
    return EventError(
        f"cannot read event {told}: it is no HTTP request; expected {_HTTP}; other events are taken by "
        "create_bridge(app, on_event=...)"
    )


def trigger_of(event: Event) -> str:
    """Return what has caused an event that is no HTTP request, as ``faas.trigger`` has it."""
    if not isinstance(event, dict):
        return "other"
    if event.get("source") == "aws.events" or event.get("detail-type") == "Scheduled Event":
        return "timer"
    records = event.get("Records")
    if isinstance(records, list) and records and isinstance(records[0], dict):
        # SNS writes it with a capital.
        source = records[0].get("eventSource") or records[0].get("EventSource")
        return _TRIGGERS.get(str(source), "other")
    if "detail-type" in event and "source" in event:
        return "pubsub"
    return _TRIGGERS.get(str(event.get("eventSource")), "other")


def _described(event: Event) -> str:
    # Names only: values may be secrets.
    if isinstance(event, dict):
        return f"with keys {sorted(map(str, event))[:20]}"
    return f"of type {type(event).__name__}"
