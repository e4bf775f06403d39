"""The viewer takes OTLP, serves its page and its APIs, and answers no page but its own."""

from __future__ import annotations

import base64
import gzip
import json
import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from werkzeug.test import Client, TestResponse

import tracedbridge
from tracedbridge.refusal import Refusal
from tracedbridge.serving.viewer import answers
from tracedbridge.serving.viewer.app import UI_PATH, ViewerApp
from tracedbridge.serving.viewer.store import Store

pytestmark = pytest.mark.telemetry

PROTOBUF = "application/x-protobuf"
JSON = "application/json"
ENDPOINT = "http://127.0.0.1:4318"

SIGNALS = ("traces", "metrics", "logs")
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
SPAN_ID = "b7ad6b7169203331"

# What a page, a terminal or a header could obey, in one text.
PLANTED = (
    "<script>alert(1)</script><img src=x onerror=alert(1)>'\"`&amp;"
    "\x1b[31m\x1b]0;owned\x07\x9b2J\r\nSet-Cookie: owned=1\r\n\r\n\u202e\u2028\x00\x7f"
)

_REQUESTS: dict[str, type[Message]] = {
    "traces": ExportTraceServiceRequest,
    "metrics": ExportMetricsServiceRequest,
    "logs": ExportLogsServiceRequest,
}


def document(signal: str, text: str = "GET /", *, span_id: str = SPAN_ID) -> dict[str, Any]:
    """Return a request of one record as OTLP/JSON, ``text`` in every field that takes text, a service's name too."""
    attributes = [{"key": text, "value": {"stringValue": text}}]
    ids = {"traceId": TRACE_ID, "spanId": span_id}
    common = {"resource": {"attributes": [{"key": "service.name", "value": {"stringValue": text}}, *attributes]}}
    scope = {"name": text, "version": text, "attributes": attributes}
    if signal == "traces":
        span = {
            **ids,
            "traceState": "shop=1",
            "flags": 257,
            "name": text,
            "kind": 2,
            "startTimeUnixNano": "1700000000000000001",
            "endTimeUnixNano": "1700000000000002001",
            "attributes": attributes,
            "droppedAttributesCount": 3,
            "events": [{"timeUnixNano": "1700000000000001001", "name": text, "attributes": attributes}],
            "links": [{**ids, "attributes": attributes}],
            "status": {"message": text, "code": 2},
        }
        return {"resourceSpans": [{**common, "scopeSpans": [{"scope": scope, "spans": [span], "schemaUrl": "u"}]}]}
    if signal == "metrics":
        point = {"attributes": attributes, "timeUnixNano": "1700000000000001001", "asInt": "7"}
        metric = {"name": text, "description": text, "unit": text, "gauge": {"dataPoints": [point]}}
        return {"resourceMetrics": [{**common, "scopeMetrics": [{"scope": scope, "metrics": [metric]}]}]}
    record = {
        "timeUnixNano": "1700000000000001001",
        "severityNumber": 17,
        "severityText": text,
        "body": {"stringValue": text},
        "attributes": attributes,
        **ids,
    }
    return {"resourceLogs": [{**common, "scopeLogs": [{"scope": scope, "logRecords": [record]}]}]}


def packed(signal: str, told: object) -> bytes:
    """Write OTLP/JSON as protobuf."""

    def with_base64_ids(node: Any) -> Any:
        if isinstance(node, list):
            return [with_base64_ids(each) for each in node]
        if not isinstance(node, dict):
            return node
        return {
            key: base64.b64encode(bytes.fromhex(each)).decode()
            if key in ("traceId", "spanId")
            else with_base64_ids(each)
            for key, each in node.items()
        }

    return json_format.ParseDict(with_base64_ids(told), _REQUESTS[signal]()).SerializeToString()


def body(signal: str, content_type: str = PROTOBUF, text: str = "GET /") -> bytes:
    """Return the body of a request with one record."""
    told = document(signal, text)
    return json.dumps(told).encode() if content_type == JSON else packed(signal, told)


