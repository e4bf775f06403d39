"""Tests of tracedbridge/serving/viewer/page, in a real browser."""
