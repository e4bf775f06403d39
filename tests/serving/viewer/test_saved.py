"""What came is saved as OTLP JSON lines, and such files, whoever wrote them, are read again."""

from __future__ import annotations

import gzip
import json
import os
import resource
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.serving.viewer.test_app import JSON, PLANTED, PROTOBUF, SIGNALS, SPAN_ID, TRACE_ID, body, document
from tests.support import HANG_S
from tracedbridge.refusal import Refusal
from tracedbridge.serving.intake import Taken
from tracedbridge.serving.viewer.saved import Saver, read

if TYPE_CHECKING:
    from tracedbridge.serving.intake import Signal

pytestmark = pytest.mark.telemetry

TRACES: Signal = "traces"
METRICS: Signal = "metrics"
LOGS: Signal = "logs"


def taken(signal: Signal, sent: bytes, content_type: str = PROTOBUF, content_encoding: str = "") -> Taken:
    """Return a request as the intake gives it; that it has records is all that counts here."""
    return Taken(signal, [object()], sent, content_type, content_encoding)


@pytest.fixture(name="warnings")
def list_of_warnings() -> list[str]:
    """What a saver had to say."""
    return []


@pytest.fixture(name="path")
def path_of_a_new_file(tmp_path: Path) -> Path:
    """Where nothing is yet."""
    return tmp_path / "saved.jsonl"


@pytest.fixture(name="saver")
def saver_to_the_file(path: Path, warnings: list[str]) -> Iterator[Saver]:
    """A saver."""
    saver = Saver(path, warn=warnings.append)
    yield saver
    saver.close()


def lines(path: Path) -> list[Any]:
    """Return the documents in a file."""
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def names(path: Path) -> list[str]:
    """Return the names of the spans in a file, as they are read."""
    return [record.name for _, records in read(path) for record in records]


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("text", ["GET /", PLANTED, "é €\U0001f600"], ids=["plain", "planted", "Unicode"])
@pytest.mark.parametrize(
    ("content_type", "encoding"),
    [
        pytest.param(PROTOBUF, "", id="protobuf"),
        pytest.param(PROTOBUF, "gzip", id="gzip"),
        pytest.param(f"{JSON}; charset=utf-8", "", id="JSON"),
    ],
)
def test_a_request_is_saved_whole(
    saver: Saver, path: Path, warnings: list[str], signal: Signal, text: str, content_type: str, encoding: str
) -> None:
    """A line is the request in OTLP/JSON: ids in hex, enums as numbers, 64-bit integers as text, nothing left out."""
    sent = body(signal, PROTOBUF if content_type == PROTOBUF else JSON, text)
    saver.save(taken(signal, gzip.compress(sent) if encoding else sent, content_type, encoding))
    assert lines(path) == [document(signal, text)]
    assert path.read_bytes().isascii()
    assert path.read_bytes().count(b"\n") == 1
    ((read_signal, records),) = read(path)
    assert (read_signal, len(records)) == (signal, 1)
    assert records[0].resource == {"service.name": text, text: text}
    assert warnings == []


def test_order_is_kept(saver: Saver, path: Path) -> None:
    """Requests are read in the order in which they came, and those with nothing in them are not saved."""
    for number, signal in enumerate((LOGS, TRACES, METRICS, TRACES)):
        saver.save(taken(signal, body(signal, text=str(number))))
        saver.save(Taken(signal, [], b"", PROTOBUF, ""))
    assert [(signal, records[0].scope.name) for signal, records in read(path)] == [
        ("logs", "0"),
        ("traces", "1"),
        ("metrics", "2"),
        ("traces", "3"),
    ]


