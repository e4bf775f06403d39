"""A meta-path finder that takes its time, as those of import hooks and of zip files do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .clock import sleep

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

__all__ = ("SlowFinder",)


class SlowFinder:
    """Looks for one module for a while, and leaves it to the others."""

    def __init__(self, name: str) -> None:
        """Be slow for ``name`` only."""
        self._name = name

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        """Find nothing."""
        if name == self._name:
            sleep("finder", 30)
