"""The TRACEDBRIDGE_* variables, read once into Settings; a bad value is one warning and the default."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Literal, TypeVar

    Parent = Literal["parent", "link", "ignore"]
    """What a remote parent is worth: the parent of our span, a link on it, or nothing."""

    Start = Literal["auto", "eager", "deferred"]
    """When the SDK is loaded: where it must be, with the app, or after the first response."""

    Flush = Literal["auto", "before", "after"]
    """When an invocation is told and exported: as the platform allows, before its response is returned, or after it."""

    Imports = Literal["off", "summary", "full"]
    """What is shown of the app's imports: nothing, what took long, or each one."""

    _T = TypeVar("_T")

__all__ = ("Settings",)

_SWITCH = {"on": True, "1": True, "true": True, "yes": True, "off": False, "0": False, "false": False, "no": False}


class Settings:
    """What the environment asks of tracedbridge."""

    __slots__ = (
        "app",
        "asgi_detail",
        "deadline_ms",
        "flush",
        "flush_timeout_ms",
        "imports",
        "imports_max_spans",
        "imports_min_ms",
        "imports_top",
        "parent",
        "proactive_after_ms",
        "raise_errors",
        "stall_ms",
        "start",
        "telemetry",
        "timeout_margin_ms",
        "trace_response",
        "xray",
    )

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        """Read ``environ``, the process's own by default."""
        source = _Source(os.environ if environ is None else environ)
        # The only setting without a bad value here: `loading` says what is wrong with it.
        self.app: str = source.environ.get("TRACEDBRIDGE_APP", "").strip() or "index.py"
        self.telemetry: bool = source.read("TELEMETRY", _switch, default=True, shown="on")
        self.raise_errors: bool = source.read("RAISE_ERRORS", _switch, default=False, shown="off")
        self.asgi_detail: bool = source.read("ASGI_DETAIL", _switch, default=False, shown="off")
        self.trace_response: bool = source.read("TRACE_RESPONSE", _switch, default=False, shown="off")
        self.parent: Parent = source.read("PARENT", _parent, default="parent", shown="parent")
        # A trace of X-Ray is another system's: what is sampled there may be nowhere here.
        self.xray: Parent = source.read("XRAY", _parent, default="link", shown="link")
        self.deadline_ms: float | None = source.read("DEADLINE_MS", _positive, default=None, shown="no deadline")
        self.start: Start = source.read("START", _start, default="auto", shown="auto")
        self.flush: Flush = source.read("FLUSH", _flush, default="auto", shown="auto")
        # Half a second: what a healthy backend needs a hundred times over (its TLS handshake included), and
        # what a caller hardly notices when the backend is dead.
        self.flush_timeout_ms: float = source.read("FLUSH_TIMEOUT_MS", _not_negative, default=500.0, shown="500")
        # The default budget of a flush, which has to fit in.
        self.timeout_margin_ms: float = source.read("TIMEOUT_MARGIN_MS", _not_negative, default=500.0, shown="500")
        # What the user of another request would notice.
        self.stall_ms: float = source.read("STALL_MS", _not_negative, default=100.0, shown="100")
        self.proactive_after_ms: float = source.read(
            "PROACTIVE_AFTER_MS", _not_negative, default=10_000.0, shown="10000"
        )
        self.imports: Imports = source.read("IMPORTS", _imports, default="summary", shown="summary")
        # What nobody would see in a waterfall of a second; and as many rows as one can read.
        self.imports_min_ms: float = source.read("IMPORTS_MIN_MS", _not_negative, default=5.0, shown="5")
        self.imports_max_spans: int = source.read("IMPORTS_MAX_SPANS", _count, default=40, shown="40")
        # Each is a series of its own in every metrics backend.
        self.imports_top: int = source.read("IMPORTS_TOP", _count, default=10, shown="10")


class _Source:
    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ

    def read(self, name: str, parse: Callable[[str], _T], *, default: _T, shown: str) -> _T:
        text = self.environ.get("TRACEDBRIDGE_" + name, "").strip()
        if not text:
            return default
        try:
            return parse(text)
        except ValueError as wanted:
            # Only on this path: logging costs a cold start several milliseconds. A Python warning would
            # become an exception under `-W error`.
            import logging

            logging.getLogger("tracedbridge").warning(
                "TRACEDBRIDGE_%s=%r is ignored: expected %s; using the default: %s", name, text, wanted, shown
            )
            return default


def _switch(text: str) -> bool:
    try:
        return _SWITCH[text.lower()]
    except KeyError:
        raise ValueError("on or off") from None


def _parent(text: str) -> Parent:
    if text.lower() not in ("parent", "link", "ignore"):
        raise ValueError("parent, link or ignore")
    return cast("Parent", text.lower())


def _start(text: str) -> Start:
    if text.lower() not in ("auto", "eager", "deferred"):
        raise ValueError("auto, eager or deferred")
    return cast("Start", text.lower())


def _flush(text: str) -> Flush:
    if text.lower() not in ("auto", "before", "after"):
        raise ValueError("auto, before or after")
    return cast("Flush", text.lower())


def _imports(text: str) -> Imports:
    if text.lower() not in ("off", "summary", "full"):
        raise ValueError("off, summary or full")
    return cast("Imports", text.lower())


def _count(text: str) -> int:
    # Of ASCII digits: int() takes signs, underscores and other scripts' digits.
    if not (text.isascii() and text.isdecimal() and len(text) <= 9):
        raise ValueError("a whole number, zero or more")
    return int(text)


def _not_negative(text: str) -> float:
    value = _number(text)
    if value < 0:
        raise ValueError("milliseconds, zero or more")
    return value


def _positive(text: str) -> float | None:
    value = _number(text)
    if value <= 0:
        raise ValueError("milliseconds, more than zero")
    return value


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    # NaN and infinity parse as floats, and neither can be waited for.
    return value if value == value and value not in (float("inf"), float("-inf")) else -1.0
