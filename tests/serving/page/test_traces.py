"""The list of traces: live, filtered, by mouse and by keyboard."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.serving.page.made import COLD, ERROR, INVOKED, LARGE, ORPHAN, PROACTIVE, STORY, Made, warm
from tests.serving.page.served import Served

pytestmark = pytest.mark.browser


def _row(page: Page, made: Made) -> Locator:
    return page.locator(f"[id='trace-{made.trace_id}']")


ROWS = {
    COLD: ("GET /items/{item_id}", "cold", "200", "47 spans", "3 logs", "604 ms"),
    PROACTIVE: ("cold start", "proactive", "44 spans", "477 ms"),
    ERROR: ("POST /orders", "500", "2 errors", "2 logs", "30 ms"),
    ORPHAN: ("charge the card", "parts missing"),
    LARGE: ("GET /report", "3,000 spans", "3.1 s"),
}


def test_a_row_says_what_came_of_a_request(page: Page, story: Served) -> None:
    """A row has route, cold badge, status, errors, log count and duration."""
    page.goto(story.url)
    for made, says in ROWS.items():
        for each in says:
            expect(_row(page, made)).to_contain_text(each)
    expect(page.locator(".badge.cold")).to_have_count(22)


def test_the_newest_is_first(page: Page, story: Served) -> None:
    """The list begins with what began last."""
    page.goto(story.url)
    rows = page.get_by_role("grid").locator(".row")
    expect(rows).to_have_count(len(STORY))
    expect(rows.first).to_have_attribute("data-id", LARGE.trace_id)


FILTERS: dict[str, tuple[set[Made], set[Made]]] = {
    "cold": ({COLD, PROACTIVE}, {ERROR}),
    "error": ({ERROR}, {COLD}),
    "status:5xx": ({ERROR}, {COLD}),
    ">3s": ({LARGE}, {COLD}),
    "/orders -post": ({INVOKED}, {ERROR}),
    "service:payments": ({ORPHAN}, {COLD}),
}
"""What is typed, what is there then, and what is not."""


def test_the_filter_leaves_what_it_names(page: Page, story: Served) -> None:
    """The filter is typed, stands in the address, and holds when the page is opened again."""
    page.goto(story.url)
    for query, (there, gone) in FILTERS.items():
        page.get_by_role("searchbox").fill(query)
        for made in gone:
            expect(_row(page, made)).to_have_count(0)
        for made in there:
            expect(_row(page, made)).to_be_visible()
    page.reload()
    expect(page.get_by_role("searchbox")).to_have_value("service:payments")
    expect(page.get_by_role("grid").locator(".row")).to_have_count(1)


def test_a_chip_filters(page: Page, story: Served) -> None:
    """The quick filters are buttons that are pressed or not."""
    page.goto(story.url)
    page.get_by_role("button", name="Errors").click()
    expect(page.get_by_role("button", name="Errors")).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("grid").locator(".row")).to_have_count(1)
    expect(page).to_have_url(re.compile(r"#/traces\?q=error$"))
    page.get_by_role("button", name="All", exact=True).click()
    expect(page.get_by_role("grid").locator(".row")).to_have_count(len(STORY))


def test_a_filter_that_finds_nothing_says_so(page: Page, story: Served) -> None:
    """Where nothing matches there is a way back to everything."""
    page.goto(f"{story.url}#/traces?q=nowhere")
    expect(page.get_by_role("heading", name="No trace matches")).to_be_visible()
    page.get_by_role("button", name="Clear the filter").click()
    expect(page.get_by_role("grid").locator(".row")).to_have_count(len(STORY))


def test_what_comes_is_shown_at_once(page: Page, fresh: Served) -> None:
    """A trace that arrives is put on top, the rows that were there and the selected one stay."""
    first, second = warm(1), warm(2)
    fresh.tell(first)
    page.goto(fresh.url)
    expect(_row(page, first)).to_be_visible()
    page.keyboard.press("j")
    expect(_row(page, first)).to_have_attribute("aria-selected", "true")
    fresh.tell(second)
    expect(_row(page, second)).to_be_visible()
    expect(page.get_by_role("grid").locator(".row").first).to_have_attribute("data-id", second.trace_id)
    expect(_row(page, first)).to_have_attribute("aria-selected", "true")


def test_an_empty_page_says_where_to_point_an_exporter(page: Page, fresh: Served) -> None:
    """It has the setting ready to copy, with the address of this very server."""
    page.goto(fresh.url)
    setting = f"export OTEL_EXPORTER_OTLP_ENDPOINT={fresh.url.rstrip('/')}"
    expect(page.get_by_text(setting)).to_be_visible()
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == setting


def test_the_keyboard_is_enough(page: Page, story: Served) -> None:
    """Slash filters, j and k and the arrows move, Enter opens, Escape comes back and clears."""
    page.goto(story.url)
    rows = page.get_by_role("grid").locator(".row")
    expect(rows.first).to_be_visible()
    page.keyboard.press("/")
    page.keyboard.type("service:shop get")
    page.keyboard.press("ArrowDown")
    for key, index in (("j", 1), ("ArrowDown", 2), ("k", 1), ("ArrowUp", 0), ("j", 1)):
        page.keyboard.press(key)
        expect(rows.nth(index)).to_have_attribute("aria-selected", "true")
        expect(page.get_by_role("grid")).to_be_focused()
    trace_id = rows.nth(1).get_attribute("data-id")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(f"#/trace/{trace_id}"))
    expect(page.get_by_role("treegrid")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page).to_have_url(re.compile("#/traces"))


def test_a_click_opens_the_trace(page: Page, story: Served) -> None:
    """A row leads to its waterfall, and the browser's way back to the list as it was filtered."""
    page.goto(f"{story.url}#/traces?q=error")
    _row(page, ERROR).click()
    expect(page.get_by_role("heading", name="POST /orders")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("searchbox")).to_have_value("error")
    expect(page.get_by_role("grid").locator(".row")).to_have_count(1)
