"""
What an HTTP header may be, the same for requests and responses.

Source: RFC 9110, 5.5 and 5.6.2.
"""

from __future__ import annotations

from typing import Any

__all__ = (
    "LOWER_NAMES", "Layout", "authority", "is_number", "is_token", "is_value", "layout_of", "lower_name",
)  # fmt: skip

# Sets, as everything that a first request needs: to compile a pattern takes as long as to import a module.
_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")

_ADDRESS = frozenset("0123456789ABCDEFabcdef:.")

# CR, LF and NUL are header injection; the other control characters are merely illegal. The tab is allowed.
_CONTROL = frozenset(map(chr, (*range(9), *range(10, 32), 127)))

# Names that `lower_name` has seen: the same few come with every request, and a look-up is cheaper than a call.
LOWER_NAMES: dict[str, str] = {}
_MAX_NAMES = 1024


class Layout:
    """Header names that come together, each once; looked at once for all requests that have just these."""

    __slots__ = ("environ", "environ_keys", "names", "places", "raw_names", "telling")

    def __init__(self, names: tuple[str, ...]) -> None:
        """Take the names, lower-case."""
        self.names = names
        self.raw_names = tuple(name.encode("ascii") for name in names)
        # Name → its index.
        self.places = {name: place for place, name in enumerate(names)}
        # What WSGI calls them, if each has a name of its own there, and an environ with all keys of such a request;
        # `tracedbridge.apps.wsgi` sets both.
        self.environ_keys: tuple[str, ...] = ()
        self.environ: dict[str, Any] | None = None
        # Those that tell of the request itself, as they are written; the event format sets them, in its own order.
        self.telling: tuple[str, ...] = ()


# By the names as they are written: the requests to a function have a handful of them.
_layouts: dict[tuple[str, ...], Layout] = {}
_MAX_LAYOUTS = 64


def layout_of(written: tuple[str, ...]) -> Layout | None:
    """Return the layout of these names, or None if one is no token, or there twice in another case."""
    layout = _layouts.get(written)
    if layout is None:
        names = tuple(filter(None, map(lower_name, written)))
        if len(set(names)) != len(written):
            return None
        layout = Layout(names)
        if len(_layouts) < _MAX_LAYOUTS:
            _layouts[written] = layout
    return layout


def is_token(text: str) -> bool:
    """Say whether a text is a token, as names and methods are."""
    return text != "" and _TOKEN.issuperset(text)


def lower_name(name: str) -> str | None:
    """Return the name in lower case, or None if it is no token."""
    if not is_token(name):
        return None
    lower = name.lower()
    if len(LOWER_NAMES) < _MAX_NAMES:
        LOWER_NAMES[name] = lower
    return lower


def is_value(value: str) -> bool:
    """Say whether a value is latin-1 without control characters."""
    # Two looks in C, true of nearly all values; what they refuse may still be latin-1, or hold a tab.
    if value.isascii() and value.isprintable():
        return True
    return _CONTROL.isdisjoint(value) and (value.isascii() or max(value) <= "\xff")


def authority(text: str) -> tuple[str, str]:
    """Return host and port of ``host``, ``host:port`` or ``[address]:port``; what is none of them is a host."""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        is_host = host != "" and _ADDRESS.issuperset(host)
    else:
        host, colon, rest = text.partition(":")
        rest = colon + rest
        is_host = "[" not in host and "]" not in host
    is_port = rest in ("", ":") or (rest[0] == ":" and is_number(rest[1:], 5))
    if not (is_host and is_port) or (text.startswith("[") and "]" not in text):
        return text, ""
    return host, rest[1:]


def is_number(text: str, most: int) -> bool:
    """Say whether a text is a whole number of at most so many digits."""
    return text.isdecimal() and text.isascii() and len(text) <= most
