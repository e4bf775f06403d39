"""
What any JSON as an event must lead to, and a fuzzer that looks for one that does not.

``python tests/events/fuzz.py --seconds 3600`` needs ``pip install atheris``. Whatever reaches new code is bent
further; what does so at the end is kept in ``tests/events/seeds.jsonl``, an event a line, which the tests ask.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tracedbridge import Bridge

ROOT = Path(__file__).parents[2]

SEEDS = Path(__file__).with_name("seeds.jsonl")

# What stands in events, and what has broken readers of such.
_POOL: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 10**30, "", "/", "//", "*", " ", "\x00", "\r\nx: y", "\ud800", "é", "😀", "%", "%2F",
    "%25", "%zz", "+", "?", "#", "a=1&a=2", "1.0", "2.0", "GET", "get", "B\tD", "$default", "prod", "{proxy+}",
    "/{proxy+}", "ANY /{proxy+}", "[::1]:80", "host:99999", "http", "https", "base64", "AAAA", "=", "-1", "1e3", [], {},
    [None], [""], ["a", "b"], {"a": None}, {"": ""}, {"a": ["b"]},
)  # fmt: skip
_KEYS = (
    "version", "resource", "path", "httpMethod", "headers", "multiValueHeaders", "queryStringParameters",
    "multiValueQueryStringParameters", "pathParameters", "requestContext", "rawPath", "rawQueryString", "routeKey",
    "cookies", "body", "isBase64Encoded", "Action", "elb", "http", "method", "stage", "domainName", "identity",
    "sourceIp", "protocol", "connectionId", "Records", "eventSource", "detail-type", "source", "host", "Host", "cookie",
    "content-length", "transfer-encoding", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "encoding",
)  # fmt: skip


def bridges() -> tuple[Bridge, ...]:
    """Return a bridge to an ASGI and one to a WSGI app, both of which read all that they are told."""
    from tests.support import serve

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])
        assert scope["path"].startswith("/") or scope["path"] == "*"
        assert scope["path"].startswith(scope["root_path"])
        assert all(name == name.lower() for name, _ in scope["headers"])
        message = await receive()
        assert not message["more_body"]
        headers = [(b"content-type", b"text/plain"), (b"x-query", scope["query_string"])]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": message["body"]})

    def wsgi(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        assert all(isinstance(value, str) for name, value in environ.items() if name.isupper())
        assert (environ["SCRIPT_NAME"] + environ["PATH_INFO"]).startswith("/") or environ["RAW_URI"] == "*"
        start_response("200 OK", [("Content-Type", "application/octet-stream")])
        return [environ["wsgi.input"].read()]

    return serve(asgi, "asgi"), serve(wsgi, "wsgi")


def check(event: Any, asked: Iterable[Bridge]) -> None:
    """Ask with an event, and raise AssertionError if that leads to anything but an answer or a named error."""
    from tracedbridge import EventError

    for bridge in asked:
        try:
            told = bridge(event, None)
        except EventError:
            continue
        # The apps answer 200: a 500 would be a fault of ours.
        assert json.loads(json.dumps(told))["statusCode"] in (200, 400), told


def bent(event: Any, seed: int, text: Callable[[str], str]) -> Any:
    """
    Return an event that differs in some places.

    Args:
        event: JSON; changed.
        seed: Says where and how.
        text: Makes another text of a text.
    """
    chance = random.Random(seed)
    root = [event]
    for _ in range(chance.randint(1, 3)):
        holder: Any = root
        key: Any = 0
        while isinstance(holder[key], (dict, list)) and holder[key] and chance.random() < 0.85:
            holder = holder[key]
            key = chance.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        _bend(holder, key, chance, text)
    return root[0]


def _bend(holder: Any, key: Any, chance: random.Random, text: Callable[[str], str]) -> None:
    value = holder[key]
    match chance.randrange(6):
        case 0 if isinstance(holder, dict):
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[chance.choice(_KEYS)] = copy.deepcopy(value)
        case 2:
            holder[key] = [value, copy.deepcopy(chance.choice(_POOL))]
        case 3 | 4 if isinstance(value, str):
            holder[key] = text(value)
        case _:
            holder[key] = copy.deepcopy(chance.choice(_POOL))


def _originals() -> Iterable[Any]:
    from tests.events.lambda_events import KINDS, Asked, event_of

    cookies = [("Cookie", "a=1; b=2"), ("Content-Type", "text/plain")]
    for kind in KINDS:
        yield event_of(kind, Asked("POST", "/a%20b", "a=1&b=%20", cookies, b"x"))
        yield event_of(kind, Asked("GET", "/items/7", stage="prod"))
        yield event_of(kind, Asked("PUT", "/", key="shop", body=b"\xff\x00"))
    yield {"Action": "Invoke", "body": '{"method": "GET", "path": "/a?b=c", "headers": {"host": "x"}, "body": ""}'}
    yield {"requestContext": {"connectionId": "x", "eventType": "MESSAGE"}, "body": "hi"}
    yield {"Records": [{"eventSource": "aws:sqs", "cf": {}}]}
    yield {"source": "aws.events", "detail-type": "Scheduled Event"}


def main() -> None:
    """Look for as long as is asked, and keep what was new."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60)
    seconds = parser.parse_args().seconds
    sys.path.insert(0, str(ROOT))
    import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]  # a tool for an hour, no part of the tests

    with atheris.instrument_imports(include=["tracedbridge"]):
        for name in ("vercel", "apigw_v1", "apigw_v2", "alb", "others"):
            import_module(f"tracedbridge.events.{name}")
    asked = bridges()

    def read(data: bytes) -> Any:
        return json.loads(data.decode("utf-8", "surrogatepass"))

    def one_input(data: bytes) -> None:
        try:
            event = read(data)
        except (ValueError, RecursionError):
            return
        check(event, asked)

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        try:
            event = read(data)
        except (ValueError, RecursionError):
            return json.dumps(random.Random(seed).choice(list(_originals()))).encode()
        event = bent(event, seed, lambda text: atheris.Mutate(text.encode(errors="replace"), 256).decode("latin-1"))
        return json.dumps(event).encode()[:most]

    corpus, ours = Path(tempfile.mkdtemp()), os.getpid()
    try:
        for number, event in enumerate([*_originals(), *seeds()]):
            (corpus / f"{number}.json").write_text(json.dumps(event))
        child = os.fork()
        if not child:
            arguments = [sys.argv[0], str(corpus), f"-max_total_time={seconds}", "-max_len=16384", "-rss_limit_mb=4096"]
            arguments += [f"-artifact_prefix={SEEDS.parent}/found-", "-timeout=20", "-print_final_stats=1"]
            atheris.Setup([*arguments, "-len_control=0"], one_input, custom_mutator=mutate)
            atheris.Fuzz()
        _, status = os.waitpid(child, 0)
        events = [read(each.read_bytes()) for each in sorted(corpus.iterdir(), key=lambda each: each.stat().st_size)]
        with SEEDS.open("w") as file:
            file.writelines(json.dumps(event) + "\n" for event in _telling(events, asked))
    finally:
        # The fuzzer's process comes by here, too, and this one still reads it.
        if os.getpid() == ours:
            shutil.rmtree(corpus)
    sys.exit(os.waitstatus_to_exitcode(status))


def seeds() -> list[Any]:
    """Return the events that were kept."""
    return [json.loads(line) for line in SEEDS.read_text().splitlines()] if SEEDS.exists() else []


def _telling(events: Iterable[Any], asked: Iterable[Bridge]) -> Iterable[Any]:
    """Return the events that take a step, from one line of ours to another, which none before them took."""
    known: set[tuple[str, int, int]] = set()
    for event in events:
        steps: set[tuple[str, int, int]] = set()

        def trace(frame: Any, what: str, _: Any) -> Any:
            file = frame.f_code.co_filename
            if "/tracedbridge/" not in file:
                return None
            before = frame.f_lineno

            def follow(frame: Any, what: str, _: Any) -> Any:
                nonlocal before
                steps.add((file, before, frame.f_lineno))  # noqa: B023 - done with before the next one
                before = frame.f_lineno
                return follow

            return follow

        sys.settrace(trace)
        try:
            check(event, asked)
        except AssertionError:
            steps.clear()
        finally:
            sys.settrace(None)
        if steps - known:
            known |= steps
            yield event


if __name__ == "__main__":
    main()
