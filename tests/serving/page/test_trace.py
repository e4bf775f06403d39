"""One trace: the waterfall, its phases, folds, log lines and critical path, and the details."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.serving.page.made import COLD, ERROR, INVOKED, LARGE, ORPHAN, PROACTIVE, Made, Span
from tests.serving.page.served import Served

pytestmark = pytest.mark.browser


def _open(page: Page, story: Served, made: Made, query: str = "") -> None:
    page.goto(f"{story.url}#/trace/{made.trace_id}{query}")
    expect(page.get_by_role("treegrid")).to_be_visible()


def _row(page: Page, text: str) -> Locator:
    return page.get_by_role("treegrid").get_by_role("row").filter(has_text=text)


def _details(page: Page) -> Locator:
    return page.get_by_role("complementary", name="Details")


def test_the_phases_of_a_cold_start_have_colours_of_their_own(page: Page, story: Served) -> None:
    """Each phase is a piece of the bar in a colour that no other has, named with its time in the legend."""
    _open(page, story, COLD)
    legend = page.get_by_role("list", name="Phases of the cold start").get_by_role("listitem")
    expect(legend).to_have_text(
        [
            "interpreter 31.2 ms", "bridge 8.4 ms", "telemetry 121 ms", "import app 331 ms", "resolve app 3.1 ms",
            "lifespan 101 ms",
        ]
    )  # fmt: skip
    pieces = _row(page, "cold start").locator(".segment")
    expect(pieces).to_have_count(6)
    colours = pieces.evaluate_all("pieces => pieces.map((piece) => getComputedStyle(piece).backgroundColor)")
    assert len(set(colours)) == 6
    swatches = legend.locator("i").evaluate_all("all => all.map((each) => getComputedStyle(each).backgroundColor)")
    assert swatches == colours
    # And one after the other.
    lefts = pieces.evaluate_all("pieces => pieces.map((piece) => piece.getBoundingClientRect().left)")
    assert lefts == sorted(set(lefts))


def test_a_phase_in_two_parts_has_two_pieces(page: Page, fresh: Served) -> None:
    """What of a phase does not fit before the next one comes after it, as telemetry's second part does."""
    durations = {"interpreter": 20.0, "telemetry": 30.0, "app_import": 30.0, "lifespan": 20.0}
    told = {f"tracedbridge.coldstart.{phase}_ms": ms for phase, ms in durations.items()}
    made = Made(8, [
        Span(2, None, "cold start", 0.0, 100.0, {"tracedbridge.coldstart.kind": "proactive", **told}),
        Span(3, 2, "import app", 30.0, 30.0, phase="app_import"),
        Span(4, 2, "lifespan startup", 80.0, 20.0, phase="lifespan"),
    ], [])  # fmt: skip
    fresh.tell(made)
    _open(page, fresh, made)
    pieces = _row(page, "cold start").locator(".segment")
    expect(pieces).to_have_count(5)
    assert pieces.evaluate_all("all => all.map((each) => [each.className.split('-').at(-1), each.style.left])") == [
        ["interpreter", "0%"],
        ["telemetry", "20%"],
        ["app_import", "30%"],
        ["telemetry", "60%"],
        ["lifespan", "80%"],
    ]
    expect(page.get_by_role("list", name="Phases of the cold start")).to_contain_text("telemetry 30 ms")


def test_sibling_imports_are_one_row_until_unfolded(page: Page, story: Served) -> None:
    """A run of imports is one row with their count and the slowest; a click shows them, another hides them."""
    _open(page, story, COLD)
    fold = _row(page, "6 imports")
    expect(fold).to_have_attribute("aria-expanded", "false")
    expect(fold).to_contain_text("fastapi, sqlalchemy")
    expect(_row(page, "import sqlalchemy")).to_have_count(0)
    fold.click()
    expect(fold).to_have_attribute("aria-expanded", "true")
    expect(_row(page, "import sqlalchemy").first).to_be_visible()
    fold.click()
    expect(_row(page, "import sqlalchemy")).to_have_count(0)


def test_a_run_of_spans_alike_is_one_row(page: Page, story: Served) -> None:
    """Ten queries of a loop are one row."""
    _open(page, story, INVOKED)
    expect(_row(page, "10 \u00d7 SELECT orders")).to_have_attribute("aria-expanded", "false")
    expect(page.get_by_role("treegrid").get_by_role("row")).to_have_count(2)


