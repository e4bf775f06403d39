"""What the standard variables say of the wire: endpoints, headers, compression, certificates; one kept connection."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support import HANG_S, answer, event
from tests.telemetry.apps import Pairs, asgi_around
from tests.telemetry.backends import Backend, Behaviour, Exchange, answering, hanging_up, in_turn
from tests.telemetry.received import Received, drawn
from tracedbridge import create_bridge

pytestmark = pytest.mark.telemetry

SIGNALS = ("traces", "metrics", "logs")
TREE = ["import app", "cold start", "GET"]


def ok(headers: Pairs) -> str:
    """Answer anything."""
    return "ok"


@pytest.fixture(autouse=True)
def no_hurry(plain_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports have time, however slow the machine is."""
    monkeypatch.setenv("TRACEDBRIDGE_FLUSH_TIMEOUT_MS", str(HANG_S * 1000))


def run(invocations: int = 1) -> None:
    """Answer some events."""
    with create_bridge(asgi_around(ok)) as bridge:
        for _ in range(invocations):
            assert answer(bridge(event(), None)).body == b"ok"


def test_one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each signal keeps one connection for the life of the bridge."""
    with Backend(answering(200)) as backend:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", backend.endpoint)
        run(invocations=10)
        assert backend.accepted == 3
        paths = [seen.path for seen in backend.seen]
        assert {path: paths.count(path) for path in paths} == {"/v1/traces": 10, "/v1/metrics": 11, "/v1/logs": 10}


def test_a_connection_that_was_closed(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A backend that closed the kept connection between two flushes loses nothing, and nobody is told."""
    with Backend(in_turn(hanging_up, hanging_up, hanging_up, answering(200))) as backend:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{backend.endpoint}/v1/traces")
        run(invocations=5)
        assert backend.names() == [*TREE, "GET", "GET", "GET", "GET"]
        assert backend.accepted == 4
    assert not caplog.records


def test_a_connection_that_the_backend_announces_to_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that says ``Connection: close`` gets a new connection for each flush."""
    with Backend(answering(200, {"Connection": "close"})) as backend:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{backend.endpoint}/v1/traces")
        run(invocations=3)
        assert (backend.accepted, len(backend.seen)) == (3, 3)


def test_a_backend_that_came_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failure the next flush connects anew and is heard."""
    with Backend(in_turn(answering(500, {"Connection": "close"}), answering(200))) as backend:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{backend.endpoint}/v1/traces")
        run(invocations=2)
        assert [len(seen.records()) for seen in backend.seen] == [3, 1]


@pytest.mark.parametrize("compression", ["gzip", "deflate", "none"])
def test_compression(compression: str, received: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every compression of the specification is understood at the other end."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", compression)
    run()
    assert drawn(received.spans) == "GET (server)\n  cold start\n    import app"
    assert received.metrics
    assert received.logs


def test_compression_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The requests say how they are compressed, per signal if asked."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_COMPRESSION", "none")
    with Backend(answering(200)) as backend:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", backend.endpoint)
        run()
        said = {seen.path: seen.headers.get("content-encoding") for seen in backend.seen}
    assert said == {"/v1/traces": "gzip", "/v1/metrics": "gzip", "/v1/logs": None}


def test_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The standard variables' headers are sent, percent-decoded, those of a signal before the common ones."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20b,tenant=acme")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "tenant=logs")
    with Backend(answering(200)) as backend:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", backend.endpoint)
        run()
        told = {seen.path: (seen.headers.get("api-key"), seen.headers.get("tenant")) for seen in backend.seen}
        assert {seen.headers["content-type"] for seen in backend.seen} == {"application/x-protobuf"}
        assert all(
            "tracedbridge" in seen.headers["user-agent"] or "OTel" in seen.headers["user-agent"]
            for seen in backend.seen
        )
    assert told["/v1/traces"] == told["/v1/metrics"] == ("a b", "acme")
    assert told["/v1/logs"][1] == "logs"


