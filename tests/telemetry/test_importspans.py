"""What is shown of an app's imports: what took long, below what imported it, and the rest as a sum."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import HANG_S, event
from tests.telemetry.functions import Ran, run_function
from tests.telemetry.received import Received, drawn
from tracedbridge.telemetry.otlp import SpanRecord

pytestmark = pytest.mark.telemetry

APP = """
import shop

async def app(scope, receive, send):
    assert scope["type"] == "http"
    import late
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
"""

# Each takes more than what is imported below it, and `shop.quick` next to nothing.
FILES = {
    "shop/__init__.py": "import shop.quick, shop.slow",
    "shop/quick.py": "",
    "shop/slow.py": "import time, shelves; time.sleep(0.02)",
    "shelves.py": "import time; time.sleep(0.02)",
    "late.py": "import time; time.sleep(0.01)",
}


def run_shop(folder: Path, received: Received, source: str = APP, **environ: str) -> Ran:
    """Run the app with one event, its modules beside it."""
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return run_function(
        folder,
        source,
        [event()],
        OTEL_EXPORTER_OTLP_ENDPOINT=received.endpoint,
        TRACEDBRIDGE_FLUSH_TIMEOUT_MS=str(HANG_S * 1000),
        **environ,
    )


def imports(received: Received) -> list[str]:
    """Return the names of the import spans, without the word."""
    names = [span.name for span in sorted(received.spans, key=lambda span: (span.start_ns, -span.end_ns))]
    return [name.removeprefix("import ") for name in names if name.startswith("import ") and name != "import app"]


def number(span: SpanRecord, name: str) -> float:
    """Return a number among a span's attributes."""
    value = span.attributes[f"tracedbridge.{name}"]
    assert isinstance(value, (int, float))
    return value


def test_by_default(tmp_path: Path, received: Received) -> None:
    """Packages and what took 5 ms are drawn below what imported them; the first request's are below its own span."""
    run_shop(tmp_path, received)
    assert drawn(received.spans) == (
        "GET (server)\n"
        "  cold start\n"
        "    import app\n"
        "      import index\n"
        "        import shop\n"
        "          import shop.slow\n"
        "            import shelves\n"
        "  import late"
    )
    app, slow = received.span("import app"), received.span("import shop.slow")
    assert (number(app, "imports.modules"), number(app, "imports.not_drawn")) == (5, 1)
    assert number(slow, "import.self_ms") == pytest.approx(20, abs=15)
    assert number(slow, "import.modules") == 2
    assert slow.attributes["tracedbridge.import.owner"] == "app"
    assert number(received.server(), "imports.modules") == 1


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        pytest.param({"IMPORTS": "full"}, "index shop shop.quick shop.slow shelves late", id="full"),
        pytest.param({"IMPORTS": "off"}, "", id="off"),
        pytest.param({"IMPORTS_MIN_MS": "60000"}, "index shop shelves late", id="only packages take so long"),
        pytest.param({"IMPORTS_MIN_MS": "0"}, "index shop shop.quick shop.slow shelves late", id="everything is long"),
        pytest.param({"IMPORTS_MAX_SPANS": "3"}, "index shop shop.slow", id="the three longest"),
        pytest.param({"IMPORTS_MAX_SPANS": "0"}, "", id="sums only"),
    ],
)
def test_settings(environ: dict[str, str], expected: str, tmp_path: Path, received: Received) -> None:
    """The settings say what is drawn; what is not is in the sums."""
    run_shop(tmp_path, received, **{f"TRACEDBRIDGE_{name}": value for name, value in environ.items()})
    assert imports(received) == expected.split()
    app = received.span("import app")
    if environ.get("IMPORTS") == "off":
        assert not [name for name in app.attributes if "imports" in name]
        assert not [metric for metric in received.metrics if metric.name == "tracedbridge.import.duration"]
        return
    below_app = [name for name in expected.split() if name != "late"]
    assert number(app, "imports.not_drawn") == 5 - len(below_app)
    drawn_ms = sum(number(received.span(f"import {name}"), "import.self_ms") for name in below_app)
    whole_ms = drawn_ms + number(app, "imports.not_drawn_ms")
    assert whole_ms == pytest.approx((app.end_ns - app.start_ns) / 1e6, abs=5)


def test_packages(tmp_path: Path, received: Received) -> None:
    """Seconds are counted by top-level package, without what it imports, for as many as the settings say."""
    run_shop(tmp_path, received, TRACEDBRIDGE_IMPORTS_TOP="3")
    points = {point.attributes["package"]: point for point in received.histogram("tracedbridge.import.duration")}
    assert set(points) == {"shop", "shelves", "late"}
    for package, least_s in {"shop": 0.02, "shelves": 0.02, "late": 0.01}.items():
        assert points[package].sum == pytest.approx(least_s + 0.007, abs=0.007)
        assert points[package].attributes["owner"] == "app"


def test_a_failed_import(tmp_path: Path, received: Received) -> None:
    """An import that ends the load is an error down to the module that raised; an optional one beside it is none."""
    (tmp_path / "broken.py").write_text("import shelves\nimport no_such_module\n")
    source = "try:\n    import soap\nexcept ImportError:\n    pass\nimport broken\n"
    ran = run_shop(tmp_path, received, source)
    assert ran.code == 1
    assert drawn(received.spans) == (
        "cold start ! ModuleNotFoundError [exception]\n"
        "  import app ! ModuleNotFoundError [exception]\n"
        "    import index ! ModuleNotFoundError\n"
        "      import soap\n"
        "      import broken ! ModuleNotFoundError\n"
        "        import shelves\n"
        "        import no_such_module ! ModuleNotFoundError"
    )
    assert ran.lines[-1]["event"] == "cold start failed"


def test_an_import_that_exits(tmp_path: Path, received: Received) -> None:
    """``sys.exit()`` in a module is exported before the process goes down."""
    ran = run_shop(tmp_path, received, "import sys, shelves\nsys.exit(3)\n")
    assert ran.code == 3
    assert drawn(received.spans) == (
        "cold start ! SystemExit [exception]\n"
        "  import app ! SystemExit [exception]\n"
        "    import index ! SystemExit\n"
        "      import shelves"
    )
    assert (ran.lines[-1]["event"], ran.lines[-1]["error"]) == ("cold start failed", "SystemExit")


def test_an_app_without_lifespan(tmp_path: Path, received: Received) -> None:
    """What an app imports when it is asked for a lifespan that it does not know is the app's, and no cost of ours."""
    source = APP.replace("    assert scope", "    import shelves\n    assert scope").replace("import shop\n", "")
    run_shop(tmp_path, received, source)
    assert drawn(received.spans) == (
        "GET (server)\n  cold start\n    import app\n      import index\n    import shelves\n  import late"
    )
    cold = received.span("cold start")
    assert number(cold, "coldstart.app_resolve_ms") >= 20
