"""
Exceptions as span events and texts, whatever their ``__str__`` does.

The SDK's ``record_exception`` fails with an exception that cannot be printed; one lone surrogate in a text (as file
names have) would keep a whole batch of spans from being encoded.

Source: OpenTelemetry semantic conventions 1.44, "Exceptions in spans".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.trace import Span

__all__ = ("encodable", "fail", "message_of", "show", "stacktrace_of", "type_of")


_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def type_of(error: BaseException) -> str:
    """Return what ``error.type`` and log lines call it: the class, without its module."""
    return type(error).__qualname__


def message_of(error: BaseException) -> str:
    """Return what the exception says, or that it says nothing that can be had."""
    try:
        return encodable(str(error))
    except Exception as own:  # noqa: BLE001 - an exception's own __str__
        return f"({type_of(error)} has no text: its __str__ raised {type_of(own)})"


def encodable(text: str) -> str:
    """Return the text with a question mark in place of what is no Unicode character."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def stacktrace_of(error: BaseException) -> str:
    """
    Return the traceback as Python prints it, causes included where they can be printed.

    Control characters in it are escaped: on a terminal it is shown as it is.
    """
    # As below: a part of this module is loaded in cold starts, for the texts of log lines.
    import traceback

    try:
        text = "".join(traceback.format_exception(error))
    except Exception:  # noqa: BLE001 - as above, for its causes
        text = "".join(traceback.format_tb(error.__traceback__))
    return encodable(text.translate(_CONTROL))


def show(span: Span, error: BaseException, at_ns: int) -> None:
    """Add the event ``exception`` at that wall-clock time."""
    module, name = type(error).__module__, type_of(error)
    attributes = {
        "exception.type": name if module in ("builtins", "__main__") else f"{module}.{name}",
        "exception.message": message_of(error),
        "exception.stacktrace": stacktrace_of(error),
    }
    span.add_event("exception", attributes, at_ns)


def fail(span: Span, error: BaseException, at_ns: int) -> str:
    """Show on a span that it ended in ``error`` at that wall-clock time; return the ``error.type``."""
    from opentelemetry.trace import Status, StatusCode

    # The app's own exception says more than the error of ours that wraps it.
    shown = error.__cause__ or error
    show(span, shown, at_ns)
    span.set_attribute("error.type", type_of(shown))
    span.set_status(Status(StatusCode.ERROR, message_of(shown)))
    return type_of(shown)
