"""``python -m tracedbridge`` is ``tracedbridge``."""

from __future__ import annotations

import sys

from tracedbridge.cli import main

if __name__ == "__main__":
    sys.exit(main())
