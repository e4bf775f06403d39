"""A Flask app on Vercel: a route with a parameter, and a stream."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from flask import Flask, Response, abort

from tracedbridge import instrument

if TYPE_CHECKING:
    from collections.abc import Iterator

app = Flask(__name__)

PRICES = {1: 41, 2: 42, 3: 43}


@app.get("/price/<int:item_id>")
def price(item_id: int) -> dict[str, int]:
    """Answer with a price; all items share the span name ``GET /price/<int:item_id>``."""
    if item_id not in PRICES:
        abort(404, f"no item {item_id}")
    return {"id": item_id, "cents": PRICES[item_id]}


@app.get("/countdown")
def countdown() -> Response:
    """Stream: the span ends with the last part, and has an event for the first one."""

    def parts() -> Iterator[str]:
        for number in (3, 2, 1):
            yield f"{number}\n"
            time.sleep(0.01)

    return Response(parts(), mimetype="text/plain")


# The one line. Where `tracedbridge build` has made the entry, which traces by itself, it does nothing.
app = instrument(app)  # type: ignore[assignment]  # a WSGI app still
