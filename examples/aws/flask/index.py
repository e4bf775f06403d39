"""A Flask app on Lambda, behind a Function URL, an HTTP API or a load balancer."""

from __future__ import annotations

from flask import Flask, abort, request

app = Flask(__name__)

PRICES = {1: 41, 2: 42, 3: 43}


@app.get("/price/<int:item_id>")
def price(item_id: int) -> dict[str, int]:
    """Answer with a price."""
    if item_id not in PRICES:
        abort(404, f"no item {item_id}")
    return {"id": item_id, "cents": PRICES[item_id]}


@app.get("/who")
def who() -> dict[str, str]:
    """Answer with what Lambda says of this invocation: the event and the context are in the environ."""
    context = request.environ.get("aws.context")
    return {"request": getattr(context, "aws_request_id", ""), "mounted at": request.environ["SCRIPT_NAME"]}
