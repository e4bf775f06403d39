"""A real OTLP collector (rotel) that passes on what it gets to a sink of ours."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sysconfig
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.collector.sink import Sink

__all__ = ("Collector", "collector", "collector_in")

# Rotel starts and ends in some milliseconds; only a test that fails waits for so long.
_TIMEOUT_S = 20.0

# Between our finding a free port and rotel's binding it, somebody else may take it.
_ATTEMPTS = 3


class Collector:
    """A rotel process with OTLP receivers for gRPC and HTTP on free ports of 127.0.0.1."""

    def __init__(self, program: Path, folder: Path, sink: Sink) -> None:
        """Start it and return when it takes connections."""
        self._sink = sink
        self._output: list[str] = []
        self._has_spoken = threading.Event()
        grpc, http = _free_addresses()
        self._endpoints = {"grpc": f"http://{grpc}", "http/protobuf": f"http://{http}"}
        self._process = subprocess.Popen(
            [
                program, "start",
                "--pid-file", folder / "rotel.pid",
                "--otlp-grpc-endpoint", grpc,
                "--otlp-http-endpoint", http,
                # What comes is passed on at once, and as it came.
                "--disable-batching",
                "--exporter", "otlp",
                "--otlp-exporter-protocol", "http",
                "--otlp-exporter-endpoint", sink.endpoint,
            ],
            # The program in the wheel is linked to its interpreter's libpython, which it does not find by itself.
            env={"LD_LIBRARY_PATH": sysconfig.get_config_var("LIBDIR") or ""},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            # It binds its ports before it says its first word.
            self._has_spoken.wait(_TIMEOUT_S)
            for address in (grpc, http):
                host, _, port = address.rpartition(":")
                socket.create_connection((host, int(port)), _TIMEOUT_S).close()
        except OSError as error:
            self.stop()
            raise ConnectionError(f"rotel takes no connections: {error}\n{self.output()}") from error

    def endpoint(self, protocol: str) -> str:
        """Return the endpoint for a value of ``OTEL_EXPORTER_OTLP_PROTOCOL``."""
        return self._endpoints[protocol]

    def output(self) -> str:
        """Return what it has written."""
        return "".join(self._output)

    def drained(self) -> Sink:
        """End the collector, which passes on what it still holds, and return the sink with all that came."""
        self.stop()
        assert self._process.returncode == 0, f"rotel ended with {self._process.returncode}\n{self.output()}"
        assert not self._sink.faults, f"{self._sink.faults}\nrotel said:\n{self.output()}"
        self._sink.sort()
        return self._sink

    def stop(self) -> None:
        """End the process, if it has not ended."""
        self._process.terminate()
        try:
            self._process.wait(_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._output.append(line)
                self._has_spoken.set()
        # It has ended: nobody need wait for its first word any more.
        self._has_spoken.set()


@pytest.fixture(scope="module")
def collector_in() -> Callable[[Path], AbstractContextManager[Collector]]:
    """Return what runs a collector for the length of a block; its output goes into the report of a test that fails."""
    program = _program()

    @contextmanager
    def running(folder: Path) -> Iterator[Collector]:
        with Sink() as sink:
            collector = _started(program, folder, sink)
            try:
                yield collector
            finally:
                collector.stop()
                print(f"rotel said:\n{collector.output()}")

    return running


@pytest.fixture
def collector(collector_in: Callable[[Path], AbstractContextManager[Collector]], tmp_path: Path) -> Iterator[Collector]:
    """Run a collector for one test."""
    with collector_in(tmp_path) as running:
        yield running


def _started(program: Path, folder: Path, sink: Sink) -> Collector:
    for _ in range(_ATTEMPTS - 1):
        try:
            return Collector(program, folder, sink)
        except ConnectionError:
            continue
    return Collector(program, folder, sink)


def _program() -> Path:
    found = importlib.util.find_spec("rotel")
    if found is None or found.origin is None:
        reason = "the collector tests need a collector: pip install rotel"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return Path(found.origin).with_name("rotel-agent")


def _free_addresses() -> list[str]:
    with socket.socket() as first, socket.socket() as second:
        for each in (first, second):
            each.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in (first, second)]
