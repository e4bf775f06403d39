"""
Receives OTLP/HTTP on 127.0.0.1 and keeps the newest of what was sent.

Knows nothing of protobuf: the decoder is named by a string, and a receiver without it answers 500.
"""

from __future__ import annotations

import socket
import threading
from collections import deque
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge
from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler
from werkzeug.wrappers import Request, Response

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Literal, Self

    from tracedbridge.serving.waterfall import Span

    Signal = Literal["traces", "metrics", "logs"]

__all__ = ("MAX_RECORDS", "Receiver")

# For each signal: a thousand invocations of ten spans, some ten megabytes.
MAX_RECORDS = 10_000

# A client on this machine that says nothing for so long has died or hangs.
_SILENCE_TIMEOUT_S = 10.0

# How long close() may wait until the accepting thread looks up.
_POLL_S = 0.02

# The refusals that are kept to be told: the first one says most, and a client may repeat it for ever.
_MAX_REFUSALS = 10

# In telemetry/, which nothing out here may import.
_DECODER = "tracedbridge.telemetry.otlp"

_PATHS: dict[str, Signal] = {"/v1/traces": "traces", "/v1/metrics": "metrics", "/v1/logs": "logs"}

_JSON = "application/json"


class _Decoder(Protocol):
    """The module of `_DECODER`."""

    DecodeError: type[Exception]
    MAX_BODY_BYTES: int

    def decode(self, signal: Signal, body: bytes, *, content_type: str, content_encoding: str) -> Sequence[Any]: ...

    def encode_status(self, message: str, content_type: str) -> bytes: ...


class Receiver:
    """
    An OTLP/HTTP backend on a free port of 127.0.0.1, which listens from its construction until ``close()``.

    Takes protobuf and JSON, plain, gzip and deflate. What arrives is kept in memory, the oldest is dropped first.
    """

    def __init__(self, *, max_records: int = MAX_RECORDS) -> None:
        """Listen, and keep at most ``max_records`` records of each signal."""
        self._lock = threading.Lock()
        self._records: dict[Signal, deque[Any]] = {signal: deque(maxlen=max_records) for signal in _PATHS.values()}
        self._received = 0
        self._refusals: list[str] = []
        self._decoder: _Decoder | None = None
        self._server = _Server("127.0.0.1", 0, Request.application(self._answer), _Handler)
        self._thread = threading.Thread(target=self._serve, name="tracedbridge-receiver", daemon=True)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        """The base URL, as ``OTEL_EXPORTER_OTLP_ENDPOINT`` wants it."""
        return f"http://127.0.0.1:{self._server.port}"

    @property
    def spans(self) -> tuple[Span, ...]:
        """The spans, in the order of their arrival."""
        return self._kept("traces")

    @property
    def metrics(self) -> tuple[object, ...]:
        """The metrics, in the order of their arrival; one record for each time that a metric came."""
        return self._kept("metrics")

    @property
    def logs(self) -> tuple[object, ...]:
        """The log records, in the order of their arrival."""
        return self._kept("logs")

    @property
    def dropped(self) -> int:
        """How many records had to make room for newer ones."""
        with self._lock:
            return self._received - sum(map(len, self._records.values()))

    @property
    def refusals(self) -> tuple[str, ...]:
        """Why requests were refused, one line for each of the first few."""
        with self._lock:
            return tuple(self._refusals)

    def close(self) -> None:
        """Take what has been sent whole, end all connections and threads, and listen no more; records stay."""
        # Each of these may come twice: the second close() finds everything ended.
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.hang_up()
        self._thread.join()

    def __enter__(self) -> Self:
        """Return the receiver itself, which listens already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def _serve(self) -> None:
        # Before the first request is taken, so that no export waits for this import within its own time limit.
        try:
            self._decoder = import_module(_DECODER)
        except Exception as error:  # noqa: BLE001 - a broken installation of the decoder is told to whoever sends
            self._note(f"cannot decode what is sent: {type(error).__name__}: {error}")
        # Closes the listening socket and waits for the threads of all requests when it ends.
        self._server.serve_forever(poll_interval=_POLL_S)

    def _answer(self, request: Request) -> Response:
        signal = _PATHS.get(request.path)
        if signal is None:
            return self._refuse(request, 404, f"no {request.path!r} here: send to {', '.join(_PATHS)}")
        if request.method != "POST":
            response = self._refuse(request, 405, f"cannot take {request.method} on {request.path}: send POST")
            response.headers["Allow"] = "POST"
            return response
        decoder = self._decoder
        if decoder is None:
            return self._refuse(request, 500, f"cannot decode what is sent: {_DECODER} could not be imported")
        request.max_content_length = decoder.MAX_BODY_BYTES
        try:
            body = request.get_data(cache=False)
            records = decoder.decode(
                signal,
                body,
                content_type=request.headers.get("Content-Type", ""),
                content_encoding=request.headers.get("Content-Encoding", ""),
            )
        except RequestEntityTooLarge:
            return self._refuse(request, 413, f"cannot take the body: it has more than {decoder.MAX_BODY_BYTES} bytes")
        except (ClientDisconnected, OSError) as error:
            return self._refuse(request, 400, f"could not read the body: {error}")
        except decoder.DecodeError as error:
            return self._refuse(request, getattr(error, "status", 400), str(error))
        with self._lock:
            self._received += len(records)
            self._records[signal].extend(records)
        # An empty Export…ServiceResponse, which is also what says that nothing was rejected.
        return Response(b"{}" if request.mimetype == _JSON else b"", content_type=request.mimetype)

    def _refuse(self, request: Request, status: int, reason: str) -> Response:
        self._note(f"{request.method} {request.path}: {status}: {reason}")
        if self._decoder is None or request.mimetype not in (_JSON, "application/x-protobuf"):
            return Response(reason + "\n", status, content_type="text/plain; charset=utf-8")
        return Response(self._decoder.encode_status(reason, request.mimetype), status, content_type=request.mimetype)

    def _note(self, refusal: str) -> None:
        with self._lock:
            if len(self._refusals) < _MAX_REFUSALS:
                self._refusals.append(refusal)

    def _kept(self, signal: Signal) -> tuple[Any, ...]:
        with self._lock:
            return tuple(self._records[signal])


class _Handler(WSGIRequestHandler):
    """werkzeug's handler, without its log on stderr."""

    protocol_version = "HTTP/1.1"
    timeout = _SILENCE_TIMEOUT_S

    def log(self, type: str, message: str, *args: object) -> None:  # noqa: A002 - the name it has in werkzeug
        """Say nothing: refusals are kept by the receiver."""


class _Server(ThreadedWSGIServer):
    """werkzeug's threaded server, whose threads can all be ended."""

    # Waited for in server_close(): a request that was sent whole is also stored.
    daemon_threads = False

    def __init__(self, *arguments: Any) -> None:
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        # In the accepting thread: once that has ended, all connections are known.
        with self._open_lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._open_lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """Let every connection read what it has got and then the end, and write its answer."""
        with self._open_lock:
            for connection in self._open:
                # A client may have gone already.
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RD)

    def log(self, type: str, message: str, *args: object) -> None:  # noqa: A002 - the name it has in werkzeug
        """Say nothing: this is somebody's terminal."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing about a connection that broke; the base class prints a traceback."""
