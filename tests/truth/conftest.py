"""What can only be collected where telemetry/ is."""

from __future__ import annotations

import os

collect_ignore = ["test_apps.py", "test_fixture.py"] if os.environ.get("TRACEDBRIDGE_TEST_BARE") else []
