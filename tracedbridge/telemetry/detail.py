"""
What the middleware of opentelemetry-instrumentation-asgi does for us: a span for each receive and send of an ASGI app,
and WebSockets, which are no requests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry import propagate
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.metrics import NoOpMeterProvider

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("with_conversations", "with_detail")


def with_detail(app: Callable[..., Any]) -> Callable[..., Any]:
    """
    Wrap an ASGI app.

    The middleware finds our SERVER span current and makes an internal one below it. Its metrics go nowhere: they
    are ours already.
    """
    from tracedbridge.kinds import one_call

    middleware: Callable[..., Any] = OpenTelemetryMiddleware(one_call(app), meter_provider=NoOpMeterProvider())
    return middleware


def with_conversations(app: Callable[..., Any]) -> Callable[..., Any]:
    """
    Wrap an ASGI 3 app whose WebSockets are to be traced: one span each, without one for each message.

    The app finds that span in its headers, too: frameworks that trace by themselves look there.
    """

    async def told(scope: dict[str, Any], receive: Any, send: Any) -> None:
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        ours = {name.lower().encode("latin-1"): value.encode("latin-1") for name, value in carrier.items()}
        headers = [pair for pair in scope["headers"] if pair[0].lower() not in ours]
        await app({**scope, "headers": headers + list(ours.items())}, receive, send)

    middleware: Callable[..., Any] = OpenTelemetryMiddleware(
        told, meter_provider=NoOpMeterProvider(), exclude_spans=["receive", "send"]
    )
    return middleware
