"""Tests of tracedbridge/coldstarts, one file per module."""
