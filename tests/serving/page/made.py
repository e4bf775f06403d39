"""
What the page is shown: traces, cold starts, metrics and logs in the shapes of the page's API, and the same as OTLP.

The cold starts have the names and attributes that ``tracedbridge/telemetry/coldstart.py`` gives them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = (
    "BEGIN_NS",
    "COLD",
    "ERROR",
    "INVOKED",
    "LARGE",
    "METRICS",
    "ORPHAN",
    "PLANTED",
    "PLANTED_METRIC",
    "PROACTIVE",
    "STORY",
    "Made",
    "Span",
    "cold_start",
    "logs_otlp",
    "metrics_otlp",
    "planted",
    "spans_otlp",
    "warm",
)

Json = dict[str, Any]

# 2026-09-21, 13:46:40 UTC; any time would do.
BEGIN_NS = 1_790_000_000_000_000_000
_MS = 1_000_000

_PHASES = ("interpreter", "bridge", "telemetry", "app_import", "app_resolve", "lifespan")

# 40 modules, nested as FastAPI imports them: the level, the name, and how long it took by itself, in milliseconds.
_IMPORTS = (
    (0, "index", 1.1), (1, "fastapi", 2.0), (2, "fastapi.applications", 3.1), (3, "fastapi.routing", 6.2),
    (4, "fastapi.params", 4.4), (5, "fastapi.concurrency", 5.4), (5, "fastapi.exceptions", 3.9), (6, "pydantic", 16.1),
    (6, "pydantic.main", 22.6), (6, "pydantic.fields", 6.2), (7, "annotated_types", 6.1), (7, "pydantic.types", 9.9),
    (6, "fastapi.openapi.models", 37.9), (5, "fastapi.security", 4.3), (6, "fastapi.security.oauth2", 7.1),
    (4, "fastapi._body_limit", 7.3), (4, "fastapi.exception_handlers", 6.4), (4, "starlette.routing", 5.2),
    (5, "starlette.convertors", 1.1), (5, "starlette.websockets", 2.6), (4, "starlette.responses", 4.9),
    (4, "email.message", 8.8), (5, "email.charset", 2.2), (5, "email.headerregistry", 3.3),
    (3, "starlette.applications", 3.0), (3, "starlette.middleware", 2.5), (4, "starlette.middleware.errors", 3.6),
    (4, "starlette.middleware.exceptions", 2.1),
    (1, "pydantic.v1", 2.0), (2, "pydantic.v1.dataclasses", 8.1), (2, "pydantic.v1.main", 11.0), (1, "httpx", 5.0),
    (2, "httpcore", 9.4), (3, "h11", 7.7), (2, "anyio", 12.9), (2, "certifi", 1.4), (1, "settings", 0.6),
    (1, "models", 3.3), (1, "sqlalchemy", 48.0), (2, "sqlalchemy.orm", 31.5),
)  # fmt: skip

PLANTED = '<img src=x onerror="alert(1)"><script>alert(2)</script>\x1b[31mred\x1b[0m\u202e\'"`${alert(3)}'
"""What would run, colour or turn round, if it were anything but text."""

PLANTED_METRIC = f"planted.{PLANTED}"
"""A metric's name."""


class Span(NamedTuple):
    """A span of a made trace; the times are since the trace's begin."""

    number: int
    parent: int | str | None
    name: str
    begin_ms: float
    took_ms: float
    attributes: Json = {}  # noqa: RUF012 - never changed
    kind: str = "internal"
    status: str = "unset"
    message: str = ""
    phase: str | None = None
    critical: bool = True
    events: tuple[tuple[float, str, Json], ...] = ()
    links: tuple[tuple[int, int], ...] = ()


