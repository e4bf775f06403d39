"""The fixtures of the telemetry tests: nothing configured but by the test, nothing left behind, a real receiver."""

from tests.telemetry.conftest import nothing_stays_changed, own_providers, plain_environment, received

__all__ = ("nothing_stays_changed", "own_providers", "plain_environment", "received")
