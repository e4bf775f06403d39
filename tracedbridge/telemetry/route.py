"""
Finds the route template that a framework matched; never the raw path, which would make each URL a metric of its own.

Frameworks leave it where the app was called with it, and only while they answer (Flask) or after (Starlette).
"""

from __future__ import annotations

import sys
from typing import Any

__all__ = ("asgi_route", "wsgi_route")


def asgi_route(scope: dict[str, Any]) -> str | None:
    """Return the route that Starlette, FastAPI, Litestar or Quart left in the scope, after the app ran."""
    route = scope.get("route")
    path = getattr(route, "path", None)
    if isinstance(path, str):
        # A mounted app's prefix moves into root_path, which was empty when we called; a mount that found nothing
        # below it has left itself as the route, and is there already.
        prefix = str(scope.get("root_path") or "")
        return prefix or path if hasattr(route, "routes") else prefix + path
    template = scope.get("path_template")
    if isinstance(template, str):
        return template
    return _django_route(str(scope.get("path", "")))


def wsgi_route(environ: dict[str, Any]) -> str | None:
    """Return the route that Flask left in the environ, or that Django resolves; readable inside start_response."""
    request = environ.get("werkzeug.request")
    rule = getattr(getattr(request, "url_rule", None), "rule", None)
    if isinstance(rule, str):
        return str(environ.get("SCRIPT_NAME", "")) + rule
    rule = getattr(environ.get("bottle.route"), "rule", None)
    if isinstance(rule, str):
        return rule
    try:
        path = str(environ.get("PATH_INFO", "")).encode("latin-1").decode()
    except UnicodeError:
        return None
    return _django_route(path)


def _django_route(path: str) -> str | None:
    # Only where Django serves: it has loaded its resolver by now.
    urls = sys.modules.get("django.urls")
    if urls is None:
        return None
    try:
        return "/" + str(urls.resolve(path).route)
    except Exception:  # noqa: BLE001 - Resolver404, or settings of a Django that is not the app here
        return None
