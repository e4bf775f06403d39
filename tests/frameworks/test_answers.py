"""
Every framework answers through the bridge as it does under a real server.

Each case is sent to both: over a socket to a server process, and as an event to the bridge. Compared are status,
headers (without those of the connection) and body.
"""

from __future__ import annotations

import base64
import http.client
import importlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.frameworks.cases import CASES, Ask, Case
from tests.frameworks.entry import through_vc_handler
from tests.frameworks.servers import running
from tests.support import answer, event, serve
from tracedbridge import Bridge

pytestmark = pytest.mark.frameworks

HERE = Path(__file__).parent

# Of the connection or of the server, not of the app.
NOT_COMPARED = {"connection", "date", "keep-alive", "server", "transfer-encoding"}

# A server that hangs fails its test instead of the run.
ANSWER_S = 10.0


class Site(NamedTuple):
    """An app, how it is really served, and which of the pages that not all have it has."""

    module: str
    variable: str
    server: str
    pages: tuple[str, ...] = ()


SITES = {
    "starlette": Site("starlette_app", "app", "uvicorn", ("background", "chunked")),
    "fastapi": Site("fastapi_app", "app", "uvicorn", ("background", "chunked")),
    "litestar": Site("litestar_app", "app", "uvicorn", ("background", "chunked", "upload")),
    "quart": Site("quart_app", "app", "uvicorn", ("background", "chunked", "upload")),
    "sanic": Site("sanic_app", "app", "uvicorn", ("chunked", "upload")),
    "django asgi": Site("django_app", "asgi_application", "uvicorn", ("chunked", "upload")),
    "django wsgi": Site("django_app", "application", "werkzeug", ("chunked", "upload")),
    "flask": Site("flask_app", "app", "werkzeug", ("chunked", "upload")),
    "bottle": Site("bottle_app", "app", "wsgiref", ("chunked", "upload")),
    "handler": Site("handler_app", "handler", "http.server"),
}


class Difference(NamedTuple):
    """Where the bridge rightly answers otherwise than the real server."""

    why: str
    status: int
    holds: bytes
    """A part of the bridge's body."""


DIFFERENCES = {
    ("handler", "exception"): Difference(
        "http.server drops the connection; a function owes an answer", 500, b"Internal Server Error"
    ),
    ("handler", "query without value"): Difference(
        "a Request, like ASGI and WSGI, has one empty query: '/echo?' comes as '/echo'", 200, b'"path": "/echo"'
    ),
    ("django wsgi", "chunked"): Difference(
        "Django reads nothing without a content-length; the bridge knows and tells it", 200, b"in chunks" * 99
    ),
    ("django wsgi", "path not UTF-8"): Difference(
        "werkzeug's server replaces what is not UTF-8; PEP 3333 wants the bytes, and Django shows them", 200, b"%FF%E9"
    ),
}


class Told(NamedTuple):
    """An answer, reduced to what is compared."""

    status: int
    headers: Counter[tuple[str, str]]
    body: bytes


class Served:
    """One app under its real server and under a bridge."""

    def __init__(self, site: Site, port: int, bridge: Bridge) -> None:
        self.site = site
        self.bridge = bridge
        self._port = port
        self._real: dict[str, Told | None] = {}

    def real(self, name: str) -> Told | None:
        """Return what the server answers to a case; None if it drops the connection."""
        if name not in self._real:
            self._real[name] = [self._ask(ask) for ask in CASES[name].asks][-1]
        return self._real[name]

    def events(self, case: Case) -> list[dict[str, str]]:
        """Return the same requests as events."""
        return [_event(ask, self._headers(ask)) for ask in case.asks]

    def _ask(self, ask: Ask) -> Told | None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_S)
        try:
            connection.putrequest(ask.method, ask.target, skip_host=True, skip_accept_encoding=True)
            for name, value in (*self._headers(ask), ("Connection", "close")):
                connection.putheader(name, value)
            connection.endheaders(
                iter((ask.body[:9], ask.body[9:])) if ask.chunked else ask.body or None, encode_chunked=ask.chunked
            )
            with connection.getresponse() as response:
                return _told(response.status, response.getheaders(), response.read())
        except http.client.RemoteDisconnected:
            return None
        finally:
            connection.close()

    def _headers(self, ask: Ask) -> list[tuple[str, str]]:
        headers = list(ask.headers)
        if "Host" not in dict(headers):
            headers.insert(0, ("Host", f"127.0.0.1:{self._port}"))
        # What Vercel's edge adds; the bridge would take an event without it for one that came by https.
        headers += [("X-Real-Ip", "127.0.0.1"), ("X-Forwarded-Proto", "http")]
        if ask.chunked:
            headers.append(("Transfer-Encoding", "chunked"))
        elif ask.body or ask.method in ("POST", "PUT", "PATCH"):
            headers.append(("Content-Length", str(len(ask.body))))
        return headers


