"""The pages on Starlette."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

done = asyncio.Event()


def text(request: Request) -> Response:
    return PlainTextResponse("hello")


async def json(request: Request) -> Response:
    return JSONResponse({"é": [1, None, "\N{SNAKE}"]})


async def echo(request: Request) -> Response:
    told = {
        "method": request.method,
        "url": str(request.url),
        "path": request.url.path,
        "query": request.url.query,
        "arguments": request.query_params.multi_items(),
        "headers": sorted(pair for pair in request.headers.items() if pair[0].startswith(("x-", "host", "content-"))),
        "cookies": request.cookies,
        "client": request.client and request.client.host,
        "http_version": request.scope["http_version"],
        "body": (await request.body()).hex(),
    }
    return JSONResponse(told)


async def path(request: Request) -> Response:
    told = {"rest": request.path_params["rest"], "url": str(request.url), "raw": request.scope["raw_path"].decode()}
    return JSONResponse(told)


async def mirror(request: Request) -> Response:
    return Response(await request.body(), media_type="application/octet-stream")


async def form(request: Request) -> Response:
    # Not request.form(), which needs a parser that Starlette does not depend on.
    return JSONResponse(parse_qsl((await request.body()).decode(), keep_blank_values=True))


async def binary(request: Request) -> Response:
    return Response(bytes(range(256)), media_type="image/x-all")


async def large(request: Request) -> Response:
    return PlainTextResponse("0123456789abcdef\n" * 12_000)


async def stream(request: Request) -> Response:
    async def parts() -> AsyncIterator[str]:
        for part in ("one\n", "", "two\n", "\N{SNAKE}"):
            await asyncio.sleep(0)
            yield part

    return StreamingResponse(parts(), media_type="text/plain")


async def cookies(request: Request) -> Response:
    response = PlainTextResponse("set")
    response.set_cookie("a", "1", httponly=True)
    response.set_cookie("b", "two words", path="/text")
    return response


async def empty(request: Request) -> Response:
    return Response(status_code=204)


async def same(request: Request) -> Response:
    return Response(status_code=304, headers={"etag": request.headers["if-none-match"]})


async def moved(request: Request) -> Response:
    return RedirectResponse(request.url_for("text").include_query_params(a="é"), 302)


async def crash(request: Request) -> Response:
    raise RuntimeError("crash")


async def early(request: Request) -> Response:
    raise HTTPException(413)


async def background(request: Request) -> Response:
    async def work() -> None:
        await asyncio.sleep(0)
        done.set()

    return PlainTextResponse("later", background=BackgroundTask(work))


async def background_done(request: Request) -> Response:
    await asyncio.wait_for(done.wait(), 5)
    return PlainTextResponse("done")


app = Starlette(
    routes=[
        Route("/text", text),
        Route("/json", json),
        Route("/echo", echo, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
        Route("/path/{rest:path}", path),
        Route("/mirror", mirror, methods=["POST"]),
        Route("/form", form, methods=["POST"]),
        Route("/binary", binary),
        Route("/large", large),
        Route("/stream", stream),
        Route("/cookies", cookies),
        Route("/empty", empty),
        Route("/same", same),
        Route("/moved", moved),
        Route("/crash", crash),
        Route("/early", early, methods=["POST"]),
        Route("/background", background),
        Route("/background/done", background_done),
    ]
)
