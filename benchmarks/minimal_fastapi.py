"""The same answer by FastAPI, with what most of its apps have: a route and a parameter."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

app = FastAPI()


@app.get("/hello", response_class=PlainTextResponse)
async def hello(a: int) -> str:
    """Answer with the same text."""
    return "Hello, world!\n"