class Made:
    """A trace with its log lines."""

    def __init__(
        self,
        number: int,
        spans: list[Span],
        logs: list[tuple[float, str, str, int | None]],
        *,
        service: str = "shop",
        version: str = "1.4.0",
    ) -> None:
        """Make the ids from ``number``, which also says when it began: a minute after the one before."""
        self.number = number
        self.trace_id = _trace_id(number)
        self.begin_ns = BEGIN_NS + number * 60_000 * _MS
        parents = {span.number: span.parent for span in spans}
        # Of those that begin together the parents come first.
        self.spans = sorted(spans, key=lambda span: (span.begin_ms, _depth(span.number, parents)))
        self.logs = logs
        self.service = service
        self.resource = {"service.name": service, "service.version": version, "faas.name": service}

    def span_id(self, number: int | str | None) -> str:
        """Return the id of a span, the one given, or that of none."""
        if number is None:
            return ""
        return number if isinstance(number, str) else _span_id(self.number, number)

    def at(self, ms: float) -> str:
        """Return a time as the API has it."""
        return str(self.begin_ns + round(ms * _MS))

    def whole(self) -> Json:
        """Return what ``GET /api/viewer/traces/{id}`` gives."""
        return {
            "traceId": self.trace_id,
            "spans": [
                {
                    "spanId": self.span_id(span.number), "parentId": self.span_id(span.parent), "name": span.name,
                    "kind": span.kind, "service": self.service, "resource": 0, "scope": "tracedbridge 0.1.0",
                    "startNs": self.at(span.begin_ms), "durationNs": str(round(span.took_ms * _MS)),
                    "status": span.status, "statusMessage": span.message,
                    "attributes": [[key, value] for key, value in span.attributes.items()],
                    "events": [
                        {"timeNs": self.at(at_ms), "name": name, "attributes": [list(each) for each in told.items()]}
                        for at_ms, name, told in span.events
                    ],
                    "links": [
                        {"traceId": _trace_id(trace), "spanId": _span_id(trace, number), "attributes": []}
                        for trace, number in span.links
                    ],
                    "phase": span.phase, "isImport": "tracedbridge.import.self_ms" in span.attributes,
                    "isCritical": span.critical,
                }
                for span in self.spans
            ],
            "logs": self.log_lines(),
            "resources": [[list(each) for each in self.resource.items()]],
        }  # fmt: skip

    def log_lines(self) -> list[Json]:
        """Return its log lines."""
        return [
            {
                "timeNs": self.at(at_ms), "severity": severity, "body": body,
                "attributes": [["faas.name", self.service]], "spanId": self.span_id(number),
                "scope": "shop.orders", "service": self.service,
            }
            for at_ms, severity, body, number in self.logs
        ]  # fmt: skip

    def row(self) -> Json:
        """Return its row of ``GET /api/viewer/traces``."""
        root = next((span for span in self.spans if span.parent is None), self.spans[0])
        cold = next((span for span in self.spans if span.name == "cold start"), None)
        known = {span.number for span in self.spans}
        ends = [span.begin_ms + span.took_ms for span in self.spans]
        told = {**root.attributes, **next((span.attributes for span in self.spans if span.kind == "server"), {})}
        return {
            "traceId": self.trace_id, "name": root.name, "service": self.service, "startNs": self.at(0),
            "durationNs": str(round(max(ends) * _MS)), "status": root.status,
            "httpStatus": told.get("http.response.status_code"), "method": told.get("http.request.method"),
            "path": told.get("url.path"), "route": told.get("http.route"),
            "cold": cold and cold.attributes["tracedbridge.coldstart.kind"],
            "coldNs": str(round(cold.took_ms * _MS)) if cold else None, "spanCount": len(self.spans),
            "errorCount": sum(span.status == "error" for span in self.spans), "logCount": len(self.logs),
            "hasMissingParents": any(span.parent is not None and span.parent not in known for span in self.spans),
        }  # fmt: skip

    def cold_row(self) -> Json | None:
        """Return its row of ``GET /api/viewer/coldstarts``, if it has a cold start."""
        cold = next((span for span in self.spans if span.name == "cold start"), None)
        if cold is None:
            return None
        name = "tracedbridge.import.self_ms"
        imports = sorted((s for s in self.spans if name in s.attributes), key=lambda s: -s.attributes[name])
        return {
            "traceId": self.trace_id, "service": self.service, "version": self.resource["service.version"],
            "kind": cold.attributes["tracedbridge.coldstart.kind"], "startNs": self.at(cold.begin_ms),
            "totalNs": str(round(cold.took_ms * _MS)), "modules": 612,
            "phases": [
                [phase, str(round(cold.attributes[key] * _MS))]
                for phase in _PHASES
                if (key := f"tracedbridge.coldstart.{phase}_ms") in cold.attributes
            ],
            "imports": [
                [s.name.removeprefix("import "), str(round(s.attributes[name] * _MS)), str(round(s.took_ms * _MS))]
                for s in imports
            ],
        }  # fmt: skip


def _trace_id(number: int) -> str:
    # Two that follow each other look as different as random ones.
    return f"{number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128:032x}"


def _span_id(trace: int, number: int) -> str:
    return f"{(trace << 32 | number) * 0x9E3779B97F4A7C15 % 2**64:016x}"


