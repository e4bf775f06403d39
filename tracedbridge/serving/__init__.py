"""What stands around a bridge on a developer's machine: the runner of ``invoke``, an OTLP receiver, the waterfall."""

from __future__ import annotations
