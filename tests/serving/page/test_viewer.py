"""What all pages share: the bar at the top, keys, theme, width, and what happens when the server goes."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.serving.page.made import COLD, PROACTIVE, warm
from tests.serving.page.served import Fixed, Served

pytestmark = pytest.mark.browser

PAGES = {
    "traces": "#/traces",
    "trace": f"#/trace/{COLD.trace_id}?span={COLD.span_id(3)}",
    "coldstarts": f"#/coldstarts?a={COLD.trace_id}&b={PROACTIVE.trace_id}",
    "metrics": "#/metrics",
    "logs": "#/logs",
}


@pytest.mark.parametrize(("key", "name"), [("1", "Traces"), ("2", "Cold starts"), ("3", "Metrics"), ("4", "Logs")])
def test_pages_are_reached_by_link_and_by_key(page: Page, story: Served, key: str, name: str) -> None:
    """Each page has a link that says where one is, and a digit."""
    page.goto(f"{story.url}#/{'logs' if key == '1' else 'traces'}")
    link = page.get_by_role("navigation").get_by_role("link", name=name)
    link.click()
    expect(link).to_have_attribute("aria-current", "page")
    expect(page.get_by_role("heading", name=name, exact=True)).to_be_attached()
    page.go_back()
    expect(link).not_to_have_attribute("aria-current", "page")
    page.keyboard.press(key)
    expect(link).to_have_attribute("aria-current", "page")


def test_help_lists_the_keys(page: Page, story: Served) -> None:
    """The question mark and the button show the keys, Escape hides them."""
    page.goto(story.url)
    expect(page.get_by_role("grid")).to_be_visible()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard")).to_contain_text("critical path")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.get_by_role("button", name="Keyboard help").click()
    page.get_by_role("dialog").get_by_role("button", name="Close").click()
    expect(page.get_by_role("dialog")).to_be_hidden()


def test_the_theme_follows_the_system_or_the_switch(page: Page, story: Served) -> None:
    """Light and dark come from the system until the switch says otherwise, which is remembered."""
    page.goto(story.url)
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(background)
    assert light != dark
    page.get_by_role("button", name="Theme: as the system").click()
    assert page.evaluate(background) == light
    page.get_by_role("button", name="Theme: light").click()
    page.emulate_media(color_scheme="light")
    page.reload()
    expect(page.get_by_role("button", name="Theme: dark")).to_be_visible()
    assert page.evaluate(background) == dark


@pytest.mark.parametrize("name", PAGES)
def test_nothing_sticks_out(page: Page, story: Served, name: str) -> None:
    """No page is wider than the window, at 360 pixels either."""
    page.goto(f"{story.url}{PAGES[name]}")
    page.locator("[data-drawn]").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0


def test_reduced_motion_is_respected(browser: Browser, story: Served) -> None:
    """What moves for others stands still for those who asked for it."""
    moves = {}
    for wish in ("reduce", "no-preference"):
        with browser.new_context(reduced_motion=wish) as context:
            tab = context.new_page()
            tab.goto(story.url)
            expect(tab.get_by_role("status").first).to_have_text("Live")
            moves[wish] = tab.evaluate("getComputedStyle(document.getElementById('live'), '::before').animationName")
    assert moves == {"reduce": "none", "no-preference": "breathe"}


def test_a_server_that_goes_is_told(page: Page, forgiven: list[str]) -> None:
    """The page says so when nobody answers any more, and keeps what it has."""
    forgiven.append("ERR_CONNECTION_REFUSED")
    served = Fixed()
    try:
        served.tell(warm(1))
        page.goto(served.url)
        expect(page.get_by_role("status").first).to_have_text("Live")
    finally:
        served.close()
    expect(page.get_by_text("Offline")).to_be_visible()
    expect(page.get_by_role("grid").locator(".row")).to_have_count(1)


def test_the_first_tab_skips_to_the_content(page: Page, story: Served) -> None:
    """A keyboard's first stop is the way past the links, and leaves the address alone."""
    page.goto(f"{story.url}#/logs")
    expect(page.get_by_role("treegrid")).to_be_visible()
    page.evaluate("document.activeElement.blur()")
    page.locator("#skip").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()
    expect(page).to_have_url(re.compile("#/logs$"))
