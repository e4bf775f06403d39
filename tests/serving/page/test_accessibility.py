"""axe-core, which knows the rules of WCAG, finds nothing serious."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Page

from tests.serving.page.served import Served
from tests.serving.page.test_viewer import PAGES

pytestmark = pytest.mark.browser

AXE = "axe-core@4.10.3"
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
_NPM_TIMEOUT_S = 120
# Instead of for 70 seconds, which is long for who is offline.
_RETRY = ("--fetch-retries=3", "--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=5000")

# How many rules passed, and which did not, with the first elements that break them: all that axe knows is megabytes.
_RUN = """
axe.run({ resultTypes: ["violations"] }).then(({ passes, violations }) => ({
    passed: passes.length,
    serious: violations.filter(({ impact }) => ["serious", "critical"].includes(impact))
        .map(({ id, nodes }) => [id, nodes.slice(0, 3).map(({ html }) => html.slice(0, 200))]),
}))
"""


@pytest.fixture(scope="package")
def axe() -> str:
    """Return the source of axe-core, from npm once and then from the cache; skip without it, but fail in CI."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tracedbridge-tests"
    source = cache / f"{AXE}.js"
    if not source.exists():
        cache.mkdir(parents=True, exist_ok=True)
        if reason := _fetch(source):
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)
    return source.read_text()


def _fetch(source: Path) -> str:
    """Get axe-core and return nothing, or why not."""
    npm = shutil.which("npm")
    if npm is None:
        return f"there is no npm to get {AXE} with: apt-get install npm"
    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        try:
            done = subprocess.run(
                [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", *_RETRY, "--prefix", folder, AXE],
                capture_output=True, text=True, timeout=_NPM_TIMEOUT_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"npm could not get {AXE} within {_NPM_TIMEOUT_S} s"
        if done.returncode:
            return f"npm could not get {AXE}: {done.stderr.strip()}"
        # Whole or not at all: the next run must not find half of it.
        (Path(folder) / "node_modules" / "axe-core" / "axe.min.js").replace(source)
    return ""


@pytest.mark.parametrize("name", [*PAGES, "help", "critical"])
def test_axe_finds_nothing_serious(page: Page, story: Served, axe: str, name: str) -> None:
    """Roles, names, contrast and focus are right on every page, dark and light, at desktop and phone width."""
    page.goto(f"{story.url}{PAGES.get(name, PAGES['trace' if name == 'critical' else 'traces'])}")
    page.locator("[data-drawn]").wait_for()
    if name == "help":
        page.keyboard.press("?")
    if name == "critical":
        page.keyboard.press("c")
    # By the debugger's protocol, which the page's policy does not bind.
    page.evaluate(axe)
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        found = page.evaluate(_RUN)
        assert found["serious"] == [], scheme
        assert found["passed"] > 10


def test_axe_would_find_something(page: Page, story: Served, axe: str) -> None:
    """The check is one: a button without a name is found."""
    page.goto(story.url)
    page.locator("[data-drawn]").wait_for()
    page.evaluate("document.querySelector('main').append(document.createElement('button'))")
    page.evaluate(axe)
    assert [rule for rule, _ in page.evaluate(_RUN)["serious"]] == ["button-name"]
