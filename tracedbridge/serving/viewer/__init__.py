"""The local viewer: takes OTLP, keeps the newest of it in memory, and shows it as a page and as Jaeger's query API."""

from __future__ import annotations
