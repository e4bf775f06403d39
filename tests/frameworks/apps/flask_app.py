"""The pages on Flask."""

from __future__ import annotations

from collections.abc import Iterator

from flask import Flask, Response, abort, jsonify, redirect, request, stream_with_context, url_for
from werkzeug.wrappers import Response as WerkzeugResponse

app = Flask(__name__)


@app.get("/text")
def text() -> Response:
    return Response("hello", content_type="text/plain")


@app.get("/json")
def json() -> Response:
    return jsonify({"é": [1, None, "\N{SNAKE}"]})


@app.route("/echo", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
def echo() -> Response:
    return jsonify(
        {
            "method": request.method,
            "url": request.url,
            "path": request.full_path,
            "query": request.query_string.decode(),
            "arguments": list(request.args.items(multi=True)),
            "headers": sorted(
                pair for pair in request.headers.items() if pair[0].startswith(("X-", "Host", "Content-"))
            ),
            "cookies": request.cookies,
            "client": request.remote_addr,
            "root": request.root_path,
            "protocol": request.environ["SERVER_PROTOCOL"],
            "body": request.get_data().hex(),
        }
    )


@app.get("/path/<path:rest>")
def path(rest: str) -> Response:
    return jsonify({"rest": rest, "url": request.url})


@app.post("/mirror")
def mirror() -> Response:
    return Response(request.get_data(), content_type="application/octet-stream")


@app.post("/form")
def form() -> Response:
    return jsonify(list(request.form.items(multi=True)))


@app.post("/upload")
def upload() -> Response:
    file = request.files["file"]
    return jsonify({"kind": request.form["kind"], "name": file.filename, "content": file.read().hex()})


@app.get("/binary")
def binary() -> Response:
    return Response(bytes(range(256)), content_type="image/x-all")


@app.get("/large")
def large() -> Response:
    return Response("0123456789abcdef\n" * 12_000, content_type="text/plain")


@app.get("/stream")
def stream() -> Response:
    def parts() -> Iterator[str]:
        yield from ("one\n", "", "two\n", "\N{SNAKE}", request.path)

    return Response(stream_with_context(parts()), content_type="text/plain")


@app.get("/cookies")
def cookies() -> Response:
    response = Response("set")
    response.set_cookie("a", "1", httponly=True)
    response.set_cookie("b", "two words", path="/text")
    return response


@app.get("/empty")
def empty() -> Response:
    return Response(status=204)


@app.get("/same")
def same() -> Response:
    response = Response("the body that nobody needs")
    response.set_etag("v1")
    response.make_conditional(request)
    return response


@app.get("/moved")
def moved() -> WerkzeugResponse:
    return redirect(url_for("text", a="é", _external=True))


@app.get("/crash")
def crash() -> Response:
    raise RuntimeError("crash")


@app.post("/early")
def early() -> Response:
    abort(413)