def _event(ask: Ask, headers: list[tuple[str, str]]) -> dict[str, str]:
    grouped: dict[str, list[str]] = {}
    for name, value in headers:
        grouped.setdefault(name, []).append(value)
    told: dict[str, object] = {"headers": {name: each if len(each) > 1 else each[0] for name, each in grouped.items()}}
    told["host"] = next(value for name, value in headers if name == "Host")
    try:
        told["body"] = ask.body.decode()
    except UnicodeDecodeError:
        told |= {"body": base64.b64encode(ask.body).decode(), "encoding": "base64"}
    return event(ask.method, ask.target, **told)


def _told(status: int, headers: list[tuple[str, str]], body: bytes) -> Told:
    compared = Counter(
        (name.lower(), _sorted_list(value) if name.lower() == "allow" else value)
        for name, value in headers
        if name.lower() not in NOT_COMPARED
    )
    return Told(status, compared, body)


def _sorted_list(value: str) -> str:
    # Frameworks keep the methods of a route in a set, whose order is another one in each process.
    return ", ".join(sorted(value.split(", ")))


def _bridged(result: object) -> Told:
    told = answer(result)
    return _told(told.status, [(name, each) for name, values in told.headers.items() for each in values], told.body)


def check(site: str, name: str, real: Told | None, bridged: Told) -> None:
    """Fail unless both answers are alike, or differ where that is known and right."""
    if (difference := DIFFERENCES.get((site, name))) is not None:
        assert real != bridged, f"{site} answers {name!r} as its server does: take it out of DIFFERENCES"
        assert bridged.status == difference.status
        assert difference.holds in bridged.body
        return
    assert real is not None, "the server dropped the connection"
    assert real.status in CASES[name].statuses, "the server did not reach the page"
    if CASES[name].only_status:
        assert bridged.status == real.status
        return
    expected = real.headers
    if not any(key == "content-length" for key, _ in bridged.headers):
        # Framing of the server's own: the app gave no length, but the server could tell.
        expected = expected - Counter([("content-length", str(len(real.body)))])
    # One by one, the most telling first, so that a failure shows what differs.
    assert bridged.status == real.status
    assert bridged.body == real.body
    assert bridged.headers == expected


def _names(site: str) -> list[str]:
    return [name for name, case in CASES.items() if case.page in ("", *SITES[site].pages)]


@pytest.fixture(scope="module")
def open_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Served]]:
    """Open a site when it is first asked for: its server in a process, its bridge in this one with telemetry off."""
    opened: dict[str, Served] = {}
    with ExitStack() as stack:

        def of(name: str) -> Served:
            if name not in opened:
                site = SITES[name]
                module = f"{__package__}.apps.{site.module}"
                log = stack.enter_context(open(tmp_path_factory.mktemp(site.module) / "server.log", "w"))
                port = stack.enter_context(running(site.server, f"{module}:{site.variable}", log))
                bridge = stack.enter_context(serve(getattr(importlib.import_module(module), site.variable)))
                opened[name] = Served(site, port, bridge)
            return opened[name]

        yield of


@pytest.mark.parametrize(
    ("site", "name"), [pytest.param(site, name, id=f"{site}-{name}") for site in SITES for name in _names(site)]
)
def test_as_under_a_server(open_site: Callable[[str], Served], site: str, name: str) -> None:
    """A bridge around the app object answers as the server does."""
    served = open_site(site)
    results = [served.bridge(each, None) for each in served.events(CASES[name])]
    check(site, name, served.real(name), _bridged(results[-1]))


@pytest.mark.telemetry
@pytest.mark.parametrize("site", SITES)
def test_through_vc_handler(open_site: Callable[[str], Served], site: str, tmp_path: Path) -> None:
    """``vc_handler`` in a fresh process, with telemetry on, answers all of the cases as the server does."""
    served = open_site(site)
    events = [each for name in _names(site) for each in served.events(CASES[name])]
    app = f"{HERE / 'apps' / served.site.module}.py:{served.site.variable}"
    results, lines = through_vc_handler(app, events, tmp_path)
    assert [line["event"] for line in lines].count("invocation") == len(events)
    answers = iter(results)
    for name in _names(site):
        last = [next(answers) for _ in CASES[name].asks][-1]
        check(site, name, served.real(name), _bridged(last))