def _depth(number: int | str | None, parents: dict[int, int | str | None]) -> int:
    depth = 0
    while isinstance(number, int):
        number, depth = parents.get(number), depth + 1
    return depth


def _http(route: str, path: str, status: int = 200) -> Json:
    return {
        "http.request.method": "GET", "http.route": route, "url.path": path, "http.response.status_code": status,
        "faas.trigger": "http",
    }  # fmt: skip


def _imports(first: int, parent: int, begin_ms: float, scale: float) -> list[Span]:
    """Return the spans of ``_IMPORTS``, each begun when the one before had done its own part."""
    spans: list[Span] = []
    begins: list[float] = []
    for level, name, own_ms in _IMPORTS:
        begins.append(begin_ms)
        begin_ms += own_ms * scale
        above = next((at for at in range(len(spans) - 1, -1, -1) if _IMPORTS[at][0] < level), None)
        spans.append(
            Span(
                first + len(spans), parent if above is None else first + above, f"import {name}", begins[-1], 0.0,
                {"tracedbridge.import.self_ms": round(own_ms * scale, 3), "tracedbridge.import.owner": "dependency"},
                phase="app_import",
            )
        )  # fmt: skip
    for at, (level, _, _) in enumerate(_IMPORTS):
        after = next((later for later in range(at + 1, len(_IMPORTS)) if _IMPORTS[later][0] <= level), None)
        until_ms = begin_ms if after is None else begins[after]
        spans[at] = spans[at]._replace(took_ms=until_ms - begins[at])
    return spans


def cold_start(number: int, scale: float = 1.0, *, version: str = "1.4.0", kind: str = "on_demand") -> Made:
    """Return a FastAPI cold start of 40 imports; a proactive one has no invocation, and no other trace above it."""
    durations = dict(zip(_PHASES, (31.2, 8.4, 120.5, 0.0, 3.1, 101.0), strict=True))
    durations = {phase: round(ms * scale, 3) for phase, ms in durations.items()}
    before_ms = durations["interpreter"] + durations["bridge"] + durations["telemetry"]
    imports = _imports(10, 3, before_ms + 1.0, scale)
    durations["app_import"] = round(1.0 + sum(own_ms for _, _, own_ms in _IMPORTS) * scale, 3)
    until_ms = before_ms + durations["app_import"]
    ready_ms = until_ms + durations["app_resolve"] + durations["lifespan"]
    told = {
        "faas.coldstart": True,
        "tracedbridge.coldstart.kind": kind,
        "tracedbridge.coldstart.begins_with": "process",
    }
    told |= {f"tracedbridge.coldstart.{phase}_ms": ms for phase, ms in durations.items()}
    is_invoked = kind == "on_demand"
    spans = [
        Span(2, 1 if is_invoked else None, "cold start", 0.0, ready_ms, told),
        Span(
            3, 2, "import app", before_ms, durations["app_import"], {"tracedbridge.imports.modules": 612},
            phase="app_import",
        ),
        *imports,
        Span(4, 2, "lifespan startup", until_ms + durations["app_resolve"], durations["lifespan"], phase="lifespan"),
        Span(5, 4, "connect to the database", ready_ms - 40, 38, {"db.system.name": "postgresql"}, phase="lifespan"),
    ]  # fmt: skip
    logs: list[tuple[float, str, str, int | None]] = [(ready_ms - 39, "INFO", "connected to the database", 5)]
    if is_invoked:
        spans += [
            Span(
                1, None, "GET /items/{item_id}", 0.0, ready_ms + 9, _http("/items/{item_id}", "/items/3"),
                kind="server",
            ),
            Span(6, 1, "SELECT items", ready_ms + 2, 4.2, {"db.system.name": "postgresql"}, kind="client"),
            Span(7, 1, "write the audit line", ready_ms + 2.5, 1.1, critical=False),
        ]  # fmt: skip
        logs += [
            (ready_ms + 1.5, "INFO", "item 3 was asked for", 1),
            (ready_ms + 6, "WARN", "the stock of item 3 is low", 6),
        ]
    return Made(number, spans, logs, version=version)


def warm(number: int, took_ms: float = 4.0, route: str = "/items/{item_id}", path: str = "/items/8") -> Made:
    """Return an invocation of a process that was there."""
    return Made(number, [
        Span(1, None, f"GET {route}", 0.0, took_ms, _http(route, path), kind="server"),
        Span(2, 1, "SELECT items", took_ms * 0.2, took_ms * 0.6, {"db.system.name": "postgresql"}, kind="client"),
    ], [(took_ms * 0.9, "INFO", f"served {path}", 1)])  # fmt: skip


