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

AXE = "axe-core@4.10.3"
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
_NPM_TIMEOUT_S = 120


@pytest.fixture(scope="package")
def axe() -> str:
    """Return the source of axe-core, from npm once and then from the cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "tracedbridge-tests" / AXE
    source = cache / "node_modules" / "axe-core" / "axe.min.js"
    if not source.exists():
        npm = shutil.which("npm")
        reason = "no npm to get axe-core with"
        if npm is not None:
            cache.parent.mkdir(parents=True, exist_ok=True)
            # Whole or not at all: the next run must not find half of it.
            with tempfile.TemporaryDirectory(dir=cache.parent) as made:
                done = subprocess.run(
                    [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", made, AXE],
                    capture_output=True, text=True, timeout=_NPM_TIMEOUT_S, check=False,
                )  # fmt: skip
                reason = f"npm could not get {AXE}: {done.stderr.strip()}"
                if done.returncode == 0:
                    shutil.copytree(made, cache, dirs_exist_ok=True)
        if not source.exists():
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)
    return source.read_text()


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
        found = page.evaluate("axe.run({ resultTypes: ['violations'] })")
        serious = [
            (scheme, each["id"], [node["html"][:200] for node in each["nodes"][:3]])
            for each in found["violations"]
            if each["impact"] in ("serious", "critical")
        ]
        assert serious == []
        assert len(found["passes"]) > 10


def test_axe_would_find_something(page: Page, story: Served, axe: str) -> None:
    """The check is one: a button without a name is found."""
    page.goto(story.url)
    page.locator("[data-drawn]").wait_for()
    page.evaluate("document.querySelector('main').append(document.createElement('button'))")
    page.evaluate(axe)
    found = page.evaluate("axe.run()")
    assert "button-name" in {each["id"] for each in found["violations"]}
