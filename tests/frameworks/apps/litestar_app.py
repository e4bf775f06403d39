"""The pages on Litestar."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from litestar import Litestar, Request, Response, get, post, route
from litestar.background_tasks import BackgroundTask
from litestar.datastructures import Cookie
from litestar.enums import MediaType
from litestar.exceptions import HTTPException
from litestar.response import Redirect, Stream

AnyRequest = Request[Any, Any, Any]

done = asyncio.Event()


@get("/text", name="text", media_type=MediaType.TEXT, sync_to_thread=True)
def text() -> str:
    return "hello"


@get("/json")
async def json() -> dict[str, list[int | str | None]]:
    return {"é": [1, None, "\N{SNAKE}"]}


@route("/echo", http_method=["GET", "POST", "PUT", "PATCH", "DELETE"], status_code=200)
async def echo(request: AnyRequest) -> dict[str, Any]:
    return {
        "method": request.method,
        "url": str(request.url),
        "path": request.url.path,
        "query": request.url.query,
        # Litestar goes through them in another order in each process.
        "arguments": sorted(request.query_params.multi_items()),
        "headers": sorted(
            pair for pair in request.headers.multi_items() if pair[0].startswith(("x-", "host", "content-"))
        ),
        "cookies": request.cookies,
        "client": request.client and request.client.host,
        "body": (await request.body()).hex(),
    }


@get("/path/{rest:path}")
async def path(request: AnyRequest) -> dict[str, str]:
    return {"rest": str(request.path_params["rest"]), "url": str(request.url)}


@post("/mirror", status_code=200)
async def mirror(request: AnyRequest) -> Response[bytes]:
    return Response(await request.body(), media_type="application/octet-stream")


@post("/form", status_code=200)
async def form(request: AnyRequest) -> list[tuple[str, Any]]:
    # As with the query's.
    return sorted((await request.form()).multi_items())


@post("/upload", status_code=200)
async def upload(request: AnyRequest) -> dict[str, str]:
    sent = await request.form()
    content: bytes = await sent["file"].read()
    return {"kind": sent["kind"], "name": sent["file"].filename, "content": content.hex()}


@get("/binary")
async def binary() -> Response[bytes]:
    return Response(bytes(range(256)), media_type="image/x-all")


@get("/large", media_type=MediaType.TEXT)
async def large() -> str:
    return "0123456789abcdef\n" * 12_000


@get("/stream")
async def stream() -> Stream:
    async def parts() -> AsyncIterator[str]:
        for part in ("one\n", "", "two\n", "\N{SNAKE}"):
            await asyncio.sleep(0)
            yield part

    return Stream(parts(), media_type="text/plain")


@get("/cookies")
async def cookies() -> Response[str]:
    return Response("set", cookies=[Cookie("a", value="1", httponly=True), Cookie("b", value="two", path="/text")])


@get("/empty", status_code=204)
async def empty() -> None:
    return None


@get("/same", status_code=304)
async def same(request: AnyRequest) -> Response[None]:
    return Response(None, headers={"etag": request.headers["if-none-match"]}, status_code=304)


@get("/moved", status_code=302)
async def moved(request: AnyRequest) -> Redirect:
    return Redirect(request.url_for("text"), status_code=302)


@get("/crash")
async def crash() -> None:
    raise RuntimeError("crash")


@post("/early")
async def early() -> None:
    raise HTTPException("too large", status_code=413)


@get("/background")
async def background() -> Response[str]:
    async def work() -> None:
        await asyncio.sleep(0)
        done.set()

    return Response("later", background=BackgroundTask(work))


@get("/background/done")
async def background_done() -> str:
    await asyncio.wait_for(done.wait(), 5)
    return "done"


app = Litestar(
    [
        text,
        json,
        echo,
        path,
        mirror,
        form,
        upload,
        binary,
        large,
        stream,
        cookies,
        empty,
        same,
        moved,
        crash,
        early,
        background,
        background_done,
    ]
)
