"""
Tells the platform of the HTTP requests that an app makes while it serves one.

By ``http.client``, which urllib, requests and urllib3 use, and by httpcore, which httpx uses, once it is loaded.
Source: vercel-runtime 0.24.1, message ``metric`` of type ``fetch-metric``.
"""

from __future__ import annotations

import itertools
import sys
import time
from http.client import HTTPConnection
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tracedbridge.serving.ipc.channel import ids_now

if TYPE_CHECKING:
    from types import ModuleType

    from tracedbridge.serving.ipc.channel import Channel

__all__ = ("tell_fetches",)

_numbers = itertools.count(1)

_ASKED = "_tracedbridge_asked"


def tell_fetches(channel: Channel) -> None:
    """Tell of all of them from now on; for the life of the process."""
    putrequest, getresponse = HTTPConnection.putrequest, HTTPConnection.getresponse

    def asked(self: HTTPConnection, method: str, url: str, *args: Any, **kwargs: Any) -> None:
        setattr(self, _ASKED, (method, url, time.time_ns()))
        putrequest(self, method, url, *args, **kwargs)

    def answered(self: HTTPConnection) -> Any:
        response = getresponse(self)
        told = vars(self).pop(_ASKED, None)
        if told is not None and not _is_ours():
            method, url, begun_ns = told
            _tell(channel, method, url, self.host, begun_ns, response.status)
        return response

    HTTPConnection.putrequest = asked  # type: ignore[method-assign]  # for the life of the process
    HTTPConnection.getresponse = answered  # type: ignore[method-assign]
    if (httpx := sys.modules.get("httpx")) is not None:
        _wrap_all(channel, httpx)
    else:
        sys.meta_path.insert(0, _Arrival(channel))


class _Arrival:
    """Waits on ``sys.meta_path`` for an app that imports httpx when it needs it."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        del path, target
        if name != "httpx":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def loaded(module: ModuleType) -> None:
                load(module)
                _wrap_all(self._channel, module)

            spec.loader.exec_module = loaded  # type: ignore[method-assign]  # of this one loader
        return spec


def _wrap_all(channel: Channel, httpx: Any) -> None:
    for name in ("HTTPTransport", "AsyncHTTPTransport"):
        _wrap(channel, getattr(httpx, name))


def _wrap(channel: Channel, transport: Any) -> None:
    if name := next((each for each in ("handle_request", "handle_async_request") if each in vars(transport)), None):
        handle = getattr(transport, name)

        def told(request: Any, begun_ns: int, response: Any) -> Any:
            if not _is_ours():
                _tell(channel, request.method, str(request.url), request.url.host, begun_ns, response.status_code)
            return response

        async def awaited(self: Any, request: Any) -> Any:
            begun_ns = time.time_ns()
            return told(request, begun_ns, await handle(self, request))

        def direct(self: Any, request: Any) -> Any:
            begun_ns = time.time_ns()
            return told(request, begun_ns, handle(self, request))

        setattr(transport, name, awaited if name == "handle_async_request" else direct)


def _is_ours() -> bool:
    """Say whether telemetry is being exported: that is no fetch of the app's."""
    context = sys.modules.get("opentelemetry.context")
    return context is not None and bool(context.get_value(context._SUPPRESS_INSTRUMENTATION_KEY))


def _tell(channel: Channel, method: str, url: str, host: str, begun_ns: int, status: int) -> None:
    ids = ids_now()
    if ids is None:
        return
    try:
        parts = urlsplit(url)
    except ValueError:
        return
    fetch = {
        "pathname": parts.path or "/",
        "search": parts.query,
        "start": begun_ns // 1_000_000,
        "duration": (time.time_ns() - begun_ns) // 1_000_000,
        "host": parts.hostname or host,
        "statusCode": status,
        "method": method,
        "id": next(_numbers),
    }
    channel.send("metric", {"context": ids.told(), "type": "fetch-metric", "payload": fetch})