COLD = cold_start(100)
"""Fetched in the first invocation, with 40 imports and three log lines."""

PROACTIVE = cold_start(101, 0.8, version="1.5.0", kind="proactive")
"""A cold start that nobody waited for: a trace of its own."""

INVOKED = Made(102, [
    Span(1, None, "GET /orders", 0.0, 12.0, _http("/orders", "/orders"), kind="server", links=((PROACTIVE.number, 2),)),
    # Ten alike are a run.
    *(
        Span(2 + at, 1, "SELECT orders", 1.0 + at, 0.8, {"db.query.text": f"SELECT {at}"}, kind="client")
        for at in range(10)
    ),
], [], version="1.5.0")  # fmt: skip
"""The first invocation after it, linked with it."""

ERROR = Made(103, [
    Span(
        1, None, "POST /orders", 0.0, 30.0, {**_http("/orders", "/orders", 500), "http.request.method": "POST"},
        kind="server", status="error", message="no such customer",
    ),
    Span(
        2, 1, "find the customer", 5.0, 20.0, {"customer.id": 9_007_199_254_740_991}, status="error",
        message="KeyError: 'ada'", events=((24.0, "exception", {
            "exception.type": "KeyError", "exception.message": "'ada'",
            "exception.stacktrace": "Traceback (most recent call last):\n  File \"index.py\", line 8\nKeyError: 'ada'",
        }),),
    ),
], [(6.0, "DEBUG", "looking for ada", 2), (25.0, "ERROR", "could not find the customer", 2)])  # fmt: skip
"""A request that failed, with an exception."""

ORPHAN = Made(104, [
    Span(1, "00000000deadbeef", "charge the card", 3.0, 7.0, kind="consumer"),
    Span(2, 1, "POST payments", 4.0, 5.0, kind="client"),
], [(4.5, "INFO", "charged", 2)], service="payments")  # fmt: skip
"""What came of a trace whose beginning went somewhere else."""

LARGE = Made(105, [
    Span(1, None, "GET /report", 0.0, 3100.0, _http("/report", "/report"), kind="server"),
    # Different names, so that they are no run.
    *(Span(2 + at, 1, f"step {at:04}", 50.0 + at, 0.9, {"step": at}) for at in range(2_999)),
], [])  # fmt: skip
"""3,000 spans, one below the other."""


def planted(number: int = 106) -> Made:
    """Return a trace that holds markup, script and ANSI wherever text can be."""
    return Made(number, [
        Span(
            1, None, PLANTED, 0.0, 9.0, {"http.request.method": PLANTED, "http.route": PLANTED, PLANTED: PLANTED},
            kind="server", status="error", message=PLANTED, events=((3.0, PLANTED, {PLANTED: PLANTED}),),
        ),
        Span(2, 1, f"import {PLANTED}", 1.0, 2.0, {"tracedbridge.import.self_ms": 2.0}),
        Span(
            3, 1, "cold start", 0.0, 8.0,
            {"tracedbridge.coldstart.kind": "on_demand", "tracedbridge.coldstart.bridge_ms": 8.0},
        ),
    ], [(4.0, "INFO", PLANTED, 1)], service=PLANTED, version=PLANTED)  # fmt: skip


STORY = (
    *(cold_start(10 + at, 0.9 + at % 7 * 0.13, version="1.4.0" if at < 10 else "1.5.0") for at in range(20)),
    *(warm(50 + at, 3.0 + at % 5) for at in range(12)),
    COLD, PROACTIVE, INVOKED, ERROR, ORPHAN, LARGE,
)  # fmt: skip
"""All that the tests look at, oldest first."""

_TIMES = [str(BEGIN_NS + at * 10_000 * _MS) for at in range(30)]
_BOUNDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0]
METRICS: list[Json] = [
    {
        "name": "faas.invocations", "unit": "{invocation}", "description": "Number of successful invocations",
        "type": "sum", "service": "shop", "series": [
            {"attributes": [["faas.trigger", "http"]], "points": [
                {"timeNs": time, "value": at * 3} for at, time in enumerate(_TIMES)
            ]},
        ],
    },
    {
        "name": "faas.mem_usage", "unit": "By", "description": "Memory in use", "type": "gauge", "service": "shop",
        "series": [
            {"attributes": [["service.instance.id", name]], "points": [
                {"timeNs": time, "value": 60_000_000 + at * grows + at % 4 * 900_000} for at, time in enumerate(_TIMES)
            ]}
            for name, grows in (("one", 500_000), ("two", 200_000))
        ],
    },
    {
        "name": "http.server.request.duration", "unit": "s", "description": "Duration of HTTP server requests",
        "type": "histogram", "service": "shop", "series": [
            {"attributes": [["http.route", route], ["http.response.status_code", 200]], "points": [
                {"timeNs": _TIMES[-1], "count": sum(counts), "sum": 4.2, "bounds": _BOUNDS, "counts": counts},
            ]}
            for route, counts in (
                ("/items/{item_id}", [40, 31, 12, 6, 2, 0, 3, 1, 0]), ("/orders", [0, 2, 9, 14, 4, 1, 0, 0, 0]),
            )
        ],
    },
]  # fmt: skip
"""A counter, a gauge of two instances, and a histogram of two routes."""


