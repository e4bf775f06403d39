"""Takes its time itself, and imports what takes more."""

import sys

from .clock import NOTES, sleep
from .finder import SlowFinder

sys.meta_path.insert(0, SlowFinder(f"{__name__}.pests"))

from . import pests, trees  # noqa: E402 - the finder has to be there

__all__ = ("NOTES", "pests", "sleep", "trees")

sleep("module", 80)
