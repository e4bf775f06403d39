"""
Everything that is measured: a contender makes one warm call of one minimal app, in a process of its own.

Run by `warm.py` as ``contenders.py NAME ENDPOINT``: it prints a line when it is warm; on a line ``call N`` on stdin it
makes so many calls and prints the nanoseconds they took together, by the clock and by the CPU, all threads'; on
``settle N`` it then sends what waits, which counts as CPU time only; when its stdin ends, it closes what it has open.
Own processes, because two telemetry stacks in one would share global providers, log handlers and garbage collection.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from minimal import BODY as _BODY
from minimal import app as asgi_app

__all__ = ("CONTENDERS", "WARM_UP_CALLS", "Contender")

# Enough for every cache and lazy import; never measured.
WARM_UP_CALLS = 100

# What Vercel sends to each deployment, whoever asks. Source: vercel.com/docs/headers/request-headers.
_VERCEL_HEADERS = {
    "host": "example.com",
    "x-vercel-id": "fra1::iad1::5xk2p-1763800000000-0a1b2c3d4e5f",
    "x-forwarded-host": "example.com",
    "x-forwarded-proto": "https",
    "x-forwarded-for": "203.0.113.7",
    "x-vercel-forwarded-for": "203.0.113.7",
    "x-real-ip": "203.0.113.7",
    "x-vercel-deployment-url": "example-5f3a1c2b9-team.vercel.app",
    "x-vercel-ip-continent": "EU",
    "x-vercel-ip-country": "DE",
    "x-vercel-ip-country-region": "HE",
    "x-vercel-ip-city": "Frankfurt%20am%20Main",
    "x-vercel-ip-latitude": "50.1155",
    "x-vercel-ip-longitude": "8.6842",
    "x-vercel-ip-timezone": "Europe/Berlin",
    "x-vercel-ip-postal-code": "60306",
}
# With curl's own: the fewest that a function on Vercel sees.
HEADERS = _VERCEL_HEADERS | {"user-agent": "curl/8.17.0", "accept": "*/*"}
# With those that Chromium sends for a page.
BROWSER_HEADERS = _VERCEL_HEADERS | {
    "user-agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0 Safari/537.36",
    "accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "accept-encoding": "gzip, deflate, br, zstd",
    "accept-language": "en-GB,en;q=0.9",
    "cache-control": "max-age=0",
    "priority": "u=0, i",
    "referer": "https://example.com/",
    "sec-ch-ua-mobile": "?0",
    "sec-ch-ua-platform": "Linux",
    "sec-fetch-dest": "document",
    "sec-fetch-mode": "navigate",
    "sec-fetch-site": "same-origin",
    "sec-fetch-user": "?1",
    "upgrade-insecure-requests": "1",
}
# Fewer than Vercel ever sends: what each header more costs the peers is not in it.
FEW_HEADERS = {name: HEADERS[name] for name in ("host", "accept", "x-forwarded-for", "x-forwarded-proto")}


def vercel_event(headers: dict[str, str]) -> dict[str, Any]:
    """Return what Vercel hands over for `GET /hello?a=1`."""
    request = {"method": "GET", "host": "example.com", "path": "/hello?a=1", "headers": headers}
    # As JavaScript and Go write it, without spaces.
    return {"Action": "Invoke", "body": json.dumps(request, separators=(",", ":"))}


def apigw_event(headers: dict[str, str]) -> dict[str, Any]:
    """Return what API Gateway hands over for the same request (payload 2.0)."""
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": "/hello",
        "rawQueryString": "a=1",
        "headers": headers,
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "api-id",
            "domainName": "example.com",
            "http": {
                "method": "GET",
                "path": "/hello",
                "protocol": "HTTP/1.1",
                "sourceIp": "203.0.113.7",
                "userAgent": "Mozilla/5.0",
            },
            "requestId": "id",
            "routeKey": "$default",
            "stage": "$default",
        },
        "isBase64Encoded": False,
    }


VERCEL_EVENT = vercel_event(HEADERS)
APIGW_EVENT = apigw_event(HEADERS)


def wsgi_app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer every request with the same text."""
    start_response("200 OK", [("content-type", "text/plain; charset=utf-8")])
    return [_BODY]


