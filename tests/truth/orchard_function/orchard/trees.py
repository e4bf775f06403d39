"""Imported by the package, and takes its time."""

from .clock import sleep

sleep("nested", 50)
