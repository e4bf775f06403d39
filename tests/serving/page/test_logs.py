"""The page of log lines."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.serving.page.made import ERROR
from tests.serving.page.served import Served

pytestmark = pytest.mark.browser


def _row(page: Page, text: str) -> Locator:
    return page.get_by_role("treegrid").locator(".row").filter(has_text=text)


def test_a_log_line_leads_to_its_span(page: Page, story: Served) -> None:
    """A line has time, severity and message, and its link selects it in the waterfall of its trace."""
    page.goto(f"{story.url}#/logs")
    row = _row(page, "could not find the customer")
    expect(row).to_contain_text("ERROR")
    row.get_by_role("link").click()
    expect(page).to_have_url(re.compile(f"#/trace/{ERROR.trace_id}"))
    line = page.get_by_role("treegrid").get_by_role("row").filter(has_text="could not find the customer")
    expect(line).to_have_attribute("aria-selected", "true")
    expect(page.get_by_role("complementary", name="Details")).to_contain_text("Span: find the customer")


def test_log_lines_are_filtered(page: Page, story: Served) -> None:
    """By severity, and by the page's address."""
    page.goto(f"{story.url}#/logs")
    page.get_by_role("searchbox").fill("severity:error")
    expect(page.get_by_role("treegrid").locator(".row")).to_have_count(1)
    expect(page).to_have_url(re.compile("q=severity"))


def test_a_log_line_is_unfolded(page: Page, story: Served) -> None:
    """By mouse and by keyboard: its attributes are shown, and hidden again."""
    page.goto(f"{story.url}#/logs?q=ada")
    row = _row(page, "looking for ada")
    row.locator(".what").click()
    expect(row).to_have_attribute("aria-expanded", "true")
    expect(row).to_contain_text("faas.name")
    page.keyboard.press("Enter")
    expect(row).to_have_attribute("aria-expanded", "false")
