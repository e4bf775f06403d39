"""
A small, fast OTLP/HTTP backend in a process of its own: keeps what it is sent, answers 200, decodes when asked.

Run by `warm.py`. It prints its port; on each line on stdin it prints, as JSON, how many spans, metric points and log
records came since the last line, by the first part of their URL's path. It ends with its stdin.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

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
    """Return sender → signal → number of items; each path is ``/{sender}/v1/{signal}``."""
    counts: dict[str, Counter[str]] = {}
    for path, body in kept:
        _, sender, _, signal = path.split("/")
        counts.setdefault(sender, Counter())[signal] += _items(signal, body)
    return {sender: dict(each) for sender, each in counts.items()}


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
    while await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(counted(kept)), flush=True)
        kept.clear()
    server.close()


if __name__ == "__main__":
    asyncio.run(main())
