"""Imported by the first request, and takes its time."""

from .clock import sleep

sleep("lazy", 20)
