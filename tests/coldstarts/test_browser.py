"""The page in a real browser: its chart is drawn, and nothing that is planted in it runs."""

from __future__ import annotations

import os
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.coldstarts.measurements import import_of, measured, run_of
from tests.support import HANG_S
from tracedbridge.coldstarts.page import write

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Buttons(HTMLParser):
    """The texts of the chart's buttons, and of its line of details, as a browser left them."""

    def __init__(self) -> None:
        """Find none yet."""
        super().__init__()
        self.texts: list[str] = []
        self.details = ""
        self._inside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Go in."""
        name = dict(attrs).get("id") or tag
        if name == "button" and "icicle" in self._inside:
            self.texts.append("")
        if tag not in ("meta", "br", "link"):
            self._inside.append(name)

    def handle_endtag(self, tag: str) -> None:
        """Go out."""
        if self._inside:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        """Take a text."""
        if self._inside[-1:] == ["button"] and "icicle" in self._inside:
            self.texts[-1] += data
        if "details" in self._inside:
            self.details += data


def opened(file: Path, folder: Path) -> Buttons:
    """Open a page and return what is there when its scripts have run."""
    if CHROMIUM is None:
        if os.environ.get("CI"):
            pytest.fail("CI has no chromium: .ci/run installs it")
        pytest.skip("no chromium on this machine")
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=2000", "--dump-dom", file.as_uri(),
        ],
        capture_output=True, text=True, timeout=3 * HANG_S, check=True,
    )  # fmt: skip
    found = Buttons()
    found.feed(done.stdout)
    return found


def test_the_chart(tmp_path: Path) -> None:
    """The chart has a button for each import of the middle run, and one for all; names are text and never run."""
    hostile = "<img src=x onerror=document.title=1>"
    imports = [
        import_of("index", 100, 20),
        import_of("numpy", 80, 70, parent=0),
        import_of(hostile, 10, 10, parent=1),
    ]
    file = tmp_path / "page.html"
    write(measured([run_of(imports, app_import=100)]), str(file))
    chart = opened(file, tmp_path)
    assert chart.texts == ["all imports", "index", "numpy", hostile]
    assert chart.details == "all imports: 100 ms in total"
