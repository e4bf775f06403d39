"""What all tests share: which of them cannot even be collected where telemetry/ is deleted."""

from __future__ import annotations

import os

# Set by tests/matrix.py for the copy without telemetry/; these import it, or what can only be tested with it.
collect_ignore = (
    [
        "aws", "building/test_build.py", "collector", "instrumented", "telemetry", "test_aws_examples.py",
        "test_otlp.py", "test_receiver.py", "test_vercel_examples.py", "test_waterfall.py",
    ]
    if os.environ.get("TRACEDBRIDGE_TEST_BARE")
    else []
)  # fmt: skip
