"""Each kind of cold start as a real collector passes it on: the whole trace, its points and its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tracedbridge
from tests.collector.answering import run
from tests.collector.conftest import Collector
from tests.collector.shapes import final_points, ordered, text, tree
from tests.collector.sink import Attributes, Sink, attributes_of, value_of
from tests.support import event

pytestmark = [pytest.mark.collector, pytest.mark.telemetry]

OURS = f"tracedbridge {tracedbridge.__version__}"


def sink_of(collector: Collector, folder: Path, **environ: str) -> Sink:
    """Run the slow shop with two events, and return what the collector got of it."""
    run(
        "slow_shop",
        [event(), event()],
        folder,
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint("http/protobuf"),
            "TRACEDBRIDGE_FLUSH": "before",
            "TRACEDBRIDGE_FLUSH_TIMEOUT_MS": "10000",
            # Everything is compiled, whoever ran these tests before.
            "PYTHONPYCACHEPREFIX": str(folder / "cache"),
            **environ,
        },
        fails="SHOP_FAILS" in environ,
    )
    return collector.drained()


def span(name: str, *children: dict[str, Any], **attributes: Any) -> dict[str, Any]:
    """Build a span of ours as `tree` shows it."""
    shown: dict[str, Any] = {"span": name if " " in name and name.isupper() else f"INTERNAL {name}", "scope": OURS}
    if attributes:
        shown["attributes"] = {key.replace("__", "."): value for key, value in attributes.items()}
    if children:
        shown["children"] = list(children)
    return shown


def imported(name: str, *children: dict[str, Any], modules: int = 1) -> dict[str, Any]:
    """Build the span of a module that was compiled."""
    made = span(f"import {name}", *children)
    made["attributes"] = {
        "tracedbridge.import.self_ms": "<ms>",
        "tracedbridge.import.find_ms": "<ms>",
        "tracedbridge.import.compile_ms": "<ms>",
        "tracedbridge.import.modules": modules,
        "tracedbridge.import.owner": "app",
        "tracedbridge.import.source": "source",
    }
    return made


def summed(modules: int, *, failed: int = 0, not_drawn: int = 1) -> Attributes:
    """Build the attributes of a phase that imported."""
    return {
        "tracedbridge.imports.modules": modules,
        "tracedbridge.imports.failed": failed,
        "tracedbridge.imports.compiled": modules,
        "tracedbridge.imports.find_ms": "<ms>",
        "tracedbridge.imports.compile_ms": "<ms>",
        "tracedbridge.imports.not_drawn": not_drawn,
        "tracedbridge.imports.not_drawn_ms": "<ms>",
    }


# An import that an app can do without is shown, but as no error.
OPTIONAL = {
    "span": "INTERNAL import ingredients_of_soap",
    "scope": OURS,
    "attributes": {
        "tracedbridge.import.self_ms": "<ms>",
        "tracedbridge.import.find_ms": "<ms>",
        "tracedbridge.import.modules": 1,
        "tracedbridge.import.owner": "third_party",
        "tracedbridge.import.source": "nowhere",
        "error.type": "ModuleNotFoundError",
    },
}
# `warehouse` itself takes no time to speak of, and is imported by a module of its own.
IMPORT_APP = span("import app", imported("slow_shop", imported("warehouse.shelves", modules=2), OPTIONAL, modules=4))
IMPORT_APP["attributes"] = summed(3, failed=1)
STARTUP = span("lifespan startup", imported("warehouse.pool"))
STARTUP["attributes"] = {**summed(1, not_drawn=0), "tracedbridge.lifespan.background_tasks": 1}


def cold_start(kind: str, *children: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Build the span of a cold start."""
    made = span("cold start", *children)
    phases = ("interpreter", "bridge", "telemetry", "app_import", "app_resolve", "lifespan")
    made["attributes"] = {
        "faas.coldstart": True,
        "tracedbridge.coldstart.kind": kind,
        "tracedbridge.coldstart.begins_with": "process",
        **{f"tracedbridge.coldstart.{phase}_ms": "<ms>" for phase in phases},
        **more,
    }
    return made


