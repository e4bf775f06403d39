"""How a function starts in IPC mode, and how it tells that it cannot."""

from __future__ import annotations

import re
import socket
import sys
import time
from collections.abc import Callable

import pytest

from tests.vercel.conftest import KINDS
from tests.vercel.frames import NOBODY
from tests.vercel.platform import Platform

Start = Callable[..., Platform]

# Far more than what else a start of these apps waits for, and little enough to wait.
STARTUP_S = 0.4

# Less than what tracedbridge takes for the age of a process that was up for other reasons.
EARLIER_MS = 5_000


def test_the_server_is_announced_once(platform: Platform) -> None:
    """``server-started`` names a port that answers, before anything else is said, and comes once."""
    assert platform.ask("/").status == 200
    assert platform.frames[0].kind == "server-started"
    assert [frame.kind for frame in platform.frames].count("server-started") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a machine has no second loopback address")
def test_only_this_machine_can_ask(platform: Platform) -> None:
    """The server listens on 127.0.0.1 alone: other addresses of the machine refuse."""
    with socket.socket() as free:
        # Which fails if somebody listens on all addresses.
        free.bind(("127.0.0.2", platform.port))


def test_what_the_start_took_is_told(start: Start) -> None:
    """``initDuration`` has lifespan startup in it, and is no longer than what the platform saw; so is the user's."""
    platform = start(KINDS["asgi"], TEST_STARTUP_S=str(STARTUP_S))
    frame = platform.wait_for("server-started")
    seen_ms = (frame.came_ns - platform.begun_ns) / 1e6
    assert STARTUP_S * 1e3 <= frame.payload["userInitDuration"] <= frame.payload["initDuration"] <= seen_ms + 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_response_tells_what_the_start_took(start: Start, kind: str) -> None:
    """Its three parts follow one another, and come to ``initDuration``; no other response has them, nor a ping's."""
    platform = start(KINDS[kind])
    frame = platform.wait_for("server-started")
    values = [
        [value for name, value in platform.ask(path).headers if name == "x-vercel-internal-timing"]
        for path in ("/_vercel/ping", "/", "/")
    ]
    assert [len(each) for each in values] == [0, 1, 0]
    parts = re.findall(r'([a-z-]+);dur=(\d+);desc="[^"]+";offset=(\d+)', values[1][0])
    assert [name for name, _, _ in parts] == ["bootstrap", "import-fn", "server-ready"]
    took = [int(took_ms) for _, took_ms, _ in parts]
    assert [int(offset_ms) for _, _, offset_ms in parts] == [0, took[0], took[0] + took[1]]
    assert abs(sum(took) - frame.payload["initDuration"]) <= 5


def test_a_boot_that_began_earlier_counts(start: Start) -> None:
    """The platform's trampoline says when the boot began; ``initDuration`` counts from there."""
    earlier_ms = max(time.monotonic_ns() // 1_000_000 - EARLIER_MS, 1)
    platform = start(KINDS["wsgi"], __VC_PY_BOOT_START_MS=str(earlier_ms))
    frame = platform.wait_for("server-started")
    assert frame.payload["initDuration"] >= platform.begun_ns // 1_000_000 - earlier_ms


# What was said before the server had started.


@pytest.mark.parametrize(
    ("said", "by"),
    [
        ("early print", {"stream": "stdout"}),
        ("early record", {"level": "warn"}),
        ("early descriptor", {"stream": "stderr"}),
    ],
    ids=["print", "record", "descriptor"],
)
def test_what_was_said_early_waits(start: Start, kind: str, said: str, by: dict[str, str]) -> None:
    """What an app says while it is imported comes after ``server-started``, and belongs to no request."""
    platform = start(KINDS[kind], TEST_SAY_EARLY="1")
    frame = platform.wait_for("log", saying=said)
    assert frame.ids == NOBODY
    assert {key: frame.payload.get(key) for key in by} == by


def test_much_that_was_said_early_is_not_lost(start: Start) -> None:
    """Of what is said early 1 MB waits; what is more goes to stderr at once, and nothing is lost or told twice."""
    platform = start(KINDS["wsgi"], TEST_SAY_MUCH_BYTES="2000000")
    platform.ask("/")
    waited, went_on = platform.logs(), platform.stderr
    parts = [f"part {number} " for number in range(4)]
    assert [part in waited for part in parts] == [part not in went_on for part in parts]
    assert parts[0] in waited
    assert parts[3] in went_on
    assert len(waited) <= 1_000_000


# What cannot start.

LIFESPAN_FAILS = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})
"""

LIFESPAN_RAISES = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        raise RuntimeError("no database")
"""

