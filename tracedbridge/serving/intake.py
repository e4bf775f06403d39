"""
Takes OTLP/HTTP requests: decodes their bodies and answers as the protocol says.

Knows nothing of protobuf: the decoder is named by a string, and an intake without it answers 500.

Source: OpenTelemetry Protocol specification 1.9, "OTLP/HTTP".
"""

from __future__ import annotations

import threading
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge
from werkzeug.wrappers import Response

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

    from werkzeug.wrappers import Request

    Signal = Literal["traces", "metrics", "logs"]

__all__ = ("DECODER", "MEDIA_TYPES", "PATHS", "Decoder", "Intake", "Taken", "Taker")

# In telemetry/, which nothing out here may import.
DECODER = "tracedbridge.telemetry.otlp"

PATHS: dict[str, Signal] = {"/v1/traces": "traces", "/v1/metrics": "metrics", "/v1/logs": "logs"}
"""What is sent where."""

_JSON = "application/json"

MEDIA_TYPES = ("application/x-protobuf", _JSON)
"""What an exporter sends, and gets a refusal in."""

# The refusals that are kept to be told: the first one says most, and a client may repeat it for ever.
_MAX_REFUSALS = 10

# Of what a client sent and is told again.
_MAX_QUOTED_CHARS = 100

# An exabyte. Of thousands Python makes no number, and werkzeug an empty body.
_MAX_LENGTH_DIGITS = 18


class Decoder(Protocol):
    """The module of `DECODER`."""

    DecodeError: type[Exception]
    MAX_BODY_BYTES: int

    def decode(
        self, signal: Signal, body: bytes, *, content_type: str, content_encoding: str = ""
    ) -> Sequence[Any]: ...

    def encode_status(self, message: str, content_type: str) -> bytes: ...


class Taken:
    """A request that was decoded, whole."""

    __slots__ = ("body", "content_encoding", "content_type", "records", "signal")

    def __init__(
        self, signal: Signal, records: Sequence[Any], body: bytes, content_type: str, content_encoding: str
    ) -> None:
        """Take what the path says that it is, what is in it, and how it came."""
        self.signal = signal
        self.records = records
        self.body = body
        self.content_type = content_type
        self.content_encoding = content_encoding


class Taker(Protocol):
    """Whoever wants what comes; called in several threads, before the client has its answer."""

    def __call__(self, taken: Taken) -> None: ...


class Intake:
    """Answers requests, and remembers why it refused some."""

    def __init__(self, take: Taker) -> None:
        """Give what is accepted to ``take``; ``load()`` comes first."""
        self._take = take
        self._decoder: Decoder | None = None
        self._lock = threading.Lock()
        self._refused = 0
        self._refusals: list[str] = []

    @property
    def refused(self) -> int:
        """How many requests were refused."""
        with self._lock:
            return self._refused

    @property
    def refusals(self) -> tuple[str, ...]:
        """Why requests were refused, one line for each of the first few."""
        with self._lock:
            return tuple(self._refusals)

    def load(self) -> None:
        """Import the decoder: now, so that no export waits for that within its own time limit."""
        try:
            self._decoder = import_module(DECODER)
        except Exception as error:  # noqa: BLE001 - a broken installation of the decoder is told to whoever sends
            with self._lock:
                self._refusals.append(f"cannot decode what is sent: {type(error).__name__}: {error}")

    def answer(self, request: Request) -> Response:
        """Take the request, or say why not."""
        signal = PATHS.get(request.path)
        if signal is None:
            return self.refuse(request, 404, f"no {_quoted(request.path)} here: send to {', '.join(PATHS)}")
        if request.method != "POST":
            reason = f"cannot take {_quoted(request.method)} on {request.path}: send POST"
            response = self.refuse(request, 405, reason)
            response.headers["Allow"] = "POST"
            return response
        decoder = self._decoder
        if decoder is None:
            return self.refuse(request, 500, f"cannot decode what is sent: {DECODER} could not be imported")
        if not request.environ.get("wsgi.input_terminated"):
            # werkzeug takes the body for empty then; what the client meant to send would be lost without a word.
            length = request.headers.get("Content-Length")
            if length is None:
                return self.refuse(request, 411, "could not read the body: send content-length, or send it chunked")
            if not (length.isascii() and length.isdigit()):
                return self.refuse(request, 400, f"could not read the body: content-length {_quoted(length)}")
            if len(length) > _MAX_LENGTH_DIGITS:
                return self._refuse_length(request, decoder)
        # One more than allowed: of a body without a length werkzeug gives so much, and does not say that there is more.
        request.max_content_length = decoder.MAX_BODY_BYTES + 1
        content_type = request.headers.get("Content-Type", "")
        content_encoding = request.headers.get("Content-Encoding", "")
        try:
            body = request.get_data(cache=False)
            if len(body) > decoder.MAX_BODY_BYTES:
                return self._refuse_length(request, decoder)
            records = decoder.decode(signal, body, content_type=content_type, content_encoding=content_encoding)
        except RequestEntityTooLarge:
            return self._refuse_length(request, decoder)
        except (ClientDisconnected, OSError) as error:
            return self.refuse(request, 400, f"could not read the body: {error}")
        except decoder.DecodeError as error:
            return self.refuse(request, getattr(error, "status", 400), str(error))
        self._take(Taken(signal, records, body, content_type, content_encoding))
        # An empty Export…ServiceResponse, which is also what says that nothing was rejected.
        return Response(b"{}" if request.mimetype == _JSON else b"", content_type=request.mimetype)

    def refuse(self, request: Request, status: int, reason: str) -> Response:
        """Answer that the request cannot be taken, in the type that it came in, and remember it."""
        with self._lock:
            self._refused += 1
            if len(self._refusals) < _MAX_REFUSALS:
                asked = f"{request.method[:_MAX_QUOTED_CHARS]} {request.path[:_MAX_QUOTED_CHARS]}"
                self._refusals.append(f"{asked}: {status}: {reason}")
        if self._decoder is None or request.mimetype not in MEDIA_TYPES:
            text = reason.encode("utf-8", "replace")
            return Response(text + b"\n", status, content_type="text/plain; charset=utf-8")
        return Response(self._decoder.encode_status(reason, request.mimetype), status, content_type=request.mimetype)

    def _refuse_length(self, request: Request, decoder: Decoder) -> Response:
        return self.refuse(request, 413, f"cannot take the body: it has more than {decoder.MAX_BODY_BYTES} bytes")


def _quoted(text: str) -> str:
    return repr(text if len(text) <= _MAX_QUOTED_CHARS else text[:_MAX_QUOTED_CHARS] + "…")
