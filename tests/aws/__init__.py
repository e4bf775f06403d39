"""Tests with AWS Lambda's real runtime client, against an emulated Runtime and Extensions API."""
