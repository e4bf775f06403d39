"""A span for each receive and send of an ASGI app, by the middleware of opentelemetry-instrumentation-asgi."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.metrics import NoOpMeterProvider

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("with_detail",)


def with_detail(app: Callable[..., Any]) -> Callable[..., Any]:
    """
    Wrap an ASGI app.

    The middleware finds our SERVER span current and makes an internal one below it. Its metrics go nowhere: they
    are ours already.
    """
    from tracedbridge.kinds import one_call

    middleware: Callable[..., Any] = OpenTelemetryMiddleware(one_call(app), meter_provider=NoOpMeterProvider())
    return middleware
