"""A FastAPI app on Lambda, behind a Function URL, an HTTP API or a load balancer."""

from __future__ import annotations

from fastapi import FastAPI, HTTPException, Request

app = FastAPI(title="Fruit")

PRICES = {1: 41, 2: 42, 3: 43}


@app.get("/price/{item_id}")
async def price(item_id: int) -> dict[str, int]:
    """Answer with a price."""
    if item_id not in PRICES:
        raise HTTPException(404, f"no item {item_id}")
    return {"id": item_id, "cents": PRICES[item_id]}


@app.get("/who")
async def who(request: Request) -> dict[str, str]:
    """Answer with what Lambda says of this invocation: the event and the context are in the scope."""
    context = request.scope.get("aws.context")
    return {"request": getattr(context, "aws_request_id", ""), "mounted at": request.scope["root_path"]}
