"""Where Vercel's own runtime imports the entry, as in a project that Vercel builds, we serve by its connection."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

import pytest

from tests.vercel.conftest import KINDS
from tests.vercel.frames import text_of
from tests.vercel.platform import ENTRY, Platform
from tests.vercel.test_ipc_logs import WAYS

pytest.importorskip("vercel_runtime", reason="it has no release for 3.11")

Start = Callable[..., Platform]

# What Vercel's builder writes into the environment of its own entry.
TOLD = {
    "__VC_HANDLER_ENTRYPOINT": "entry.py",
    "__VC_HANDLER_ENTRYPOINT_ABS": "entry.py",
    "__VC_HANDLER_MODULE_NAME": "entry",
    "__VC_HANDLER_VARIABLE_NAME": "vc_handler",
}
RUNTIME = "import vercel_runtime.vc_init\n"


@pytest.mark.parametrize("kind", KINDS)
def test_a_request(kind: str, start: Start) -> None:
    """All that a function says in a request is told once, with its ids, and then the end; once."""
    platform = start(KINDS[kind], files={"entry.py": ENTRY}, entry=RUNTIME, **TOLD)
    for way, by in WAYS.items():
        reply = platform.ask(f"/says?by={quote(way)}&text={quote(f'it by {way}')}")
        platform.ended(reply.ids)
        assert reply.body == b"said"
        (frame,) = [each for each in platform.frames_of(reply.ids, "log") if f"it by {way}" in text_of([each])]
        assert {key: frame.payload[key] for key in by} == by
        assert [each.kind for each in platform.frames_of(reply.ids) if each.kind != "log"] == ["handler-started", "end"]
    platform.terminate()
    assert platform.exit_code() == 0


def test_an_app_that_cannot_start(start: Start) -> None:
    """The platform is told why, by us alone."""
    platform = start("no.py:app", files={"entry.py": ENTRY}, entry=RUNTIME, **TOLD)
    told = platform.wait_for("unrecoverable-error")
    assert "no file" in told.payload["message"]
    assert platform.exit_code() == 1
    assert [frame.kind for frame in platform.frames] == ["unrecoverable-error"]
