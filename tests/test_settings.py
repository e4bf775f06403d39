"""A bad ``TRACEDBRIDGE_*`` value is one warning that names the variable, the value and the default used."""

from __future__ import annotations

import logging

import pytest

from tests.support import Receive, Scope, Send, answer, event, no_lifespan, respond, serve
from tracedbridge.settings import Settings


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    no_lifespan(scope)
    await respond(send)


VALUES: dict[str, dict[str, object]] = {
    # variable: values that are good, and what is read
    "TELEMETRY": {"on": True, "off": False, "OFF": False, "0": False, "1": True, "false": False, " off ": False},
    "RAISE_ERRORS": {"1": True, "0": False, "on": True, "off": False, "true": True},
    "ASGI_DETAIL": {"1": True, "0": False},
    "TRACE_RESPONSE": {"1": True, "0": False},
    "PARENT": {"parent": "parent", "link": "link", "ignore": "ignore", "Link": "link"},
    "XRAY": {"parent": "parent", "link": "link", "ignore": "ignore"},
    "DEADLINE_MS": {"1": 1.0, "1500": 1500.0, "0.5": 0.5},
    "FLUSH_TIMEOUT_MS": {"0": 0.0, "250": 250.0},
    "START": {"auto": "auto", "eager": "eager", "deferred": "deferred", "Eager": "eager"},
    "FLUSH": {"auto": "auto", "before": "before", "after": "after", "AFTER": "after"},
    "TIMEOUT_MARGIN_MS": {"0": 0.0, "250": 250.0},
    "STALL_MS": {"0": 0.0, "250": 250.0},
    "PROACTIVE_AFTER_MS": {"0": 0.0, "250": 250.0},
    "IMPORTS": {"off": "off", "summary": "summary", "full": "full", "FULL": "full"},
    "IMPORTS_MIN_MS": {"0": 0.0, "2.5": 2.5},
    "IMPORTS_MAX_SPANS": {"0": 0, "100": 100},
    "IMPORTS_TOP": {"0": 0, "3": 3},
}
GOOD = [(name, value, expected) for name, values in VALUES.items() for value, expected in values.items()]

DEFAULTS: dict[str, tuple[object, str]] = {
    # variable: the default, and how a warning names it
    "TELEMETRY": (True, "on"),
    "RAISE_ERRORS": (False, "off"),
    "ASGI_DETAIL": (False, "off"),
    "TRACE_RESPONSE": (False, "off"),
    "PARENT": ("parent", "parent"),
    "XRAY": ("link", "link"),
    "DEADLINE_MS": (None, "no deadline"),
    "FLUSH_TIMEOUT_MS": (500.0, "500"),
    "START": ("auto", "auto"),
    "FLUSH": ("auto", "auto"),
    "TIMEOUT_MARGIN_MS": (500.0, "500"),
    "STALL_MS": (100.0, "100"),
    "PROACTIVE_AFTER_MS": (10_000.0, "10000"),
    "IMPORTS": ("summary", "summary"),
    "IMPORTS_MIN_MS": (5.0, "5"),
    "IMPORTS_MAX_SPANS": (40, "40"),
    "IMPORTS_TOP": (10, "10"),
}

NO_NUMBERS = ("soon", "-1", "nan", "inf", "1e999", "5s", "1 000")
BAD = [
    (name, value)
    for name, values in {
        "TELEMETRY": ("maybe", "2"),
        "RAISE_ERRORS": ("perhaps", "-1"),
        "ASGI_DETAIL": ("much",),
        "TRACE_RESPONSE": ("much",),
        "PARENT": ("child", "on"),
        "XRAY": ("child",),
        "DEADLINE_MS": (*NO_NUMBERS, "0"),
        "FLUSH_TIMEOUT_MS": NO_NUMBERS,
        "START": ("late", "on"),
        "FLUSH": ("never", "1"),
        "TIMEOUT_MARGIN_MS": NO_NUMBERS,
        "STALL_MS": NO_NUMBERS,
        "PROACTIVE_AFTER_MS": NO_NUMBERS,
        "IMPORTS": ("on", "1"),
        "IMPORTS_MIN_MS": NO_NUMBERS,
        "IMPORTS_MAX_SPANS": (*NO_NUMBERS, "1.5", "+1", "\u0661", "9" * 10),
        "IMPORTS_TOP": (*NO_NUMBERS, "1_0"),
    }.items()
    for value in values
]


def test_every_setting_is_here() -> None:
    """The tables of this file have every setting but the app, whose bad values are errors."""
    assert {name.lower() for name in DEFAULTS} | {"app"} == set(Settings.__slots__)
    assert {name for name, _ in BAD} == set(VALUES) == set(DEFAULTS)


@pytest.mark.parametrize(("name", "value", "expected"), GOOD, ids=[f"{name}={value}" for name, value, _ in GOOD])
def test_good_value(name: str, value: str, expected: object, caplog: pytest.LogCaptureFixture) -> None:
    """A good value is taken in silence, whatever its case and the space around it."""
    read = getattr(Settings({f"TRACEDBRIDGE_{name}": value}), name.lower())
    assert (read, type(read)) == (expected, type(expected))
    assert caplog.records == []


@pytest.mark.parametrize("name", DEFAULTS)
@pytest.mark.parametrize("value", [None, "", " "], ids=["not set", "empty", "space"])
def test_no_value(name: str, value: str | None, caplog: pytest.LogCaptureFixture) -> None:
    """What is not set, or set to nothing, is the default, in silence."""
    read = Settings({} if value is None else {f"TRACEDBRIDGE_{name}": value})
    assert getattr(read, name.lower()) == DEFAULTS[name][0]
    assert caplog.records == []


@pytest.mark.parametrize(("name", "value"), BAD, ids=["=".join(pair) for pair in BAD])
def test_bad_value(name: str, value: str, caplog: pytest.LogCaptureFixture) -> None:
    """A bad value is the default and one warning that names variable, value and default."""
    default, shown = DEFAULTS[name]
    read = getattr(Settings({f"TRACEDBRIDGE_{name}": value}), name.lower())
    assert (read, type(read)) == (default, type(default))
    assert [(record.name, record.levelno) for record in caplog.records] == [("tracedbridge", logging.WARNING)]
    said = caplog.records[0].getMessage()
    assert said.startswith(f"TRACEDBRIDGE_{name}={value!r} ")
    assert said.endswith(f": {shown}")


def test_bad_values_of_a_bridge(caplog: pytest.LogCaptureFixture) -> None:
    """A bridge with bad settings answers; each is warned of once, when the bridge is made and never again."""
    with serve(app, parent="child", deadline_ms="soon", raise_errors="perhaps") as bridge:
        assert answer(bridge(event())) == answer(bridge(event())) == (200, {}, b"ok")
    variables = [record.getMessage().split("=")[0] for record in caplog.records if record.name == "tracedbridge"]
    assert sorted(variables) == ["TRACEDBRIDGE_DEADLINE_MS", "TRACEDBRIDGE_PARENT", "TRACEDBRIDGE_RAISE_ERRORS"]


def test_other_variables(caplog: pytest.LogCaptureFixture) -> None:
    """Variables of others and those not known here are not looked at."""
    Settings({"TRACEDBRIDGE_NO_SUCH": "x", "DEADLINE_MS": "soon", "VERCEL": "1"})
    assert caplog.records == []