def test_the_details_of_a_span(page: Page, story: Served) -> None:
    """A click shows attributes, status, events and resource; they stand in the address, and Escape closes them."""
    _open(page, story, ERROR)
    _row(page, "find the customer").first.click()
    details = _details(page)
    for text in (
        "find the customer",
        "KeyError: 'ada'",
        "customer.id",
        "9007199254740991",
        "exception.stacktrace",
        "+5 ms",
    ):
        expect(details).to_contain_text(text)
    details.get_by_text("Resource").click()
    expect(details.get_by_text("service.version")).to_be_visible()
    expect(page).to_have_url(re.compile(f"span={ERROR.span_id(2)}"))
    page.reload()
    expect(_details(page)).to_contain_text("customer.id")
    page.keyboard.press("Escape")
    expect(_details(page)).to_be_hidden()
    expect(page.get_by_role("treegrid")).to_be_focused()


def test_log_lines_and_spans_lead_to_each_other(page: Page, story: Served) -> None:
    """A log line is a row and a dot at its time; it leads to its span, and the span's details lead to it."""
    _open(page, story, COLD)
    line = _row(page, "the stock of item 3 is low")
    expect(line).to_have_count(1)
    dot, bar = line.locator(".tick").bounding_box(), _row(page, "SELECT items").locator(".bar").bounding_box()
    assert dot is not None
    assert bar is not None
    # Within its span, to the pixel.
    assert bar["x"] < dot["x"] + dot["width"] / 2 < bar["x"] + bar["width"] + 1
    line.click()
    expect(_details(page)).to_contain_text("shop.orders")
    _details(page).get_by_role("button", name="Span: SELECT items").click()
    expect(_row(page, "SELECT items")).to_have_attribute("aria-selected", "true")
    expect(_details(page)).to_contain_text("postgresql")
    _details(page).get_by_role("button", name="the stock of item 3 is low").click()
    expect(line).to_have_attribute("aria-selected", "true")


def test_log_lines_can_be_switched_off(page: Page, story: Served) -> None:
    """Without their rows they are still dots on a folded span, and the choice stands in the address."""
    _open(page, story, COLD)
    page.get_by_role("button", name="Logs").click()
    expect(_row(page, "the stock of item 3 is low")).to_have_count(0)
    expect(page).to_have_url(re.compile("logs=off"))
    page.get_by_role("treegrid").focus()
    page.keyboard.press("l")
    expect(_row(page, "the stock of item 3 is low")).to_be_visible()


def test_the_critical_path_is_marked(page: Page, story: Served) -> None:
    """Switched on, it underlines the spans that the request waited for, and dims the others."""
    _open(page, story, COLD)
    line = _row(page, "lifespan startup").locator(".critical-line")
    expect(line).to_have_css("opacity", "0")
    page.get_by_role("button", name="Critical path").click()
    expect(line).to_have_css("opacity", "1")
    expect(_row(page, "write the audit line").locator(".critical-line")).to_have_count(0)
    expect(_row(page, "write the audit line").locator(".lane")).to_have_css("opacity", "0.3")
    expect(_row(page, "lifespan startup").locator(".lane")).to_have_css("opacity", "1")
    page.reload()
    expect(page.get_by_role("button", name="Critical path")).to_have_attribute("aria-pressed", "true")


def test_a_link_leads_to_the_other_trace(page: Page, story: Served) -> None:
    """The first invocation after a proactive cold start is one click away from it."""
    _open(page, story, INVOKED)
    _row(page, "GET /orders").click()
    _details(page).get_by_role("link", name=PROACTIVE.trace_id).click()
    expect(page.get_by_role("heading", name="cold start").first).to_be_visible()
    expect(page).to_have_url(re.compile(f"#/trace/{PROACTIVE.trace_id}\\?span={PROACTIVE.span_id(2)}"))


def test_a_missing_parent_is_told(page: Page, story: Served) -> None:
    """A span whose parent did not come is on top, and says so."""
    _open(page, story, ORPHAN)
    row = _row(page, "charge the card")
    expect(row).to_contain_text("no parent")
    expect(row).to_have_attribute("aria-level", "1")
    row.click()
    expect(_details(page)).to_contain_text("00000000deadbeef (not here)")


def test_3000_spans_are_scrolled_through(page: Page, story: Served) -> None:
    """Only the rows that are seen are in the document, each at its place, from the first to the last."""
    _open(page, story, LARGE)
    tree = page.get_by_role("treegrid")
    expect(tree).to_have_attribute("aria-rowcount", "3000")
    page.keyboard.press("j")
    page.keyboard.press("End")
    expect(_row(page, "step 2998")).to_be_in_viewport()
    assert tree.get_by_role("row").count() < 100
    page.keyboard.press("Home")
    expect(_row(page, "GET /report")).to_be_in_viewport()
    # What the browser does for one frame of scrolling, in the middle.
    longest_ms = tree.evaluate(
        """async (tree) => {
          let longest = 0;
          for (let at = 0; at < 60; at += 1) {
            tree.scrollTop = 1000 + at * 400;
            const begun = performance.now();
            tree.dispatchEvent(new Event("scroll"));
            await new Promise(requestAnimationFrame);
            longest = Math.max(longest, at ? performance.now() - begun : 0);
          }
          return longest;
        }"""
    )
    # 16 ms in a frame here; drawing all 3,000 rows would take a second.
    assert longest_ms < 300


