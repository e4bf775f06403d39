"""Without OpenTelemetry a request's trace context is read and replaced as its propagators would do it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest
from opentelemetry import trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tracedbridge.headers import Layout
from tracedbridge.messages import Headers, Request
from tracedbridge.telemetry.current import RANDOM, SAMPLED, Ids
from tracedbridge.telemetry.environment import PROPAGATORS, propagators
from tracedbridge.telemetry.ids import span_context_of
from tracedbridge.telemetry.tracecontext import Sampling, ids_for, random_ids, with_headers

if TYPE_CHECKING:
    from tracedbridge.settings import Parent

pytestmark = pytest.mark.telemetry

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{SPAN}-01"
FIELDS = ("traceparent", "tracestate", "baggage")

TRACEPARENTS: dict[str, str | list[str] | None] = {
    "none": None,
    "sampled": GOOD,
    "not sampled": f"00-{TRACE}-{SPAN}-00",
    "random": f"00-{TRACE}-{SPAN}-03",
    "unknown flags": f"00-{TRACE}-{SPAN}-fc",
    "all flags": f"00-{TRACE}-{SPAN}-ff",
    "blanks around it": f" \t{GOOD} \t",
    "later version": f"01-{TRACE}-{SPAN}-01",
    "later version with more": f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be",
    "later version with an empty more": f"01-{TRACE}-{SPAN}-01-",
    "later version with more flags": f"01-{TRACE}-{SPAN}-0100",
    "later version with a dot": f"01-{TRACE}-{SPAN}-01.what",
    "version ff": f"ff-{TRACE}-{SPAN}-01",
    "version 00 with more": f"{GOOD}-what",
    "version 00 with an empty more": f"{GOOD}-",
    "a long version": f"000-{TRACE}-{SPAN}-01",
    "a short version": f"0-{TRACE}-{SPAN}-01",
    "no trace": f"00-{'0' * 32}-{SPAN}-01",
    "no span": f"00-{TRACE}-{'0' * 16}-01",
    "upper-case": f"00-{TRACE.upper()}-{SPAN}-01",
    "an upper-case flag": f"00-{TRACE}-{SPAN}-0A",
    "a short trace": f"00-{TRACE[1:]}-{SPAN}-01",
    "a long trace": f"00-{TRACE}0-{SPAN}-01",
    "a short span": f"00-{TRACE}-{SPAN[1:]}-01",
    "a long flag": f"00-{TRACE}-{SPAN}-001",
    "no flags": f"00-{TRACE}-{SPAN}",
    "empty flags": f"00-{TRACE}-{SPAN}-",
    "underscores": f"00-{TRACE[:15]}_{TRACE[16:]}-{SPAN}-01",
    "a sign": f"00-+{TRACE[1:]}-{SPAN}-01",
    "a prefix": f"00-0x{TRACE[2:]}-{SPAN}-01",
    "digits of another script": f"00-{TRACE[1:]}\u0663-{SPAN}-01",
    "no hex": f"00-{TRACE[1:]}g-{SPAN}-01",
    "blanks within": f"00 -{TRACE}-{SPAN}-01",
    "other separators": GOOD.replace("-", "_"),
    "empty": "",
    "nonsense": "hello",
    "twice the same": [GOOD, GOOD],
    "two": [GOOD, GOOD.replace("b7", "c7")],
}  # fmt: skip

REST: Headers = [("accept", "*/*"), ("tracestate", "vendor=1,other=2"), ("baggage", "tenant=acme"), ("x-a", "1")]

_PARTS: dict[str, type[TextMapPropagator]] = {
    "tracecontext": TraceContextTextMapPropagator,
    "baggage": W3CBaggagePropagator,
}


def request_of(headers: Headers, *, is_laid_out: bool = False) -> Request:
    """Build a request; ``is_laid_out`` as a format does that knows its headers as one."""
    layout = values = None
    if is_laid_out:
        layout, values = Layout(tuple(name for name, _ in headers)), [value for _, value in headers]
    return Request(
        "GET",
        "/",
        "",
        None if is_laid_out else list(headers),
        b"",
        "http",
        "localhost",
        80,
        None,
        "1.1",
        layout,
        values,
    )


def headers_with(traceparent: str | list[str] | None, rest: Headers) -> Headers:
    """Return headers with these values of traceparent among them."""
    if traceparent is None:
        return list(rest)
    values = [traceparent] if isinstance(traceparent, str) else traceparent
    return [*rest[:1], *(("traceparent", value) for value in values), *rest[1:]]


def extracted(propagator: TextMapPropagator, headers: Headers) -> Context:
    """Return what OpenTelemetry's propagator reads of headers; repeated ones are one, joined as HTTP says."""
    carrier: dict[str, str] = {}
    for name, value in headers:
        carrier[name] = f"{carrier[name]},{value}" if name in carrier else value
    return propagator.extract(carrier, Context())


