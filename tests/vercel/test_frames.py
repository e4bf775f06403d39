"""The platform of these tests sees what breaks its contract."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.vercel.frames import Ledger

CONTEXT = {"invocationId": "iad1::a", "requestId": 1}
STARTED = ("server-started", {"initDuration": 1, "httpPort": 80, "userInitDuration": 0})
BEGUN = ("handler-started", {"handlerStartedAt": 1, "context": CONTEXT})
LOG = ("log", {"context": CONTEXT, "message": "YQ==", "level": "info"})
STREAMED = ("log", {"context": {"invocationId": "0", "requestId": 0}, "message": "YQ==", "stream": "stdout"})
FETCH = {
    "pathname": "/", "search": "", "start": 1, "duration": 1, "host": "a.example", "statusCode": 200, "method": "GET",
    "id": 1,
}  # fmt: skip
METRIC = ("metric", {"context": CONTEXT, "type": "fetch-metric", "payload": FETCH})
END = ("end", {"context": CONTEXT})
FAILED = ("end", {"context": CONTEXT, "error": {"message": "a"}})
FATAL = ("unrecoverable-error", {"exitCode": 1, "message": "a"})


def read(*frames: tuple[str, dict[str, Any]] | bytes) -> Ledger:
    ledger = Ledger()
    for frame in frames:
        data = frame if isinstance(frame, bytes) else json.dumps({"type": frame[0], "payload": frame[1]}).encode()
        # As a socket may give it: in two parts.
        ledger.feed(data[:7])
        ledger.feed(data[7:] + b"\0")
    ledger.end()
    return ledger


def changed(frame: tuple[str, dict[str, Any]], **changes: object) -> tuple[str, dict[str, Any]]:
    return frame[0], {**frame[1], **changes}


def without(frame: tuple[str, dict[str, Any]], name: str) -> tuple[str, dict[str, Any]]:
    return frame[0], {key: value for key, value in frame[1].items() if key != name}


@pytest.mark.parametrize(
    "frames",
    [
        (STARTED, STREAMED, BEGUN, LOG, METRIC, END, LOG),
        (STARTED, BEGUN, FAILED),
        (FATAL,),
        (STARTED, FATAL),
    ],
    ids=["a request", "a failed request", "a failed start", "a failure later"],
)
def test_what_keeps_the_contract_is_no_violation(frames: tuple[tuple[str, dict[str, Any]], ...]) -> None:
    """All that the table names is taken, in the order that it names."""
    ledger = read(*frames)
    assert ledger.violations == []
    assert [frame.kind for frame in ledger.frames] == [kind for kind, _ in frames]


@pytest.mark.parametrize(
    ("frames", "told"),
    [
        ((b"{",), "Expecting property name"),
        ((b"\xff",), "invalid start byte"),
        ((b"[]",), "is no object of type and payload"),
        ((b'{"type": "end"}',), "is no object of type and payload"),
        ((STARTED, ("finished", {})), "unknown type 'finished'"),
        ((b'{"type": "end", "payload": 1}',), "its payload is no object"),
        ((without(STARTED, "userInitDuration"),), "misses userInitDuration"),
        ((changed(STARTED, initDuration=1.5),), "initDuration is no whole number"),
        ((changed(STARTED, initDuration=-1),), "initDuration is no whole number"),
        ((changed(STARTED, httpPort=True),), "httpPort is no whole number"),
        ((changed(STARTED, httpPort=0),), "httpPort is no port"),
        ((changed(STARTED, more=1),), "has more in it"),
        ((STARTED, STARTED), "server-started is not the first message"),
        ((LOG,), "log comes before server-started"),
        ((BEGUN,), "handler-started comes before server-started"),
        ((FATAL, FATAL), "comes after an unrecoverable error"),
        ((FATAL, STARTED), "comes after an unrecoverable error"),
        ((without(FATAL, "exitCode"),), "misses exitCode"),
        ((STARTED, changed(BEGUN, context={"invocationId": "a"})), "misses requestId"),
        ((STARTED, changed(BEGUN, context={"invocationId": "a", "requestId": "1"})), "requestId is no whole number"),
        ((STARTED, BEGUN, BEGUN), "handler-started comes twice"),
        ((STARTED, BEGUN, END, BEGUN), "handler-started comes twice"),
        ((STARTED, END), "end comes before handler-started"),
        ((STARTED, BEGUN, END, END), "end comes twice"),
        ((STARTED, BEGUN, END, METRIC), "a metric of a request that does not run"),
        ((STARTED, LOG), "a log of a request that has not started"),
        ((STARTED, BEGUN, changed(LOG, level="warning")), "unknown level or stream"),
        ((STARTED, BEGUN, changed(LOG, stream="stdout")), "has a level and a stream, or neither"),
        ((STARTED, BEGUN, without(LOG, "level")), "has a level and a stream, or neither"),
        ((STARTED, BEGUN, changed(LOG, message="a")), "its message is no base64"),
        ((STARTED, BEGUN, changed(METRIC, type="other")), "unknown metric 'other'"),
        ((STARTED, BEGUN, changed(METRIC, payload={**FETCH, "host": None})), "host is no text"),
        ((STARTED, BEGUN, changed(END, error=None)), "an error that says nothing"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_breaks_the_contract_is_noted(frames: tuple[tuple[str, dict[str, Any]] | bytes, ...], told: str) -> None:
    """A message of a wrong shape, or at the wrong time, is one violation that says what is wrong with it."""
    (violation,) = read(*frames).violations
    assert told in violation


def test_a_message_that_is_cut_off_is_noted() -> None:
    """A stream that ends within a message breaks the contract, too."""
    ledger = Ledger()
    ledger.feed(b'{"type"')
    ledger.end()
    assert ledger.violations == ["""the stream ends within a message: b'{"type"'"""]