def raw_deflate(data: bytes) -> bytes:
    """Compress without the wrapper of zlib, as some clients do."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def counts(store: Store) -> tuple[int, int, int]:
    """Return how many traces, metrics and log records a store has."""
    return len(store.traces()), len(store.series()), len(store.logs())


class Asker:
    """Asks an app without a socket, as a browser or an exporter on this machine does."""

    def __init__(self, **options: Any) -> None:
        """Ask a new app with an empty store."""
        self.store = Store()
        self.app = ViewerApp(self.store, endpoint=ENDPOINT, **options)
        self.app.load()
        self._client = Client(self.app)

    def get(self, path: str, method: str = "GET", **headers: str) -> TestResponse:
        """Ask for a path; ``if_none_match`` is a header."""
        return self._client.open(path, base_url=ENDPOINT, method=method, headers=_named(headers))

    def post(self, path: str, sent: bytes, **headers: str) -> TestResponse:
        """Send a body."""
        return self._client.open(path, base_url=ENDPOINT, method="POST", data=sent, headers=_named(headers))


def _named(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


@pytest.fixture(name="asker")
def asker_of_a_new_app() -> Asker:
    """An asker."""
    return Asker()


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("content_type", [PROTOBUF, JSON])
@pytest.mark.parametrize(
    ("encoding", "compress"),
    [
        pytest.param("", bytes, id="plain"),
        pytest.param("gzip", gzip.compress, id="gzip"),
        pytest.param("deflate", zlib.compress, id="deflate"),
        pytest.param("deflate", raw_deflate, id="raw deflate"),
    ],
)
def test_otlp_is_taken(
    asker: Asker, signal: str, content_type: str, encoding: str, compress: Callable[[bytes], bytes]
) -> None:
    """Each signal comes in each type and encoding, is answered in its type, and changes what the page sees."""
    headers = {"content_type": content_type, **({"content_encoding": encoding} if encoding else {})}
    reply = asker.post(f"/v1/{signal}", compress(body(signal, content_type)), **headers)
    assert (reply.status_code, reply.content_type) == (200, content_type)
    assert reply.data == (b"{}" if content_type == JSON else b"")
    assert counts(asker.store) == tuple(int(signal == each) for each in SIGNALS)
    state = asker.get("/api/viewer/state").json
    assert state is not None
    assert (state["seq"], state["refused"]) == (1, 0)


@pytest.mark.parametrize(
    ("method", "path", "sent", "headers", "status"),
    [
        pytest.param("POST", "/v1/traces", b"\xff", {}, 400, id="no protobuf"),
        pytest.param("POST", "/v1/traces", b"[1]", {"content_type": JSON}, 400, id="no object"),
        pytest.param("POST", "/v1/logs", b'{"resourceLogs":7}', {"content_type": JSON}, 400, id="wrong type"),
        pytest.param("POST", "/v1/traces", b"x", {"content_encoding": "gzip"}, 400, id="no gzip"),
        pytest.param("POST", "/v1/profiles", b"", {}, 404, id="no such signal"),
        pytest.param("POST", "/", b"", {}, 404, id="no path"),
        pytest.param("GET", "/v1/traces", b"", {}, 405, id="GET"),
        pytest.param("POST", "/v1/traces", bytes(2_000), {}, 413, id="large"),
        pytest.param("POST", "/v1/traces", gzip.compress(bytes(2_000)), {"content_encoding": "gzip"}, 413, id="bomb"),
        pytest.param("POST", "/v1/traces", b"x", {"content_encoding": "br"}, 415, id="unknown encoding"),
        pytest.param("POST", "/v1/traces", b"x", {"content_type": "text/plain"}, 415, id="unknown type"),
        pytest.param("POST", "/v1/traces", b"", {"host": "evil.example"}, 403, id="another host"),
    ],
)
def test_otlp_is_refused(
    asker: Asker,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    path: str,
    sent: bytes,
    headers: dict[str, str],
    status: int,
) -> None:
    """A bad request gets the status that OTLP names, a Status in the type that the client speaks, and is counted."""
    monkeypatch.setattr("tracedbridge.telemetry.otlp.MAX_BODY_BYTES", 1_000)
    headers = {"content_type": PROTOBUF, **headers}
    ask = asker.post if method == "POST" else lambda path, _, **named: asker.get(path, **named)
    reply = ask(path, sent, **headers)
    assert reply.status_code == status
    (refusal,) = asker.app.refusals
    assert refusal.startswith(f"{method} {path}: {status}: ")
    if headers["content_type"] == PROTOBUF:
        told = Status.FromString(reply.data).message
    elif headers["content_type"] == JSON:
        told = json.loads(reply.data)["message"]
    else:
        told = reply.text.rstrip("\n")
    assert told
    assert refusal.endswith(told)
    assert reply.headers.get("Allow") == ("POST" if status == 405 else None)
    state = asker.get("/api/viewer/state").json
    assert state is not None
    assert (state["refused"], state["seq"]) == (1, 0)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({"host": "127.0.0.1:4318"}, 200, id="address"),
        pytest.param({"host": "LocalHost:4318"}, 200, id="name"),
        pytest.param({"host": "[::1]:4318"}, 200, id="IPv6"),
        pytest.param({"host": "localhost"}, 200, id="no port"),
        pytest.param({"host": "localhost:4319"}, 403, id="another port"),
        pytest.param({"host": "localhost.evil.example:4318"}, 403, id="rebound name"),
        pytest.param({"host": "127.0.0.1:4318@evil.example"}, 403, id="user in it"),
        pytest.param({"host": ""}, 403, id="no host"),
        pytest.param({"host": "0.0.0.0:4318"}, 403, id="any address"),
        pytest.param({"host": "localhost:4318", "origin": "http://localhost:4318"}, 200, id="own origin"),
        pytest.param({"origin": "http://localhost:4318"}, 403, id="other name of ours"),
        pytest.param({"origin": "http://127.0.0.1:3000"}, 403, id="app on this machine"),
        pytest.param({"origin": "https://127.0.0.1:4318"}, 403, id="other scheme"),
        pytest.param({"origin": "https://evil.example"}, 403, id="other origin"),
        pytest.param({"origin": "null"}, 403, id="sandboxed page"),
    ],
)
@pytest.mark.parametrize("path", ["/", "/api/viewer/state", "/api/v3/services", "/v1/traces"])
def test_only_this_machine_may_ask(asker: Asker, path: str, headers: dict[str, str], status: int) -> None:
    """A Host that is not ours, or another page's Origin, is refused for everything; nothing is stored."""
    headers = {"host": "127.0.0.1:4318", **headers}
    if path == "/v1/traces":
        reply = asker.post(path, body("traces"), content_type=PROTOBUF, **headers)
        assert counts(asker.store)[0] == (status == 200)
    else:
        reply = asker.get(path, **headers)
    assert reply.status_code == status


