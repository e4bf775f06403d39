"""
The viewer as a WSGI app: OTLP in, and out of the store the page, its JSON API and Jaeger's query API.

Nobody but this machine may ask, not even by way of a browser on it that some web page has told to: a name that resolves
to 127.0.0.1 is no Host of ours, another page's Origin is none, and no header allows other pages to read answers.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from werkzeug.wrappers import Request, Response

from tracedbridge.refusal import Refusal
from tracedbridge.serving.intake import MEDIA_TYPES, Intake
from tracedbridge.serving.viewer import answers, jaeger
from tracedbridge.serving.waterfall import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

    from tracedbridge.serving.intake import Taken
    from tracedbridge.serving.viewer.saved import Saver
    from tracedbridge.serving.viewer.store import Store

__all__ = ("UI_PATH", "ViewerApp")

_PAGE = Path(__file__).parent / "page"

UI_PATH = "/jaeger/"
"""Where a UI bundle that the user brings is served."""

_API = "/api/viewer/"

# A browser on this machine calls it by one of these.
_NAMES = ("127.0.0.1", "localhost", "[::1]")

# By suffix. Not by the system's table: on some machines a registry entry makes text of JavaScript, which does not run.
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".gif": "image/gif",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".map": "application/json",
    ".mjs": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".ttf": "font/ttf",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
}

# Whatever is planted in a span: the page can run nothing but its own files, and send nothing anywhere.
_STRICT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

# Jaeger UI finds its base address by a script in its index.html, writes styles into its markup, and lays out graphs in
# workers that it makes of text. It still can send nothing anywhere.
_UI_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; worker-src 'self' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
    "base-uri 'self'; form-action 'none'; frame-ancestors 'none'"
)

_HEADERS = {
    "Content-Security-Policy": _STRICT_POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # Files have an ETag, so that asking again is cheap; answers must not be kept at all.
    "Cache-Control": "no-store",
}


class ViewerApp:
    """Answers requests, each as the path says; `load()` comes before the first."""

    def __init__(self, store: Store, *, endpoint: str, ui_dir: Path | None = None, saver: Saver | None = None) -> None:
        """
        Answer from a store.

        Args:
            store: Where what comes is kept.
            endpoint: Where this is served: ``http://127.0.0.1:4318``.
            ui_dir: A built UI to serve below `UI_PATH`: Jaeger's, or another for the same API.
            saver: Gets what the store gets.

        Raises:
            Refusal: ``ui_dir`` holds no ``index.html``.
        """
        self._store = store
        self._endpoint = endpoint
        self._saver = saver
        port = endpoint.rpartition(":")[2]
        self._hosts = {host for name in _NAMES for host in (name, f"{name}:{port}")}
        # Looked up, never joined: a path can name no other file.
        self._page = {f"/{file.relative_to(_PAGE).as_posix()}": file for file in _PAGE.rglob("*") if file.is_file()}
        if "/index.html" in self._page:
            self._page["/"] = self._page["/index.html"]
        self._ui_dir = None if ui_dir is None else _built_ui(ui_dir)
        self._intake = Intake(self._take)
        self.load: Callable[[], None] = self._intake.load

    @property
    def refusals(self) -> tuple[str, ...]:
        """Why requests were refused, one line for each of the first few, fit for a terminal."""
        return tuple(map(printable, self._intake.refusals))

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request, whatever it is."""
        request = Request(environ)
        try:
            response = self._answer(request)
        except Exception as error:  # noqa: BLE001 - no request may end the viewer, or print a traceback
            response = self._intake.refuse(request, 500, f"the viewer has a bug: {type(error).__name__}: {error}")
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        return response(environ, start_response)

    def _answer(self, request: Request) -> Response:
        host = request.headers.get("Host", "").lower()
        if host not in self._hosts:
            reason = f"cannot answer for host {host[:100]!r}: ask {self._endpoint}"
            return self._intake.refuse(request, 403, reason)
        origin = request.headers.get("Origin")
        if origin is not None and origin.lower() != f"http://{host}":
            reason = f"cannot answer a page of {origin[:100]!r}: only the viewer's own page may ask"
            return self._intake.refuse(request, 403, reason)
        path = request.path
        # An exporter that was given a wrong path is told in the type that it reads.
        if path.startswith("/v1/") or (request.method == "POST" and request.mimetype in MEDIA_TYPES):
            return self._intake.answer(request)
        if request.method not in ("GET", "HEAD"):
            response = _text(405, f"cannot take {request.method[:100]!r} here: send GET, or OTLP to /v1/traces")
            response.headers["Allow"] = "GET, HEAD"
            return response
        if path in self._page:
            return _file(request, self._page[path])
        if path.startswith(_API):
            return self._api(path.removeprefix(_API).split("/"))
        # The UI asks for its API below its own address.
        if path.startswith(("/api/", f"{UI_PATH}api/")):
            return self._jaeger(request, path.removeprefix(UI_PATH.rstrip("/")))
        if f"{path}/" == UI_PATH:
            return Response(status=308, headers={"Location": UI_PATH})
        if path.startswith(UI_PATH):
            return self._ui(request, path.removeprefix(UI_PATH))
        return _nothing(path)

    def _take(self, taken: Taken) -> None:
        self._store.add(taken.signal, taken.records)
        if self._saver is not None:
            self._saver.save(taken)

    def _api(self, parts: list[str]) -> Response:
        if parts == ["state"]:
            return _json(self._state())
        if len(parts) == 3 and (parts[0], parts[2]) == ("traces", "jaeger.json"):
            trace_id = parts[1].lower()
            trace = jaeger.trace(self._store, trace_id)
            if trace is None:
                return _json(None, 404)
            response = _json(trace)
            response.headers.set("Content-Disposition", "attachment", filename=f"trace-{trace_id}.json")
            return response
        answer = answers.answer(self._store, parts)
        return _json(answer, 404 if answer is None else 200)

    def _state(self) -> dict[str, object]:
        from tracedbridge import __version__

        return {
            "seq": self._store.seq,
            "endpoint": self._endpoint,
            "version": __version__,
            "dropped": self._store.dropped,
            "refused": self._intake.refused,
            "saved": None if self._saver is None else str(self._saver.path),
        }

    def _jaeger(self, request: Request, path: str) -> Response:
        answered = jaeger.answer(self._store, path, request.args.to_dict())
        if answered is None:
            return _nothing(path)
        status, value = answered
        return _json(value, status)

    def _ui(self, request: Request, path: str) -> Response:
        if self._ui_dir is None:
            return _text(404, "no UI here: start the viewer with --ui-dir DIR, the folder of a built Jaeger UI")
        file = _inside(self._ui_dir, path)
        if file is None:
            if Path(path).suffix in _TYPES:
                # A script that is missing must not come as HTML.
                return _nothing(path)
            # The app in the page knows its own paths.
            file = self._ui_dir / "index.html"
        response = _file(request, file, based=True)
        response.headers["Content-Security-Policy"] = _UI_POLICY
        return response