def server(kind: str | None, *children: dict[str, Any]) -> dict[str, Any]:
    """Build the SERVER span of an invocation, with the cold start of that kind."""
    attributes: Attributes = {
        "faas.trigger": "http",
        "faas.coldstart": kind is not None,
        "faas.invocation_id": "<id>",
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "url.scheme": "https",
        "url.path": "/",
        "server.address": "localhost",
        "server.port": 443,
        "network.protocol.version": "1.1",
    }
    if kind is not None:
        attributes |= {"tracedbridge.coldstart.kind": kind, **summed(1, not_drawn=0)}
    made = span("SERVER GET", *children)
    return {**made, "span": "SERVER GET", "attributes": attributes}


SHUTDOWN = span("lifespan shutdown")


def shown(sink: Sink) -> str:
    """Return the traces as text, their invocation ids replaced."""
    nodes = tree(sink.spans)
    for node in nodes:
        if "faas.invocation_id" in node.get("attributes", {}):
            node["attributes"]["faas.invocation_id"] = "<id>"
    return text(nodes)


def test_on_demand(collector: Collector, tmp_path: Path) -> None:
    """A cold start that an event waited for is in that invocation's trace, what the request imported below itself."""
    sink = sink_of(collector, tmp_path)
    first = server("on_demand", cold_start("on_demand", IMPORT_APP, STARTUP), imported("warehouse.invoices"))
    assert shown(sink) == text([first, server(None), SHUTDOWN])


def test_proactive(collector: Collector, tmp_path: Path) -> None:
    """A cold start ahead of any event is a trace of its own, which the first invocation links."""
    sink = sink_of(collector, tmp_path, AWS_LAMBDA_INITIALIZATION_TYPE="provisioned-concurrency")
    cold = cold_start("proactive", IMPORT_APP, STARTUP, **{"tracedbridge.coldstart.idle_ms": "<ms>"})
    first = {**server("proactive", imported("warehouse.invoices")), "links": ["cold start"]}
    assert shown(sink) == text([cold, first, server(None), SHUTDOWN])


def test_failed(collector: Collector, tmp_path: Path) -> None:
    """A cold start that fails is an error trace with what was imported until then, points and a line."""
    sink = sink_of(collector, tmp_path, SHOP_FAILS="1")
    error = {
        "exception.type": "ConnectionError",
        "exception.message": "no database",
        "exception.stacktrace": "<stack>",
    }
    failed = {"events": [("exception", error)], "status": ("ERROR", "no database")}
    startup = {**STARTUP, "attributes": {**summed(1, not_drawn=0), "error.type": "ConnectionError"}, **failed}
    cold = {**cold_start("on_demand", IMPORT_APP, startup, **{"error.type": "ConnectionError"}), **failed}
    assert shown(sink) == text([cold])
    (line,) = sink.logs
    assert (line.item.severity_text, value_of(line.item.body)) == ("ERROR", "cold start failed")
    said = attributes_of(line.item.attributes)
    reason = "could not start the app: its lifespan startup failed: ConnectionError: no database"
    assert (said["error"], said["error_message"], said["cold_start"]) == ("ConnectionError", reason, True)
    (root,) = (each.item for each in sink.spans if each.item.name == "cold start")
    assert (line.item.trace_id, line.item.span_id) == (root.trace_id, root.span_id)


def test_points(collector: Collector, tmp_path: Path) -> None:
    """The points of a cold start: its parts, and the packages that were imported."""
    points = final_points(sink_of(collector, tmp_path).metrics)

    def told(name: str) -> list[tuple[Attributes, Any]]:
        return points[name][2]  # type: ignore[no-any-return]  # of JSON's shape

    kind = {"faas.name": "slow_shop", "tracedbridge.coldstart.kind": "on_demand"}
    phases = (
        "interpreter", "bridge", "telemetry", "app_import", "app_resolve", "lifespan", "wait", "first_byte",
    )  # fmt: skip
    assert told("tracedbridge.coldstart.phase.duration") == ordered(({**kind, "phase": each}, 1) for each in phases)
    assert told("tracedbridge.import.duration") == ordered(
        ({"faas.name": "slow_shop", "package": package, "owner": owner}, 1)
        for package, owner in (("slow_shop", "app"), ("warehouse", "app"), ("ingredients_of_soap", "third_party"))
    )
    assert told("tracedbridge.coldstart.modules") == [(kind, 1)]
    lifespan = {"faas.name": "slow_shop"}
    assert told("tracedbridge.lifespan.duration") == ordered(
        ({**lifespan, "phase": phase}, 1) for phase in ("startup", "shutdown")
    )
