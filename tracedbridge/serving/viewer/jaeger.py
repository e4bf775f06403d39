"""
Jaeger's query API over a store, so that Jaeger's UI, Grafana's Jaeger data source and Jaeger's clients can ask it.

What is known of it, and from where (the public sources of jaeger, jaeger-idl and jaeger-ui, from about v2.20):

- Services, operations, summaries: jaeger-idl, ``api_v3/query_service.proto``, in the JSON mapping of protobuf: names in
  camel case, 64-bit integers as text. Arguments in camel case, or older in snake case: ``apiv3/query_parser.go``.
- How a summary counts: ``querysvc/summary.go``. The root is the earliest span without any parent; no such, no name.
- ``/api/v3/traces/{id}``: OTLP/JSON, ids in hex, wrapped in ``result``, the spans as they came:
  ``apiv3/http_gateway.go``. What the UI takes: ``api/v3/schemas.ts``.
- ``/api/traces/{id}``: ``uimodel/model.go`` and ``converter/v1/json/from_domain.go``, times in microseconds; what OTLP
  becomes in it: the collector's ``translator/jaeger/README.md``. Errors: ``jaegerquery/internal/http_handler.go``.
- ``/api/services``, ``/api/services/{name}/operations``, ``/api/traces``: gone from Jaeger after v2.20, but what the
  Jaeger data source of Grafana 12 asks for: ``pkg/tsdb/jaeger/client.go``.

Jaeger itself has no log records. Those of a span are given here as logs of the span, beside its events, in Jaeger JSON.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from tracedbridge.serving.viewer.answers import json_of, text_of
from tracedbridge.serving.viewer.store import service_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracedbridge.serving.viewer.store import Log, Scope, Span, Store, Trace

__all__ = ("answer", "trace")

# What Jaeger's UI asks for when nobody says; also the most that `query.searchDepth` may say here.
_DEFAULT_DEPTH = 20
_MAX_DEPTH = 1_500

# By number in the protocol.
_KINDS = {"unspecified": 0, "internal": 1, "server": 2, "client": 3, "producer": 4, "consumer": 5}
_STATUS_CODES = {"unset": 0, "ok": 1, "error": 2}

# Go's time.ParseDuration: "1h15m30.918s", "300ms", "-1.5h", "0".
_GO_UNITS = {
    "ns": 1, "us": 1_000, "µs": 1_000, "μs": 1_000, "ms": 1_000_000, "s": 10**9, "m": 60 * 10**9, "h": 3_600 * 10**9,
}  # fmt: skip
_GO_PART = re.compile(rf"(\d+\.?\d*|\.\d+)({'|'.join(_GO_UNITS)})", re.ASCII)
_GO_DURATION = re.compile(rf"[+-]?(?:0|(?:{_GO_PART.pattern})+)", re.ASCII)
# Longer ones are no number that a Go duration holds, and would only cost time.
_MAX_ARGUMENT_CHARS = 64

_RFC_3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.(\d+))?([Zz]|[+-]\d\d:\d\d)", re.ASCII)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# Go's strconv.ParseBool.
_BOOLEANS = frozenset({"1", "t", "T", "TRUE", "true", "True", "0", "f", "F", "FALSE", "false", "False"})


def answer(store: Store, path: str, arguments: Mapping[str, str]) -> tuple[int, object] | None:
    """
    Return HTTP status and JSON value for a path of the API, or None if it is no such path.

    Args:
        store: What is asked.
        path: Without the query, its percent-encoding decoded.
        arguments: Of the query, decoded. Each name once.
    """
    for pattern, ask, refused in _PATHS:
        match = pattern.fullmatch(path)
        if match is not None:
            try:
                return 200, ask(store, arguments, *match.groups())
            except _BadRequestError as error:
                return error.status, refused(error.status, str(error))
    return None


def trace(store: Store, trace_id: str) -> object | None:
    """Return one trace as Jaeger JSON, which Jaeger's UI can also open from a file; None if it is not here."""
    found = store.trace(trace_id.lower())
    return None if found is None else _wrapped([_jaeger_trace(found)])


