"""Apps: one module for each kind, chosen from a table."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracedbridge.messages import Kind
    from tracedbridge.protocols import App

__all__ = ("APPS", "app_of")

# A new kind is one module and one line here.
APPS: dict[str, tuple[str, str]] = {
    "asgi": ("tracedbridge.apps.asgi", "AsgiApp"),
    "wsgi": ("tracedbridge.apps.wsgi", "WsgiApp"),
    "http_server": ("tracedbridge.apps.http_server", "HttpServerApp"),
}


def app_of(app: Callable[..., Any], kind: Kind) -> App:
    """Return the app that calls ``app`` in the way of its kind."""
    module, name = APPS[kind]
    made: App = getattr(import_module(module), name)(app)
    return made
