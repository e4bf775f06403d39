"""Imported in lifespan startup, and takes its time."""

from __future__ import annotations

import time

time.sleep(0.02)
