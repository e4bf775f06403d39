"""The page of cold starts: numbers, distribution, phases, imports, and two of them side by side."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.serving.page.made import COLD, PROACTIVE, STORY, Made
from tests.serving.page.served import Served

pytestmark = pytest.mark.browser

_TOTALS = sorted(int(row["totalNs"]) / 1e6 for made in STORY if (row := made.cold_row()))


def _row(page: Page, made: Made) -> Locator:
    return page.locator(f".starts [data-id='{made.trace_id}']")


def _open(page: Page, story: Served, query: str = "") -> None:
    page.goto(f"{story.url}#/coldstarts{query}")
    expect(page.get_by_role("grid")).to_be_visible()


def test_the_numbers_are_those_of_the_cold_starts(page: Page, story: Served) -> None:
    """The median, p95 and the extremes are values that were measured, and each kind is counted."""
    _open(page, story)
    numbers = page.get_by_role("region", name="How long until ready")
    # Of 22: the 11th and the 21st.
    for name, ms in (("p50", _TOTALS[10]), ("p95", _TOTALS[20]), ("fastest", _TOTALS[0])):
        expect(numbers.locator("div").filter(has_text=name).last).to_contain_text(f"{ms:.0f} ms" if ms < 999 else "1 s")
    expect(numbers.get_by_role("list", name="Kinds")).to_have_text(re.compile(r"cold\s*21\s*proactive\s*1"))


def test_the_distribution_counts_every_cold_start(page: Page, story: Served) -> None:
    """The bars add up to all of them, and two lines mark p50 and p95."""
    _open(page, story)
    chart = page.get_by_role("img", name=re.compile("^22 cold starts"))
    counts = chart.locator("i").evaluate_all("bars => bars.map((bar) => Number(bar.title.split(': ').at(-1)))")
    assert sum(counts) == 22
    expect(chart).to_contain_text("p50")
    expect(chart).to_contain_text("p95")


def test_the_phases_are_stacked(page: Page, story: Served) -> None:
    """A cold start is one bar of its phases, as long as it took next to the others."""
    _open(page, story)
    pieces = _row(page, COLD).locator(".stack i")
    expect(pieces).to_have_count(6)
    widths = pieces.evaluate_all("pieces => pieces.map((piece) => piece.getBoundingClientRect().width)")
    durations = [int(ns) for _, ns in (COLD.cold_row() or {})["phases"]]
    for width, ns in zip(widths, durations, strict=True):
        assert abs(width / sum(widths) - ns / sum(durations)) < 0.02
    long, short = (
        _row(page, COLD).locator(".stack").bounding_box(),
        _row(page, PROACTIVE).locator(".stack").bounding_box(),
    )
    assert long is not None
    assert short is not None
    assert long["width"] > short["width"]


def test_the_slowest_imports_are_named(page: Page, story: Served) -> None:
    """The table begins with the module that took longest by itself."""
    _open(page, story)
    table = page.get_by_role("region", name="Slowest imports").get_by_role("row")
    expect(table.nth(1)).to_contain_text("sqlalchemy")
    expect(table.nth(1)).to_contain_text("22 of 22")
    expect(table.nth(2)).to_contain_text("fastapi.openapi.models")


def test_two_cold_starts_side_by_side(page: Page, story: Served) -> None:
    """A and B are picked in the list, stand in the address, and are compared by phase and import."""
    _open(page, story)
    _row(page, COLD).get_by_role("button", name=re.compile("as A$")).click()
    expect(page.get_by_text("Pick B in the list below.")).to_be_visible()
    _row(page, PROACTIVE).get_by_role("button", name=re.compile("as B$")).click()
    expect(page).to_have_url(re.compile(f"a={COLD.trace_id}&b={PROACTIVE.trace_id}"))
    page.reload()
    both = page.get_by_role("region", name="A and B")
    expect(both.get_by_role("row").filter(has_text="lifespan")).to_have_text(
        re.compile("101 ms.*80.8 ms.*\u221220.2 ms.*\u221220 %")
    )
    expect(both.get_by_role("row").filter(has_text="sqlalchemy").first).to_contain_text("\u22129.6 ms")
    expect(both.locator(".side .stack")).to_have_count(2)
    both.get_by_role("button", name="End comparison").click()
    expect(both).to_have_count(0)


def test_cold_starts_are_filtered(page: Page, story: Served) -> None:
    """The numbers are those of what the filter leaves."""
    _open(page, story)
    page.get_by_role("searchbox").fill("kind:proactive")
    expect(page.get_by_text("1 of 22 cold starts")).to_be_visible()
    expect(_row(page, COLD)).to_have_count(0)
    expect(page.get_by_role("region", name="How long until ready")).to_contain_text("477 ms")


def test_cold_starts_by_keyboard(page: Page, story: Served) -> None:
    """J moves, a and b pick, Escape ends the comparison, Enter opens the trace."""
    _open(page, story)
    page.keyboard.press("j")
    expect(_row(page, PROACTIVE)).to_have_attribute("aria-selected", "true")
    page.keyboard.press("a")
    page.keyboard.press("j")
    page.keyboard.press("b")
    expect(page.get_by_role("region", name="A and B").locator(".side")).to_have_count(2)
    page.keyboard.press("Escape")
    expect(page.get_by_role("region", name="A and B")).to_have_count(0)
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(f"#/trace/{COLD.trace_id}"))
