"""The boot record knows when the process began and where the time went since, to the nanosecond."""

from __future__ import annotations

import builtins
import io
import os
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.support import run_python
from tracedbridge import boot
from tracedbridge.boot import ColdStart, first_of_process, is_young, process_started

PLATFORM = "__VC_PY_BOOT_START_MS"


@pytest.fixture(autouse=True)
def nobody_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """No platform says anything, and no bridge has been made."""
    monkeypatch.delenv(PLATFORM, raising=False)
    monkeypatch.setattr(boot, "_first", None)


def make_young(monkeypatch: pytest.MonkeyPatch, age_ns: int = 1_000_000) -> None:
    """Let tracedbridge be imported ``age_ns`` after the process began, just now."""
    imported_ns = time.monotonic_ns()
    monkeypatch.setattr(boot, "IMPORTED_NS", imported_ns)
    monkeypatch.setattr(boot, "process_started", lambda: (imported_ns - age_ns, "process"))


def kernel_says(monkeypatch: pytest.MonkeyPatch, stat: bytes | OSError) -> None:
    """Let ``/proc/self/stat`` be this, or fail so."""
    really: Any = builtins.open

    def opened(file: Any, *arguments: Any, **named: Any) -> Any:
        if file != "/proc/self/stat":
            return really(file, *arguments, **named)
        if isinstance(stat, OSError):
            raise stat
        return io.BytesIO(stat)

    monkeypatch.setattr(builtins, "open", opened)


def stat_of(started_ns: int, command: bytes = b"(python)") -> bytes:
    """Return ``/proc/self/stat`` of a process that began then, on the boot clock."""
    ticks = started_ns * os.sysconf("SC_CLK_TCK") // 1_000_000_000
    return b"1 " + command + b" S" + b" 0" * 18 + b" %d" % ticks + b" 0" * 20


linux = pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="only Linux has the clock of /proc/self/stat")


@linux
def test_the_kernel_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's figure is right within half a tick, whatever the command is called."""
    offset_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
    began_ns = boot.IMPORTED_NS - 123_456_789
    kernel_says(monkeypatch, stat_of(began_ns + offset_ns, b"(a) b (c) 1 2 3)"))
    started_ns, teller = process_started()
    assert teller == "process"
    # A tick is 10 ms; and two clocks cannot be read at once.
    assert abs(started_ns - began_ns) <= 5_000_000 + 1_000_000


@linux
def test_a_real_process(tmp_path: Path) -> None:
    """A process finds its own beginning between the moment that it was asked for and its first line."""
    program = """
import time
first_ns = time.monotonic_ns()
from tracedbridge import boot
print(first_ns, *boot.process_started())
"""
    asked_ns = time.monotonic_ns()
    done = run_python("-c", program, cwd=tmp_path)
    first_ns, started_ns, teller = done.stdout.split()
    assert teller == "process"
    assert asked_ns - 6_000_000 <= int(started_ns) <= int(first_ns)


