"""Imported by the first request, and takes its time."""

from __future__ import annotations

import time

time.sleep(0.02)
