"""The same Django app over ASGI."""

from __future__ import annotations

import index  # noqa: F401 - its settings and routes are this app's, too
from django.core.asgi import get_asgi_application

application = get_asgi_application()
