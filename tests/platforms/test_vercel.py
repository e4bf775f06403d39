"""On Vercel the system's variables and headers say which function, deployment and request it is."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace

import pytest

from tracedbridge.messages import Request
from tracedbridge.platforms import platform_of, vercel

ENVIRON = {
    "VERCEL": "1",
    "VERCEL_ENV": "preview",
    "VERCEL_URL": "shop-abc.vercel.app",
    "VERCEL_REGION": "fra1",
    "VERCEL_DEPLOYMENT_ID": "dpl_1",
    "VERCEL_PROJECT_ID": "prj_1",
    "VERCEL_GIT_COMMIT_SHA": "c0ffee",
    "VERCEL_GIT_COMMIT_REF": "main",
    "VERCEL_GIT_REPO_SLUG": "shop",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1024",
}


def request(*headers: tuple[str, str]) -> Request:
    """Return a request with these headers."""
    return Request("GET", "/", "", list(headers), b"", "https", "localhost", 443, None)


def test_platform() -> None:
    """It is recognised by its own variable, also with AWS's beside it, which are set there, too."""
    assert platform_of({"VERCEL": "1"}) is vercel
    assert platform_of({**ENVIRON, "AWS_LAMBDA_RUNTIME_API": "127.0.0.1:9001"}) is vercel


@pytest.mark.parametrize(
    ("environ", "app", "name"),
    [
        (ENVIRON, "api/index.py", "shop/api/index"),
        (ENVIRON, "./api/index.py", "shop/api/index"),
        (ENVIRON, "pkg.mod", "shop/pkg.mod"),
        ({"VERCEL": "1"}, "api/index.py", "api/index"),
        (ENVIRON, "api/.well-known.py", "shop/api/.well-known"),
        (ENVIRON, ".hidden.py", "shop/.hidden"),
    ],
)
def test_function_name(environ: Mapping[str, str], app: str, name: str) -> None:
    """The function is called by its repository and the path of its entry."""
    assert vercel.function_name(environ, app) == name


def test_resource() -> None:
    """The resource has the attributes that others use on Vercel."""
    assert vercel.resource_attributes(ENVIRON) == {
        "cloud.provider": "vercel",
        "cloud.region": "fra1",
        "deployment.environment.name": "preview",
        "faas.max_memory": 1024 * 1024 * 1024,
        "faas.version": "dpl_1",
        "service.version": "dpl_1",
        "vcs.ref.head.name": "main",
        "vcs.ref.head.revision": "c0ffee",
        "vercel.deployment_id": "dpl_1",
        "vercel.host": "shop-abc.vercel.app",
        "vercel.project_id": "prj_1",
    }


@pytest.mark.parametrize(
    "environ",
    [{"VERCEL": "1"}, {"VERCEL": "1", "VERCEL_REGION": "", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "much"}],
    ids=["unset", "empty or nonsense"],
)
def test_what_is_not_told(environ: Mapping[str, str]) -> None:
    """What a variable does not say is not made up."""
    assert vercel.resource_attributes(environ) == {"cloud.provider": "vercel"}


@pytest.mark.parametrize(
    ("header", "context", "expected"),
    [
        pytest.param(("x-vercel-id", "fra1::iad1::abc-1"), None, "fra1::iad1::abc-1", id="header"),
        pytest.param(("host", "a"), None, None, id="none"),
        pytest.param(("host", "a"), SimpleNamespace(aws_request_id="aws-1"), "aws-1", id="context"),
        pytest.param(
            ("x-vercel-id", "fra1::abc-1"), SimpleNamespace(aws_request_id="aws-1"), "aws-1", id="context first"
        ),
    ],
)
def test_invocation_id(header: tuple[str, str], context: object, expected: str | None) -> None:
    """
    The id is the context's ``aws_request_id``, else the header ``x-vercel-id``.

    Source: design.md, "Names that are fixed".
    """
    assert vercel.invocation_id(request(header), context) == expected


@pytest.mark.parametrize(
    ("header", "request_id"),
    [("fra1::iad1::abc-1", "abc-1"), ("abc-1", "abc-1")],
)
def test_span(header: str, request_id: str) -> None:
    """The request id is the last part of the header; the resource is the deployment."""
    assert vercel.span_attributes(ENVIRON, request(("x-vercel-id", header))) == {
        "vercel.request_id": request_id,
        "cloud.resource_id": "dpl_1",
    }
    assert vercel.span_attributes({"VERCEL": "1"}, request()) == {}
