"""What a function on a real app exports of its imports is a tree that adds up."""

from __future__ import annotations

import pytest

from tests.support import event
from tests.truth.apps import APPS
from tests.truth.functions import Spans, exported, number

pytestmark = [pytest.mark.telemetry, pytest.mark.frameworks]

# The issue's: so many rows can be read.
MAX_SPANS = 40

# Wall clock times of spans are rounded to nothing; this is for clocks that are slewed meanwhile.
SLACK_NS = 1_000_000


@pytest.fixture(scope="module", params=APPS)
def spans(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Spans:
    """What one process with this app exported."""
    return exported(tmp_path_factory.mktemp("function"), APPS[request.param], event())


def test_one_tree(spans: Spans) -> None:
    """All that was imported for the app is below ``import app``, in at most 40 spans, each within its parent."""
    every = [span for span in spans.every if span.name.startswith("import ")]
    app = spans.named("import app")
    below = spans.below(app)
    assert spans.parent(app).name == "cold start"
    assert [span.name for span in below if span not in every] == []
    assert spans.named("import index") in below
    # The first request may import, too.
    late = [span for span in every if span is not app and span not in below]
    assert all(span.start_ns >= app.end_ns for span in late)
    assert 10 < len(below) + len(late) <= MAX_SPANS
    for span in every:
        above = spans.parent(span)
        assert above.start_ns - SLACK_NS <= span.start_ns <= span.end_ns <= above.end_ns + SLACK_NS, span.name


def test_siblings(spans: Spans) -> None:
    """On one thread imports run one after the other: the spans below one parent do not overlap."""
    app = spans.named("import app")
    last: dict[str, int] = {}
    for span in spans.below(app):
        assert span.start_ns >= last.get(span.parent_id, 0), span.name
        last[span.parent_id] = span.end_ns


def test_sums(spans: Spans) -> None:
    """The self times that are drawn, and those that are not, add up to how long the app's import took, within 1 ms."""
    app, root = spans.named("import app"), spans.named("import index")
    drawn_ms = sum(number(span.attributes["tracedbridge.import.self_ms"]) for span in spans.below(app))
    not_drawn_ms = number(app.attributes["tracedbridge.imports.not_drawn_ms"])
    assert not_drawn_ms > 0
    assert drawn_ms + not_drawn_ms == pytest.approx((root.end_ns - root.start_ns) / 1e6, abs=1)
    modules = number(app.attributes["tracedbridge.imports.modules"])
    failed = number(app.attributes["tracedbridge.imports.failed"])
    not_drawn = number(app.attributes["tracedbridge.imports.not_drawn"])
    assert modules + failed == len(spans.below(app)) + not_drawn
    assert number(root.attributes["tracedbridge.import.modules"]) == modules + failed
    assert modules > 100
