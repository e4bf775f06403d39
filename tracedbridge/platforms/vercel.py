"""
Vercel.

Source: Vercel, "System environment variables"; attribute names as @vercel/otel sends them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracedbridge.platforms import carried, cold_start_kind, remaining_ms

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tracedbridge.messages import Request

__all__ = (
    "carried",
    "cold_start_kind",
    "function_name",
    "invocation_id",
    "remaining_ms",
    "resource_attributes",
    "span_attributes",
)

_RESOURCE = {
    "cloud.region": "VERCEL_REGION",
    "deployment.environment.name": "VERCEL_ENV",
    "faas.version": "VERCEL_DEPLOYMENT_ID",
    "service.version": "VERCEL_DEPLOYMENT_ID",
    "vcs.ref.head.name": "VERCEL_GIT_COMMIT_REF",
    "vcs.ref.head.revision": "VERCEL_GIT_COMMIT_SHA",
    "vercel.deployment_id": "VERCEL_DEPLOYMENT_ID",
    "vercel.host": "VERCEL_URL",
    "vercel.project_id": "VERCEL_PROJECT_ID",
}


def function_name(environ: Mapping[str, str], app: str) -> str:
    """Return ``repository/api/index`` for ``api/index.py``."""
    path = app.removesuffix(".py").removeprefix("./").lstrip("/")
    repository = environ.get("VERCEL_GIT_REPO_SLUG", "")
    return f"{repository}/{path}" if repository else path


def resource_attributes(environ: Mapping[str, str]) -> dict[str, str | int]:
    """Return what the system environment variables say, and the memory of the Lambda function below."""
    attributes: dict[str, str | int] = {"cloud.provider": "vercel"}
    attributes.update((name, environ[variable]) for name, variable in _RESOURCE.items() if environ.get(variable))
    memory_mib = environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "")
    if memory_mib.isdecimal():
        attributes["faas.max_memory"] = int(memory_mib) * 1024 * 1024
    return attributes


def invocation_id(request: Request, context: object) -> str | None:
    """Return the context's ``aws_request_id``, else the request's ``x-vercel-id``."""
    told = getattr(context, "aws_request_id", None)
    return told if isinstance(told, str) and told else request.first("x-vercel-id")


def span_attributes(environ: Mapping[str, str], request: Request) -> dict[str, str]:
    """Return ``vercel.request_id``, the last part of ``x-vercel-id``, and ``cloud.resource_id``."""
    attributes = {}
    if whole := invocation_id(request, None):
        attributes["vercel.request_id"] = whole.rpartition("::")[2]
    if deployment := environ.get("VERCEL_DEPLOYMENT_ID"):
        attributes["cloud.resource_id"] = deployment
    return attributes