class _BadRequestError(Exception):
    """The request cannot be answered."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def _refused_v3(status: int, message: str) -> object:
    return {"error": {"httpCode": status, "message": message}}


def _refused(status: int, message: str) -> object:
    return {"data": None, "total": 0, "limit": 0, "offset": 0, "errors": [{"code": status, "msg": message}]}


def _wrapped(data: Sequence[object], total: int = 0) -> dict[str, object]:
    return {"data": list(data), "total": total, "limit": 0, "offset": 0, "errors": None}


# The paths.


def _services_v3(store: Store, _: Mapping[str, str]) -> object:
    return {"services": _services(store)}


def _operations_v3(store: Store, arguments: Mapping[str, str]) -> object:
    service = arguments.get("service", "")
    if not service:
        raise _BadRequestError("malformed parameter service: it is required")
    kind = (_argument(arguments, "spanKind") or "").lower()
    found = (each for each in _operations(store, service) if kind in ("", each[1]))
    return {"operations": [{"name": name, "spanKind": span_kind} for name, span_kind in found]}


def _summaries_v3(store: Store, arguments: Mapping[str, str]) -> object:
    return {"summaries": [_summary(each) for each in _Search.of_v3(arguments).traces(store)]}


def _search_v3(store: Store, arguments: Mapping[str, str]) -> object:
    found = _Search.of_v3(arguments).traces(store)
    if not found:
        raise _BadRequestError("No traces found", 404)
    return {"result": {"resourceSpans": [each for trace in found for each in _resource_spans(trace)]}}


def _trace_v3(store: Store, arguments: Mapping[str, str], trace_id: str) -> object:
    # Where a backend has to search; here they need only be well-formed.
    for name in ("startTime", "endTime"):
        _time_ns(arguments, name)
    _boolean(arguments, "rawTraces")
    found = store.trace(_trace_id(trace_id))
    if found is None:
        raise _BadRequestError("No traces found", 404)
    return {"result": {"resourceSpans": _resource_spans(found)}}


def _trace(store: Store, _: Mapping[str, str], trace_id: str) -> object:
    found = trace(store, _trace_id(trace_id))
    if found is None:
        raise _BadRequestError("trace not found", 404)
    return found


def _services_old(store: Store, _: Mapping[str, str]) -> object:
    services = _services(store)
    return _wrapped(services, len(services))


def _operations_old(store: Store, _: Mapping[str, str], service: str) -> object:
    names = sorted({name for name, _ in _operations(store, service)})
    return _wrapped(names, len(names))


def _search_old(store: Store, arguments: Mapping[str, str]) -> object:
    return _wrapped([_jaeger_trace(each) for each in _Search.of_old(arguments).traces(store)])


_PATHS: tuple[tuple[re.Pattern[str], Callable[..., object], Callable[[int, str], object]], ...] = (
    (re.compile(r"/api/v3/services"), _services_v3, _refused_v3),
    (re.compile(r"/api/v3/operations"), _operations_v3, _refused_v3),
    (re.compile(r"/api/v3/trace-summaries"), _summaries_v3, _refused_v3),
    (re.compile(r"/api/v3/traces"), _search_v3, _refused_v3),
    (re.compile(r"/api/v3/traces/([^/]+)"), _trace_v3, _refused_v3),
    (re.compile(r"/api/traces/([^/]+)"), _trace, _refused),
    (re.compile(r"/api/services"), _services_old, _refused),
    (re.compile(r"/api/services/(.+)/operations", re.DOTALL), _operations_old, _refused),
    (re.compile(r"/api/traces"), _search_old, _refused),
)


def _services(store: Store) -> list[str]:
    return sorted({service_of(span.resource) for trace in store.traces() for span in trace.spans})


def _operations(store: Store, service: str) -> list[tuple[str, str]]:
    """Return names and kinds of the spans of a service, each pair once."""
    return sorted(
        {
            (span.name, _jaeger_kind(span))
            for trace in store.traces()
            for span in trace.spans
            if service_of(span.resource) == service
        }
    )


def _jaeger_kind(span: Span) -> str:
    return "internal" if span.kind == "unspecified" else span.kind


def _summary(trace: Trace) -> dict[str, object]:
    root = next((span for span in trace.spans if not span.parent_id), None)
    services: dict[str, list[int]] = {}
    for span in trace.spans:
        counts = services.setdefault(service_of(span.resource), [0, 0])
        counts[0] += 1
        counts[1] += span.status == "error"
    return {
        "traceId": trace.trace_id,
        "rootServiceName": "" if root is None else service_of(root.resource),
        "rootOperationName": "" if root is None else root.name,
        "minStartTimeUnixNano": str(trace.start_ns),
        "maxEndTimeUnixNano": str(trace.end_ns),
        "spanCount": len(trace.spans),
        "errorSpanCount": trace.errors,
        "orphanSpanCount": trace.missing_parents,
        "services": [
            {"name": name, "spanCount": spans, "errorSpanCount": errors}
            for name, (spans, errors) in sorted(services.items())
        ],
    }


# What is searched for.


class _Search(NamedTuple):
    """Traces are found that have a span for which all of this is true."""

    service: str
    operation: str
    attributes: Mapping[str, str]
    from_ns: int
    """Inclusive, as the start of the span."""
    until_ns: float
    """Exclusive."""
    shortest_ns: float
    longest_ns: float
    depth: int

    @classmethod
    def of_v3(cls, arguments: Mapping[str, str]) -> _Search:
        for name in arguments:
            # To leave out what narrows a search would answer with more than was asked for.
            if name == "query.filter" or name.startswith("query.pagination."):
                raise _BadRequestError(f"cannot search by {name}: this viewer has no such filter")
        from_ns, until_ns = _time_ns(arguments, "query.startTimeMin"), _time_ns(arguments, "query.startTimeMax")
        if from_ns is None or until_ns is None:
            raise _BadRequestError("query.startTimeMin and query.startTimeMax are required")
        if until_ns < from_ns:
            raise _BadRequestError("malformed parameter query.startTimeMax: it is before query.startTimeMin")
        _boolean(arguments, "query.rawTraces")
        return cls(
            service=_argument(arguments, "query.serviceName") or "",
            operation=_argument(arguments, "query.operationName") or "",
            attributes=_attributes(arguments, "query.attributes"),
            from_ns=from_ns,
            until_ns=until_ns,
            shortest_ns=_duration_ns(arguments, "query.durationMin", -math.inf),
            longest_ns=_duration_ns(arguments, "query.durationMax", math.inf),
            depth=_depth(arguments, "query.searchDepth", "query.num_traces"),
        )

    @classmethod
    def of_old(cls, arguments: Mapping[str, str]) -> _Search:
        if not arguments.get("service"):
            raise _BadRequestError("parameter 'service' is required")
        start_us, end_us = _whole_number(arguments, "start"), _whole_number(arguments, "end")
        return cls(
            service=arguments["service"],
            operation=arguments.get("operation", ""),
            attributes=_attributes(arguments, "tags"),
            from_ns=(start_us or 0) * 1_000,
            until_ns=math.inf if end_us is None else end_us * 1_000,
            shortest_ns=_duration_ns(arguments, "minDuration", -math.inf),
            longest_ns=_duration_ns(arguments, "maxDuration", math.inf),
            depth=_depth(arguments, "limit"),
        )

    def traces(self, store: Store) -> list[Trace]:
        """Return what is found, newest first."""
        found = []
        for trace in store.traces():
            if any(map(self._takes, trace.spans)):
                found.append(trace)
                if len(found) == self.depth:
                    break
        return found

    def _takes(self, span: Span) -> bool:
        return (
            self.from_ns <= span.start_ns < self.until_ns
            and self.shortest_ns <= _length_ns(span) <= self.longest_ns
            and self.service in ("", service_of(span.resource))
            and self.operation in ("", span.name)
            and all(_has(span, name, value) for name, value in self.attributes.items())
        )


def _has(span: Span, name: str, value: str) -> bool:
    # Jaeger's own two tags, which are no attributes in OpenTelemetry.
    if name == "error" and name not in span.attributes:
        return value == ("true" if span.status == "error" else "false")
    if name == "span.kind":
        return value == _jaeger_kind(span)
    attributes = span.attributes if name in span.attributes else span.resource
    return name in attributes and text_of(attributes[name]) == value


def _argument(arguments: Mapping[str, str], name: str) -> str | None:
    """Return an argument by its name in camel case, or by the older one in snake case; None if it is empty."""
    return arguments.get(name) or arguments.get(_older(name)) or None


def _older(name: str) -> str:
    return re.sub("[A-Z]", lambda match: f"_{match[0].lower()}", name)


def _time_ns(arguments: Mapping[str, str], name: str) -> int | None:
    """Return a time in nanoseconds since 1970."""
    text = _argument(arguments, name)
    if text is None:
        return None
    match = _RFC_3339.fullmatch(text)
    try:
        if match is None or len(text) > _MAX_ARGUMENT_CHARS:
            raise ValueError("it is no time as in RFC 3339")
        date, clock, fraction, zone = match.groups()
        # Without the fraction, which has nine digits where a datetime has six.
        at = datetime.fromisoformat(f"{date}T{clock}{zone.upper().replace('Z', '+00:00')}")
        since = at.astimezone(UTC) - _EPOCH
    except (ValueError, OverflowError) as error:
        raise _malformed(name, text, error) from None
    return (since.days * 86_400 + since.seconds) * 10**9 + int((fraction or "0").ljust(9, "0")[:9])


def _duration_ns(arguments: Mapping[str, str], name: str, default: float) -> float:
    text = _argument(arguments, name)
    if text is None:
        return default
    if len(text) > _MAX_ARGUMENT_CHARS or not _GO_DURATION.fullmatch(text):
        raise _malformed(name, text, "it is no duration like 1.5s or 300ms")
    size_ns = sum(float(number) * _GO_UNITS[unit] for number, unit in _GO_PART.findall(text))
    return -size_ns if text.startswith("-") else size_ns


def _attributes(arguments: Mapping[str, str], name: str) -> dict[str, str]:
    text = _argument(arguments, name)
    if text is None:
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _malformed(name, text, error) from None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise _malformed(name, text, "it is no JSON object of texts")
    return found


def _boolean(arguments: Mapping[str, str], name: str) -> None:
    text = _argument(arguments, name)
    if text is not None and text not in _BOOLEANS:
        raise _malformed(name, text, "it is neither true nor false")


def _depth(arguments: Mapping[str, str], *names: str) -> int:
    given = (_whole_number(arguments, name) for name in names)
    # Nothing, as in protobuf, is as good as not given.
    return min(next(filter(None, given), _DEFAULT_DEPTH), _MAX_DEPTH)


def _whole_number(arguments: Mapping[str, str], name: str) -> int | None:
    text = _argument(arguments, name)
    if text is None:
        return None
    # Of a fitting length: int() refuses thousands of digits with an error of its own.
    if not (text.isascii() and text.isdecimal()) or len(text) > _MAX_ARGUMENT_CHARS:
        raise _malformed(name, text, "it is no whole number")
    return int(text)


def _trace_id(text: str) -> str:
    """Return a trace id as the store has it; short ones, from before they had 128 bits, begin with zeros."""
    if not re.fullmatch(r"[0-9A-Fa-f]{1,32}", text):
        raise _malformed("trace_id", text, "it is not up to 32 hex digits")
    return text.lower().zfill(32)


def _malformed(name: str, text: str, reason: object) -> _BadRequestError:
    return _BadRequestError(f"malformed parameter {name}: {text[:_MAX_ARGUMENT_CHARS]!r}: {reason}")


# OTLP/JSON.


def _resource_spans(trace: Trace) -> list[dict[str, Any]]:
    """Return the spans by resource and scope; those of one request share these objects."""
    resources: dict[str, dict[str, Any]] = {}
    scopes: dict[tuple[str, str], dict[str, Any]] = {}
    for span in trace.spans:
        resource = {"attributes": _key_values(span.resource)}
        resource_key = json.dumps(resource)
        of_resource = resources.setdefault(resource_key, {"resource": resource, "scopeSpans": []})
        scope = _otlp_scope(span.scope)
        scope_key = (resource_key, json.dumps(scope))
        if scope_key not in scopes:
            scopes[scope_key] = {"scope": scope, "spans": []}
            of_resource["scopeSpans"].append(scopes[scope_key])
        scopes[scope_key]["spans"].append(_otlp_span(span))
    return list(resources.values())


def _otlp_scope(scope: Scope) -> dict[str, Any]:
    return {"name": scope.name, "version": scope.version, "attributes": _key_values(scope.attributes)}


def _otlp_span(span: Span) -> dict[str, Any]:
    told: dict[str, Any] = {"traceId": span.trace_id, "spanId": span.span_id}
    if span.parent_id:
        # Jaeger's UI takes no empty one.
        told["parentSpanId"] = span.parent_id
    status: dict[str, Any] = {"code": _STATUS_CODES.get(span.status, 0)}
    if span.status_message:
        status["message"] = span.status_message
    return told | {
        "name": span.name,
        "kind": _KINDS.get(span.kind, 0),
        "startTimeUnixNano": str(span.start_ns),
        "endTimeUnixNano": str(span.end_ns),
        "attributes": _key_values(span.attributes),
        "events": [
            {"timeUnixNano": str(event.time_ns), "name": event.name, "attributes": _key_values(event.attributes)}
            for event in span.events
        ],
        "links": [
            {"traceId": link.trace_id, "spanId": link.span_id, "attributes": _key_values(link.attributes)}
            for link in span.links
        ],
        "status": status,
    }


def _key_values(attributes: Mapping[str, object]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _any_value(value)} for key, value in attributes.items()]


def _any_value(value: object) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": json_of(value)}
    if isinstance(value, bytes):
        return {"bytesValue": base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        return {"kvlistValue": {"values": _key_values(value)}}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return {"arrayValue": {"values": [_any_value(each) for each in value]}}
    # Nothing becomes an empty text: Jaeger's UI takes a trace only if every value has exactly one field.
    return {"stringValue": text_of(value)}


# Jaeger JSON.


def _jaeger_trace(trace: Trace) -> dict[str, Any]:
    processes: dict[str, dict[str, Any]] = {}
    ids: dict[str, str] = {}
    logs_of: dict[str, list[Log]] = {}
    for log in trace.logs:
        logs_of.setdefault(log.span_id, []).append(log)
    spans = []
    for span in trace.spans:
        process = _process(span.resource)
        key = json.dumps(process)
        if key not in ids:
            ids[key] = f"p{len(ids) + 1}"
            processes[ids[key]] = process
        spans.append(_jaeger_span(span, trace, logs_of.get(span.span_id, ())) | {"processID": ids[key]})
    return {"traceID": trace.trace_id, "spans": spans, "processes": processes, "warnings": None}


def _process(resource: Mapping[str, object]) -> dict[str, Any]:
    tags = [_tag(key, value) for key, value in resource.items() if key != "service.name"]
    return {"serviceName": service_of(resource), "tags": tags}


def _jaeger_span(span: Span, trace: Trace, logs: Sequence[Log]) -> dict[str, Any]:
    parent_id = trace.parent_ids[span.span_id]
    references = [_reference("CHILD_OF", trace.trace_id, parent_id)] if parent_id else []
    references += [_reference("FOLLOWS_FROM", link.trace_id, link.span_id) for link in span.links]
    entries = [(event.time_ns, _event_fields(event.name, event.attributes)) for event in span.events]
    entries += [(log.time_ns, _log_fields(log)) for log in logs]
    entries.sort(key=lambda entry: entry[0])
    return {
        "traceID": trace.trace_id,
        "spanID": span.span_id,
        "operationName": span.name,
        "references": references,
        "startTime": span.start_ns // 1_000,
        "duration": _length_ns(span) // 1_000,
        "tags": _tags(span),
        "logs": [{"timestamp": time_ns // 1_000, "fields": fields} for time_ns, fields in entries],
        "warnings": None,
    }


def _reference(kind: str, trace_id: str, span_id: str) -> dict[str, str]:
    return {"refType": kind, "traceID": trace_id, "spanID": span_id}


def _tags(span: Span) -> list[dict[str, Any]]:
    told: list[tuple[str, object]] = []
    if span.scope.name:
        told.append(("otel.scope.name", span.scope.name))
    if span.scope.version:
        told.append(("otel.scope.version", span.scope.version))
    # A failed span has an error of Jaeger's kind, whatever it calls so itself.
    told += [each for each in span.attributes.items() if span.status != "error" or each[0] != "error"]
    if span.kind != "unspecified":
        told.append(("span.kind", span.kind))
    if span.status == "error":
        told.append(("error", True))
    if span.status != "unset":
        told.append(("otel.status_code", span.status.upper()))
    if span.status_message:
        told.append(("otel.status_description", span.status_message))
    return [_tag(key, value) for key, value in told]


def _event_fields(name: str, attributes: Mapping[str, object]) -> list[dict[str, Any]]:
    named: list[tuple[str, object]] = [("event", name)] if name and "event" not in attributes else []
    return [_tag(key, value) for key, value in (*named, *attributes.items())]


def _log_fields(log: Log) -> list[dict[str, Any]]:
    # As OpenTracing names them in a log of a span; attributes of that name say the same.
    named = {"level": log.severity, "message": text_of(log.body)}
    return [_tag(key, value) for key, value in (named | dict(log.attributes)).items()]


def _tag(key: str, value: object) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"key": key, "type": "bool", "value": value}
    if isinstance(value, int):
        # Long ones as text, as Jaeger does it for JavaScript's sake.
        return {"key": key, "type": "int64", "value": json_of(value)}
    if isinstance(value, float):
        if not math.isfinite(value):
            return {"key": key, "type": "string", "value": json_of(value)}
        return {"key": key, "type": "float64", "value": value}
    if isinstance(value, bytes):
        return {"key": key, "type": "binary", "value": json_of(value)}
    return {"key": key, "type": "string", "value": text_of(value)}


def _length_ns(span: Span) -> int:
    return max(span.end_ns - span.start_ns, 0)