@pytest.mark.parametrize(
    "stat",
    [
        pytest.param(FileNotFoundError("/proc"), id="no proc"),
        pytest.param(PermissionError("/proc"), id="a forbidden proc"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"1 (python) S 0 0", id="too few fields"),
        pytest.param(b"1 (python) S" + b" x" * 30, id="no numbers"),
        pytest.param(stat_of(10**19), id="a time to come"),
    ],
)
def test_nobody_knows(stat: bytes | OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel does not tell, or nonsense, the process began with the first line of tracedbridge."""
    kernel_says(monkeypatch, stat)
    assert process_started() == (boot.IMPORTED_NS, "tracedbridge")


def test_no_boot_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """On macOS, which has no such clock either, it is the first line of tracedbridge as well."""
    kernel_says(monkeypatch, b"1 (python) S" + b" 0" * 30)
    monkeypatch.delattr(time, "CLOCK_BOOTTIME", raising=False)
    assert process_started() == (boot.IMPORTED_NS, "tracedbridge")


@pytest.mark.parametrize("text", ["{}", "{}.25", " {} "])
def test_the_platform_tells(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The platform's variable, in milliseconds on the monotonic clock, goes before the kernel's figure."""
    told_ms = boot.IMPORTED_NS // 1_000_000 - 50
    monkeypatch.setenv(PLATFORM, text.format(told_ms))
    started_ns, teller = process_started()
    assert teller == "platform"
    assert 0 <= started_ns - told_ms * 1_000_000 <= 251_000


@pytest.mark.parametrize("text", ["", "soon", "nan", "inf", "-inf", "-5", "0", "1e999", "9" * 30, "0x10"])
def test_nonsense_of_the_platform(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be the time of this process's start is not believed."""
    kernel_says(monkeypatch, FileNotFoundError("/proc"))
    monkeypatch.setenv(PLATFORM, text)
    assert process_started() == (boot.IMPORTED_NS, "tracedbridge")


def test_phases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each phase begins where the one before it ended, and together they are the whole, exactly."""
    make_young(monkeypatch)
    record = ColdStart()
    for phase in ("telemetry", "app_import", "app_resolve", "bridge", "lifespan"):
        record.mark(phase)
    record.ready()
    phases = record.phases()
    assert [phase for phase, _, _ in phases] == [
        "interpreter", "bridge", "telemetry", "app_import", "app_resolve", "bridge", "lifespan",
    ]  # fmt: skip
    assert phases[0][1] == record.begun_ns
    assert phases[-1][2] == record.ready_ns
    assert all(ended_ns == begun_ns for (_, _, ended_ns), (_, begun_ns, _) in pairwise(phases))
    assert all(begun_ns <= ended_ns for _, begun_ns, ended_ns in phases)
    assert sum(record.durations_ns().values()) == (record.ready_ns or 0) - record.begun_ns
    assert record.modules > 10


def made(*marks: tuple[str, int]) -> ColdStart:
    """Return the record of a later bridge that began at 1000, with these marks."""
    record = ColdStart()
    record.begun_ns = 1000
    record.marks = list(marks)
    return record


def later_bridge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let another bridge have the process's start."""
    monkeypatch.setattr(boot, "_first", ColdStart())


def test_a_phase_in_two_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts of a phase add up, at the place of the first."""
    later_bridge(monkeypatch)
    record = made(("bridge", 1010), ("app_import", 1300), ("bridge", 1305), ("lifespan", 1309))
    assert list(record.durations_ns().items()) == [("bridge", 15), ("app_import", 290), ("lifespan", 4)]


@pytest.mark.parametrize(
    ("at_ns", "phase"),
    [(999, None), (1000, "bridge"), (1009, "bridge"), (1010, "app_import"), (1300, "bridge"), (1305, None)],
)
def test_phase_at(at_ns: int, phase: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A moment is in the phase that it begins, and in none before the first and after the last."""
    later_bridge(monkeypatch)
    assert made(("bridge", 1010), ("app_import", 1300), ("bridge", 1305)).phase_at(at_ns) == phase


@pytest.mark.parametrize(
    ("done", "failed"),
    [
        ((), "app_import"),
        (("app_import",), "app_resolve"),
        (("app_import", "app_resolve"), "lifespan"),
        (("app_import", "app_resolve", "bridge"), "lifespan"),
    ],
)
def test_failures(done: tuple[str, ...], failed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The phase that was running when the load failed is named, and is the last one."""
    later_bridge(monkeypatch)
    record = ColdStart()
    record.mark("telemetry")
    for phase in done:
        record.mark(phase)
    assert record.mark_failure() == failed
    assert record.marks[-1] == (failed, record.ready_ns)


def test_the_first_bridge_claims_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first bridge of a young process begins with it, and no other one does."""
    make_young(monkeypatch, age_ns=7_000_000)
    assert (is_young(), first_of_process()) == (True, None)
    first = ColdStart()
    assert first_of_process() is first
    assert (first.begins_with, first.begun_ns) == ("process", boot.IMPORTED_NS - 7_000_000)
    assert first.phases()[0] == ("interpreter", first.begun_ns, boot.IMPORTED_NS)
    assert not is_young()
    before_ns = time.monotonic_ns()
    second = ColdStart(until_now="app_import")
    assert first_of_process() is first
    assert second.begins_with == "bridge"
    assert before_ns <= second.begun_ns <= time.monotonic_ns()
    assert [(phase, ended_ns - begun_ns) for phase, begun_ns, ended_ns in second.phases()] == [("app_import", 0)]
    assert second.trace_id != first.trace_id


def test_a_restored_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The record of a restored process begins then, has no phases yet, and leaves the first one as it is."""
    make_young(monkeypatch)
    first = ColdStart()
    before_ns = time.monotonic_ns()
    restored = ColdStart.of_restore()
    assert before_ns <= restored.begun_ns <= time.monotonic_ns()
    assert (restored.begins_with, restored.phases()) == ("restore", [])
    assert restored.trace_id != first.trace_id
    assert first_of_process() is first


def process_was_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process have been up for long when tracedbridge was imported."""
    make_young(monkeypatch, age_ns=10_000_000_001)


def bridge_came_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tracedbridge have been imported long ago."""
    imported_ns = time.monotonic_ns() - boot.MAX_LOAD_NS - 1
    monkeypatch.setattr(boot, "IMPORTED_NS", imported_ns)
    monkeypatch.setattr(boot, "process_started", lambda: (imported_ns - 1, "process"))


@pytest.mark.parametrize("grow_old", [process_was_up, bridge_came_late])
def test_an_old_process(grow_old: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was up for other reasons has no cold start that a bridge could claim."""
    grow_old(monkeypatch)
    assert not is_young()
    record = ColdStart()
    assert first_of_process() is None
    assert (record.begins_with, len(record.phases())) == ("bridge", 1)


def test_nearly_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest init that a platform allows is still a cold start."""
    make_young(monkeypatch, age_ns=10_000_000_000)
    assert is_young()


def test_wall_clock() -> None:
    """Moments of the record are placed by one offset between the clocks, taken when it began."""
    before_ns = time.time_ns() - time.monotonic_ns()
    record = ColdStart()
    record.ready()
    assert abs(record.wall_offset_ns - before_ns) < 50_000_000
    assert record.ready_wall_ns is not None
    assert abs(record.ready_wall_ns - time.time_ns()) < 50_000_000