def _built_ui(folder: Path) -> Path:
    if not (folder / "index.html").is_file():
        raise Refusal(
            f"cannot serve the UI in {str(folder)!r}: no index.html is in it; name the folder of a built UI", 2
        )
    return folder.resolve()


def _inside(folder: Path, path: str) -> Path | None:
    """Return the file in ``folder`` that a path names, or None if it names none, or one outside."""
    try:
        # Resolved before it is compared: a link may lead out as well as dots do.
        file = (folder / path.lstrip("/")).resolve()
        return file if file.is_relative_to(folder) and file.is_file() else None
    except (OSError, ValueError, RuntimeError):
        # Too long, a null byte in it, or links in a circle.
        return None


def _file(request: Request, file: Path, *, based: bool = False) -> Response:
    try:
        content = file.read_bytes()
    except OSError:
        # Gone since it was looked up.
        return _nothing(request.path)
    if based and file.suffix == ".html":
        # As Jaeger's own server does it for a UI that is not at the top.
        content = content.replace(b'<base href="/"', f'<base href="{UI_PATH}"'.encode())
    response = Response(content, content_type=_TYPES.get(file.suffix, "application/octet-stream"))
    response.headers["Cache-Control"] = "no-cache"
    response.set_etag(hashlib.sha256(content).hexdigest()[:32])
    return response.make_conditional(request)


def _json(value: object, status: int = 200) -> Response:
    # In ASCII: a lone surrogate that somebody sent is no UTF-8.
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Response(text, status, content_type="application/json")


def _nothing(path: str) -> Response:
    return _text(404, f"nothing here: {path[:100]!r}")


def _text(status: int, text: str) -> Response:
    return Response(text.encode("utf-8", "replace") + b"\n", status, content_type="text/plain; charset=utf-8")
