"""What apps do with OpenTelemetry's API and nothing else: everything that a span can be told, and how they are made."""

from __future__ import annotations

import contextvars
import logging
import threading
from typing import Any

import structlog
from opentelemetry import baggage, propagate, trace
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags

__all__ = ("craft", "polish", "price", "tracer")

tracer = trace.get_tracer("workshop", "1.2", schema_url="https://workshop.test/schema")

_FOREIGN = SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(1))

_logger = logging.getLogger("workshop")
_lines = structlog.get_logger("workshop")

# Begun in one invocation and ended in the next one.
_left_open: list[Span] = []


@tracer.start_as_current_span("price", attributes={"way": "decorator"})
def price(item: int) -> int:
    """Be a span by a decorator."""
    trace.get_current_span().set_attribute("item", item)
    return 3 * item


@tracer.start_as_current_span("polish")
async def polish(item: int) -> int:
    """Be a span by a decorator, as a coroutine function."""
    trace.get_current_span().add_event("shines", {"item": item})
    return item


def craft(item: int) -> dict[str, Any]:
    """Make spans in every way that there is; return what the current span's context is, as a client would get it."""
    while _left_open:
        last = _left_open.pop()
        last.add_event("found again")
        last.set_attribute("closed.by", item)
        last.end()
    with tracer.start_as_current_span("craft", kind=SpanKind.PRODUCER, attributes={"item": item}) as span:
        _tell(span)
        _logger.warning("crafting %d", item)
        _lines.info("crafted", item=item)
        _left_open.append(tracer.start_span("left open", attributes={"opened.by": item}))
        price(item)
        _fail()
        _in_thread(item)
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        sent = carrier.get("traceparent", "")
        # What goes to the next service is what will be exported.
        if sent:
            context = span.get_span_context()
            assert sent == f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
        span.set_attribute("sent.parent", bool(sent))
        span.set_attribute("sent.state", carrier.get("tracestate", ""))
        span.set_attribute("sent.baggage", carrier.get("baggage", ""))
        span.set_attribute("baggage.tenant", str(baggage.get_baggage("tenant")))
    # After its end: nobody is to see that.
    span.set_attribute("too.late", True)
    span.update_name("too late")
    return {"item": item}


def _tell(span: Span) -> None:
    numbers = [1, 2]
    span.set_attributes({"text": "é", "truth": True, "whole": -7, "real": 0.5, "texts": ("a", "b"), "truths": [True]})
    span.set_attribute("numbers", numbers)
    numbers.append(3)
    span.set_attribute("reals", [0.5, 1.5])
    span.set_attribute("whole", 8)
    span.add_event("measured", {"depth": 2.5, "numbers": numbers}, timestamp=None)
    numbers.append(4)
    span.add_event("bare")
    span.add_link(_FOREIGN, {"why": "ordered before"})
    with tracer.start_as_current_span("linked", links=[Link(span.get_span_context(), {"n": 1})]) as linked:
        linked.set_status(Status(StatusCode.ERROR, "first"))
        linked.set_status(StatusCode.OK)
        linked.set_status(StatusCode.ERROR, "an OK stays")
    # OTLP's exporters leave them out.
    span.set_attribute("own.flags", int(span.get_span_context().trace_flags))
    # Of a trace of its own.
    with tracer.start_as_current_span("detached", context=trace.set_span_in_context(trace.INVALID_SPAN)) as detached:
        detached.set_attribute("own.flags", int(detached.get_span_context().trace_flags))
        tracer.start_span("below the detached one", kind=SpanKind.CLIENT).end()
    try:
        raise LookupError("no such tool")
    except LookupError as error:
        span.record_exception(error, {"tool": "plane"}, escaped=False)
    span.update_name("craft with care")


def _fail() -> None:
    try:
        with tracer.start_as_current_span("fails"):
            raise ValueError("too short")
    except ValueError:
        pass
    try:
        with tracer.start_as_current_span("fails quietly", record_exception=False, set_status_on_exception=False):
            raise KeyError("gone")
    except KeyError:
        pass


def _in_thread(item: int) -> None:
    def work() -> None:
        with tracer.start_as_current_span("in a thread", attributes={"item": item}):
            _logger.error("from a thread", extra={"item": item})

    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,))
    thread.start()
    thread.join()