def test_threads_do_not_mix_their_lines(saver: Saver, path: Path) -> None:
    """Requests of several threads are lines of their own, long ones, too."""
    long = "x" * 10_000

    def save(text: str) -> None:
        for _ in range(5):
            saver.save(taken(TRACES, body(TRACES, text=text)))

    threads = [threading.Thread(target=save, args=(f"{number}{long}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_S)
    assert sorted(names(path)) == sorted(f"{number}{long}" for number in range(4) for _ in range(5))


def test_only_its_user_may_read_a_new_file(saver: Saver, path: Path) -> None:
    """A new file is its user's alone; one that is there keeps its mode and what is in it."""
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    saver.save(taken(TRACES, body(TRACES, text="old")))
    path.chmod(0o640)
    other = Saver(path)
    other.save(taken(TRACES, body(TRACES, text="new")))
    other.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert names(path) == ["old", "new"]


@pytest.mark.parametrize(
    "name", ["", "missing/saved.jsonl", "null\0byte"], ids=["folder", "missing folder", "null byte"]
)
def test_a_file_that_cannot_be_opened(tmp_path: Path, name: str) -> None:
    """Where nothing can be saved, one is told so before anything is sent, and nothing that is missing can be read."""
    with pytest.raises(Refusal, match="could not save to '"):
        Saver(tmp_path / name)
    with pytest.raises(Refusal, match="could not read '"):
        list(read(tmp_path / name))


def test_a_full_disk_is_one_warning(saver: Saver, path: Path, warnings: list[str]) -> None:
    """What does not fit is left out whole, with one warning; when there is room again, saving goes on."""
    saver.save(taken(TRACES, body(TRACES, text="first")))
    size = path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Half a line fits. It is the process's limit, but nothing else writes to files this long meanwhile.
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + size // 2, hard))
    try:
        for _ in range(2):
            saver.save(taken(TRACES, body(TRACES, text="lost")))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.stat().st_size == size
    saver.save(taken(TRACES, body(TRACES, text="last")))
    assert names(path) == ["first", "last"]
    (warning,) = warnings
    assert warning.startswith(f"could not save a request to {str(path)!r}: File too large")


def test_what_could_not_be_read_again_is_not_saved(
    saver: Saver, path: Path, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that is too long as JSON is left out with a warning, and the file can be read."""
    monkeypatch.setattr("tracedbridge.telemetry.otlp.MAX_BODY_BYTES", 2_000)
    for text in ("a", "b" * 80, "c"):
        saver.save(taken(TRACES, body(TRACES, text=text)))
    assert names(path) == ["a", "c"]
    (warning,) = warnings
    assert "more than the 2000 that can be read again" in warning


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has a device that is always full")
def test_a_warning_goes_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    """Unless somebody else wants it, the warning is one line on standard error."""
    saver = Saver(Path("/dev/full"))
    for _ in range(3):
        saver.save(taken(TRACES, body(TRACES, text=PLANTED)))
    saver.close()
    saver.close()
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("tracedbridge: could not save a request to '/dev/full': No space left on device")


def test_a_line_that_a_crash_has_cut(path: Path) -> None:
    """What comes after half a line begins a line of its own."""
    path.write_bytes(b'{"resourceSpans":[{"sco')
    saver = Saver(path)
    for text in ("a", "b"):
        saver.save(taken(TRACES, body(TRACES, text=text)))
    saver.close()
    requests = path.read_bytes().splitlines()
    assert [json.loads(line)["resourceSpans"][0]["scopeSpans"][0]["scope"]["name"] for line in requests[1:]] == [
        "a",
        "b",
    ]


# As the collector's file exporter writes it: its own order of keys, empty fields, and no line end after the last.
COLLECTOR = (
    (
        '{"resourceSpans":[{"resource":{},"scopeSpans":[{"scope":{},"spans":[{"traceId":"TRACE","spanId":"SPAN",'
        '"parentSpanId":"","name":"a","kind":1,"startTimeUnixNano":"1","endTimeUnixNano":"2","status":{}}]}]}]}\n'
        '\n{"resourceLogs":[{"resource":{},"scopeLogs":[{"scope":{},"logRecords":[{"body":{"stringValue":"b"},'
        '"traceId":"","spanId":""}]}]}]}'
    )
    .replace("TRACE", TRACE_ID)
    .replace("SPAN", SPAN_ID)
)


def test_a_file_of_the_collector(path: Path) -> None:
    """A file of the collector's file exporter is read, also across empty lines."""
    path.write_text(COLLECTOR)
    (traces, spans), (logs, records) = read(path)
    assert (traces, [span.name for span in spans]) == ("traces", ["a"])
    assert (logs, [record.body for record in records]) == ("logs", ["b"])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        pytest.param(b"no JSON", "it is no JSON", id="no JSON"),
        pytest.param(b'{"resourceSpans":[', "it is no JSON", id="cut"),
        pytest.param(b"[" * 100_000, "it is no JSON", id="deep"),
        pytest.param(b"\x28\xb5\x2f\xfd", "it is no JSON", id="zstd"),
        pytest.param(b"[]", "it is no object with one of resourceSpans, ", id="list"),
        pytest.param(b'{"spans":[]}', "it is no object with one of resourceSpans, ", id="another format"),
        pytest.param(b'{"resourceSpans":7}', "could not decode traces", id="wrong type"),
        pytest.param(
            b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"\\u001b[31m"}]}]}]}',
            "could not decode traceId",
            id="planted",
        ),
        pytest.param(b" " * 3_000, "it has more than 2000 bytes", id="long"),
    ],
)
def test_a_bad_line_is_named(path: Path, monkeypatch: pytest.MonkeyPatch, line: bytes, reason: str) -> None:
    """A line that is no request is refused by its number, in text fit for a terminal; what came before is read."""
    monkeypatch.setattr("tracedbridge.telemetry.otlp.MAX_BODY_BYTES", 200_000 if b"[[" in line else 2_000)
    path.write_bytes(body(TRACES, JSON) + b"\n\n" + line + b"\n" + body(LOGS, JSON) + b"\n")
    requests = read(path)
    assert next(requests)[0] == "traces"
    with pytest.raises(Refusal) as caught:
        next(requests)
    told = str(caught.value)
    assert told.startswith(f"could not read {str(path)!r}: line 3: {reason}")
    assert told.isprintable()


def test_one_line_with_two_signals(path: Path) -> None:
    """A line that holds spans and logs gives both."""
    path.write_text(json.dumps({**document("traces"), **document("logs")}))
    assert [signal for signal, _ in read(path)] == ["traces", "logs"]
