"""A real Prometheus with the demo in it, and the programs that come with it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

__all__ = ("Engine", "Series", "program", "promtool", "running")

Series = dict[frozenset[tuple[str, str]], dict[float, float]]
"""Labels, without the name → time → value."""

_START_S = 60.0
_PROMTOOL_S = 240.0
_QUERY_S = 60.0


def program(name: str) -> str:
    """Return the path of a program of Debian's package ``prometheus``; skip where it is missing, but fail in CI."""
    found = shutil.which(name)
    if found is None:
        reason = f"{name} is not installed: apt-get install prometheus"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def promtool(*arguments: str | Path) -> str:
    """Run promtool to its end and return what it said; fail if it does."""
    done = subprocess.run(
        (program("promtool"), *map(str, arguments)),
        capture_output=True,
        text=True,
        timeout=_PROMTOOL_S,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


class Engine:
    """Asks a running Prometheus."""

    def __init__(self, url: str) -> None:
        """Ask the one at ``url``."""
        self.url = url

    def at(self, query: str, at_s: float) -> Series:
        """Return what a query says at one time."""
        return _series(self._ask("query", query=query, time=str(at_s)))

    def over(self, query: str, begun_s: float, ended_s: float, step_s: float) -> Series:
        """Return what a query says at each step, the first and the last time included."""
        return _series(self._ask("query_range", query=query, start=str(begun_s), end=str(ended_s), step=str(step_s)))

    def exemplars(self, query: str) -> set[str]:
        """Return the trace ids of the exemplars that Grafana shows with a query, of the last quarter of an hour."""
        now_s = time.time()
        found = self._ask("query_exemplars", query=query, start=str(now_s - 900), end=str(now_s + 60))
        return {each["labels"]["trace_id"] for series in found for each in series["exemplars"]}

    def values_of(self, label: str, match: str, begun_s: float, ended_s: float) -> list[str]:
        """Return the values of a label, as a variable of a dashboard lists them."""
        asked = urllib.parse.urlencode({"match[]": match, "start": begun_s, "end": ended_s})
        with urllib.request.urlopen(f"{self.url}/api/v1/label/{label}/values?{asked}", timeout=_QUERY_S) as response:
            values: list[str] = json.load(response)["data"]
            return values

    def rules(self) -> list[dict[str, Any]]:
        """Return the rules it has loaded."""
        with urllib.request.urlopen(f"{self.url}/api/v1/rules", timeout=_QUERY_S) as response:
            groups = json.load(response)["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def _ask(self, what: str, **parameters: str) -> Any:
        body = urllib.parse.urlencode(parameters).encode()
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{what}", data=body, timeout=_QUERY_S) as response:
                data = json.load(response)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters['query']}: {error.read().decode()}") from None
        return data["result"] if isinstance(data, dict) else data


@contextmanager
def running(folder: Path, scrape: str | None = None, rules: Path | None = None) -> Iterator[Engine]:
    """
    Run a Prometheus over ``folder / "data"``, and end it.

    Args:
        folder: Its own.
        scrape: Host and port of what it is to scrape once a second.
        rules: It loads; it evaluates none, as everything in it is long ago.
    """
    config: dict[str, Any] = {"global": {"evaluation_interval": "1h"}}
    if rules is not None:
        config["rule_files"] = [str(rules)]
    if scrape is not None:
        targets = [{"targets": [scrape]}]
        config["scrape_configs"] = [
            {"job_name": "live", "scrape_interval": "1s", "honor_labels": True, "static_configs": targets}
        ]
    # JSON is YAML.
    (folder / "prometheus.yml").write_text(json.dumps(config))
    log = folder / "prometheus.log"
    command = (
        program("prometheus"), f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
        "--web.listen-address=127.0.0.1:0", "--enable-feature=exemplar-storage",
        # The demo is long ago; what is older than 15 days is deleted otherwise.
        "--storage.tsdb.retention.time=50y",
    )  # fmt: skip
    with log.open("w") as written:
        process = subprocess.Popen(command, stdout=written, stderr=subprocess.STDOUT)
    try:
        yield Engine(_ready(process, log))
    finally:
        process.terminate()
        try:
            process.wait(_START_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(_START_S)


def _ready(process: subprocess.Popen[bytes], log: Path) -> str:
    """Return its address as soon as it answers."""
    deadline_s = time.monotonic() + _START_S
    while time.monotonic() < deadline_s:
        assert process.poll() is None, log.read_text()
        if found := re.search(r'msg="Listening on" address=(127\.0\.0\.1:\d+)', log.read_text()):
            url = f"http://{found[1]}"
            try:
                urllib.request.urlopen(f"{url}/-/ready", timeout=5).close()
            except OSError:
                # Its storage is not open yet.
                pass
            else:
                return url
        # It tells nobody when it is ready: asking is the only way to know.
        time.sleep(0.05)
    raise AssertionError(f"Prometheus is not ready after {_START_S:g} s: {log.read_text()}")


def _series(found: Any) -> Series:
    series: Series = {}
    for each in found:
        labels = frozenset((key, value) for key, value in each["metric"].items() if key != "__name__")
        points = each["values"] if "values" in each else [each["value"]]
        # NaN is what a quantile of nothing is.
        series[labels] = {float(at): float(value) for at, value in points if value != "NaN"}
    return series
