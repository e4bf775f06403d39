"""
What `imports.py` runs in fresh processes: the same imports, watched by one contender or by nobody.

Run as ``importing.py CONTENDER``: it prints one line of JSON with the nanoseconds between the contender's start and
its end, the number of modules that were loaded in between, and how many of them the contender saw.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from types import ModuleType
from typing import Any

# All contenders load what each of them needs before the window, so that none of it counts as an import for one of
# them, and as loaded already for another.
from tracedbridge.imports import Recording

# An app with a data part, and much of the standard library, whose modules are small: there a recorder weighs most.
MODULES = (
    "asyncio", "concurrent.futures.process", "email.mime.text", "http.server", "multiprocessing.pool", "sqlite3",
    "unittest.mock", "xml.dom.minidom", "numpy", "pandas", "fastapi",
)  # fmt: skip


class Bare:
    """Watches nothing."""

    def open(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    def count(self) -> int | None:
        """Return None: it has seen nothing."""
        return None


class Tracedbridge(Bare):
    """Our recorder."""

    def __init__(self) -> None:
        """Make none yet: that is part of what it costs."""
        self._recording: Recording | None = None

    def open(self) -> None:
        """Begin to record."""
        self._recording = Recording()
        self._recording.open()

    def close(self) -> None:
        """Put the import system back as it was."""
        assert self._recording is not None
        self._recording.close()

    def count(self) -> int | None:
        """Return the number of imports recorded."""
        assert self._recording is not None
        return sum(1 for _ in self._recording.walk())


class Datadog(Bare):
    """datadog-lambda's own module: the one that ``DD_COLD_START_TRACING`` switches on."""

    def __init__(self, cold_start: Any) -> None:
        """
        Args:
            cold_start: The module ``datadog_lambda.cold_start``.
        """
        self._cold_start = cold_start

    def open(self) -> None:
        """Wrap the finders; it never takes that back."""
        self._cold_start.initialize_cold_start_tracing()

    def count(self) -> int | None:
        """Return the number of nodes."""
        waiting, count = list(self._cold_start.root_nodes), 0
        while waiting:
            count += 1
            waiting.extend(waiting.pop().children)
        return count


def cold_start_of_datadog() -> Any:
    """
    Return the module ``datadog_lambda.cold_start``, None where it is not installed.

    Without its package's ``__init__``, which starts to wrap at once, loads ddtrace and patches libraries: that costs
    more than the wrapping, and is not what we compare.
    """
    spec = importlib.util.find_spec("datadog_lambda")
    if spec is None or spec.submodule_search_locations is None:
        return None
    package = ModuleType("datadog_lambda")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["datadog_lambda"] = package
    return importlib.import_module("datadog_lambda.cold_start")


def main() -> None:
    """Import, print, and leave."""
    cold_start = cold_start_of_datadog()
    contenders = {"bare": Bare(), "importtime": Bare(), "tracedbridge": Tracedbridge(), "datadog": Datadog(cold_start)}
    contender = contenders[sys.argv[1]]
    loaded = set(sys.modules)
    begun_ns = time.monotonic_ns()
    contender.open()
    for name in MODULES:
        __import__(name)
    contender.close()
    took_ns = time.monotonic_ns() - begun_ns
    modules = len(sys.modules.keys() - loaded)
    print(json.dumps({"took_ns": took_ns, "modules": modules, "seen": contender.count()}), flush=True)
    # What an exit takes is not measured: pandas takes long to go.
    os._exit(0)


if __name__ == "__main__":
    main()
