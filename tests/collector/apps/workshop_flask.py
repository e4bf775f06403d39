"""The workshop with Flask."""

from __future__ import annotations

from typing import Any

from flask import Flask

from tests.collector.apps.workshop import craft

app = Flask(__name__)


@app.get("/items/<int:item>")
def make(item: int) -> dict[str, Any]:
    """Make one."""
    return craft(item)
