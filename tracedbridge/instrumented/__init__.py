"""``instrument(app)``: the telemetry of the bridge around an app that somebody else serves."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from tracedbridge.boot import ColdStart
from tracedbridge.create import begin, home_of
from tracedbridge.errors import AppKindError
from tracedbridge.kinds import kind_of, one_call
from tracedbridge.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracedbridge.instrumented.asgi import TracedAsgi
    from tracedbridge.instrumented.wsgi import TracedWsgi
    from tracedbridge.messages import Kind

__all__ = ("instrument",)


def instrument(
    app: Callable[..., Any], *, kind: Kind | None = None, telemetry: bool | None = None
) -> TracedAsgi | TracedWsgi:
    """
    Return the app with our telemetry around it: for uvicorn, hypercorn, gunicorn, Vercel's runtime, any server.

    Each request leaves its span, log line and metrics, the first one the cold start, as with `tracedbridge.vc_handler`.
    They are exported after the response, by a thread. Where `vc_handler` loads the app, or telemetry is off, it is
    called as if this were not there.

    Args:
        app: An ASGI app (also ASGI 2), which gives an ASGI 3 app, or a WSGI app, which gives one.
        kind: ``"asgi"`` or ``"wsgi"``; told by the shape of ``app`` if None.
        telemetry: Overrides ``TRACEDBRIDGE_TELEMETRY``.

    Raises:
        AppKindError: ``app`` is neither. A handler class brings its own server with it: `vc_handler` serves it.
    """
    # Whoever has an app object has imported it, mostly after tracedbridge.
    cold_start = ColdStart(until_now="app_import")
    found = kind or kind_of(app)
    if found not in ("asgi", "wsgi") or not callable(app):
        raise AppKindError(
            f"cannot instrument {app!r}: expected an ASGI or a WSGI app; vc_handler serves handler classes"
        )
    settings = Settings()
    if telemetry is not None:
        settings.telemetry = telemetry
    # A stream that has ended has nobody who waits for it.
    settings.flush = "after"
    if _is_loaded_by_us():
        settings.telemetry = False
    watched = begin(settings, cold_start, home_of(sys._getframe(1)))
    untraced = sys.modules.get("tracedbridge.untraced")
    is_off = untraced is not None and isinstance(watched, untraced.Untraced)
    cold_start.mark("app_resolve")
    cold_start.ready()
    if found == "wsgi":
        from tracedbridge.instrumented.wsgi import TracedWsgi

        return TracedWsgi(app, watched, is_off=is_off)
    from tracedbridge.instrumented.asgi import TracedAsgi

    return TracedAsgi(one_call(app), watched, cold_start, is_off=is_off)


def _is_loaded_by_us() -> bool:
    """Say whether a bridge is just loading the app, which it will watch by itself."""
    watching = sys.modules.get("tracedbridge.telemetry.middleware")
    return watching is not None and watching.is_loading()