@pytest.mark.parametrize("origin", [None, ENDPOINT, "https://evil.example"])
@pytest.mark.parametrize("method", ["GET", "OPTIONS", "POST", "DELETE"])
@pytest.mark.parametrize("path", ["/", "/viewer.js", "/api/viewer/state", "/api/v3/services", "/v1/traces", "/no"])
def test_every_answer_is_guarded(asker: Asker, path: str, method: str, origin: str | None) -> None:
    """Each answer, refusals too, forbids foreign scripts, guessing of types and embedding, and none offers CORS."""
    reply = asker.get(path, method, **({} if origin is None else {"origin": origin}))
    policy = dict(part.split(maxsplit=1) for part in reply.headers["Content-Security-Policy"].split("; "))
    assert (policy["default-src"], policy["script-src"], policy["style-src"]) == ("'none'", "'self'", "'self'")
    assert (policy["connect-src"], policy["img-src"]) == ("'self'", "'self' data:")
    assert policy["frame-ancestors"] == "'none'"
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert reply.headers["Referrer-Policy"] == "no-referrer"
    assert reply.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert not [name for name in dict(reply.headers) if name.lower().startswith("access-control-")]
    assert reply.headers["Cache-Control"] in ("no-cache", "no-store")
    if method == "DELETE" and origin is None:
        assert (reply.status_code, reply.headers["Allow"]) == (405, "POST" if path == "/v1/traces" else "GET, HEAD")


