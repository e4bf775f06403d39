"""Thousands of requests at once in Vercel's IPC mode: a real collector gets every span, each with what is its own."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.collector.conftest import Collector
from tests.collector.sink import Sink, attributes_of
from tests.support import HANG_S
from tests.vercel.platform import Platform, Reply

pytestmark = [pytest.mark.collector, pytest.mark.telemetry]

# Of the platform, each with one request at a time.
_CONNECTIONS = 200

# Waits in the middle of what belongs to one request, so that the others come in between.
_APPS = """
import asyncio, time
from http.server import BaseHTTPRequestHandler
from opentelemetry import trace
from opentelemetry._logs import get_logger

tracer = trace.get_tracer("shop")

def number_of(path):
    return path.rpartition("/")[2]

async def app(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError
    number = number_of(scope["path"])
    with tracer.start_as_current_span("work", attributes={"number": number}):
        print("before", number)
        await asyncio.sleep(int(number) % 7 / 1000)
        print("after", number)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": number.encode()})

def work(path):
    number = number_of(path)
    with tracer.start_as_current_span("work", attributes={"number": number}):
        print("before", number)
        time.sleep(int(number) % 7 / 1000)
        print("after", number)
    return number.encode()

def wsgi_app(environ, start_response):
    body = work(environ["PATH_INFO"])
    start_response("200 OK", [("content-length", str(len(body)))])
    return [body]

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = work(self.path)
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
"""


@pytest.mark.parametrize(
    ("app", "requests"),
    [
        pytest.param("app", 10_000, id="asgi"),
        pytest.param("wsgi_app", 2_000, id="wsgi"),
        pytest.param("Handler", 2_000, id="http_server"),
    ],
)
def test_every_span_of_thousands_at_once(
    app: str, requests: int, collector_in: Callable[[Path], AbstractContextManager[Collector]], tmp_path: Path
) -> None:
    """No span is lost, doubled or mixed up with another's, no line has another's ids, and the account is exact."""
    with collector_in(tmp_path) as collector:
        with Platform(
            f"shop.py:{app}", files={"shop.py": _APPS}, endpoint=collector.endpoint("http/protobuf"),
            TRACEDBRIDGE_FLUSH_TIMEOUT_MS=str(HANG_S * 1000),
        ) as platform:  # fmt: skip

            def ask(number: int) -> Reply:
                reply = platform.ask(f"/{number}")
                assert reply.body == str(number).encode()
                return reply

            assert platform.port
            # With coverage and in development mode the SDK is loaded for five seconds beside 200 requests, and for more
            # where others work on the machine, too.
            platform.patience_s = 4 * HANG_S
            with ThreadPoolExecutor(_CONNECTIONS) as pool:
                replies = list(pool.map(ask, range(requests)))
            for reply in replies:
                platform.ended(reply.ids)
            platform.terminate()
            assert platform.exit_code() == 0
            lines = {reply.ids: platform.logs(reply.ids).splitlines() for reply in replies[:: requests // 500]}
            lost = [line for line in platform.logs().splitlines() if "telemetry was lost" in line]
            assert not platform.violations
        sink = collector.drained()
    assert not lost
    assert_spans(sink, {reply.ids.invocation_id: str(number) for number, reply in enumerate(replies)})
    assert_account(sink)
    numbers = {reply.ids: number for number, reply in enumerate(replies)}
    for ids, told in lines.items():
        assert told[:2] == [f"before {numbers[ids]}", f"after {numbers[ids]}"]
        (line,) = (json.loads(each) for each in told[2:])
        assert (line["invocation_id"], line["path"]) == (ids.invocation_id, f"/{numbers[ids]}")


def assert_spans(sink: Sink, numbers: dict[str, str]) -> None:
    """Each invocation has one SERVER span, in a trace of its own, and below it the work of its number."""
    spans = [span.item for span in sink.spans]
    assert len({span.span_id for span in spans}) == len(spans)
    servers = {span.span_id: span for span in spans if "faas.invocation_id" in attributes_of(span.attributes)}
    assert Counter(str(attributes_of(span.attributes)["faas.invocation_id"]) for span in servers.values()) == Counter(
        numbers.keys()
    )
    assert len({span.trace_id for span in servers.values()}) == len(numbers)
    works = [span for span in spans if span.name == "work"]
    assert len(works) == len(numbers)
    for work in works:
        server = servers[work.parent_span_id]
        assert server.trace_id == work.trace_id
        assert (
            attributes_of(work.attributes)["number"]
            == numbers[str(attributes_of(server.attributes)["faas.invocation_id"])]
        )


def assert_account(sink: Sink) -> None:
    """What came last of our counters is what came of spans until then: all that was made was sent."""
    points: dict[str, Counter[str]] = {"produced": Counter(), "items": Counter()}
    for name, counts in points.items():
        metric = [each.item for each in sink.metrics if each.item.name == f"tracedbridge.export.{name}"][-1]
        for point in metric.sum.data_points:
            told = attributes_of(point.attributes)
            assert told.get("outcome", "sent") in ("sent", "superseded")
            counts[str(told["signal"])] += point.as_int
    # The flush that sends them is not in them.
    assert points["produced"]["traces"] >= points["items"]["traces"] > len(sink.spans) - 1_000
