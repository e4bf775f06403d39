"""Makes bridges: around an app object, or around the app that ``TRACEDBRIDGE_APP`` names."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from tracedbridge import boot, ending, imports
from tracedbridge.apps import app_of
from tracedbridge.boot import ColdStart
from tracedbridge.bridge import Bridge
from tracedbridge.errors import AppKindError
from tracedbridge.events import load_likely
from tracedbridge.kinds import KINDS, is_handler_class, kind_of
from tracedbridge.loading import import_app, resolve_app
from tracedbridge.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from tracedbridge.messages import Event, Kind
    from tracedbridge.protocols import Telemetry

__all__ = ("begin", "create_bridge", "home_of", "load_bridge")

# The one place that reaches into telemetry/, by name: what is switched off is not imported.
_TELEMETRY = "tracedbridge.telemetry"

# How many values the frame has room for that everything below an app's load runs in. Frames are kept in chunks of
# 16 KB, and each chunk is given back when the first frame in it returns: where the calls of an import happen to cross
# the end of one, memory is mapped and unmapped thousands of times (a tenth of FastAPI's import). A frame too large for
# a common chunk gets one with as much room again, whose end no import reaches.
# Source: CPython, Python/pystate.c, push_chunk().
_ROOM = 16_384


def create_bridge(
    app: Callable[..., Any],
    *,
    kind: Kind | None = None,
    telemetry: bool | None = None,
    on_event: Callable[[Event, Any], Any] | None = None,
) -> Bridge:
    """
    Start ``app`` and return the bridge that answers events with it.

    Args:
        app: An ASGI app (also ASGI 2), a WSGI app, or a subclass of ``http.server.BaseHTTPRequestHandler``.
        kind: ``"asgi"``, ``"wsgi"`` or ``"http_server"``; told by the shape of ``app`` if None.
        telemetry: Overrides ``TRACEDBRIDGE_TELEMETRY``.
        on_event: Takes events that are no HTTP requests (a schedule, a queue, a warm-up) and the platform's context;
            what it returns goes to the platform. They are told as invocations with their ``faas.trigger``.

    Raises:
        AppKindError: ``app`` is of none of these kinds, or ``on_event`` is no function that can be called.
        StartupError: Its lifespan startup failed.
    """
    home = home_of(sys._getframe(1))
    if on_event is not None and (not callable(on_event) or _is_coroutine_function(on_event)):
        raise AppKindError(
            f"cannot give events to {on_event!r}: on_event is a function of event and context, no coroutine"
        )
    # Whoever has an app object has imported it, mostly after tracedbridge.
    cold_start = ColdStart(until_now="app_import")
    settings = Settings()
    if telemetry is not None:
        settings.telemetry = telemetry

    def find() -> tuple[Callable[..., Any], Kind]:
        if kind is not None and (kind not in KINDS or not callable(app)):
            raise AppKindError(f"cannot serve {app!r} as kind {kind!r}: kinds are {', '.join(KINDS)}")
        if kind == "http_server" and not is_handler_class(app):
            raise AppKindError(f"cannot serve {app!r} as kind 'http_server': it is no BaseHTTPRequestHandler class")
        found = kind or kind_of(app)
        cold_start.mark("app_resolve")
        return app, found

    return _started(find, settings, cold_start, app_name=home, on_event=on_event)


def load_bridge() -> Bridge:
    """
    Load the app of ``TRACEDBRIDGE_APP``, start it and return its bridge.

    Raises:
        LoadError: What is wrong with the app, by subclass.
        SystemExit, KeyboardInterrupt: The app's own.
    """
    cold_start = ColdStart()
    settings = Settings()

    def find() -> tuple[Callable[..., Any], Kind]:
        module, variable = import_app(settings.app)
        cold_start.mark("app_import")
        found = resolve_app(settings.app, module, variable)
        cold_start.mark("app_resolve")
        return found

    return _started(find, settings, cold_start, app_name=settings.app.partition(":")[0])


def _started(
    find: Callable[[], tuple[Callable[..., Any], Kind]],
    settings: Settings,
    cold_start: ColdStart,
    app_name: str,
    on_event: Callable[[Event, Any], Any] | None = None,
) -> Bridge:
    # Before the app: its folder comes first on sys.path, and may hold a json.py.
    load_likely()
    extension = None
    if settings.telemetry and settings.flush != "before" and "AWS_LAMBDA_RUNTIME_API" in os.environ:
        from tracedbridge.extension import is_never_stopped, registered

        extension = registered(os.environ)
        if extension is not None or is_never_stopped(os.environ):
            settings.flush = "after"
    telemetry = begin(settings, cold_start, app_name)
    try:
        with telemetry.loading():
            found, kind = find()
            app = app_of(telemetry.wrap(found, kind), kind)
            cold_start.mark("bridge")
            try:
                cold_start.background_tasks = app.start()
            except BaseException:
                app.stop(0.0)
                raise
            # An app without lifespan shows that by what it does when it is asked for one.
            cold_start.mark("app_resolve" if cold_start.background_tasks is None else "lifespan")
            cold_start.ready()
    except BaseException:
        telemetry.close()
        raise
    if extension is None:
        bridge = Bridge(app, telemetry, settings, on_event)
    else:
        from tracedbridge.extension import ExtendedBridge

        bridge = extended = ExtendedBridge(app, telemetry, settings, on_event)
        extended.extension = extension

        def lost() -> None:
            settings.flush = "auto"

        extension.follow(bridge.settle, lost)
    ending.close_at_end(bridge)
    if "AWS_LAMBDA_INITIALIZATION_TYPE" in os.environ:
        from tracedbridge.platforms import around_snapshot

        around_snapshot(bridge.before_snapshot, bridge.restored, os.environ)
    return bridge


def begin(settings: Settings, cold_start: ColdStart, app_name: str) -> Telemetry:
    """
    Return the telemetry of an app, which begins now.

    Args:
        settings: What the environment asks for.
        cold_start: Gets the imports that were recorded until now, if it is the process's own, and its next mark.
        app_name: What the function is called after, if nobody has named it: the app's file or module.
    """
    early = imports.take_early()
    if cold_start is boot.first_of_process():
        cold_start.imports = early
    telemetry = _telemetry_of(settings, cold_start, app_name)
    cold_start.mark("telemetry")
    return telemetry


_started.__code__ = _started.__code__.replace(co_stacksize=_ROOM)


def _telemetry_of(settings: Settings, cold_start: ColdStart, app_name: str) -> Telemetry:
    if settings.telemetry:
        try:
            made: Telemetry = import_module(_TELEMETRY).create(settings, cold_start, app_name)
        except Exception as error:  # noqa: BLE001 - telemetry that cannot start must not keep the app from starting
            import logging

            logging.getLogger("tracedbridge").warning(
                "telemetry is off: it could not start: %s: %s", type(error).__name__, error
            )
        else:
            return made
    from tracedbridge.untraced import Untraced

    return Untraced()


def _is_coroutine_function(function: Callable[..., Any]) -> bool:
    # CO_COROUTINE, as `inspect` has it, which takes milliseconds to import.
    return bool(getattr(getattr(function, "__code__", None), "co_flags", 0) & 0x80)


def home_of(caller: FrameType) -> str:
    """Return the file that makes a bridge, as ``TRACEDBRIDGE_APP`` would name it."""
    file = caller.f_globals.get("__file__")
    if not isinstance(file, str):
        return str(caller.f_globals.get("__name__", "function"))
    # Not the app object's module: that of a FastAPI() is FastAPI's.
    try:
        path = os.path.relpath(file)
    except OSError:
        # The working directory is gone.
        path = os.pardir
    return os.path.basename(file) if path.startswith(os.pardir) else path