def seen_headers(propagator: TextMapPropagator, ids: Ids, state: trace.TraceState | None, around: Context) -> Headers:
    """Return the headers that OpenTelemetry's propagator makes of a span with these ids, in a context."""
    span = trace.NonRecordingSpan(span_context_of(ids, state))
    carrier: dict[str, str] = {}
    propagator.inject(carrier, trace.set_span_in_context(span, around))
    return sorted(carrier.items())


@pytest.mark.parametrize("worth", ["parent", "link", "ignore"])
@pytest.mark.parametrize("traceparent", TRACEPARENTS.values(), ids=TRACEPARENTS)
def test_against_the_api(traceparent: str | list[str] | None, worth: Parent) -> None:
    """Good or broken, a traceparent gives the ids and flags, and the app the headers, that the API would give."""
    headers = headers_with(traceparent, REST)
    propagator = CompositePropagator([TraceContextTextMapPropagator(), W3CBaggagePropagator()])
    context = extracted(propagator, headers)
    remote = trace.get_current_span(context).get_span_context()
    is_child = worth == "parent" and remote.is_valid
    ids, request = ids_for(request_of(headers), worth, Sampling(), 7)
    assert ids.trace_id == (remote.trace_id if is_child else 7)
    assert ids.span_id not in (0, remote.span_id)
    # By parentbased_always_on; of the other flags only what is true of the new span, too.
    assert ids.flags == (remote.trace_flags & (SAMPLED | RANDOM) if is_child else SAMPLED | RANDOM)
    if worth == "ignore":
        context = Context()
    state = remote.trace_state if is_child else None
    assert sorted(pair for pair in request.headers if pair[0] in FIELDS) == seen_headers(
        propagator, ids, state, context
    )
    assert [pair for pair in request.headers if pair[0] not in FIELDS] == [("accept", "*/*"), ("x-a", "1")]


@pytest.mark.parametrize(("length", "is_child"), [(512, True), (513, False)])
def test_long(length: int, is_child: bool) -> None:
    """A traceparent of more than 512 characters is none; of the API's propagators only the later ones say so."""
    traceparent = f"01-{TRACE}-{SPAN}-01-".ljust(length, "x")
    ids, request = ids_for(request_of([("traceparent", traceparent)]), "parent", Sampling(), 7)
    assert (ids.trace_id == int(TRACE, 16)) == is_child
    assert request.headers == [("traceparent", f"00-{ids.trace_id:032x}-{ids.span_id:016x}-{ids.flags:02x}")]


CONFIGURED: list[tuple[str | None, set[str]]] = [
    (None, {"tracecontext", "baggage"}),
    ("", {"tracecontext", "baggage"}),
    ("  ", {"tracecontext", "baggage"}),
    ("tracecontext", {"tracecontext"}),
    ("baggage", {"baggage"}),
    (" TraceContext , baggage ", {"tracecontext", "baggage"}),
    ("tracecontext,tracecontext", {"tracecontext"}),
    ("none", set()),
    ("None", set()),
    ("tracecontext,none", set()),
    ("b3,tracecontext", {"b3", "tracecontext"}),
]