# The same as OTLP JSON, for the real viewer.

_KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")
_STATUSES = ("unset", "ok", "error")


def _value(value: object) -> Json:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    return {"doubleValue": value} if isinstance(value, float) else {"stringValue": str(value)}


def _attributes(told: Json) -> list[Json]:
    return [{"key": key, "value": _value(value)} for key, value in told.items()]


def spans_otlp(made: Made) -> Json:
    """Return the body of ``POST /v1/traces``."""
    spans = [
        {
            "traceId": made.trace_id, "spanId": made.span_id(span.number), "parentSpanId": made.span_id(span.parent),
            "name": span.name, "kind": _KINDS.index(span.kind), "startTimeUnixNano": made.at(span.begin_ms),
            "endTimeUnixNano": str(int(made.at(span.begin_ms)) + round(span.took_ms * _MS)),
            "attributes": _attributes(span.attributes),
            "status": {"code": _STATUSES.index(span.status), "message": span.message},
            "events": [
                {"timeUnixNano": made.at(at_ms), "name": name, "attributes": _attributes(told)}
                for at_ms, name, told in span.events
            ],
            "links": [
                {"traceId": _trace_id(trace), "spanId": _span_id(trace, number)} for trace, number in span.links
            ],
        }
        for span in made.spans
    ]  # fmt: skip
    scope = {"scope": {"name": "tracedbridge", "version": "0.1.0"}, "spans": spans}
    return {"resourceSpans": [{"resource": {"attributes": _attributes(made.resource)}, "scopeSpans": [scope]}]}


def logs_otlp(made: Made) -> Json:
    """Return the body of ``POST /v1/logs``."""
    records = [
        {
            "timeUnixNano": made.at(at_ms), "severityText": severity, "body": {"stringValue": body},
            "attributes": _attributes({"faas.name": made.service}), "traceId": made.trace_id,
            "spanId": made.span_id(number),
        }
        for at_ms, severity, body, number in made.logs
    ]  # fmt: skip
    scope = {"scope": {"name": "shop.orders"}, "logRecords": records}
    return {"resourceLogs": [{"resource": {"attributes": _attributes(made.resource)}, "scopeLogs": [scope]}]}


def _number_point(attributes: list[Json], point: Json) -> Json:
    times = {"startTimeUnixNano": str(BEGIN_NS), "timeUnixNano": point["timeNs"]}
    return {"attributes": attributes, "asDouble": point["value"], **times}


def metrics_otlp(metrics: list[Json]) -> Json:
    """Return the body of ``POST /v1/metrics``, with all points of all metrics."""
    told = []
    for metric in metrics:
        points: list[Json] = []
        for series in metric["series"]:
            attributes = _attributes(dict(series["attributes"]))
            for point in series["points"]:
                if metric["type"] == "histogram":
                    points.append({
                        "attributes": attributes, "startTimeUnixNano": str(BEGIN_NS), "timeUnixNano": point["timeNs"],
                        "count": str(point["count"]), "sum": point["sum"], "explicitBounds": point["bounds"],
                        "bucketCounts": [str(count) for count in point["counts"]],
                    })  # fmt: skip
                else:
                    points.append(_number_point(attributes, point))
        data: Json = {"dataPoints": points}
        if metric["type"] != "gauge":
            data["aggregationTemporality"] = 2
        if metric["type"] == "sum":
            data["isMonotonic"] = True
        told.append({**{key: metric[key] for key in ("name", "unit", "description")}, metric["type"]: data})
    resource = {"attributes": _attributes({"service.name": metrics[0]["service"]})}
    return {
        "resourceMetrics": [
            {"resource": resource, "scopeMetrics": [{"scope": {"name": "tracedbridge"}, "metrics": told}]}
        ]
    }
