"""Imported while the app is imported, and takes its time."""

from __future__ import annotations

import time

# More than what is drawn by default, and than what a package of another module takes.
time.sleep(0.02)
