"""
Reads the bodies of OTLP/HTTP requests, whatever their encoding, into protobuf; and writes those of refusals.

What cannot be read is a `DecodeError`, and nothing else.

Source: OpenTelemetry Protocol specification 1.9, "OTLP/HTTP" and "JSON Protobuf Encoding".
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from google.protobuf import json_format
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tracedbridge.errors import TracedBridgeError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = (
    "HEX_KEYS",
    "JSON",
    "MAX_BODY_BYTES",
    "PROTOBUF",
    "DecodeError",
    "Signal",
    "decoding",
    "encode_status",
    "request_of",
)

# Unpacked, in bytes: exporters send some hundred kilobytes at a time, and a gzip bomb grows a thousandfold.
MAX_BODY_BYTES = 64 * 1024 * 1024

PROTOBUF = "application/x-protobuf"
JSON = "application/json"

HEX_KEYS = frozenset({"traceId", "spanId", "parentSpanId", "trace_id", "span_id", "parent_span_id"})
"""OTLP/JSON writes these bytes as hex, against the JSON mapping of protobuf, which wants base64."""

Signal = Literal["traces", "metrics", "logs"]
"""The last part of the path that a request is sent to."""

# A read takes at once as much memory as it may return: enough of it for what exporters send, and no more.
_STEP_BYTES = 256 * 1024

# Parsers quote their input; one line of that is enough.
_MAX_REASON_CHARS = 200

_REQUESTS: dict[Signal, type[Any]] = {
    "traces": ExportTraceServiceRequest,
    "metrics": ExportMetricsServiceRequest,
    "logs": ExportLogsServiceRequest,
}


class DecodeError(TracedBridgeError):
    """
    The request cannot be decoded.

    Attributes:
        status: The HTTP status that says so: 400, 413 or 415.
    """

    def __init__(self, status: Literal[400, 413, 415], message: str) -> None:
        """Take the HTTP status and one line of text."""
        super().__init__(message)
        self.status = status


@contextmanager
def decoding(signal: Signal) -> Iterator[None]:
    """Raise what is raised inside as a `DecodeError` with status 400; one that is raised there passes as it is."""
    try:
        yield
    except DecodeError:
        raise
    except Exception as error:  # the parsers promise one class and raise others: RecursionError, TypeError
        reason = " ".join(str(error).split())
        if len(reason) > _MAX_REASON_CHARS:
            # The end names the field, after a prefix for each level above it.
            reason = f"… {reason[-_MAX_REASON_CHARS:]}"
        raise DecodeError(400, f"could not decode {signal}: {type(error).__name__}: {reason}") from error


def request_of(
    signal: Signal, body: bytes, *, content_type: str, content_encoding: str = "", limit_bytes: int = MAX_BODY_BYTES
) -> Any:
    """
    Read the body of one OTLP/HTTP request.

    Args:
        signal: What the path says that the body holds.
        body: As it came over the wire.
        content_type: ``application/x-protobuf`` or ``application/json``; parameters are ignored.
        content_encoding: ``gzip``, ``deflate``, ``identity`` or empty.
        limit_bytes: The most that it may have unpacked.

    Returns:
        The signal's ``Export…ServiceRequest``, with ids in bytes of any length: nothing in it is checked.

    Raises:
        DecodeError: 415 for another type or encoding, 413 for more than ``limit_bytes`` unpacked, 400 for bytes that
            are not what the headers say.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type not in (PROTOBUF, JSON):
        raise DecodeError(415, f"cannot decode content-type {content_type!r}: send {PROTOBUF} or {JSON}")
    plain = _decompressed(body, content_encoding.strip().lower(), limit_bytes)
    with decoding(signal):
        request = _REQUESTS[signal]()
        if media_type == JSON:
            json_format.ParseDict(_with_base64_ids(json.loads(plain)), request, ignore_unknown_fields=True)
        else:
            request.ParseFromString(plain)
    return request


def encode_status(message: str, content_type: str) -> bytes:
    """
    Write the body of a refusal, a ``google.rpc.Status``, in the type that the client speaks.

    Source: OTLP specification, "Failures": the body of a 4xx or 5xx must be a Status.
    """
    # A lone surrogate, planted in a JSON document that the message quotes, is no UTF-8.
    status = Status(message=message.encode("utf-8", "replace").decode())
    if content_type == JSON:
        return json_format.MessageToJson(status, indent=None).encode()
    packed: bytes = status.SerializeToString()
    return packed


def _decompressed(body: bytes, encoding: str, limit_bytes: int) -> bytes:
    # One byte more than allowed is enough to know, and all that a bomb gets to write.
    most_bytes = limit_bytes + 1
    try:
        if encoding in ("", "identity"):
            plain = body
        elif encoding == "gzip":
            with gzip.GzipFile(fileobj=io.BytesIO(body)) as packed:
                plain = b"".join(_steps(packed, most_bytes))
        elif encoding == "deflate":
            plain = _inflated(body, most_bytes)
        else:
            raise DecodeError(415, f"cannot decode content-encoding {encoding!r}: send gzip, deflate or identity")
    except (OSError, EOFError, zlib.error) as error:
        raise DecodeError(400, f"could not decompress the body: it is no {encoding}: {error}") from error
    if len(plain) > limit_bytes:
        raise DecodeError(413, f"cannot take the body: it has more than {limit_bytes} bytes; send smaller batches")
    return plain


def _steps(packed: gzip.GzipFile, most_bytes: int) -> Iterator[bytes]:
    while most_bytes > 0 and (step := packed.read(min(most_bytes, _STEP_BYTES))):
        most_bytes -= len(step)
        yield step


def _inflated(body: bytes, most_bytes: int) -> bytes:
    try:
        unpacker = zlib.decompressobj()
        plain = unpacker.decompress(body, most_bytes)
    except zlib.error:
        # RFC 9110, 8.4.1.2: "deflate" is zlib's format, but some send it without the zlib wrapper.
        unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
        plain = unpacker.decompress(body, most_bytes)
    if len(plain) < most_bytes and not unpacker.eof:
        raise EOFError("it ends before its end marker")
    return plain


def _with_base64_ids(document: Any) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise DecodeError(400, "could not decode the body: it is JSON, but not an object")
    # Not recursive: the document is as deep as its sender likes.
    todo: list[Any] = [document]
    while todo:
        node = todo.pop()
        if isinstance(node, list):
            todo.extend(node)
        elif isinstance(node, dict):
            for key, value in node.items():
                if key in HEX_KEYS and isinstance(value, str):
                    node[key] = base64.b64encode(_from_hex(key, value)).decode()
                else:
                    todo.append(value)
    return document


def _from_hex(key: str, text: str) -> bytes:
    try:
        # Strict, unlike bytes.fromhex(), which skips spaces.
        return base64.b16decode(text, casefold=True)
    except ValueError:
        raise DecodeError(400, f"could not decode {key} {text[:40]!r}: it is no hex") from None
