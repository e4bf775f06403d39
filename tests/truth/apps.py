"""Real apps of one file each, as sources: they are imported in processes of their own only."""

from __future__ import annotations

__all__ = ("APPS",)

_FASTAPI = """
from fastapi import FastAPI

app = FastAPI()

@app.get("/")
async def page() -> dict[str, str]:
    return {"fruit": "plum"}
"""

# With what `startproject` installs: django.setup() imports most of it by import_module.
_DJANGO = """
import django
from django.conf import settings
from django.http import JsonResponse
from django.urls import path

settings.configure(
    ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=[f"django.contrib.{name}" for name in ("admin", "auth", "contenttypes", "sessions", "messages")],
    ROOT_URLCONF=__name__,
    SECRET_KEY="plum",
)
django.setup()

from django.core.wsgi import get_wsgi_application

def page(request):
    return JsonResponse({"fruit": "plum"})

urlpatterns = [path("", page)]
app = get_wsgi_application()
"""

_TABLES = """
import numpy as np
import pandas as pd

def app(environ, start_response):
    prices = pd.DataFrame({"plum": np.arange(3)})
    start_response("200 OK", [("content-type", "application/json")])
    return [prices.to_json().encode()]
"""

APPS = {"fastapi": _FASTAPI, "django": _DJANGO, "numpy and pandas": _TABLES}
