"""The pages on FastAPI, with its own ways of parameters, models and background tasks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated
from urllib.parse import parse_qsl

from fastapi import BackgroundTasks, FastAPI, Header, HTTPException, Query, Request, Response
from fastapi.responses import PlainTextResponse, RedirectResponse, StreamingResponse

app = FastAPI()
done = asyncio.Event()


# Not a coroutine function: it runs in a thread.
@app.get("/text", response_class=PlainTextResponse)
def text() -> str:
    return "hello"


@app.get("/json")
async def json() -> dict[str, list[int | str | None]]:
    return {"é": [1, None, "\N{SNAKE}"]}


@app.api_route("/echo", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
async def echo(
    request: Request,
    a: Annotated[list[str] | None, Query()] = None,
    x_many: Annotated[list[str] | None, Header()] = None,
    x_one: Annotated[str | None, Header()] = None,
) -> dict[str, object]:
    return {
        "method": request.method,
        "url": str(request.url),
        "query": request.url.query,
        "a": a,
        "x-many": x_many,
        "x-one": x_one,
        "content-type": request.headers.get("content-type"),
        "cookies": request.cookies,
        "client": request.client and request.client.host,
        "body": (await request.body()).hex(),
    }


@app.get("/path/{rest:path}")
async def path(rest: str, request: Request) -> dict[str, str]:
    return {"rest": rest, "url": str(request.url)}


@app.post("/mirror")
async def mirror(request: Request) -> Response:
    return Response(await request.body(), media_type="application/octet-stream")


@app.post("/form")
async def form(request: Request) -> list[tuple[str, str]]:
    # Not Form(), which needs a parser that FastAPI does not depend on.
    return parse_qsl((await request.body()).decode(), keep_blank_values=True)


@app.get("/binary")
async def binary() -> Response:
    return Response(bytes(range(256)), media_type="image/x-all")


@app.get("/large", response_class=PlainTextResponse)
async def large() -> str:
    return "0123456789abcdef\n" * 12_000


@app.get("/stream")
async def stream() -> StreamingResponse:
    async def parts() -> AsyncIterator[str]:
        for part in ("one\n", "", "two\n", "\N{SNAKE}"):
            await asyncio.sleep(0)
            yield part

    return StreamingResponse(parts(), media_type="text/plain")


@app.get("/cookies")
async def cookies(response: Response) -> str:
    response.set_cookie("a", "1", httponly=True)
    response.set_cookie("b", "two words", path="/text")
    return "set"


@app.get("/empty", status_code=204)
async def empty() -> None:
    return None


@app.get("/same")
async def same(if_none_match: Annotated[str, Header()]) -> Response:
    return Response(status_code=304, headers={"etag": if_none_match})


@app.get("/moved")
async def moved(request: Request) -> RedirectResponse:
    return RedirectResponse(request.url_for("text").include_query_params(a="é"), 302)


@app.get("/crash")
async def crash() -> None:
    raise RuntimeError("crash")


@app.post("/early")
async def early() -> None:
    raise HTTPException(413)


@app.get("/background")
async def background(tasks: BackgroundTasks) -> str:
    async def work() -> None:
        await asyncio.sleep(0)
        done.set()

    tasks.add_task(work)
    return "later"


@app.get("/background/done")
async def background_done() -> str:
    await asyncio.wait_for(done.wait(), 5)
    return "done"
