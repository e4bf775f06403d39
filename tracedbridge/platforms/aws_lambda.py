"""
AWS Lambda.

Source: AWS, "Defined runtime environment variables"; OpenTelemetry, "Semantic conventions for AWS Lambda".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tracedbridge.platforms import cold_start_kind, remaining_ms

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tracedbridge.messages import Headers, Request

__all__ = (
    "carried", "cold_start_kind", "function_name", "invocation_id", "remaining_ms", "resource_attributes",
    "span_attributes",
)  # fmt: skip

_RESOURCE = {
    "cloud.region": "AWS_REGION",
    "faas.name": "AWS_LAMBDA_FUNCTION_NAME",
    "faas.version": "AWS_LAMBDA_FUNCTION_VERSION",
}

_HEX = frozenset("0123456789abcdef")
_W3C = ("traceparent", "tracestate", "baggage")


def function_name(environ: Mapping[str, str], app: str) -> str:
    """Return the name that the function was created with."""
    return environ.get("AWS_LAMBDA_FUNCTION_NAME") or app


def resource_attributes(environ: Mapping[str, str]) -> dict[str, str | int]:
    """Return what the environment variables say."""
    attributes: dict[str, str | int] = {"cloud.provider": "aws", "cloud.platform": "aws_lambda"}
    attributes.update((name, environ[variable]) for name, variable in _RESOURCE.items() if environ.get(variable))
    memory_mib = environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "")
    if memory_mib.isdecimal():
        attributes["faas.max_memory"] = int(memory_mib) * 1024 * 1024
    return attributes


def invocation_id(request: Request | None, context: object) -> str | None:
    """Return the context's ``aws_request_id``."""
    del request
    told = getattr(context, "aws_request_id", None)
    return told if isinstance(told, str) and told else None


def span_attributes(environ: Mapping[str, str], request: Request) -> dict[str, str]:
    """Return ``cloud.resource_id``, the function's ARN as it was invoked, and ``cloud.account.id``."""
    del environ
    context = None if request.extras is None else request.extras.get("aws.context")
    arn = getattr(context, "invoked_function_arn", None)
    if not isinstance(arn, str) or arn.count(":") < 6:
        return {}
    return {"cloud.resource_id": arn, "cloud.account.id": arn.split(":")[4]}


def carried(environ: Mapping[str, str], context: object) -> tuple[Headers, bool]:
    """
    Return the trace context that came beside a request, as headers, and whether it is X-Ray's.

    Source: ``context.w3c()`` of awslambdaric 4.2; AWS, "X-Ray concepts", "Tracing header".
    """
    ask = getattr(context, "w3c", None)
    told: Any = ask() if callable(ask) else None
    if isinstance(told, dict) and isinstance(told.get("traceparent"), str):
        return [(name, told[name]) for name in _W3C if isinstance(told.get(name), str)], False
    traceparent = _of_xray(environ.get("_X_AMZN_TRACE_ID", ""))
    return ([("traceparent", traceparent)] if traceparent else []), True


def _of_xray(text: str) -> str:
    """Return what ``Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1`` is in W3C's format."""
    parts = dict(part.strip().partition("=")[::2] for part in text.split(";"))
    version, _, root = parts.get("Root", "").lower().partition("-")
    trace_id, parent_id = root.replace("-", ""), parts.get("Parent", "").lower()
    if version != "1" or not _is_id(trace_id, 32) or not _is_id(parent_id, 16):
        return ""
    return f"00-{trace_id}-{parent_id}-{'01' if parts.get('Sampled') == '1' else '00'}"


def _is_id(text: str, length: int) -> bool:
    return len(text) == length and _HEX.issuperset(text) and set(text) != {"0"}
