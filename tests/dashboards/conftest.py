"""What the tests of dashboards/ share: they are about the metrics of telemetry/, and need it to be collected at all."""

from __future__ import annotations

import os

# Set by tests/matrix.py for the copy without telemetry/.
collect_ignore_glob = ["*.py"] if os.environ.get("TRACEDBRIDGE_TEST_BARE") else []
