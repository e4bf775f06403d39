"""
Writes an OTLP/HTTP request, however it came, in the protocol's JSON encoding: what a file of saved telemetry holds.

Source: OpenTelemetry Protocol specification 1.9, "JSON Protobuf Encoding"; "OpenTelemetry Protocol File Exporter".
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format

from tracedbridge.telemetry.otlp_bodies import HEX_KEYS, request_of

if TYPE_CHECKING:
    from tracedbridge.telemetry.otlp_bodies import Signal

__all__ = ("encode",)


def encode(signal: Signal, body: bytes, *, content_type: str, content_encoding: str = "") -> bytes:
    """
    Write the body of a request as JSON in ASCII, in one line and without the line's end.

    Everything that the protocol knows is kept, also what the records of `decode()` leave out.

    Args:
        signal: What the path says that the body holds.
        body: As it came over the wire; must be one that `decode()` takes.
        content_type: As for `decode()`.
        content_encoding: As for `decode()`.
    """
    request = request_of(signal, body, content_type=content_type, content_encoding=content_encoding)
    document = json_format.MessageToDict(request, use_integers_for_enums=True)
    return json.dumps(_with_hex_ids(document), separators=(",", ":")).encode()


def _with_hex_ids(document: dict[str, Any]) -> dict[str, Any]:
    # No attribute can have such a key: the names of attributes are values of "key".
    todo: list[Any] = [document]
    while todo:
        node = todo.pop()
        if isinstance(node, list):
            todo.extend(node)
        elif isinstance(node, dict):
            for key, value in node.items():
                if key in HEX_KEYS:
                    node[key] = base64.b64decode(value).hex()
                else:
                    todo.append(value)
    return document
