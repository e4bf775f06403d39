"""
What `cold.py` runs in fresh processes: one contender loads one app, answers one event, and says so.

Run as ``python -c 'import starting' CONTENDER APP EVENT FD``: a script of its own would be compiled each time. APP is a
module of this folder, EVENT a file with the event. It writes one byte to FD as soon as it has the first response; then
it checks that, sends what its telemetry holds, and writes how many modules were loaded at the first response.
It imports nothing that one of the contenders could do without, but for json: each platform's runtime has read the
event with it before the function sees it.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

BODY = "Hello, world!\n"


def tracedbridge(app: str) -> tuple[Any, Any]:
    """Load the app as on Vercel; return what answers, and what ends it."""
    os.environ["TRACEDBRIDGE_APP"] = f"{app}.py"
    from tracedbridge import vc_handler

    return vc_handler, vc_handler.close


def mangum(app: str) -> tuple[Any, Any]:
    """Load the app as on Lambda, and nothing else."""
    from mangum import Mangum

    return Mangum(__import__(app).app, lifespan="off"), lambda: None


def mangum_with_sdk(app: str) -> tuple[Any, Any]:
    """Load the app with traces by the SDK, sent in batches; metrics and logs would cost more."""
    from mangum import Mangum
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    instrumented: Any = OpenTelemetryMiddleware(__import__(app).app)
    return Mangum(instrumented, lifespan="off"), provider.shutdown


def main(contender: str, app: str, path: str, told: str) -> None:
    """Start, answer, tell."""
    with open(path) as file:
        event = json.load(file)
    makes = {"mangum": mangum, "mangum-sdk": mangum_with_sdk}
    call, close = makes.get(contender, tracedbridge)(app)
    answer = call(event, None)
    modules = len(sys.modules)
    os.write(int(told), b".")
    if answer["statusCode"] != 200 or answer["body"] != BODY:
        raise SystemExit(f"wrong answer: {answer}")
    close()
    os.write(int(told), b"%d" % modules)


main(*sys.argv[1:])
