"""Contract of `tracedbridge.apps.asgi`: lifespan, one loop, requests in their caller's context, and no hanging."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import signal
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import (
    HANG_S,
    Asgi,
    Receive,
    Scope,
    Send,
    answer,
    bounded,
    event,
    no_lifespan,
    respond,
    run_python,
    serve,
)
from tracedbridge import Bridge, BridgeClosedError, ShutdownError, StartupError

Work = Callable[[Receive, Send], Awaitable[None]]

caller = contextvars.ContextVar("caller", default="unset")


def http_app(work: Work) -> Asgi:
    """Return an ASGI app without lifespan that does ``work`` in every request."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        no_lifespan(scope)
        await work(receive, send)

    return app


class Living:
    """An ASGI app with a lifespan, that notes what happens to it."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.states: list[dict[str, Any]] = []
        self.shared: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            self.seen.append("request")
            self.states.append(scope["state"])
            await respond(send)
            return
        assert (await receive())["type"] == "lifespan.startup"
        self.seen.append("startup")
        scope["state"]["shared"] = self.shared
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        self.seen.append("shutdown")
        await send({"type": "lifespan.shutdown.complete"})


def test_lifespan_once() -> None:
    """Startup runs once before the first request, shutdown once at the first ``close()``."""
    app = Living()
    with serve(app) as bridge:
        assert app.seen == ["startup"]
        for _ in range(3):
            assert answer(bridge(event())).status == 200
        bridge.close()
    bridge.close()
    assert app.seen == ["startup", "request", "request", "request", "shutdown"]


def test_state() -> None:
    """Each request gets a copy of the lifespan's state: the values are shared, the dictionary is not."""
    app = Living()
    with serve(app) as bridge:
        bridge(event())
        app.states[0]["own"] = True
        bridge(event())
    assert app.states[1] == {"shared": app.shared}
    assert app.states[0]["shared"] is app.states[1]["shared"] is app.shared


