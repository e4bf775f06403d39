"""Tests of ``tracedbridge build``."""
