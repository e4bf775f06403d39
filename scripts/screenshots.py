"""
Takes the README's screenshots of the viewer: of what real invocations of the FastAPI example left in it.

``python scripts/screenshots.py [FOLDER]`` writes ``docs/images/*.png``, or into the folder given. It needs the
``dev`` extra and Chromium (``apt-get install chromium``; ``CHROMIUM`` names another).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from playwright.sync_api import sync_playwright

from tracedbridge.serving.viewer.server import Viewer

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "fastapi" / "index.py"

# As many processes as make a distribution, each with a cold start of its own.
PROCESSES = 12
_INVOKED_TIMEOUT_S = 60
_ARRIVED_TIMEOUT_S = 15

# What each process answers; the first is the cold one.
PATHS = ("/items/3", "/items/1", "/price/2", "/items/2", "/price/3")
CHILD = """
import json, sys
from tracedbridge import vc_handler
for method, path in json.loads(sys.argv[1]):
    vc_handler({"Action": "Invoke", "body": json.dumps({"method": method, "path": path, "headers": {}})}, None)
vc_handler.close()
"""

WIDTH, HEIGHT = 1120, 620


def main() -> int:
    """Take them and return the exit code."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images"
    folder.mkdir(parents=True, exist_ok=True)
    with Viewer(port=0) as viewer:
        for number in range(PROCESSES):
            _invoke(viewer.endpoint, number)
        deadline_s = time.monotonic() + _ARRIVED_TIMEOUT_S
        while len(viewer.store.traces()) < PROCESSES * len(PATHS):
            if time.monotonic() > deadline_s:
                raise SystemExit("what was invoked did not arrive")
            time.sleep(0.1)
        _shoot(f"http://127.0.0.1:{viewer.port}/", folder)
    return 0


def _invoke(endpoint: str, number: int) -> None:
    """Answer a few requests in a fresh process that exports to the viewer."""
    requests = [("GET", path) for path in PATHS] + [("POST", "/orders/2")]
    if number % 4 == 1:
        requests.append(("GET", "/crash"))
    # Versions as a deploy makes them.
    version = "1.4.0" if number < PROCESSES / 2 else "1.5.0"
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("TRACEDBRIDGE_", "OTEL_"))}
    environ |= {
        "PYTHONPATH": str(ROOT), "TRACEDBRIDGE_APP": str(EXAMPLE), "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_SERVICE_NAME": "fruit", "OTEL_RESOURCE_ATTRIBUTES": f"service.version={version}",
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as cwd:
        done = subprocess.run(  # noqa: S603 - this Python, and what is written above
            [sys.executable, "-c", CHILD, json.dumps(requests)],
            cwd=cwd, env=environ, capture_output=True, text=True, timeout=_INVOKED_TIMEOUT_S, check=False,
        )  # fmt: skip
    # The crash is answered, too: the bridge turns it into a 500.
    if done.returncode:
        raise SystemExit(done.stderr)


def _shoot(url: str, folder: Path) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        for scheme in ("light", "dark"):
            context = browser.new_context(
                viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=scheme, reduced_motion="reduce"
            )
            page = context.new_page()
            page.goto(f"{url}#/traces")
            page.locator(".badge.cold").first.wait_for()
            cold = page.locator(".row:has(.badge.cold)").first.get_attribute("data-id")
            _take(page, f"{url}#/trace/{cold}", folder / f"trace-{scheme}.png", keys=("j", "j", "j", "Enter"))
            if scheme == "light":
                _take(page, f"{url}#/traces", folder / "traces.png")
                _take(page, f"{url}#/coldstarts", folder / "coldstarts.png")
            context.close()
        phone = browser.new_context(
            viewport={"width": 360, "height": 720}, color_scheme="light", reduced_motion="reduce"
        )
        _take(phone.new_page(), f"{url}#/trace/{cold}", folder / "phone.png")
        browser.close()


def _take(page: Page, address: str, file: Path, keys: tuple[str, ...] = ()) -> None:
    page.goto(address)
    page.locator("[data-drawn]").wait_for()
    for key in keys:
        page.keyboard.press(key)
    # The fonts and the status at the top.
    page.get_by_text("Live", exact=True).wait_for()
    page.screenshot(path=file)
    sys.stdout.write(f"{file}  {file.stat().st_size // 1024} KiB\n")


if __name__ == "__main__":
    sys.exit(main())
