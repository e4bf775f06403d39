"""
Response headers that say which trace a response belongs to, and what its cold start took.

Source: W3C Trace Context level 2, draft of 2021, "Traceresponse Header" (``traceresponse``); W3C Server Timing
(``server-timing``), which browsers show and hand to scripts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tracedbridge.telemetry.current import Ids
    from tracedbridge.telemetry.story import Story

__all__ = ("add_to",)


def add_to(fields: dict[str, list[str]], ids: Ids | None, story: Story | None) -> None:
    """
    Add the headers.

    Args:
        fields: Of the response: lower-case name → values. What the app says itself stays: its ``traceresponse``
            instead of ours, its ``server-timing`` besides ours.
        ids: Of the invocation's span; None where nothing is traced, and then nothing is added.
        story: Of its cold start, if it has one; phases in milliseconds, if the client has waited for them.
    """
    if ids is None:
        return
    told = ids.fields()
    span = f"00-{told['trace_id']}-{told['span_id']}-{ids.flags:02x}"
    timing = [f'traceparent;desc="{span}"']
    if story is not None and story.kind == "on_demand":
        timing += [f"{phase};dur={took_ns / 1e6:.1f}" for phase, took_ns in story.record.durations_ns().items()]
    fields.setdefault("traceresponse", [span])
    fields.setdefault("server-timing", []).append(", ".join(timing))