def test_the_page_and_what_it_names(asker: Asker) -> None:
    """The page is served at / with every file that it or a script of it names, each as what it is."""
    page = asker.get("/")
    assert (page.status_code, page.content_type) == (200, "text/html; charset=utf-8")
    todo, types = set(re.findall(r'(?:src|href)="([\w./-]+)"', page.text)), {}
    while todo:
        name = todo.pop()
        reply = asker.get(f"/{name.removeprefix('./').lstrip('/')}")
        assert reply.status_code == 200, name
        types[name] = reply.content_type
        todo |= {each for each in re.findall(r'from "\./([\w.-]+)"', reply.text) if each not in types}
    assert set(types.values()) == {"text/css; charset=utf-8", "text/javascript; charset=utf-8"}


def test_files_are_asked_for_again(asker: Asker) -> None:
    """A browser asks each time whether a file has changed, and gets it only if it has; HEAD gives the head alone."""
    first = asker.get("/")
    assert first.headers["Cache-Control"] == "no-cache"
    again = asker.get("/", if_none_match=first.headers["ETag"])
    assert (again.status_code, again.data) == (304, b"")
    assert asker.get("/", if_none_match='"other"').status_code == 200
    head = asker.get("/", "HEAD")
    assert (head.status_code, head.data, head.headers["Content-Length"]) == (200, b"", str(len(first.data)))


OUTSIDE = [
    pytest.param("/../app.py", id="dots"),
    pytest.param("/%2e%2e/app.py", id="encoded dots"),
    pytest.param("/..%2fapp.py", id="encoded slash"),
    pytest.param("/..%5capp.py", id="backslash"),
    pytest.param("//etc/passwd", id="absolute"),
    pytest.param("/%00", id="null byte"),
    pytest.param("/" + "x" * 5_000, id="too long"),
    pytest.param("/.", id="folder itself"),
    pytest.param("/secret.txt", id="link that leads out"),
    pytest.param("/circle.txt", id="link to itself"),
]


@pytest.mark.parametrize("path", OUTSIDE)
def test_no_path_leads_out_of_the_page(asker: Asker, path: str) -> None:
    """Only files of the page are served, whatever a path looks like."""
    reply = asker.get(path)
    assert (reply.status_code, reply.content_type) == (404, "text/plain; charset=utf-8")


@pytest.fixture(name="ui")
def ui_folder(tmp_path: Path) -> Path:
    """A UI bundle like Jaeger's, next to a file that is none of its."""
    folder = tmp_path / "ui"
    (folder / "static").mkdir(parents=True)
    (folder / "index.html").write_text('<base href="/" data-inject-target="BASE_URL"/><script>1</script>')
    (folder / "static" / "app.js").write_text("let a;")
    (tmp_path / "app.py").write_text("hidden")
    (folder / "secret.txt").symlink_to(tmp_path / "app.py")
    (folder / "circle.txt").symlink_to(folder / "circle.txt")
    return folder


@pytest.mark.parametrize(
    ("path", "status", "content_type"),
    [
        pytest.param("/jaeger/", 200, "text/html; charset=utf-8", id="top"),
        pytest.param("/jaeger/trace/0af7", 200, "text/html; charset=utf-8", id="path of the app"),
        pytest.param("/jaeger/static/app.js", 200, "text/javascript; charset=utf-8", id="file"),
        pytest.param("/jaeger/static/gone.js", 404, "text/plain; charset=utf-8", id="missing file"),
        pytest.param("/jaeger/api/v3/services", 200, JSON, id="API"),
        pytest.param("/jaeger/api/v3/nothing", 404, "text/plain; charset=utf-8", id="no API"),
    ],
)
def test_a_ui_that_the_user_brings(ui: Path, path: str, status: int, content_type: str) -> None:
    """A UI bundle is served below /jaeger/ with its API, its page for paths that are no files; its scripts may run."""
    reply = Asker(ui_dir=ui).get(path)
    assert (reply.status_code, reply.content_type) == (status, content_type)
    is_page = content_type.startswith("text/html")
    assert ('<base href="/jaeger/"' in reply.text) == is_page
    assert ("'unsafe-inline'" in reply.headers["Content-Security-Policy"]) == (status == 200 and content_type != JSON)


@pytest.mark.parametrize("path", OUTSIDE)
def test_no_path_leads_out_of_the_ui(ui: Path, path: str) -> None:
    """Only files in the bundle's folder are served; links that lead out are not followed."""
    reply = Asker(ui_dir=ui).get(f"/jaeger{path}")
    assert "hidden" not in reply.text
    assert "root:" not in reply.text
    assert reply.status_code in (200, 404)
    assert (reply.status_code == 200) == ("<base" in reply.text)


