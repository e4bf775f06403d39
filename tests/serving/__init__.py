"""Tests of tracedbridge/serving: the viewer."""
