"""The page of metrics: small charts, and the numbers behind them."""

from __future__ import annotations

import copy

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.serving.page.made import BEGIN_NS, METRICS
from tests.serving.page.served import Served

pytestmark = pytest.mark.browser


def _card(page: Page, name: str) -> Locator:
    return page.get_by_role("list", name="Metrics").locator("> li").filter(has_text=name)


def test_a_counter_is_a_line(page: Page, story: Served) -> None:
    """Its line goes through all its points and its newest value is the headline."""
    page.goto(f"{story.url}#/metrics")
    card = _card(page, "faas.invocations")
    expect(card.locator(".headline")).to_have_text("87")
    points = (card.locator("polyline").get_attribute("points") or "").split()
    assert len(points) == 30
    heights = [float(point.split(",")[1]) for point in points]
    assert heights == sorted(heights, reverse=True)


def test_a_gauge_has_a_line_for_each_series(page: Page, story: Served) -> None:
    """Two instances are two lines in two colours, named in the legend in the metric's unit."""
    page.goto(f"{story.url}#/metrics")
    card = _card(page, "faas.mem_usage")
    expect(card.locator("polyline")).to_have_count(2)
    colours = card.locator("polyline").evaluate_all("all => all.map((each) => getComputedStyle(each).stroke)")
    assert len(set(colours)) == 2
    expect(card.get_by_role("list", name="Series").get_by_role("listitem")).to_have_text(
        ["id=one 71.9 MiB", "id=two 63.6 MiB"]
    )


def test_a_histogram_is_bars_and_quantiles(page: Page, story: Served) -> None:
    """Its bars are the buckets, its quantiles lie within them, and another series can be chosen."""
    page.goto(f"{story.url}#/metrics")
    card = _card(page, "http.server.request.duration")
    expect(card.locator("rect")).to_have_count(9)
    # 47.5 of 95 is 7.5 of 31 into the bucket from 5 to 10 ms.
    expect(card.get_by_role("list", name="Quantiles")).to_contain_text("p50 6.21 ms")
    card.get_by_role("combobox").select_option("route=/orders status_code=200")
    expect(card.get_by_role("list", name="Quantiles")).to_contain_text("count 30")


def test_the_numbers_are_a_table(page: Page, story: Served) -> None:
    """What a chart shows can be read as text."""
    page.goto(f"{story.url}#/metrics")
    card = _card(page, "http.server.request.duration")
    card.locator("summary").click()
    expect(card.get_by_role("row").nth(1)).to_contain_text("95")


def test_metrics_are_filtered(page: Page, story: Served) -> None:
    """The filter stands in the address."""
    page.goto(f"{story.url}#/metrics?q=type:gauge")
    expect(_card(page, "faas.mem_usage")).to_be_visible()
    expect(_card(page, "faas.invocations")).to_have_count(0)
    expect(page.get_by_text("1 of 3 metrics")).to_be_visible()


def test_metrics_come_live(page: Page, fresh: Served) -> None:
    """What is measured while the page is open is drawn, one point too."""
    page.goto(f"{fresh.url}#/metrics")
    expect(page.get_by_role("heading", name="Waiting for metrics")).to_be_visible()
    one = copy.deepcopy(METRICS[:1])
    one[0]["series"][0]["points"] = [{"timeNs": str(BEGIN_NS), "value": 12}]
    fresh.measure(one)
    expect(_card(page, "faas.invocations").locator(".headline")).to_have_text("12")
    expect(_card(page, "faas.invocations").locator("circle")).to_have_count(1)