@pytest.mark.parametrize(("value", "expected"), CONFIGURED, ids=[repr(value) for value, _ in CONFIGURED])
def test_propagators(value: str | None, expected: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """``OTEL_PROPAGATORS`` names them in any case, with blanks; one ``none`` is none at all."""
    if value is not None:
        monkeypatch.setenv("OTEL_PROPAGATORS", value)
    assert propagators() == expected


@pytest.mark.parametrize("worth", ["parent", "link", "ignore"])
@pytest.mark.parametrize("names", [[], ["tracecontext"], ["baggage"], ["baggage", "tracecontext"]], ids=str)
def test_configured_propagators(names: Sequence[str], worth: Parent, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is configured is read; headers that no propagator knows go on to the app as they came."""
    assert set(names) <= PROPAGATORS
    monkeypatch.setenv("OTEL_PROPAGATORS", ",".join(names) or "none")
    headers = headers_with(GOOD, REST)
    propagator = CompositePropagator([_PARTS[name]() for name in names])
    remote = trace.get_current_span(extracted(propagator, headers)).get_span_context()
    ids, request = ids_for(request_of(headers), worth, Sampling(), None)
    is_child = worth == "parent" and "tracecontext" in names
    assert (ids.trace_id == int(TRACE, 16)) == is_child
    # As tracedbridge.telemetry.propagation does it: the fields of all propagators are taken away, and made anew.
    context = Context() if worth == "ignore" else extracted(propagator, headers)
    made = dict(seen_headers(propagator, ids, remote.trace_state if is_child else None, context))
    known = {"tracecontext": ("traceparent", "tracestate"), "baggage": ("baggage",)}
    replaced = {field for name in names for field in known[name]}
    untouched = {name: value for name, value in headers if name in FIELDS and name not in replaced}
    assert {name: value for name, value in request.headers if name in FIELDS} == untouched | made


@pytest.mark.parametrize("is_laid_out", [False, True], ids=["headers", "layout"])
def test_with_headers(is_laid_out: bool) -> None:
    """Those named are replaced by ours, at the end; all others stay in order, repeats kept."""
    headers = [("b", "1"), ("traceparent", "x"), ("a", "2"), ("b", "3"), ("traceparent", "y")]
    if is_laid_out:
        # A format that knows its headers as one has each name once.
        headers = headers[:3]
    ours = [("traceparent", "z")]
    told = with_headers(request_of(headers, is_laid_out=is_laid_out), frozenset(("traceparent",)), ours)
    assert told.headers == [pair for pair in headers if pair[0] != "traceparent"] + ours
    assert told.first("traceparent") == "z"


@pytest.mark.parametrize("is_laid_out", [False, True], ids=["headers", "layout"])
def test_nothing_to_replace(is_laid_out: bool) -> None:
    """A request with none of them is not copied, and has ours behind its own."""
    request = request_of([("b", "1"), ("a", "2")], is_laid_out=is_laid_out)
    told = with_headers(request, frozenset(FIELDS), [("traceparent", "z")])
    assert told is request
    assert told.headers == [("b", "1"), ("a", "2"), ("traceparent", "z")]
    # What came is what came.
    assert told.event_headers == [("b", "1"), ("a", "2")]


def test_random_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids are of their full length and never zero, which would be no ids."""
    traces, spans = zip(*(random_ids() for _ in range(200)), strict=True)
    assert len(set(traces)) == len(set(spans)) == 200
    assert max(each.bit_length() for each in traces) > 120
    assert max(each.bit_length() for each in spans) > 56
    monkeypatch.setattr("os.urandom", bytes)
    assert all(random_ids())
