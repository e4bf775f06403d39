"""The pages on Quart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from quart import Quart, Response, abort, jsonify, redirect, request, url_for
from werkzeug.wrappers import Response as WerkzeugResponse

app = Quart(__name__)
done = asyncio.Event()


@app.get("/text")
async def text() -> Response:
    return Response("hello", content_type="text/plain")


@app.get("/json")
async def json() -> Response:
    return jsonify({"é": [1, None, "\N{SNAKE}"]})


@app.route("/echo", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
async def echo() -> Response:
    body = await request.get_data()
    assert isinstance(body, bytes)
    return jsonify(
        {
            "method": request.method,
            "url": request.url,
            "path": request.full_path,
            "query": request.query_string.decode(),
            "arguments": list(request.args.items(multi=True)),
            "headers": sorted(
                pair for pair in request.headers.items() if pair[0].lower().startswith(("x-", "host", "content-"))
            ),
            "cookies": request.cookies,
            "client": request.remote_addr,
            "body": body.hex(),
        }
    )


@app.get("/path/<path:rest>")
async def path(rest: str) -> Response:
    return jsonify({"rest": rest, "url": request.url})


@app.post("/mirror")
async def mirror() -> Response:
    return Response(await request.get_data(), content_type="application/octet-stream")


@app.post("/form")
async def form() -> Response:
    return jsonify(list((await request.form).items(multi=True)))


@app.post("/upload")
async def upload() -> Response:
    file = (await request.files)["file"]
    return jsonify({"kind": (await request.form)["kind"], "name": file.filename, "content": file.read().hex()})


@app.get("/binary")
async def binary() -> Response:
    return Response(bytes(range(256)), content_type="image/x-all")


@app.get("/large")
async def large() -> Response:
    return Response("0123456789abcdef\n" * 12_000, content_type="text/plain")


@app.get("/stream")
async def stream() -> Response:
    async def parts() -> AsyncIterator[str]:
        for part in ("one\n", "", "two\n", "\N{SNAKE}"):
            await asyncio.sleep(0)
            yield part

    return Response(parts(), content_type="text/plain")


@app.get("/cookies")
async def cookies() -> Response:
    response = Response("set")
    response.set_cookie("a", "1", httponly=True)
    response.set_cookie("b", "two words", path="/text")
    return response


@app.get("/empty")
async def empty() -> Response:
    return Response("", status=204)


@app.get("/same")
async def same() -> Response:
    return Response("", status=304, headers={"etag": request.headers["if-none-match"]})


@app.get("/moved")
async def moved() -> WerkzeugResponse:
    return redirect(url_for("text", a="é", _external=True))


@app.get("/crash")
async def crash() -> Response:
    raise RuntimeError("crash")


@app.post("/early")
async def early() -> Response:
    abort(413)


@app.get("/background")
async def background() -> Response:
    async def work() -> None:
        await asyncio.sleep(0)
        done.set()

    app.add_background_task(work)
    return Response("later")


@app.get("/background/done")
async def background_done() -> Response:
    await asyncio.wait_for(done.wait(), 5)
    return Response("done")
