"""
Our providers: real SDK providers, because code in the wild asks for one, which step aside for the app's own.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider

from tracedbridge.telemetry.following import FollowingLogger, FollowingMeter, FollowingTracer

if TYPE_CHECKING:
    from opentelemetry._logs import Logger
    from opentelemetry.metrics import Meter
    from opentelemetry.trace import Tracer

__all__ = ("SteppingLoggerProvider", "SteppingMeterProvider", "SteppingTracerProvider")


class SteppingTracerProvider(TracerProvider):
    """Gives tracers that write to whichever provider is global when a span starts."""

    def get_tracer(self, *args: Any, **kwargs: Any) -> Tracer:
        """Return such a tracer; arguments as in the API."""
        return FollowingTracer(
            self, super().get_tracer(*args, **kwargs), lambda other: other.get_tracer(*args, **kwargs)
        )

    @property
    def own(self) -> _Own:
        """This provider as the SDK's: its tracers write to it, whoever is global."""
        return _Own(get_tracer=super().get_tracer)


class SteppingMeterProvider(MeterProvider):
    """Gives meters whose instruments write to whichever provider is global when they are used."""

    def get_meter(self, *args: Any, **kwargs: Any) -> Meter:
        """Return such a meter; arguments as in the API."""
        return FollowingMeter(self, super().get_meter(*args, **kwargs), lambda other: other.get_meter(*args, **kwargs))

    @property
    def own(self) -> _Own:
        """This provider as the SDK's: its meters write to it, whoever is global."""
        return _Own(get_meter=super().get_meter)


class SteppingLoggerProvider(LoggerProvider):
    """Gives loggers that write to whichever provider is global when a record is emitted."""

    def get_logger(self, *args: Any, **kwargs: Any) -> Logger:
        """Return such a logger; arguments as in the API."""
        return FollowingLogger(
            self, super().get_logger(*args, **kwargs), lambda other: other.get_logger(*args, **kwargs)
        )

    @property
    def own(self) -> _Own:
        """This provider as the SDK's: its loggers write to it, whoever is global."""
        return _Own(get_logger=super().get_logger)


class _Own(SimpleNamespace):
    """The SDK's way to get tracers, meters or loggers, past the classes above."""
