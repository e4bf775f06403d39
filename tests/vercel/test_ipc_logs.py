"""What a function writes in IPC mode, with telemetry off: each line is a message, of the request that it belongs to."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import pytest

from tests.vercel.conftest import KINDS
from tests.vercel.frames import NOBODY, Frame, text_of
from tests.vercel.platform import Platform, new_ids

Start = Callable[..., Platform]

TEXT = "one line, caf\u00e9 \U0001f40d"

# By way: what its message must say of it. Warnings are written to stderr by Python itself.
WAYS = {
    "print": {"stream": "stdout"},
    "print to stderr": {"stream": "stderr"},
    "bytes": {"stream": "stdout"},
    "pieces": {"stream": "stdout"},
    "structlog": {"stream": "stdout"},
    "warnings": {"stream": "stderr"},
    "descriptor 1": {"stream": "stdout"},
    "descriptor 2": {"stream": "stderr"},
    "subprocess": {"stream": "stdout"},
    "thread": {"stream": "stdout"},
    "executor": {"stream": "stdout"},
    "debug": {"level": "debug"},
    "info": {"level": "info"},
    "warning": {"level": "warn"},
    "error": {"level": "error"},
    "critical": {"level": "fatal"},
}


@pytest.mark.parametrize(("way", "by"), WAYS.items(), ids=WAYS)
def test_a_line_is_told_with_its_request(platform: Platform, way: str, by: dict[str, str]) -> None:
    """However a line is written, it is told once, whole, before its request's end, with its level or its stream."""
    ids, text = new_ids(), f"{TEXT} by {way}"
    platform.ask(f"/says?by={quote(way)}&text={quote(text)}", ids=ids)
    platform.ended(ids)
    told = platform.frames_of(ids)
    assert told[-1].kind == "end"
    (frame,) = (each for each in told if each.kind == "log" and text in text_of([each]))
    assert {key: frame.payload.get(key) for key in ("level", "stream")} == {"level": None, "stream": None, **by}
    assert text not in platform.logs()


def test_an_exception_is_told_with_its_traceback(platform: Platform) -> None:
    """What ``logging.exception`` logs is one message: the text, and the traceback below it."""
    reply = platform.ask("/says?by=exception&text=too+much")
    platform.ended(reply.ids)
    (frame,) = platform.frames_of(reply.ids, "log")
    text = text_of([frame])
    assert frame.payload["level"] == "error"
    assert text.startswith("caught it\nTraceback")
    assert "BrokenError: too much" in text


def test_a_task_belongs_to_the_request_that_started_it(start: Start) -> None:
    """What a task prints that a request has started belongs to that request."""
    platform = start(KINDS["asgi"])
    ids = new_ids()
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(platform.ask, "/says-later?text=from+a+task", ids=ids, is_pooled=False)
        platform.met("task").release()
        assert reply.result().body == b"said"
    platform.ended(ids)
    assert "from a task" in platform.logs(ids)


def test_what_is_said_after_the_end_is_nobodys(platform: Platform) -> None:
    """A thread that outlives its request is heard still, and no message of a request comes after its end."""
    reply = platform.ask("/says-after?text=far+too+late")
    meeting = platform.met("after")
    platform.ended(reply.ids)
    meeting.release()
    assert platform.wait_for("log", saying="far too late").ids == NOBODY
    assert platform.frames_of(reply.ids)[-1].kind == "end"


def test_lines_of_requests_that_run_at_once_do_not_mix(start: Start, kind: str) -> None:
    """Two requests print by turns, in pieces and whole, and each line is in one message, of its own request."""
    platform = start(KINDS[kind])
    calls = {name: new_ids() for name in ("left", "right")}
    with ThreadPoolExecutor(2) as pool:
        replies = [
            pool.submit(platform.ask, f"/waits?name={name}", ids=ids, is_pooled=False) for name, ids in calls.items()
        ]
        meetings = [platform.met(name) for name in calls]
        between = platform.ask("/says?by=pieces&text=between", is_pooled=False)
        for meeting in meetings:
            meeting.release()
        for reply in replies:
            reply.result()
    for name, ids in calls.items():
        platform.ended(ids)
        assert platform.logs(ids) == f"before {name}\nafter {name}\n"
    platform.ended(between.ids)
    assert platform.logs(between.ids) == "between\n"


# In bytes; vercel-runtime, which has no lock, broke more than half of such frames at a tenth of it.
FLOOD_BYTES = 1_000_000


def test_six_threads_that_write_at_once_break_nothing(start: Start) -> None:
    """Records of 1 MB from six threads are a message each, whole, with their request's ids."""
    platform = start(KINDS["wsgi"])
    reply = platform.ask(f"/floods?bytes={FLOOD_BYTES}")
    platform.ended(reply.ids)
    told = {text_of([frame]).strip() for frame in platform.frames_of(reply.ids, "log")}
    assert told == {f"{number}<{str(number) * FLOOD_BYTES}>{number}" for number in range(6)}


CHATTY = """
import index
print("from the module")

def app(environ, start_response):
    if environ["PATH_INFO"] == "/forks":
        import os, sys
        child = os.fork()
        if child == 0:
            print("from the child")
            os._exit(0)
        os.waitpid(child, 0)
    return index.wsgi_app(environ, start_response)
"""


def test_what_belongs_to_nobody_says_so(start: Start) -> None:
    """What is written outside of any request has the ids ``"0"`` and 0."""
    platform = start("chatty.py", files={"chatty.py": CHATTY})
    platform.ask("/")
    assert platform.wait_for("log", NOBODY, saying="from the module")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_breaks_no_message(start: Start) -> None:
    """A child of the function shares its sockets, and writes into no message of its parent's."""
    platform = start("chatty.py", files={"chatty.py": CHATTY})
    assert platform.ask("/forks").status == 200
    frame: Frame = platform.wait_for("log", saying="from the child")
    assert frame.payload["stream"] == "stdout"
    assert platform.ask("/").status == 200


CONFIGURED = """
import logging, sys
logging.basicConfig(stream=sys.stdout, format="mine: %(message)s", level=logging.INFO)

def app(environ, start_response):
    logging.getLogger("shop").info("once")
    start_response("200 OK", [])
    return [b""]
"""


def test_an_app_that_configures_logging_keeps_it(start: Start) -> None:
    """A record that the app's own handler writes is told once, as that handler has formatted it."""
    platform = start("configured.py", files={"configured.py": CONFIGURED})
    reply = platform.ask("/")
    platform.ended(reply.ids)
    assert platform.logs(reply.ids) == "mine: once\n"


def test_nothing_goes_past_the_platform(platform: Platform) -> None:
    """What has been told is not on the process's own stdout or stderr, too."""
    for way in ("print", "print to stderr", "warning", "descriptor 1"):
        reply = platform.ask(f"/says?by={quote(way)}&text=only+once")
        platform.ended(reply.ids)
        assert platform.logs(reply.ids).count("only once") == 1
    assert "only once" not in platform.stdout + platform.stderr
