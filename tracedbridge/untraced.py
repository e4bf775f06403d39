"""Telemetry switched off: a watch that looks away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tracedbridge.errors import BadRequestError
from tracedbridge.messages import Invocation

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from tracedbridge.messages import Kind

__all__ = ("Untraced",)


class Untraced:
    """The telemetry of ``TRACEDBRIDGE_TELEMETRY=off``; implements `tracedbridge.protocols.Telemetry`."""

    def loading(self) -> AbstractContextManager[None]:
        """Watch nothing."""
        return _NOTHING

    def wrap(self, app: Callable[..., Any], kind: Kind) -> Callable[..., Any]:
        """Return ``app`` itself."""
        del kind
        return app

    def watch(self, context: object) -> AbstractContextManager[Invocation]:
        """Keep the facts of one invocation as long as it runs."""
        del context
        return _Unwatched()

    def conversing(self, app: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``app`` itself."""
        return app

    def settle(self) -> None:
        """Do nothing."""

    def before_snapshot(self) -> None:
        """Do nothing."""

    def restored(self) -> None:
        """Do nothing."""

    def stopping(self) -> AbstractContextManager[None]:
        """Watch nothing."""
        return _NOTHING

    def close(self, within_s: float | None = None) -> None:
        """Do nothing."""


class _Nothing:
    __slots__ = ()

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


_NOTHING = _Nothing()


class _Unwatched(Invocation):
    def __enter__(self) -> Invocation:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        error = self.error
        # What is raised is the platform's to show.
        if error is not None and kind is None and not isinstance(error, BadRequestError):
            _write(error)


def _write(error: BaseException) -> None:
    # As any server does. Only here: traceback is not cheap to import.
    import traceback

    try:
        traceback.print_exception(error)
    except Exception:  # noqa: BLE001 - an exception that cannot be printed, or a stderr that is closed
        return
