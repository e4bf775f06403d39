"""What came is text, whatever it looks like: nothing of it runs, colours or turns round."""

from __future__ import annotations

import copy

import pytest
from playwright.sync_api import Page, expect

from tests.serving.page.made import METRICS, PLANTED, PLANTED_METRIC, planted
from tests.serving.page.served import PAGE, Served

pytestmark = pytest.mark.browser

# The page shows an escape as its picture, and what turns text round as its number.
SHOWN = PLANTED.replace("\x1b", "␛").replace("\u202e", "\\u202e")


@pytest.mark.parametrize("address", ["traces", "trace", "coldstarts", "metrics", "logs", "filter"])
def test_planted_markup_is_text(page: Page, fresh: Served, address: str) -> None:
    """Markup, script and ANSI in names, attributes, logs and metrics are shown as they are, and nothing runs."""
    made = planted()
    fresh.tell(made)
    metrics = copy.deepcopy(METRICS)
    for metric in metrics:
        metric["name"], metric["description"] = f"{PLANTED_METRIC} {metric['type']}", PLANTED
        metric["series"][0]["attributes"] = [[PLANTED, PLANTED]]
    fresh.measure(metrics)
    page.goto(f"{fresh.url}#/{address}")
    if address == "trace":
        page.goto(f"{fresh.url}#/trace/{made.trace_id}?span={made.span_id(1)}")
        expect(page.get_by_role("complementary", name="Details")).to_contain_text(SHOWN)
        page.keyboard.press("e")
    if address == "filter":
        page.get_by_role("searchbox").fill(PLANTED)
        expect(page.get_by_role("heading", name="No trace matches")).to_have_count(0)
        page.get_by_role("searchbox").fill(f"no{PLANTED}")
        expect(page.get_by_role("heading", name="No trace matches")).to_be_visible()
    expect(page.get_by_role("main")).to_contain_text(SHOWN)
    # Nothing of it became an element or a handler, and none of its characters reach the reader's terminal.
    assert page.locator("main img, main script, main [onerror]").count() == 0
    text = page.evaluate("document.body.textContent + document.title")
    assert not set(text) & {"\x1b", "\u202e"}
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0


def test_the_page_has_no_way_to_write_markup() -> None:
    """No file of the page parses markup or source, and none has anything inline."""
    for file in PAGE.iterdir():
        text = file.read_text()
        for word in (
            "innerHTML =",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "DOMParser",
        ):
            assert word not in text, f"{file.name}: {word}"
    html = (PAGE / "index.html").read_text()
    assert " style=" not in html
    assert "<style" not in html
    assert " onclick" not in html
    assert all("src=" in each for each in html.split("<script")[1:])
