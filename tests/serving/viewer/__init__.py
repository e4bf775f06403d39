"""Tests of tracedbridge/serving/viewer, one file per module."""
