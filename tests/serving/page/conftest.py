"""What the tests of the page share: a browser, a server with a story to tell, and a page that must not complain."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.serving.page.made import METRICS, STORY
from tests.serving.page.served import Real, Served

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Dialog, Page, Request

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))

# A phone of the narrowest kind, and a desk.
SIZES = {"desktop": (1280, 800), "phone": (360, 740)}

# Long enough for the noisiest machine; only a test that fails waits for it.
_TIMEOUT_MS = 15_000


# Playwright's loop runs in this thread until it is stopped: other folders' tests have loops of their own.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Return Debian's Chromium; skip where it is missing, but fail in CI."""
    if not CHROMIUM.exists():
        reason = f"{CHROMIUM} is not installed: apt-get install chromium"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Tests run as root in containers, where Chromium's own sandbox cannot.
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


@pytest.fixture(scope="package")
def story() -> Iterator[Served]:
    """Return a server that has been told everything in ``made.py``, but for what is planted."""
    served = Real()
    served.tell(*STORY)
    served.measure(METRICS)
    yield served
    served.close()


@pytest.fixture
def fresh() -> Iterator[Served]:
    """Return a server that has been told nothing yet."""
    served = Real()
    yield served
    served.close()


@pytest.fixture(params=list(SIZES))
def size(request: pytest.FixtureRequest) -> str:
    """Return ``"desktop"`` or ``"phone"``."""
    name: str = request.param
    return name


@pytest.fixture
def forgiven() -> list[str]:
    """Return what a test may add to: parts of complaints that it brings about."""
    return []


@pytest.fixture
def page(browser: Browser, size: str, forgiven: list[str]) -> Iterator[Page]:
    """Return an empty tab, in which nothing may complain, ask or leave the server."""
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme="light", reduced_motion="reduce",
        has_touch=size == "phone", permissions=["clipboard-read", "clipboard-write"],
    )  # fmt: skip
    tab = context.new_page()
    tab.set_default_timeout(_TIMEOUT_MS)
    complaints: list[str] = []

    def heard(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            complaints.append(message.text)

    def asked(dialog: Dialog) -> None:
        complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def left(request: Request) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "data:")):
            complaints.append(f"request: {request.url}")

    tab.on("console", heard)
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("dialog", asked)
    tab.on("request", left)
    yield tab
    context.close()
    assert [each for each in complaints if not any(part in each for part in forgiven)] == []
