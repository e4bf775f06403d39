"""The pages on Bottle."""

from __future__ import annotations

from collections.abc import Iterator

from bottle import Bottle, HTTPError, HTTPResponse, redirect, request, response  # type: ignore[import-untyped]  # no hints

app = Bottle()


def text() -> str:
    response.content_type = "text/plain"
    return "hello"


def json() -> dict[str, list[int | str | None]]:
    return {"é": [1, None, "\N{SNAKE}"]}


def echo() -> dict[str, object]:
    headers = ("X-One", "X-Empty", "X-List", "X-Spaces", "X-Many", "Host")
    return {
        "method": request.method,
        "url": request.url,
        "path": request.fullpath,
        "query": request.query_string,
        "arguments": list(request.query.decode().allitems()),
        "headers": {name: request.headers.get(name) for name in headers},
        "length": request.content_length,
        "cookies": dict(request.cookies),
        "client": request.remote_addr,
        "body": request.body.read().hex(),
    }


def path(rest: str) -> dict[str, str]:
    return {"rest": rest, "url": request.url}


def mirror() -> bytes:
    response.content_type = "application/octet-stream"
    content: bytes = request.body.read()
    return content


def form() -> dict[str, object]:
    return {"form": list(request.forms.decode().allitems())}


def upload() -> dict[str, str]:
    file = request.files["file"]
    return {"kind": request.forms.decode()["kind"], "name": file.filename, "content": file.file.read().hex()}


def binary() -> bytes:
    response.content_type = "image/x-all"
    return bytes(range(256))


def large() -> str:
    response.content_type = "text/plain"
    return "0123456789abcdef\n" * 12_000


def stream() -> Iterator[str]:
    response.content_type = "text/plain; charset=utf-8"
    yield from ("one\n", "", "two\n", "\N{SNAKE}")


def cookies() -> str:
    response.set_cookie("a", "1", httponly=True)
    response.set_cookie("b", "two words", path="/text")
    return "set"


def empty() -> HTTPResponse:
    return HTTPResponse(status=204)


def same() -> HTTPResponse:
    return HTTPResponse(status=304, headers={"ETag": request.headers["If-None-Match"]})


def moved() -> None:
    redirect("/text?a=%C3%A9", 302)


def crash() -> None:
    raise RuntimeError("crash")


def early() -> None:
    raise HTTPError(413, "too large")


# Not as decorators: Bottle's have no types, which would leave these functions without theirs.
app.route("/text", "GET", text)
app.route("/json", "GET", json)
app.route("/echo", ["GET", "POST", "PUT", "PATCH", "DELETE"], echo)
app.route("/path/<rest:path>", "GET", path)
app.route("/mirror", "POST", mirror)
app.route("/form", "POST", form)
app.route("/upload", "POST", upload)
app.route("/binary", "GET", binary)
app.route("/large", "GET", large)
app.route("/stream", "GET", stream)
app.route("/cookies", "GET", cookies)
app.route("/empty", "GET", empty)
app.route("/same", "GET", same)
app.route("/moved", "GET", moved)
app.route("/crash", "GET", crash)
app.route("/early", "POST", early)