@pytest.mark.parametrize(
    ("endpoint", "path"),
    [
        pytest.param("", "/v1/{}", id="base"),
        pytest.param("/", "/v1/{}", id="base with a slash"),
        pytest.param("/collector", "/collector/v1/{}", id="base with a path"),
    ],
)
def test_base_endpoints(endpoint: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The common endpoint gets the path of the signal."""
    with Backend(answering(200)) as backend:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", backend.endpoint + endpoint)
        run()
        assert {seen.path for seen in backend.seen} == {path.format(signal) for signal in SIGNALS}


def test_endpoints_of_signals(received: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal's own endpoint is used as it is, query included; the others go to the common one."""
    with Backend(answering(200)) as backend:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", f"{backend.endpoint}/insert?stream=a")
        run()
        assert {seen.path for seen in backend.seen} == {"/insert?stream=a"}
    assert len(received.spans) == 3
    assert received.metrics
    assert received.logs == []


def test_one_signal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an endpoint for traces only, traces only are exported."""
    with Backend(answering(200)) as backend:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{backend.endpoint}/v1/traces")
        run(invocations=2)
        assert {seen.path for seen in backend.seen} == {"/v1/traces"}
        assert backend.accepted == 1


def test_vercels_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    """With trace drains on, traces go to Vercel's collector on localhost, as protobuf, unless an endpoint is set."""
    with Backend(answering(200)) as backend:
        monkeypatch.setenv("VERCEL_OTEL_ENDPOINTS", "1")
        monkeypatch.setenv("VERCEL_OTEL_ENDPOINTS_PORT", backend.endpoint.rpartition(":")[2])
        monkeypatch.setenv("VERCEL_OTEL_ENDPOINTS_PROTOCOL", "http/json")
        run()
        assert {(seen.path, seen.headers["content-type"]) for seen in backend.seen} == {
            ("/v1/traces", "application/x-protobuf")
        }
        assert backend.names() == TREE
        seen = len(backend.seen)
        with Backend(answering(200)) as other:
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", other.endpoint)
            run()
            assert other.names() == TREE
        assert len(backend.seen) == seen


def test_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The standard proxy variables are followed, and ``no_proxy`` is, too."""
    with Backend(answering(200)) as proxy, Backend(answering(200)) as backend:
        monkeypatch.setenv("http_proxy", proxy.endpoint)
        monkeypatch.setenv("no_proxy", "")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{backend.endpoint}/v1/traces")
        run()
        assert ([seen.path for seen in proxy.seen], backend.seen) == ([f"{backend.endpoint}/v1/traces"], [])
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        run()
        assert [seen.path for seen in backend.seen] == ["/v1/traces"]


class Certificates(NamedTuple):
    """Files in PEM: of a server at 127.0.0.1, signed by itself, and of a client likewise."""

    server: Path
    server_key: Path
    client: Path
    client_key: Path


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Make them with openssl."""
    openssl = shutil.which("openssl")
    if openssl is None:
        if os.environ.get("CI"):
            pytest.fail("there is no openssl to make certificates with: .ci/run installs it")
        pytest.skip("there is no openssl to make certificates with")
    folder = tmp_path_factory.mktemp("certificates")
    made = Certificates(*(folder / f"{name}.pem" for name in Certificates._fields))
    for certificate, key in ((made.server, made.server_key), (made.client, made.client_key)):
        subprocess.run(
            [
                openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                "-days", "2", "-subj", "/CN=tracedbridge test", "-addext", "subjectAltName=IP:127.0.0.1",
                "-keyout", str(key), "-out", str(certificate),
            ],
            check=True, capture_output=True, timeout=HANG_S,
        )  # fmt: skip
    return made


def server_tls(certificates: Certificates) -> ssl.SSLContext:
    """Return what a server with that certificate needs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server, certificates.server_key)
    return context


@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP_CERTIFICATE", "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE"])
def test_tls(variable: str, certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend with a certificate of its own is trusted if the standard variable names it."""
    with Backend(answering(200), server_tls(certificates)) as backend:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{backend.endpoint}/v1/traces")
        monkeypatch.setenv(variable, str(certificates.server))
        run(invocations=3)
        assert backend.names() == [*TREE, "GET", "GET"]
        assert backend.accepted == 1


def test_tls_that_was_closed(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A kept TLS connection that the backend closed between two flushes loses nothing either."""
    with Backend(in_turn(hanging_up, hanging_up, answering(200)), server_tls(certificates)) as backend:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{backend.endpoint}/v1/traces")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(certificates.server))
        run(invocations=4)
        assert backend.names() == [*TREE, "GET", "GET", "GET"]
    assert not caplog.records


def test_tls_untrusted(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A certificate that nobody vouches for is one warning, and nothing is sent."""
    with Backend(answering(200), server_tls(certificates)) as backend:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{backend.endpoint}/v1/traces")
        run(invocations=2)
        assert backend.seen == []
    (warning,) = caplog.records
    assert "SSLCertVerificationError" in warning.getMessage()


def test_mutual_tls(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that wants to know its client is shown the certificate of the standard variables."""
    tls = server_tls(certificates)
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_verify_locations(certificates.client)
    with Backend(answering(200), tls) as backend:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{backend.endpoint}/v1/traces")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(certificates.server))
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", str(certificates.client))
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_KEY", str(certificates.client_key))
        run()
        assert backend.names() == TREE


@pytest.mark.parametrize("name", ["missing.pem", "broken.pem"])
def test_a_certificate_file_that_is_none(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A certificate file that cannot be read is told, and harms nobody."""
    (tmp_path / "broken.pem").write_text("no certificate")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://127.0.0.1:9/v1/traces")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(tmp_path / name))
    run(invocations=2)
    assert len(caplog.records) == 1


def _chunked(exchange: Exchange) -> None:
    exchange.send_response(200)
    exchange.send_header("Transfer-Encoding", "chunked")
    exchange.end_headers()
    # The data of the first chunk looks like the end of all.
    exchange.wfile.write(b"6\r\n0\r\n\r\n0\r\n")
    exchange.wfile.flush()
    exchange.wfile.write(b"3\r\nabc\r\n0\r\n\r\n")


def _continued(exchange: Exchange) -> None:
    exchange.send_response_only(100)
    exchange.end_headers()
    exchange.answer(200)


def _without_length(exchange: Exchange) -> None:
    exchange.send_response(200)
    exchange.end_headers()
    exchange.close_connection = True


@pytest.mark.parametrize(
    "behave",
    [
        pytest.param(_chunked, id="in chunks"),
        pytest.param(_continued, id="after 100 Continue"),
        pytest.param(_without_length, id="until the connection ends"),
        pytest.param(answering(202, {}, b"\x0a\x00"), id="another 2xx, with a body"),
        pytest.param(answering(204), id="204"),
    ],
)
def test_answers(behave: Behaviour, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """In whatever form an answer comes, it is a success, and the next flush works."""
    with Backend(behave) as backend:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{backend.endpoint}/v1/traces")
        run(invocations=4)
        assert backend.names() == [*TREE, "GET", "GET", "GET"]
    assert not caplog.records


def test_a_big_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that is far too long is not read to its end, and the next flush works."""
    with Backend(in_turn(answering(200, {}, b"x" * (8 << 20)), answering(200))) as backend:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{backend.endpoint}/v1/traces")
        run(invocations=2)
        assert backend.names() == [*TREE, "GET"]
