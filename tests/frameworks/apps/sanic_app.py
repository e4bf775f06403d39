"""The pages on Sanic."""

from __future__ import annotations

from typing import Any

from sanic import Request, Sanic
from sanic.exceptions import PayloadTooLarge
from sanic.response import HTTPResponse, empty, json, raw, redirect, text

app: Sanic[Any, Any] = Sanic("pages")


@app.get("/text")
async def text_page(request: Request) -> HTTPResponse:
    return text("hello")


@app.get("/json")
async def json_page(request: Request) -> HTTPResponse:
    return json({"é": [1, None, "\N{SNAKE}"]})


@app.route("/echo", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
async def echo(request: Request) -> HTTPResponse:
    return json(
        {
            "method": request.method,
            "url": request.url,
            "path": request.path,
            "query": request.query_string,
            "arguments": request.get_query_args(keep_blank_values=True),
            "headers": sorted(
                pair for pair in request.headers.items() if pair[0].startswith(("x-", "host", "content-"))
            ),
            "cookies": {name: request.cookies.getlist(name) for name in request.cookies},
            "client": request.ip,
            "body": request.body.hex(),
        }
    )


@app.get("/path/<rest:path>")
async def path(request: Request, rest: str) -> HTTPResponse:
    return json({"rest": rest, "url": request.url})


@app.post("/mirror")
async def mirror(request: Request) -> HTTPResponse:
    return raw(request.body)


@app.post("/form")
async def form(request: Request) -> HTTPResponse:
    return json(request.get_form(keep_blank_values=True))


@app.post("/upload")
async def upload(request: Request) -> HTTPResponse:
    assert request.files is not None
    assert request.form is not None
    file = request.files["file"][0]
    return json({"kind": request.form.get("kind"), "name": file.name, "content": file.body.hex()})


@app.get("/binary")
async def binary(request: Request) -> HTTPResponse:
    return raw(bytes(range(256)), content_type="image/x-all")


@app.get("/large")
async def large(request: Request) -> HTTPResponse:
    return text("0123456789abcdef\n" * 12_000)


@app.get("/stream")
async def stream(request: Request) -> None:
    response = await request.respond(content_type="text/plain")
    assert response is not None
    for part in ("one\n", "two\n", "\N{SNAKE}"):
        await response.send(part)
    await response.eof()


@app.get("/cookies")
async def cookies(request: Request) -> HTTPResponse:
    response = text("set")
    response.add_cookie("a", "1", httponly=True)
    response.add_cookie("b", "two words", path="/text")
    return response


@app.get("/empty")
async def empty_page(request: Request) -> HTTPResponse:
    return empty()


@app.get("/same")
async def same(request: Request) -> HTTPResponse:
    return empty(status=304, headers={"etag": request.headers["if-none-match"]})


@app.get("/moved")
async def moved(request: Request) -> HTTPResponse:
    return redirect(app.url_for("text_page", a="é", _external=True, _server=request.host))


@app.get("/crash")
async def crash(request: Request) -> HTTPResponse:
    raise RuntimeError("crash")


@app.post("/early")
async def early(request: Request) -> HTTPResponse:
    raise PayloadTooLarge("too large")
