"""The page needs nothing but itself, and no name can break out of its place."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

from tests.coldstarts.measurements import import_of, measured, run_of
from tracedbridge.coldstarts.page import render, write
from tracedbridge.coldstarts.runs import Measured

# What never has an end tag.
VOID = ("meta", "br", "link", "img")

PLANTED = "</script><script>alert(1)</script><!--\"'&amp;<img src=x onerror=alert(1)>"


class Parsed(HTMLParser):
    """The elements of a page, and the text in each, by a parser that is not ours."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[int, str] = {}
        self._open: list[int] = []
        self.feed(page)
        self.close()
        assert not self._open, "an element is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(len(self.elements) - 1)

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self._open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts[self._open[-1]] = self.texts.get(self._open[-1], "") + data

    def text_of(self, tag: str, **attributes: str) -> list[str]:
        """Return the text of each element with that tag and these attributes."""
        return [
            self.texts.get(place, "")
            for place, (name, has) in enumerate(self.elements)
            if name == tag and attributes.items() <= has.items()
        ]


def three_runs(name: str = "plum", app: str = "index.py") -> Measured:
    """Return three runs, the second of which is the one in the middle."""
    return measured(
        [
            run_of([import_of("index", each, 2), import_of(name, each - 2, each - 2, parent=0)], app_import=each)
            for each in (30, 20, 10)
        ],
        app=app,
    )


def test_page() -> None:
    """The page has the figures, the phases, the packages, and the run with the median total for its chart."""
    told = three_runs()
    page = Parsed(render(told))
    assert page.text_of("h1") == ["Cold start of index.py"]
    assert [json.loads(text) for text in page.text_of("script", type="application/json")] == [told["runs"][1]]
    assert page.text_of("dd")[0] == "20.0 ms"
    cells = page.text_of("td")
    assert cells[:4] == ["app_import", "20.0 ms", "12.0 ms to 28.0 ms", "100.0%"]
    assert cells[4:] == ["plum", "app", "1", "18.0 ms", "18.0 ms", "index", "app", "1", "2.00 ms", "20.0 ms"]
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    assert ids == {"imports", "crumbs", "details", "icicle", "run"}


def test_page_refers_to_nothing_else() -> None:
    """No element, rule or script asks for anything from elsewhere, and the policy forbids it."""
    text = render(three_runs())
    page = Parsed(text)
    attributes = {name for _, has in page.elements for name in has}
    assert attributes.isdisjoint({"src", "href", "srcset", "action", "data", "poster"})
    for reference in ("url(", "@import", "import(", "fetch(", "XMLHttpRequest", "://", "innerHTML", "eval("):
        assert reference not in text, reference
    (policy,) = (has["content"] for _, has in page.elements if has.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def test_planted_names() -> None:
    """Markup in the names of modules, packages, phases and apps stays text."""
    told = three_runs(PLANTED, PLANTED)
    for run in told["runs"]:
        run["phases"][PLANTED] = 99.0
    harmless, page = Parsed(render(three_runs())), Parsed(render(told))
    assert page.text_of("h1") == [f"Cold start of {PLANTED}"]
    assert PLANTED.partition(".")[0] in page.text_of("td")
    assert [json.loads(text) for text in page.text_of("script", id="run")] == [told["runs"][1]]
    # One more phase in the bar and in its table, and nothing else.
    more = ["span", "tr", "td", "span", "td", "td", "td"]
    assert sorted(tag for tag, _ in page.elements) == sorted([*(tag for tag, _ in harmless.elements), *more])
    assert {name for _, has in page.elements for name in has} == {name for _, has in harmless.elements for name in has}


def test_many_packages() -> None:
    """The forty dearest packages have a row each, the others one together."""
    imports = [import_of(f"fruit{number}", 100 - number, 100 - number) for number in range(45)]
    cells = Parsed(render(measured([run_of(imports, app_import=4000)]))).text_of("td")
    assert cells[-5:] == ["5 more", "", "5", "290 ms", ""]
    assert "fruit39" in cells
    assert "fruit40" not in cells


def test_file(tmp_path: Path) -> None:
    """A name that is no text does not keep the page from being written."""
    write(three_runs(app="p\udce9ach.py"), str(tmp_path / "page.html"))
    assert "Cold start of p\\udce9ach.py" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_run_without_imports() -> None:
    """A run whose imports were not recorded has a page all the same."""
    page = Parsed(render(measured([run_of(app_import=3)])))
    assert page.text_of("dd")[0] == "3.00 ms"
