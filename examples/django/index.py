"""A Django function in one file: settings, views, routes and the WSGI ``application``."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import Http404, JsonResponse
from django.urls import path

if TYPE_CHECKING:
    from django.http import HttpRequest

settings.configure(
    ALLOWED_HOSTS=[".vercel.app", "localhost"],
    MIDDLEWARE=["django.middleware.security.SecurityMiddleware", "django.middleware.common.CommonMiddleware"],
    ROOT_URLCONF=__name__,
    # Set it where signatures must outlive the instance: sessions, password resets.
    SECRET_KEY=os.environ.get("SECRET_KEY") or secrets.token_urlsafe(50),
)

ITEMS = {1: "apple", 2: "pear", 3: "plum"}


def item(request: HttpRequest, item_id: int) -> JsonResponse:
    """Answer with one item; all of them share the span name ``GET /items/<int:item_id>``."""
    if item_id not in ITEMS:
        raise Http404(f"no item {item_id}")
    return JsonResponse({"id": item_id, "name": ITEMS[item_id]})


def crash(request: HttpRequest) -> JsonResponse:
    """Raise: Django answers with its 500 page, which marks the span as failed."""
    raise RuntimeError("the shelf is empty")


urlpatterns = [path("items/<int:item_id>", item), path("crash", crash)]

application = get_wsgi_application()
