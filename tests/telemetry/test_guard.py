"""What fails in a hook is told on stderr, the first of each kind, and swallowed; what ends the process is not."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from tracedbridge.telemetry import harmless

pytestmark = pytest.mark.telemetry


def hook_that(raises: BaseException | None) -> Callable[[], None]:
    """Return a guarded hook."""

    @harmless
    def hook() -> None:
        if raises is not None:
            raise raises

    return hook


def test_once(capsys: pytest.CaptureFixture[str]) -> None:
    """An error that comes again is told once; another kind of error in the same place is told, too."""
    for error in (KeyError("a"), KeyError("b"), ValueError("c"), None, KeyError("d")):
        hook_that(error)()
    where = "telemetry failed in hook_that.<locals>.hook"
    assert capsys.readouterr().err.splitlines() == [
        f"tracedbridge: {where}: KeyError: 'a'",
        f"tracedbridge: {where}: ValueError: c",
    ]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=["SystemExit", "KeyboardInterrupt"])
def test_what_ends_the_process(error: BaseException) -> None:
    """SystemExit and KeyboardInterrupt leave the hook."""
    with pytest.raises(type(error)):
        hook_that(error)()


class Silent:
    """A stderr that cannot be written to."""

    def write(self, text: str) -> int:
        raise OSError("broken")


class UnprintableError(Exception):
    """Whose text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize("stderr", [None, Silent()], ids=["None", "broken"])
def test_nobody_to_tell(stderr: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a stderr the error is swallowed all the same."""
    monkeypatch.setattr(sys, "stderr", stderr)
    hook_that(KeyError("a"))()


def test_an_error_that_has_no_text(capsys: pytest.CaptureFixture[str]) -> None:
    """An error that cannot be printed does not leave the hook either."""
    hook_that(UnprintableError())()
    assert "UnprintableError" in capsys.readouterr().err
