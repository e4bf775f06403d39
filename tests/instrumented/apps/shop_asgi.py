"""A Starlette app that does a little of everything; instrumented if ``INSTRUMENT`` says so."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from opentelemetry import trace
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from tracedbridge import instrument

tracer = trace.get_tracer("shop")
# Of the two that meet, each waits for the other.
meeting: dict[str, anyio.Event] = {}


@asynccontextmanager
async def lifespan(app: object) -> AsyncIterator[None]:
    """Take a little while."""
    await anyio.sleep(0.01)
    yield


async def item(request: Request) -> Response:
    """Answer with what the path says."""
    with tracer.start_as_current_span("look up"):
        return JSONResponse({"item": request.path_params["number"]})


async def crash(request: Request) -> Response:
    """Fail."""
    raise RuntimeError("out of stock")


async def stream(request: Request) -> Response:
    """Answer in three parts."""

    async def parts() -> AsyncIterator[bytes]:
        for part in (b"one,", b"two,", b"three"):
            with tracer.start_as_current_span("part"):
                yield part

    return StreamingResponse(parts(), media_type="text/plain")


async def echo(request: Request) -> Response:
    """Answer with the request's body."""
    return PlainTextResponse(await request.body())


async def later(request: Request) -> Response:
    """Answer, and go on working."""

    async def work() -> None:
        with tracer.start_as_current_span("afterwards"):
            await anyio.sleep(0.05)

    return PlainTextResponse("soon", background=BackgroundTask(work))


async def meet(request: Request) -> Response:
    """Answer once two of these run at once."""
    me, other = request.path_params["who"], "ab".replace(request.path_params["who"], "")
    for name in "ab":
        meeting.setdefault(name, anyio.Event())
    meeting[me].set()
    with tracer.start_as_current_span(f"wait as {me}"):
        await meeting[other].wait()
    return PlainTextResponse(me)


async def gated(request: Request) -> Response:
    """Begin an answer, and end it once somebody has opened the pipe of ``GATE``."""

    async def parts() -> AsyncIterator[bytes]:
        yield b"begun,"
        await anyio.to_thread.run_sync(lambda: open(os.environ["GATE"]).close())
        yield b"done"

    return StreamingResponse(parts(), media_type="text/plain")


async def endless(request: Request) -> Response:
    """Answer until nobody listens."""

    async def parts() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"more,"
                await anyio.sleep(0.01)
        finally:
            with tracer.start_as_current_span("tidy up"):
                print("tidied up", flush=True)

    return StreamingResponse(parts(), media_type="text/plain")


async def talk(socket: WebSocket) -> None:
    """Answer one message."""
    await socket.accept()
    with tracer.start_as_current_span("listen"):
        await socket.send_text("heard " + await socket.receive_text())
    await socket.close()


app = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/items/{number:int}", item),
        Route("/crash", crash),
        Route("/stream", stream),
        Route("/echo", echo, methods=["POST"]),
        Route("/later", later),
        Route("/meet/{who}", meet),
        Route("/gated", gated),
        Route("/endless", endless),
        WebSocketRoute("/talk", talk),
    ],
)
if os.environ.get("INSTRUMENT"):
    app = instrument(app)  # type: ignore[assignment]  # an ASGI app, which is all that servers need