def test_a_span_in_the_address_is_unfolded_and_in_sight(page: Page, story: Served) -> None:
    """An address with a span that a fold hides opens the fold."""
    number = next(span.number for span in COLD.spans if span.name == "import certifi")
    _open(page, story, COLD, f"?span={COLD.span_id(number)}")
    expect(_row(page, "import certifi")).to_be_in_viewport()
    expect(_row(page, "import certifi")).to_have_attribute("aria-selected", "true")


def test_spans_are_filtered(page: Page, story: Served) -> None:
    """What is found is shown below what it is in, folded or not."""
    _open(page, story, COLD)
    page.get_by_role("searchbox").fill("certifi")
    expect(_row(page, "import certifi")).to_be_visible()
    expect(_row(page, "import app")).to_be_visible()
    expect(_row(page, "lifespan startup")).to_have_count(0)
    expect(page.get_by_text("1 found")).to_be_visible()


def test_the_waterfall_by_keyboard(page: Page, story: Served) -> None:
    """Left folds, right unfolds, e does so with everything, z zooms to a span and back."""
    _open(page, story, COLD)
    rows = page.get_by_role("treegrid").get_by_role("row")
    for _ in range(2):
        page.keyboard.press("j")
    expect(_row(page, "cold start")).to_have_attribute("aria-selected", "true")
    page.keyboard.press("ArrowLeft")
    expect(_row(page, "cold start")).to_have_attribute("aria-expanded", "false")
    expect(_row(page, "import app")).to_have_count(0)
    page.keyboard.press("ArrowRight")
    expect(_row(page, "import app")).to_be_visible()
    page.keyboard.press("e")
    # All spans, log lines and runs of imports.
    expect(page.get_by_role("treegrid")).to_have_attribute("aria-rowcount", re.compile(r"^[56]\d$"))
    page.keyboard.press("e")
    expect(rows).to_have_count(5)
    _row(page, "cold start").locator(".text").click()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Escape")
    narrow = _row(page, "import app").locator(".bar").bounding_box()
    page.keyboard.press("z")
    expect(page.get_by_role("button", name="Zoom")).to_have_attribute("aria-pressed", "true")
    wide = _row(page, "import app").locator(".bar").bounding_box()
    assert narrow is not None
    assert wide is not None
    assert wide["width"] > narrow["width"]
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Zoom")).to_have_attribute("aria-pressed", "false")


def test_a_trace_is_exported_as_jaeger_json(page: Page, story: Served, tmp_path: Path) -> None:
    """The export is a file with the trace in Jaeger's form."""
    _open(page, story, COLD)
    with page.expect_download() as coming:
        page.get_by_role("link", name="Jaeger JSON").click()
    file = tmp_path / "trace.json"
    coming.value.save_as(file)
    told = json.loads(file.read_bytes())["data"][0]
    assert told["traceID"].lstrip("0") == COLD.trace_id.lstrip("0")
    assert len(told["spans"]) == len(COLD.spans)
    assert coming.value.suggested_filename.endswith(".json")


def test_a_trace_that_is_not_here(page: Page, story: Served, forgiven: list[str]) -> None:
    """An address of what has gone says so, and leads to the list."""
    forgiven.append("404")
    page.goto(f"{story.url}#/trace/{'f' * 32}")
    expect(page.get_by_role("heading", name="This trace is not here")).to_be_visible()
    page.get_by_role("link", name="All traces").click()
    expect(page.get_by_role("grid")).to_be_visible()


def test_an_open_trace_grows(page: Page, fresh: Served) -> None:
    """Spans that come later are put in, and the selected row stays selected."""
    part = Made(7, [span for span in ERROR.spans if span.number == 1], [])
    fresh.tell(part)
    _open(page, fresh, part)
    _row(page, "POST /orders").click()
    fresh.tell(Made(7, list(ERROR.spans), list(ERROR.logs)))
    expect(_row(page, "find the customer").first).to_be_visible()
    expect(_row(page, "POST /orders")).to_have_attribute("aria-selected", "true")