def test_state_without_lifespan() -> None:
    """An app without lifespan finds an empty state, as new for each request."""
    states: list[dict[str, Any]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        no_lifespan(scope)
        states.append(dict(scope["state"]))
        scope["state"]["own"] = True
        await respond(send)

    with serve(app) as bridge:
        bridge(event())
        bridge(event())
    assert states == [{}, {}]


def test_closed() -> None:
    """A closed bridge refuses events by name."""
    bridge = serve(Living())
    bridge.close()
    with pytest.raises(BridgeClosedError):
        bridge(event())


async def raises_on_type(scope: Scope, receive: Receive, send: Send) -> None:
    no_lifespan(scope)
    await respond(send)


async def asserts_type(scope: Scope, receive: Receive, send: Send) -> None:
    assert scope["type"] == "http"
    await respond(send)


async def returns_at_once(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await respond(send)


async def answers_everything(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send)


async def answers_everything_after_a_message(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await respond(send)


WITHOUT_LIFESPAN = [
    raises_on_type,
    asserts_type,
    returns_at_once,
    answers_everything,
    answers_everything_after_a_message,
]


@pytest.mark.parametrize("app", WITHOUT_LIFESPAN)
def test_no_lifespan(app: Asgi, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    """An app without lifespan works and nothing is said about it, however it shows that it has none."""
    caplog.set_level(logging.DEBUG)
    with serve(app) as bridge:
        assert answer(bridge(event())) == (200, {}, b"ok")
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.name != "asyncio"] == []


def test_startup_failed() -> None:
    """``lifespan.startup.failed`` is a `StartupError` with the app's message."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    with pytest.raises(StartupError, match="no database"):
        bounded(lambda: serve(app))


def test_startup_raises() -> None:
    """An exception in startup is a `StartupError` with that exception as its cause."""
    raised = ZeroDivisionError("no database")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        raise raised

    with pytest.raises(StartupError, match="ZeroDivisionError: no database") as caught:
        bounded(lambda: serve(app))
    assert caught.value.__cause__ is raised


@pytest.mark.parametrize("leaving", [SystemExit, KeyboardInterrupt])
def test_startup_leaves(leaving: type[BaseException]) -> None:
    """SystemExit and KeyboardInterrupt in startup go through."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise leaving

    with pytest.raises(leaving):
        bounded(lambda: serve(app))


def closing(failure: Callable[[Send], Awaitable[None]]) -> Asgi:
    """Return an app whose shutdown is ``failure``."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await respond(send)
            return
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await failure(send)

    return app


async def says_so(send: Send) -> None:
    await send({"type": "lifespan.shutdown.failed", "message": "pool is stuck"})


async def raises(send: Send) -> None:
    raise ZeroDivisionError("pool is stuck")


async def never_ends(send: Send) -> None:
    await asyncio.Event().wait()


async def cannot_be_cancelled(send: Send) -> None:
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue


SHUTDOWNS = {
    "says so": (says_so, "pool is stuck"),
    "raises": (raises, "pool is stuck"),
    "never ends": (never_ends, "took more than"),
    "cannot be cancelled": (cannot_be_cancelled, "took more than"),
}


@pytest.mark.parametrize(("failure", "said"), SHUTDOWNS.values(), ids=SHUTDOWNS.keys())
def test_shutdown_fails(failure: Callable[[Send], Awaitable[None]], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shutdown that fails or does not end is a `ShutdownError` from ``close()``, within its time."""
    monkeypatch.setattr("tracedbridge.bridge._STOP_TIMEOUT_S", 0.05)
    bridge = serve(closing(failure))
    assert answer(bridge(event())).status == 200
    with pytest.raises(ShutdownError, match=said):
        bounded(bridge.close)


# A module to be served by subprocesses: it says what happens to it, and shuts down through asyncio.to_thread(),
# which is what an executor closed too early would break.
NOISY_APP = """
import asyncio, os, signal, sys

def say(text):
    print(text, flush=True)

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        say("startup")
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await asyncio.to_thread(say, "shutdown")
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] != "/":
        os.kill(os.getpid(), signal.SIGTERM if scope["path"] == "/term" else signal.SIGINT)
        # Python runs the signal's handler between two steps of the loop.
        for _ in range(100):
            await asyncio.sleep(0)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
    say("request")
"""

CALL = """
import json, os, signal, sys, threading
from tracedbridge import vc_handler

def call(path="/"):
    return vc_handler({"body": json.dumps({"method": "GET", "path": path, "headers": {}})}, None)

"""

LOADED_IN_A_THREAD = """
import json, threading

def work():
    import tracedbridge
    tracedbridge.vc_handler({"body": json.dumps({"method": "GET", "path": "/", "headers": {}})}, None)

thread = threading.Thread(target=work)
thread.start()
thread.join()
"""

LIVED = ["startup", "request", "shutdown"]
ENDINGS: dict[str, tuple[str, int, list[str]]] = {
    "interpreter exit": (CALL + "call()", 0, LIVED),
    "exit without a request": (CALL, 0, ["startup", "shutdown"]),
    "sys.exit": (CALL + "call(); sys.exit(3)", 3, LIVED),
    "exception": (CALL + "call(); raise ValueError", 1, LIVED),
    "interrupt": (CALL + "call(); raise KeyboardInterrupt", -signal.SIGINT, LIVED),
    "interrupt in a request": (
        # Where the tests run in the background, a shell has it ignored.
        CALL + "signal.signal(signal.SIGINT, signal.default_int_handler); call('/interrupt')",
        -signal.SIGINT,
        ["startup", "shutdown"],
    ),
    "SIGTERM while idle": (
        CALL + "call(); os.kill(os.getpid(), signal.SIGTERM); signal.pause()", -signal.SIGTERM, LIVED
    ),
    "SIGTERM in a request": (CALL + "call('/term'); signal.pause()", -signal.SIGTERM, LIVED),
    "SIGTERM with a handler of somebody's": (
        "import signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('handler', flush=True), sys.exit(7)))\n"
        + CALL
        + "call(); os.kill(os.getpid(), signal.SIGTERM); signal.pause()",
        7,
        [*LIVED, "handler"],
    ),
    "SIGTERM ignored": (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        + CALL
        + "call(); os.kill(os.getpid(), signal.SIGTERM); call()",
        0,
        ["startup", "request", "request", "shutdown"],
    ),
    "closed before": (CALL + "call(); vc_handler.close()", 0, LIVED),
    "first call in a thread": (
        CALL + "thread = threading.Thread(target=call); thread.start(); thread.join()", 0, LIVED
    ),
    "loaded in a thread": (LOADED_IN_A_THREAD, 0, LIVED),
    "in a forked child": (
        CALL + "call()\npid = os.fork()\nif pid == 0:\n    sys.exit(0)\nos.waitpid(pid, 0)", 0, LIVED
    ),
}  # fmt: skip


@pytest.mark.parametrize(("script", "code", "said"), ENDINGS.values(), ids=ENDINGS.keys())
def test_end_of_process(script: str, code: int, said: list[str], tmp_path: Path) -> None:
    """Shutdown runs once at the end of the process, however it ends, and may use ``asyncio.to_thread()``."""
    (tmp_path / "index.py").write_text(NOISY_APP)
    # 3.12 and later warn of every fork in a process with threads, which is the fork's affair and not ours.
    done = run_python("-W", "error", "-W", "ignore:.*fork:DeprecationWarning", "-c", script, cwd=tmp_path)
    assert done.stdout.split() == said, done.stderr
    assert done.returncode == code, done.stderr
    if code <= 0 and code != -signal.SIGINT:
        assert done.stderr == ""


LOOPS = {
    "asyncio.run at import": ("import asyncio\nasyncio.run(asyncio.sleep(0))\n" + NOISY_APP, CALL + "call(); call()"),
    "asyncio.run between calls": (NOISY_APP, CALL + "import asyncio\ncall(); asyncio.run(asyncio.sleep(0)); call()"),
    "no event loop in the thread": (
        NOISY_APP,
        CALL + "import asyncio\nasyncio.set_event_loop(None)\ncall(); call()",
    ),
    "running loop": (
        NOISY_APP,
        "async def main():\n    "
        + CALL.replace("\n", "\n    ")
        + "call(); call()\nimport asyncio\nasyncio.run(main())",
    ),
}


@pytest.mark.parametrize(("app", "script"), LOOPS.values(), ids=LOOPS.keys())
def test_other_loops(app: str, script: str, tmp_path: Path) -> None:
    """Other event loops do no harm, before and between calls and in the calling thread, also under ``-W error``."""
    (tmp_path / "index.py").write_text(app)
    done = run_python("-X", "dev", "-W", "error", "-c", script, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["startup", "request", "request", "shutdown"]


def test_one_loop() -> None:
    """Lifespan and all requests of a thread run on one event loop, which is the one that the app sees as running."""
    loops: list[asyncio.AbstractEventLoop] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        loops.append(asyncio.get_running_loop())
        if scope["type"] == "http":
            await respond(send)

    with serve(app) as bridge:
        bridge(event())
        bounded(lambda: bridge(event()))
        assert loops[0] is loops[1] is loops[2]
    assert loops[0].is_closed()


def test_running_loop() -> None:
    """A bridge can be made, called and closed in a coroutine, on a loop that is not the app's."""
    app = Living()

    async def main() -> int:
        with serve(app) as bridge:
            return answer(bridge(event())).status

    assert bounded(lambda: asyncio.run(main())) == 200
    assert app.seen == ["startup", "request", "shutdown"]


def test_context_of_request() -> None:
    """A request sees its caller's context variables, on any thread; what it sets stays its own."""
    seen: list[str] = []

    async def work(receive: Receive, send: Send) -> None:
        seen.append(caller.get())
        caller.set("request")
        await respond(send)

    with serve(http_app(work)) as bridge:

        def call_as(name: str) -> str:
            caller.set(name)
            bridge(event())
            return caller.get()

        async def call_in_loop() -> str:
            return call_as("loop")

        assert contextvars.copy_context().run(call_as, "here") == "here"
        assert bounded(lambda: call_as("thread")) == "thread"
        assert bounded(lambda: asyncio.run(call_in_loop())) == "loop"
        bridge(event())
    assert seen == ["here", "thread", "loop", "unset"]


def test_context_of_lifespan() -> None:
    """Lifespan has one context from startup to shutdown, and what it sets there no request sees."""
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            seen.append(caller.get())
            await respond(send)
            return
        await receive()
        caller.set("lifespan")
        await send({"type": "lifespan.startup.complete"})
        await receive()
        seen.append(caller.get())
        await send({"type": "lifespan.shutdown.complete"})

    with serve(app) as bridge:
        assert caller.get() == "unset"
        bridge(event())
    assert seen == ["unset", "lifespan"]


def test_scope() -> None:
    """The scope has what ASGI says, with spec_version 2.4 or later, where a send to nobody is an OSError."""
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        no_lifespan(scope)
        scopes.append(scope)
        await respond(send)

    with serve(app) as bridge:
        bridge(event("PUT", "/a%20b?c", headers={"Host": "a.example", "X-Forwarded-For": "192.0.2.1"}))
    scope = dict(scopes[0])
    version = scope["asgi"].pop("spec_version")
    assert tuple(map(int, version.split("."))) >= (2, 4)
    client = scope.pop("client")
    assert (client[0], type(client[1])) == ("192.0.2.1", int)
    assert scope == {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "PUT",
        "scheme": "https",
        "path": "/a b",
        "raw_path": b"/a%20b",
        "query_string": b"c",
        "root_path": "",
        "headers": [(b"host", b"a.example"), (b"x-forwarded-for", b"192.0.2.1")],
        "server": ("a.example", 443),
        "state": {},
    }


def test_receive_waits() -> None:
    """After the body, ``receive`` waits until the response is complete, and then tells of the disconnect."""
    events: list[str] = []

    async def work(receive: Receive, send: Send) -> None:
        assert await receive() == {"type": "http.request", "body": b"hello", "more_body": False}
        listeners = [asyncio.ensure_future(receive()) for _ in range(2)]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(3):
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            await asyncio.sleep(0)
        events.append(f"before: {[listener.done() for listener in listeners]}")
        await send({"type": "http.response.body", "body": b"x"})
        events.extend([(await listener)["type"] for listener in listeners])
        events.append((await receive())["type"])

    with serve(http_app(work)) as bridge:
        given_back = bounded(lambda: bridge(event("POST", body="hello")))
    assert answer(given_back).body == b"xxxx"
    assert events == ["before: [False, False]", "http.disconnect", "http.disconnect", "http.disconnect"]


def test_background_task() -> None:
    """What the app still does after its response is done when the bridge returns."""
    done: list[str] = []

    async def work(receive: Receive, send: Send) -> None:
        await respond(send)
        await asyncio.to_thread(done.append, "background")

    with serve(http_app(work)) as bridge:
        assert answer(bridge(event())).status == 200
        assert done == ["background"]


def test_background_task_raises() -> None:
    """What fails after the response does not change it, and the next request is answered."""

    async def work(receive: Receive, send: Send) -> None:
        await respond(send)
        raise ZeroDivisionError

    with serve(http_app(work)) as bridge:
        assert answer(bridge(event())) == answer(bridge(event())) == (200, {}, b"ok")


def test_task_left_behind() -> None:
    """A task that outlives its request goes on in the next one."""
    done: list[str] = []
    tasks: list[asyncio.Task[None]] = []
    go = asyncio.Event()

    async def linger() -> None:
        done.append("begun")
        await go.wait()
        done.append("ended")

    async def work(receive: Receive, send: Send) -> None:
        if tasks:
            go.set()
        else:
            tasks.append(asyncio.create_task(linger()))
        await respond(send)
        await asyncio.sleep(0)

    with serve(http_app(work)) as bridge:
        bridge(event())
        assert done == ["begun"]
        bridge(event())
        bridge(event())
        assert done == ["begun", "ended"]


def test_task_cancelled_at_close() -> None:
    """A task that is left behind for good is cancelled at ``close()`` and may clean up."""
    seen: list[str] = []
    tasks: list[asyncio.Task[None]] = []

    async def linger() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            seen.append("cleaned up")
            raise

    async def work(receive: Receive, send: Send) -> None:
        tasks.append(asyncio.create_task(linger()))
        await asyncio.sleep(0)
        await respond(send)

    with serve(http_app(work)) as bridge:
        bridge(event())
        assert seen == []
    assert seen == ["cleaned up"]
    assert tasks[0].cancelled()


START = {"type": "http.response.start", "status": 200, "headers": []}
BODY = {"type": "http.response.body", "body": b"hello"}
PART = {**BODY, "more_body": True}

VIOLATIONS: dict[str, list[Any]] = {
    "no response": [],
    "start only": [START],
    "no last body": [START, PART],
    "two starts": [START, START, BODY],
    "a start after a part": [START, PART, START, BODY],
    "body before the start": [BODY, START, BODY],
    "body without a start": [BODY],
    "no status": [{"type": "http.response.start", "headers": []}, BODY],
    "status is a string": [{**START, "status": "200"}, BODY],
    "status is None": [{**START, "status": None}, BODY],
    "status too low": [{**START, "status": 99}, BODY],
    "status too high": [{**START, "status": 1000}, BODY],
    "header names are strings": [{**START, "headers": [("a", b"1")]}, BODY],
    "header values are strings": [{**START, "headers": [(b"a", "1")]}, BODY],
    "headers are no pairs": [{**START, "headers": [b"abc"]}, BODY],
    "headers are a number": [{**START, "headers": 1}, BODY],
    "header injection": [{**START, "headers": [(b"a", b"1\r\nb: 2")]}, BODY],
    "header name is no token": [{**START, "headers": [(b"a b", b"1")]}, BODY],
    "body is a string": [START, {**BODY, "body": "hello"}],
    "body is None": [START, {**BODY, "body": None}],
    "body is a number": [START, {**BODY, "body": 5}],
    "body is a list of numbers": [START, {**BODY, "body": [104, 105]}],
    "body too short": [{**START, "headers": [(b"content-length", b"9")]}, BODY],
    "body too long": [{**START, "headers": [(b"content-length", b"1")]}, BODY],
    "message of another protocol": [{"type": "websocket.accept"}],
    "message of no type": [{"status": 200}],
    "message of an unknown type": [{"type": "http.response.end"}, START, BODY],
    "message is None": [None],
}


@pytest.mark.parametrize("insists", [False, True], ids=["lets it through", "swallows the error"])
@pytest.mark.parametrize("messages", VIOLATIONS.values(), ids=VIOLATIONS.keys())
def test_protocol_violation(messages: list[Any], insists: bool) -> None:
    """An app that breaks ASGI is answered 500, also if it swallows what ``send`` raised; the next request is fine."""
    broken = True

    async def work(receive: Receive, send: Send) -> None:
        if not broken:
            await respond(send)
            return
        for message in messages:
            try:
                await send(message)
            except Exception:
                if not insists:
                    raise

    with serve(http_app(work)) as bridge:
        failed = answer(bounded(lambda: bridge(event())))
        assert (failed.status, failed.body) == (500, b"Internal Server Error")
        broken = False
        assert answer(bridge(event())).status == 200


def test_message_after_the_last() -> None:
    """A body after the last one is an error in the app and changes nothing in the answer."""
    raised: list[BaseException] = []

    async def work(receive: Receive, send: Send) -> None:
        await respond(send)
        try:
            await send(BODY)
        except Exception as error:
            raised.append(error)

    with serve(http_app(work)) as bridge:
        assert answer(bridge(event())) == (200, {}, b"ok")
    assert len(raised) == 1


@pytest.mark.parametrize(
    "sent", [[], [START], [START, PART]], ids=["before the start", "after the start", "in mid-body"]
)
def test_app_raises(sent: list[dict[str, Any]]) -> None:
    """An exception before the end of the response is a neutral 500, whatever was sent before."""

    async def work(receive: Receive, send: Send) -> None:
        for message in sent:
            await send(message)
        raise ZeroDivisionError("secret")

    with serve(http_app(work)) as bridge:
        failed = answer(bridge(event()))
    assert (failed.status, failed.body) == (500, b"Internal Server Error")


def test_app_raises_raised_again() -> None:
    """``TRACEDBRIDGE_RAISE_ERRORS`` gives the caller the app's own exception, with the app's frame in its traceback."""

    async def work(receive: Receive, send: Send) -> None:
        raise ZeroDivisionError("mine")

    with serve(http_app(work), raise_errors="1") as bridge:
        with pytest.raises(ZeroDivisionError, match="mine") as raised:
            bridge(event())
    assert raised.traceback[-1].name == "work"


def test_app_cancels_itself() -> None:
    """A CancelledError that nobody asked for is a 500, not an exception of the event loop."""

    async def work(receive: Receive, send: Send) -> None:
        raise asyncio.CancelledError

    with serve(http_app(work)) as bridge:
        assert answer(bridge(event())).status == 500


async def in_the_request(leaving: type[BaseException]) -> None:
    raise leaving("leaving")


async def in_a_task(leaving: type[BaseException]) -> None:
    await asyncio.create_task(in_the_request(leaving))


@pytest.mark.parametrize("leaving", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("leave", [in_the_request, in_a_task])
def test_app_leaves(leave: Callable[[type[BaseException]], Awaitable[None]], leaving: type[BaseException]) -> None:
    """SystemExit and KeyboardInterrupt go through, and who catches them can go on."""
    leaves = True

    async def work(receive: Receive, send: Send) -> None:
        if leaves:
            await leave(leaving)
        await respond(send)

    with serve(http_app(work)) as bridge:
        with pytest.raises(leaving, match="leaving"):
            bounded(lambda: bridge(event()))
        leaves = False
        assert answer(bounded(lambda: bridge(event()))).status == 200


def test_threads_in_parallel() -> None:
    """Calls from several threads are answered at the same time: each of these waits for all the others."""
    together = threading.Barrier(4, timeout=10)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        no_lifespan(scope)
        together.wait()
        await respond(send, scope["query_string"])

    with serve(app) as bridge:
        for _ in range(2):
            bodies: list[bytes] = []

            def call(number: int, bodies: list[bytes] = bodies) -> None:
                bodies.append(answer(bridge(event(path=f"/?{number}"))).body)

            threads = [threading.Thread(target=call, args=(number,), daemon=True) for number in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(15)
            assert sorted(bodies) == [b"0", b"1", b"2", b"3"]


async def by_a_thread(bridge: Bridge) -> Any:
    return bounded(lambda: bridge(event(path="/inner")), 10)


async def by_to_thread(bridge: Bridge) -> Any:
    return await asyncio.to_thread(bridge, event(path="/inner"))


async def directly(bridge: Bridge) -> Any:
    return bridge(event(path="/inner"))


@pytest.mark.parametrize("call", [by_a_thread, by_to_thread, directly])
def test_own_bridge(call: Callable[[Bridge], Awaitable[Any]]) -> None:
    """An app may call its own bridge while it answers, in any way, without a deadlock."""
    bridges: list[Bridge] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        no_lifespan(scope)
        body = b"inner" if scope["path"] == "/inner" else answer(await call(bridges[0])).body + b" and outer"
        await respond(send, body)

    with serve(app) as bridge:
        bridges.append(bridge)
        for _ in range(2):
            assert answer(bounded(lambda: bridge(event()))).body == b"inner and outer"


def test_close_in_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ``close()`` that cannot wait for a running request does not hang: shutdown comes when that request is done."""
    monkeypatch.setattr("tracedbridge.bridge._STOP_TIMEOUT_S", 0.05)
    seen: list[str] = []
    bridges: list[Bridge] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await asyncio.to_thread(bridges[0].close)
            await respond(send)
            seen.append("request")
            return
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        seen.append("shutdown")
        await send({"type": "lifespan.shutdown.complete"})

    bridges.append(serve(app))
    assert answer(bounded(lambda: bridges[0](event()))) == (200, {}, b"ok")
    assert seen == ["request", "shutdown"]


def test_close_beside_a_request() -> None:
    """A ``close()`` beside a running request lets it end, and closes its event loop when it has."""
    loops: list[asyncio.AbstractEventLoop] = []
    answers: dict[str, int] = {}
    entered = {path: threading.Event() for path in ("/first", "/second")}
    go = {path: threading.Event() for path in ("/first", "/second")}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        no_lifespan(scope)
        loops.append(asyncio.get_running_loop())
        entered[scope["path"]].set()
        go[scope["path"]].wait(HANG_S)
        await respond(send)

    bridge = serve(app)

    def call(path: str) -> None:
        answers[path] = answer(bridge(event(path=path))).status

    threads = {path: threading.Thread(target=call, args=(path,), daemon=True) for path in entered}
    for path, thread in threads.items():
        thread.start()
        assert entered[path].wait(10)
    # The first call had the bridge's own loop, which is free now; the second still runs another one.
    go["/first"].set()
    threads["/first"].join(10)
    bounded(bridge.close)
    go["/second"].set()
    threads["/second"].join(10)
    assert answers == {"/first": 200, "/second": 200}
    assert [loop.is_closed() for loop in loops] == [True, True]


async def waits(receive: Receive, send: Send) -> None:
    await asyncio.Event().wait()


async def waits_for_a_disconnect(receive: Receive, send: Send) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


async def streams(receive: Receive, send: Send) -> None:
    await send(START)
    while True:
        await send(PART)
        await asyncio.sleep(0)


# Ends what nothing else can end, so that a test that fails does not keep the machine busy.
over = threading.Event()


async def streams_without_a_pause(receive: Receive, send: Send) -> None:
    await send(START)
    while not over.is_set():
        await send({**PART, "body": b""})


async def swallows_cancellation(receive: Receive, send: Send) -> None:
    await cannot_be_cancelled(send)


async def answers_its_cancellation(receive: Receive, send: Send) -> None:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        await respond(send, b"too late")


LATE = [
    waits,
    waits_for_a_disconnect,
    streams,
    streams_without_a_pause,
    swallows_cancellation,
    answers_its_cancellation,
]


@pytest.mark.parametrize("work", LATE)
def test_deadline(work: Work) -> None:
    """An app that has not answered at its deadline is cancelled and answered 504; the next request is fine."""
    late = True

    async def once(receive: Receive, send: Send) -> None:
        await (work(receive, send) if late else respond(send))

    bridge = serve(http_app(once), deadline_ms="60")
    over.clear()
    try:
        missed = answer(bounded(lambda: bridge(event())))
    finally:
        over.set()
    assert (missed.status, missed.body) == (504, b"Gateway Timeout")
    late = False
    assert answer(bounded(lambda: bridge(event()))) == (200, {}, b"ok")
    bounded(bridge.close)


def test_deadline_of_a_thread() -> None:
    """An app that waits for a thread of its own, which cannot be cancelled, is answered 504 and can be closed."""
    go = threading.Event()

    async def work(receive: Receive, send: Send) -> None:
        await asyncio.to_thread(go.wait, HANG_S)

    bridge = serve(http_app(work), deadline_ms="60")
    try:
        assert answer(bounded(lambda: bridge(event()), 10)).status == 504
        bounded(bridge.close, 10)
    finally:
        go.set()


def test_deadline_of_background_work() -> None:
    """Work after the response is cancelled at the deadline, too; the response stays."""
    seen: list[str] = []

    async def work(receive: Receive, send: Send) -> None:
        await respond(send)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    with serve(http_app(work), deadline_ms="60") as bridge:
        assert answer(bounded(lambda: bridge(event()))) == (200, {}, b"ok")
    assert seen == ["cancelled"]


def test_deadline_kept() -> None:
    """A deadline that is far away changes nothing, exceptions included."""

    async def work(receive: Receive, send: Send) -> None:
        raise ZeroDivisionError

    with serve(http_app(work), deadline_ms="60000") as bridge:
        assert answer(bounded(lambda: bridge(event()))).status == 500


def test_send_after_the_deadline() -> None:
    """A task that still sends when its request is over gets an OSError, as ASGI 2.4 says."""
    raised: list[BaseException] = []
    tasks: list[asyncio.Task[None]] = []
    over = asyncio.Event()

    async def send_late(send: Send) -> None:
        await over.wait()
        try:
            await send(START)
        except OSError as error:
            raised.append(error)

    async def work(receive: Receive, send: Send) -> None:
        if tasks:
            over.set()
            await tasks[0]
            await respond(send)
            return
        tasks.append(asyncio.create_task(send_late(send)))
        await asyncio.Event().wait()

    with serve(http_app(work), deadline_ms="60") as bridge:
        assert answer(bounded(lambda: bridge(event()))).status == 504
        assert answer(bounded(lambda: bridge(event()))).status == 200
    assert len(raised) == 1


def asgi2_function(scope: Scope) -> Callable[[Receive, Send], Awaitable[None]]:
    no_lifespan(scope)

    async def instance(receive: Receive, send: Send) -> None:
        await respond(send, (await receive())["body"])

    return instance


class Asgi2Class:
    """An ASGI 2 app: an instance for each connection."""

    def __init__(self, scope: Scope) -> None:
        no_lifespan(scope)

    async def __call__(self, receive: Receive, send: Send) -> None:
        await respond(send, (await receive())["body"])


@pytest.mark.parametrize("app", [asgi2_function, Asgi2Class])
def test_asgi2(app: object) -> None:
    """An ASGI 2 app, called twice, is answered like an ASGI 3 one."""
    with serve(app) as bridge:
        assert answer(bridge(event("POST", body="hello"))) == (200, {}, b"hello")
