"""
A small, fast OTLP/HTTP backend in a process of its own: keeps what it is sent, answers 200, decodes when asked.

Run by `warm.py`, `cold.py` and `flush.py`. It prints its port, then a line of JSON for each line on stdin. On
``count``: how many spans, metric points and log records came since it was last asked, by the first part of their URL's
path. On ``last SENDER``: the last body of each signal, in base64. It ends with its stdin.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections import Counter
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n"


class Sink(asyncio.Protocol):
    """One connection; knows just enough HTTP for the exporters of this benchmark, and says so when that ends."""

    def __init__(self, kept: list[tuple[str, bytes]]) -> None:
        self._kept = kept
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (head_end := self._buffer.find(b"\r\n\r\n")) >= 0:
            request_line, *lines = bytes(self._buffer[:head_end]).split(b"\r\n")
            headers = dict(line.lower().split(b": ", 1) for line in lines)
            if b"content-length" not in headers or b"content-encoding" in headers:
                raise ValueError(f"the sink takes plain bodies with a content-length only: {headers}")
            end = head_end + 4 + int(headers[b"content-length"])
            if len(self._buffer) < end:
                return
            self._kept.append((request_line.split(b" ")[1].decode("ascii"), bytes(self._buffer[head_end + 4 : end])))
            del self._buffer[:end]
            self._transport.write(_ANSWER)


def counted(kept: list[tuple[str, bytes]]) -> dict[str, dict[str, int]]:
    """
    Return sender → signal → number of items; each path is ``/{sender}/v1/{signal}``.

    Among the signals are ``servers``: the SERVER spans without a parent, one for each invocation.
    """
    counts: dict[str, Counter[str]] = {}
    for path, body in kept:
        _, sender, _, signal = path.split("/")
        counts.setdefault(sender, Counter())[signal] += _items(signal, body)
        if signal == "traces":
            counts[sender]["servers"] += _servers(body)
    return {sender: dict(each) for sender, each in counts.items()}


def last_bodies(kept: list[tuple[str, bytes]], sender: str) -> dict[str, str]:
    """Return signal → the last body from that sender, in base64."""
    bodies = {path.split("/")[3]: body for path, body in kept if path.split("/")[1] == sender}
    return {signal: base64.b64encode(body).decode("ascii") for signal, body in bodies.items()}


def _servers(body: bytes) -> int:
    return sum(
        span.kind == Span.SPAN_KIND_SERVER and not span.parent_span_id
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    )


def _items(signal: str, body: bytes) -> int:
    if signal == "traces":
        spans = ExportTraceServiceRequest.FromString(body)
        return sum(len(scope.spans) for resource in spans.resource_spans for scope in resource.scope_spans)
    if signal == "logs":
        logs = ExportLogsServiceRequest.FromString(body)
        return sum(len(scope.log_records) for resource in logs.resource_logs for scope in resource.scope_logs)
    request = ExportMetricsServiceRequest.FromString(body)
    return sum(
        len(_data(metric).data_points)
        for resource in request.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    )


def _data(metric: Any) -> Any:
    return getattr(metric, metric.WhichOneof("data"))


async def main() -> None:
    """Serve until stdin ends."""
    kept: list[tuple[str, bytes]] = []
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Sink(kept), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    # To a thread, because the loop goes on serving meanwhile.
    while line := await asyncio.to_thread(sys.stdin.readline):
        command, _, sender = line.strip().partition(" ")
        if command == "last":
            print(json.dumps(last_bodies(kept, sender)), flush=True)
        else:
            print(json.dumps(counted(kept)), flush=True)
            kept.clear()
    server.close()


if __name__ == "__main__":
    asyncio.run(main())
