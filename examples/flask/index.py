"""A Flask function: a route with a parameter, a form, and an error."""

from __future__ import annotations

from flask import Flask, abort, request

app = Flask(__name__)

ITEMS = {1: "apple", 2: "pear", 3: "plum"}


@app.get("/items/<int:item_id>")
def item(item_id: int) -> dict[str, int | str]:
    """Answer with one item; all of them share the span name ``GET /items/<int:item_id>``."""
    if item_id not in ITEMS:
        abort(404, f"no item {item_id}")
    return {"id": item_id, "name": ITEMS[item_id]}


@app.post("/orders")
def order() -> tuple[dict[str, int | str], int]:
    """Read a form; one without the field ``item`` is answered 400 by Flask."""
    return {"item": request.form["item"], "count": request.form.get("count", 1, type=int)}, 201


@app.get("/crash")
def crash() -> str:
    """Raise: Flask logs the traceback and answers 500, which marks the span as failed."""
    raise RuntimeError("the shelf is empty")