class HandlerApp(BaseHTTPRequestHandler):
    """Answers every GET with the same text."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/plain; charset=utf-8")
        self.send_header("content-length", str(len(_BODY)))
        self.end_headers()
        self.wfile.write(_BODY)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name that it has in http.server
        """Say nothing: the peer would write each request to stderr."""


def _nothing() -> None:
    return None


class Running(NamedTuple):
    """A contender that is ready."""

    call: Callable[[], dict[str, Any]]
    close: Callable[[], None]
    # Sends what waits, now.
    settle: Callable[[], None] = _nothing


class Contender(NamedTuple):
    """One thing to measure."""

    title: str
    make: Callable[[], Running]
    environ: dict[str, str]
    needs: str = ""


def _tracedbridge(
    app: Any,
    kind: Any,
    headers: dict[str, str] = HEADERS,
    event_of: Callable[[dict[str, str]], dict[str, Any]] = vercel_event,
) -> Callable[[], Running]:
    def make() -> Running:
        from tracedbridge import create_bridge

        bridge = create_bridge(app, kind=kind)
        event = event_of(headers)
        return Running(lambda: bridge(event, None), bridge.close, bridge.settle)

    return make


def _by_v2(app: Any, kind: Any) -> Callable[[], Running]:
    return _tracedbridge(app, kind, HEADERS, apigw_event)


def _mangum(headers: dict[str, str]) -> Callable[[], Running]:
    def make() -> Running:
        from mangum import Mangum

        handler: Any = Mangum(asgi_app, lifespan="off")
        event, context = apigw_event(headers), None
        return Running(lambda: handler(event, context), _nothing)

    return make


def _apig_wsgi(headers: dict[str, str]) -> Callable[[], Running]:
    def make() -> Running:
        from apig_wsgi import make_lambda_handler

        handler = make_lambda_handler(wsgi_app)
        event = apigw_event(headers)
        return Running(lambda: handler(event, None), _nothing)

    return make


def _vercel_runtime() -> Running:
    """Load vercel-runtime as its own trampoline does, where there is no IPC socket."""
    with tempfile.TemporaryDirectory() as folder:
        entry = Path(folder, "bench_entry.py")
        entry.write_text("from contenders import HandlerApp as handler\n")
        os.environ.pop("VERCEL_IPC_PATH", None)
        os.environ["__VC_HANDLER_ENTRYPOINT"] = entry.name
        os.environ["__VC_HANDLER_ENTRYPOINT_ABS"] = str(entry)
        os.environ["__VC_HANDLER_MODULE_NAME"] = entry.stem
        os.environ["__VC_HANDLER_VARIABLE_NAME"] = "handler"
        vc_handler = import_module("vercel_runtime.vc_init").vc_handler
        return Running(lambda: vc_handler(VERCEL_EVENT, None), _nothing)


class Instrumented(NamedTuple):
    """An app with the SDK and contrib around it."""

    app: Any
    # Sends what waits, now.
    settle: Callable[[], None]
    close: Callable[[], None]


class Sdk(NamedTuple):
    """The SDK, set up for three signals."""

    tracers: Any
    meters: Any
    # Writes the record of an invocation, straight to the SDK's logger: what a logging handler would add is not counted.
    log: Callable[[str, str], None]
    settle: Callable[[], None]
    close: Callable[[], None]


def _sdk() -> Sdk:
    import math

    from opentelemetry import trace
    from opentelemetry._logs import LogRecord, SeverityNumber
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    tracers = TracerProvider()
    tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(), export_interval_millis=math.inf)
    meters = MeterProvider([reader])
    loggers = LoggerProvider()
    loggers.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
    trace.set_tracer_provider(tracers)
    logger = loggers.get_logger("bench")

    def log(method: str, path: str) -> None:
        logger.emit(
            LogRecord(
                timestamp=time.time_ns(),
                observed_timestamp=time.time_ns(),
                severity_text="INFO",
                severity_number=SeverityNumber.INFO,
                body="invocation",
                attributes={"method": method, "path": path, "status": 200},
            )
        )

    def settle() -> None:
        tracers.force_flush()
        meters.force_flush()
        loggers.force_flush()

    def close() -> None:
        # A reader with an infinite interval collects nothing when it is shut down.
        settle()
        for provider in (tracers, meters, loggers):
            provider.shutdown()

    return Sdk(tracers, meters, log, settle, close)


def _with_sdk() -> Instrumented:
    """Return the ASGI app with all that the SDK and contrib offer for the same three signals."""
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

    sdk = _sdk()

    async def logging_app(scope: Any, receive: Any, send: Any) -> None:
        await asgi_app(scope, receive, send)
        sdk.log(scope["method"], scope["path"])

    app: Any = OpenTelemetryMiddleware(logging_app, tracer_provider=sdk.tracers, meter_provider=sdk.meters)
    return Instrumented(app, sdk.settle, sdk.close)


def _apig_wsgi_with_sdk() -> Running:
    """The same for the WSGI app, unflushed."""
    from apig_wsgi import make_lambda_handler
    from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware

    sdk = _sdk()

    def logging_app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        chunks = wsgi_app(environ, start_response)
        sdk.log(environ["REQUEST_METHOD"], environ["PATH_INFO"])
        return chunks

    app: Any = OpenTelemetryMiddleware(logging_app, tracer_provider=sdk.tracers, meter_provider=sdk.meters)
    handler = make_lambda_handler(app)
    return Running(lambda: handler(APIGW_EVENT, None), sdk.close, sdk.settle)


def _mangum_with_sdk(*, flushed: bool) -> Callable[[], Running]:
    def make() -> Running:
        from mangum import Mangum

        with_sdk = _with_sdk()
        handler: Any = Mangum(with_sdk.app, lifespan="off")
        context: Any = None

        def call() -> dict[str, Any]:
            answer: dict[str, Any] = handler(APIGW_EVENT, context)
            if flushed:
                with_sdk.settle()
            return answer

        return Running(call, with_sdk.close, with_sdk.settle)

    return make


def _ours_around_it() -> Instrumented:
    from tracedbridge import instrument

    app: Any = instrument(asgi_app)
    return Instrumented(app, app.settle, app.close)


def _plain() -> Instrumented:
    return Instrumented(asgi_app, _nothing, _nothing)


def _served(make: Callable[[], Instrumented]) -> Callable[[], Running]:
    """Return what calls an ASGI app as a server does, without one: it is the same for all of them."""

    def made() -> Running:
        instrumented = make()
        loop = asyncio.new_event_loop()
        headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        def call() -> dict[str, Any]:
            answer: dict[str, Any] = {"body": ""}

            async def send(message: dict[str, Any]) -> None:
                if message["type"] == "http.response.start":
                    answer["statusCode"] = message["status"]
                else:
                    answer["body"] += message.get("body", b"").decode()

            scope = {
                "type": "http", "asgi": {"version": "3.0", "spec_version": "2.5"}, "http_version": "1.1",
                "method": "GET", "scheme": "http", "path": "/hello", "raw_path": b"/hello", "query_string": b"a=1",
                "root_path": "", "headers": headers, "client": ("127.0.0.1", 5), "server": ("127.0.0.1", 80),
            }  # fmt: skip
            loop.run_until_complete(instrumented.app(scope, receive, send))
            return answer

        def close() -> None:
            instrumented.close()
            loop.close()

        return Running(call, close, instrumented.settle)

    return made


def _floor() -> Running:
    """Send what the subject sent last, and nothing else: no app, nothing made or encoded, three open connections."""
    at = urlsplit(os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"])
    posts: list[tuple[socket.socket, bytes]] = []
    for signal, body in json.loads(os.environ["BENCHMARK_BODIES"]).items():
        connection = socket.create_connection((at.hostname, at.port), timeout=10)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain = base64.b64decode(body)
        head = (
            f"POST {at.path}/v1/{signal} HTTP/1.1\r\nHost: {at.netloc}\r\n"
            f"Content-Type: application/x-protobuf\r\nContent-Length: {len(plain)}\r\n\r\n"
        )
        posts.append((connection, head.encode("ascii") + plain))
    if len(posts) != 3:
        raise SystemExit(f"the floor needs the bodies of three signals, and got {len(posts)}")
    answer = {"statusCode": 200, "body": _BODY.decode("ascii")}

    def call() -> dict[str, Any]:
        # All are on their way before the first answer is waited for.
        for connection, post in posts:
            connection.sendall(post)
        for connection, _ in posts:
            if not connection.recv(4096).startswith(b"HTTP/1.1 200 "):
                raise SystemExit("the sink did not take what the floor sent")
        return answer

    def close() -> None:
        for connection, _ in posts:
            connection.close()

    return Running(call, close)


_OFF = {"TRACEDBRIDGE_TELEMETRY": "off"}
_RENDERED = {"TRACEDBRIDGE_FLUSH": "before", "TRACEDBRIDGE_FLUSH_TIMEOUT_MS": "0"}
_EXPORTED = {"TRACEDBRIDGE_FLUSH": "before", "TRACEDBRIDGE_FLUSH_TIMEOUT_MS": "500"}
_AFTER = {"TRACEDBRIDGE_FLUSH": "after", "TRACEDBRIDGE_FLUSH_TIMEOUT_MS": "500"}
_NONE = {f"OTEL_{signal}_EXPORTER": "none" for signal in ("TRACES", "METRICS", "LOGS")}
# The same new HTTP names as ours.
_SDK = {"OTEL_SEMCONV_STABILITY_OPT_IN": "http", "OTEL_SERVICE_NAME": "bench"}

CONTENDERS = {
    "asgi-off": Contender("tracedbridge, ASGI, telemetry off", _tracedbridge(asgi_app, "asgi"), _OFF),
    "wsgi-off": Contender("tracedbridge, WSGI, telemetry off", _tracedbridge(wsgi_app, "wsgi"), _OFF),
    "handler-off": Contender(
        "tracedbridge, handler class, telemetry off", _tracedbridge(HandlerApp, "http_server"), _OFF
    ),
    "asgi-off-few": Contender(
        "tracedbridge, ASGI, telemetry off, four headers", _tracedbridge(asgi_app, "asgi", FEW_HEADERS), _OFF
    ),
    "wsgi-off-few": Contender(
        "tracedbridge, WSGI, telemetry off, four headers", _tracedbridge(wsgi_app, "wsgi", FEW_HEADERS), _OFF
    ),
    "asgi-off-browser": Contender(
        "tracedbridge, ASGI, telemetry off, a browser's headers", _tracedbridge(asgi_app, "asgi", BROWSER_HEADERS), _OFF
    ),
    "wsgi-off-browser": Contender(
        "tracedbridge, WSGI, telemetry off, a browser's headers", _tracedbridge(wsgi_app, "wsgi", BROWSER_HEADERS), _OFF
    ),
    "asgi-rendered": Contender("tracedbridge, ASGI, rendered", _tracedbridge(asgi_app, "asgi"), _RENDERED),
    "wsgi-rendered": Contender("tracedbridge, WSGI, rendered", _tracedbridge(wsgi_app, "wsgi"), _RENDERED),
    "handler-rendered": Contender(
        "tracedbridge, handler class, rendered", _tracedbridge(HandlerApp, "http_server"), _RENDERED
    ),
    "asgi-exported": Contender("tracedbridge, ASGI, exported", _tracedbridge(asgi_app, "asgi"), _EXPORTED),
    "asgi-after": Contender("tracedbridge, ASGI, exported after the response", _tracedbridge(asgi_app, "asgi"), _AFTER),
    "wsgi-after": Contender("tracedbridge, WSGI, exported after the response", _tracedbridge(wsgi_app, "wsgi"), _AFTER),
    "asgi-auto": Contender("tracedbridge, ASGI, exported when it suits", _tracedbridge(asgi_app, "asgi"), {}),
    "asgi-exported-none": Contender(
        "tracedbridge, ASGI, before the response, no exporters", _tracedbridge(asgi_app, "asgi"), _EXPORTED | _NONE
    ),
    "asgi-after-none": Contender(
        "tracedbridge, ASGI, after the response, no exporters", _tracedbridge(asgi_app, "asgi"), _AFTER | _NONE
    ),
    "asgi-v2-off": Contender("tracedbridge, ASGI, payload 2.0, telemetry off", _by_v2(asgi_app, "asgi"), _OFF),
    "wsgi-v2-off": Contender("tracedbridge, WSGI, payload 2.0, telemetry off", _by_v2(wsgi_app, "wsgi"), _OFF),
    "asgi-v2-rendered": Contender("tracedbridge, ASGI, payload 2.0, rendered", _by_v2(asgi_app, "asgi"), _RENDERED),
    "wsgi-v2-rendered": Contender("tracedbridge, WSGI, payload 2.0, rendered", _by_v2(wsgi_app, "wsgi"), _RENDERED),
    "asgi-v2-after": Contender(
        "tracedbridge, ASGI, payload 2.0, exported after the response", _by_v2(asgi_app, "asgi"), _AFTER
    ),
    "wsgi-v2-after": Contender(
        "tracedbridge, WSGI, payload 2.0, exported after the response", _by_v2(wsgi_app, "wsgi"), _AFTER
    ),
    "mangum": Contender('Mangum(lifespan="off")', _mangum(HEADERS), {}, "mangum"),
    "mangum-few": Contender('Mangum(lifespan="off"), four headers', _mangum(FEW_HEADERS), {}, "mangum"),
    "mangum-browser": Contender('Mangum(lifespan="off"), a browser\'s headers', _mangum(BROWSER_HEADERS), {}, "mangum"),
    "apig-wsgi-browser": Contender("apig-wsgi, a browser's headers", _apig_wsgi(BROWSER_HEADERS), {}, "apig_wsgi"),
    "apig-wsgi": Contender("apig-wsgi", _apig_wsgi(HEADERS), {}, "apig_wsgi"),
    "apig-wsgi-few": Contender("apig-wsgi, four headers", _apig_wsgi(FEW_HEADERS), {}, "apig_wsgi"),
    "vercel-runtime": Contender("vercel-runtime vc_handler", _vercel_runtime, {}, "vercel_runtime"),
    "mangum-rendered": Contender(
        "Mangum, SDK, contrib middleware, unflushed", _mangum_with_sdk(flushed=False), _SDK, "mangum"
    ),
    "mangum-exported": Contender(
        "Mangum, SDK, contrib middleware, force-flushed", _mangum_with_sdk(flushed=True), _SDK, "mangum"
    ),
    "apig-wsgi-rendered": Contender(
        "apig-wsgi, SDK, contrib middleware, unflushed", _apig_wsgi_with_sdk, _SDK, "apig_wsgi"
    ),
    "served": Contender("no instrumentation, called as a server does", _served(_plain), {}),
    "served-ours": Contender("tracedbridge.instrument, called as a server does", _served(_ours_around_it), {}),
    "served-contrib": Contender("SDK, contrib middleware, called as a server does", _served(_with_sdk), _SDK),
    "floor": Contender("three parallel POSTs of the subject's bodies, nothing else", _floor, {}),
}


def _check(answer: dict[str, Any]) -> None:
    """Fail unless the app has answered: what does not work is not fast."""
    if answer["statusCode"] != 200 or answer["body"].encode() != _BODY:
        raise SystemExit(f"wrong answer: {answer}")


def main() -> None:
    """Measure one contender, as told on stdin."""
    name, endpoint, *bodies = sys.argv[1:]
    # Log lines of the contenders go to stdout as usual, but not between our numbers.
    numbers = os.fdopen(os.dup(1), "w", buffering=1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    contender = CONTENDERS[name]
    os.environ.update(contender.environ, OTEL_EXPORTER_OTLP_ENDPOINT=f"{endpoint}/{name}")
    if bodies:
        os.environ["BENCHMARK_BODIES"] = bodies[0]
    # `contenders`, for what imports the apps of this file by name.
    sys.modules.setdefault("contenders", sys.modules["__main__"])
    call, close, settle = contender.make()
    for _ in range(WARM_UP_CALLS):
        _check(call())
    print("warm", file=numbers)
    for line in sys.stdin:
        words = line.split()
        calls = range(int(words[1]))
        begun_ns, begun_cpu_ns = time.perf_counter_ns(), time.process_time_ns()
        for _ in calls:
            call()
        took_ns = time.perf_counter_ns() - begun_ns
        if words[0] == "settle":
            settle()
        print(took_ns, time.process_time_ns() - begun_cpu_ns, file=numbers)
    _check(call())
    close()


if __name__ == "__main__":
    main()