# As an old server, or a broken image.
NO_UVICORN = """
import sys

class NotThere:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "uvicorn":
            raise ModuleNotFoundError("No module named 'uvicorn'", name="uvicorn")

sys.meta_path.insert(0, NotThere())
from tracedbridge import vc_handler
"""

NO_WSPROTO = NO_UVICORN.replace("uvicorn", "wsproto")

CANNOT_START = {
    "import error": ("broken.py", {"broken.py": "import does_not_exist"}, None, "does_not_exist"),
    "syntax error": ("broken.py", {"broken.py": "def app(:"}, None, "SyntaxError"),
    "app raises": ("broken.py", {"broken.py": "raise ValueError('too early')"}, None, "too early"),
    "exit": ("broken.py", {"broken.py": "import sys; sys.exit(3)"}, None, "sys.exit(3)"),
    "clean exit": ("broken.py", {"broken.py": "import sys; sys.exit(0)"}, None, "sys.exit(0)"),
    "no file": ("nowhere.py", {}, None, "nowhere.py"),
    "no app": ("broken.py", {"broken.py": "spam = 1"}, None, "broken.py"),
    "no such variable": ("index.py:spam", {}, None, "spam"),
    "no app at all": ("broken.py", {"broken.py": "app = 1"}, None, "broken.py"),
    "lifespan says so": ("broken.py", {"broken.py": LIFESPAN_FAILS}, None, "no database"),
    "lifespan raises": ("broken.py", {"broken.py": LIFESPAN_RAISES}, None, "no database"),
    "no uvicorn": ("index.py:app", {}, NO_UVICORN, "tracedbridge[vercel]"),
    "no wsproto": ("index.py:app", {}, NO_WSPROTO, "tracedbridge[vercel]"),
    "no uvicorn for a WSGI app": ("index.py:wsgi_app", {}, NO_UVICORN, "tracedbridge[vercel]"),
}


@pytest.mark.parametrize(("app", "files", "entry", "reason"), CANNOT_START.values(), ids=CANNOT_START)
def test_what_cannot_start_says_why(
    start: Start, app: str, files: dict[str, str], entry: str | None, reason: str
) -> None:
    """One ``unrecoverable-error`` with the reason, alone; the same on stderr; the process ends with an error."""
    platform = start(app, files=files, entry=entry)
    code = platform.exit_code()
    (frame,) = platform.frames
    assert frame.kind == "unrecoverable-error"
    assert reason in frame.payload["message"]
    assert reason in platform.stderr
    assert code != 0
    assert frame.payload["exitCode"] == code


def test_a_traceback_is_in_the_reason(start: Start) -> None:
    """Who reads why an app could not be imported finds the line of his own that did it."""
    platform = start("broken.py", files={"broken.py": "def load():\n    return {}['price']\n\nload()\n"})
    platform.exit_code()
    (frame,) = platform.frames
    assert "broken.py" in frame.payload["message"]
    assert "return {}['price']" in frame.payload["message"] + platform.stderr


def test_the_last_words_of_what_cannot_start_are_on_stderr(start: Start) -> None:
    """What an app said before it failed cannot be told by a message any more, and is not lost."""
    platform = start("broken.py", files={"broken.py": "print('nearly there')\nraise ValueError('too early')"})
    platform.exit_code()
    assert [frame.kind for frame in platform.frames] == ["unrecoverable-error"]
    assert "nearly there" in platform.stderr


def test_a_platform_that_nobody_answers_for_is_an_error(start: Start) -> None:
    """Where nobody listens there is nobody to serve: the process ends, and stderr names the socket."""
    platform = start(KINDS["wsgi"], VERCEL_IPC_PATH="nowhere.sock")
    assert platform.exit_code() != 0
    assert platform.frames == []
    assert "nowhere.sock" in platform.stderr


SLOW_LIFESPAN = """
import index

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await index.meet_soon("startup")
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await index.app(scope, receive, send)
"""


def test_a_startup_takes_the_time_it_needs(start: Start) -> None:
    """Nothing is announced while lifespan startup runs, however long: to stop waiting is the platform's decision."""
    platform = start("slow.py", files={"slow.py": SLOW_LIFESPAN})
    meeting = platform.met("startup")
    # Whoever announces before it waits for the app has done so by now.
    assert platform.frames == []
    meeting.release()
    assert platform.ask("/").status == 200


def test_a_process_that_dies_in_a_request_is_no_hang(start: Start, kind: str) -> None:
    """Nothing more can be told by a process that ends itself; what it has said until then has been told."""
    platform = start(KINDS[kind])
    with platform.wire() as wire:
        ids = wire.ask("GET", "/exits")
        assert wire.to_the_end() == b""
    assert platform.exit_code() == 7
    assert [frame.kind for frame in platform.frames_of(ids)] == ["handler-started", "log"]
    assert "the last words" in platform.logs(ids)