def test_where_no_ui_was_brought(asker: Asker, tmp_path: Path) -> None:
    """Without a bundle /jaeger/ says how to bring one, and a folder that holds none is refused at once."""
    assert asker.get("/jaeger").headers["Location"] == UI_PATH
    reply = asker.get("/jaeger/")
    assert reply.status_code == 404
    assert "--ui-dir" in reply.text
    with pytest.raises(Refusal, match=r"no index\.html"):
        Asker(ui_dir=tmp_path)


def test_state(asker: Asker) -> None:
    """The state tells the page where to point an exporter, what was dropped, and that nothing is saved."""
    assert asker.get("/api/viewer/state").json == {
        "seq": 0,
        "endpoint": ENDPOINT,
        "version": tracedbridge.__version__,
        "dropped": {"traces": 0, "logs": 0, "metrics": 0},
        "refused": 0,
        "saved": None,
    }


@pytest.mark.parametrize(
    ("path", "status", "key"),
    [
        pytest.param("/api/viewer/traces", 200, "traces", id="traces"),
        pytest.param(f"/api/viewer/traces/{TRACE_ID}", 200, "spans", id="trace"),
        pytest.param(f"/api/viewer/traces/{TRACE_ID.upper()}/jaeger.json", 200, "data", id="export"),
        pytest.param("/api/viewer/coldstarts", 200, "coldstarts", id="cold starts"),
        pytest.param("/api/viewer/metrics", 200, "metrics", id="metrics"),
        pytest.param("/api/viewer/logs", 200, "logs", id="logs"),
        pytest.param(f"/api/viewer/traces/{'1' * 32}", 404, None, id="no such trace"),
        pytest.param(f"/api/viewer/traces/{'1' * 32}/jaeger.json", 404, None, id="no such export"),
        pytest.param("/api/viewer/nothing", 404, None, id="nothing"),
        pytest.param("/api/v3/services", 200, "services", id="Jaeger services"),
        pytest.param("/api/v3/operations?service=GET%20/", 200, "operations", id="Jaeger operations"),
        pytest.param(f"/api/v3/traces/{TRACE_ID}", 200, "result", id="Jaeger OTLP"),
        pytest.param(f"/api/traces/{TRACE_ID}", 200, "data", id="Jaeger JSON"),
        pytest.param("/api/v3/operations", 400, "error", id="Jaeger argument missing"),
    ],
)
def test_apis(asker: Asker, path: str, status: int, key: str | None) -> None:
    """The page's API and Jaeger's answer from the same store, in JSON that no browser may keep."""
    for signal in SIGNALS:
        asker.post(f"/v1/{signal}", body(signal), content_type=PROTOBUF)
    reply = asker.get(path)
    assert (reply.status_code, reply.content_type) == (status, JSON)
    assert reply.headers["Cache-Control"] == "no-store"
    assert reply.json is None if key is None else key in (reply.json or {})


def test_export_is_a_download(asker: Asker) -> None:
    """Jaeger JSON of a trace comes as a file with the trace's id in its name."""
    asker.post("/v1/traces", body("traces"), content_type=PROTOBUF)
    reply = asker.get(f"/api/viewer/traces/{TRACE_ID}/jaeger.json")
    assert reply.headers["Content-Disposition"] == f"attachment; filename=trace-{TRACE_ID}.json"
    assert reply.json is not None
    assert reply.json["data"][0]["spans"][0]["operationName"] == "GET /"


def test_a_bug_ends_one_request(
    asker: Asker, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """An error of ours is a 500 for who asked, told by name and not printed, and the next request is answered."""

    def broken(*_: object) -> object:
        raise KeyError(PLANTED)

    with monkeypatch.context() as patch:
        patch.setattr(answers, "answer", broken)
        reply = asker.get("/api/viewer/traces")
    assert (reply.status_code, reply.content_type) == (500, "text/plain; charset=utf-8")
    assert asker.app.refusals[0].startswith("GET /api/viewer/traces: 500: the viewer has a bug: KeyError: ")
    assert asker.get("/api/viewer/traces").status_code == 200
    assert capfd.readouterr() == ("", "")
