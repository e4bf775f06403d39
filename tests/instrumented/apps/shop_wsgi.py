"""A Flask app that does what the Starlette one does; instrumented if ``INSTRUMENT`` says so."""

import os
import threading
import time
from collections.abc import Iterator

from flask import Flask, Response, jsonify, request
from opentelemetry import trace

from tracedbridge import instrument

tracer = trace.get_tracer("shop")
meeting = {name: threading.Event() for name in "ab"}

app = Flask(__name__)
# It is the server's to answer for an exception, as with any WSGI app.
app.config["PROPAGATE_EXCEPTIONS"] = True


@app.get("/items/<int:number>")
def item(number: int) -> Response:
    """Answer with what the path says."""
    with tracer.start_as_current_span("look up"):
        return jsonify({"item": number})


@app.get("/crash")
def crash() -> Response:
    """Fail."""
    raise RuntimeError("out of stock")


@app.get("/stream")
def stream() -> Response:
    """Answer in three parts."""

    def parts() -> Iterator[bytes]:
        for part in (b"one,", b"two,", b"three"):
            with tracer.start_as_current_span("part"):
                yield part

    return Response(parts(), mimetype="text/plain")


@app.post("/echo")
def echo() -> Response:
    """Answer with the request's body."""
    return Response(request.get_data(), mimetype="text/plain")


@app.get("/meet/<who>")
def meet(who: str) -> Response:
    """Answer once two of these run at once."""
    meeting[who].set()
    with tracer.start_as_current_span(f"wait as {who}"):
        assert meeting["ab".replace(who, "")].wait(20)
    return Response(who, mimetype="text/plain")


@app.get("/gated")
def gated() -> Response:
    """Begin an answer, and end it once somebody has opened the pipe of ``GATE``."""

    def parts() -> Iterator[bytes]:
        yield b"begun,"
        open(os.environ["GATE"]).close()
        yield b"done"

    return Response(parts(), mimetype="text/plain")


@app.get("/endless")
def endless() -> Response:
    """Answer until nobody listens."""

    def parts() -> Iterator[bytes]:
        try:
            while True:
                yield b"more,"
                time.sleep(0.01)
        finally:
            with tracer.start_as_current_span("tidy up"):
                print("tidied up", flush=True)

    return Response(parts(), mimetype="text/plain")


if os.environ.get("INSTRUMENT"):
    app = instrument(app)  # type: ignore[assignment]  # a WSGI app, which is all that servers need
