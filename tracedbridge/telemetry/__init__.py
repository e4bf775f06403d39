"""
Telemetry: the only folder that may import opentelemetry or structlog.

`tracedbridge.create` asks for it by name, when it is on; nobody else does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tracedbridge.boot import ColdStart
    from tracedbridge.messages import Telemetry
    from tracedbridge.settings import Settings

__all__ = ("create",)


def create(settings: Settings, cold_start: ColdStart, app: str) -> Telemetry:
    """
    Return what watches a bridge.

    Args:
        settings: Read already.
        cold_start: The bridge's boot record, which goes on being written.
        app: The app's file or module, without its variable.
    """
    from tracedbridge.telemetry.middleware import Middleware

    return Middleware(settings, cold_start, app)
