"""What AWS Lambda says of a function and its invocations, by environment, context and tracing header."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tracedbridge.messages import Request
from tracedbridge.platforms import aws_lambda, platform_of

ENVIRON = {
    "AWS_LAMBDA_FUNCTION_NAME": "shop",
    "AWS_LAMBDA_FUNCTION_VERSION": "7",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
    "AWS_REGION": "eu-central-1",
}
ARN = "arn:aws:lambda:eu-central-1:123456789012:function:shop:live"
PARENT = "00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-01"


def test_which_it_is() -> None:
    """Its own environment is its own; Vercel runs on it, and comes first."""
    assert platform_of(ENVIRON) is aws_lambda
    assert platform_of({**ENVIRON, "VERCEL": "1"}) is not aws_lambda


def test_resource() -> None:
    """By the semantic conventions; memory in bytes."""
    assert aws_lambda.function_name(ENVIRON, "index.py") == "shop"
    assert aws_lambda.resource_attributes(ENVIRON) == {
        "cloud.provider": "aws",
        "cloud.platform": "aws_lambda",
        "cloud.region": "eu-central-1",
        "faas.name": "shop",
        "faas.version": "7",
        "faas.max_memory": 512 * 1024 * 1024,
    }
    assert aws_lambda.resource_attributes({"AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "much"}) == {
        "cloud.provider": "aws",
        "cloud.platform": "aws_lambda",
    }


def request_with(context: object) -> Request:
    """Return a request whose format handed that context on."""
    request = Request("GET", "/", "", [], b"", "https", "x", 443, None)
    request.extras = {"aws.context": context}
    return request


@pytest.mark.parametrize(
    ("context", "attributes"),
    [
        (SimpleNamespace(invoked_function_arn=ARN), {"cloud.resource_id": ARN, "cloud.account.id": "123456789012"}),
        (SimpleNamespace(invoked_function_arn="shop"), {}),
        (SimpleNamespace(invoked_function_arn=None), {}),
        (None, {}),
    ],
)
def test_span(context: object, attributes: dict[str, str]) -> None:
    """The function as it was invoked, alias included, and whose it is."""
    assert aws_lambda.span_attributes(ENVIRON, request_with(context)) == attributes
    assert aws_lambda.span_attributes(ENVIRON, Request("GET", "/", "", [], b"", "https", "x", 443, None)) == {}


def test_invocation_id() -> None:
    """The request's id, if there is a context that has one."""
    assert aws_lambda.invocation_id(None, SimpleNamespace(aws_request_id="7f")) == "7f"
    for context in (None, SimpleNamespace(), SimpleNamespace(aws_request_id=7), SimpleNamespace(aws_request_id="")):
        assert aws_lambda.invocation_id(None, context) is None


@pytest.mark.parametrize(
    ("told", "headers"),
    [
        ({"traceparent": PARENT}, [("traceparent", PARENT)]),
        (
            {"traceparent": PARENT, "tracestate": "a=b", "baggage": "c=d", "other": "x"},
            [("traceparent", PARENT), ("tracestate", "a=b"), ("baggage", "c=d")],
        ),
        ({"traceparent": PARENT, "tracestate": None}, [("traceparent", PARENT)]),
    ],
)
def test_w3c(told: Any, headers: list[tuple[str, str]]) -> None:
    """What the runtime client's context says goes before X-Ray's header, and is no platform's own trace."""
    context = SimpleNamespace(w3c=lambda: told)
    environ = {"_X_AMZN_TRACE_ID": "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=0"}
    assert aws_lambda.carried(environ, context) == (headers, False)


@pytest.mark.parametrize("context", [None, SimpleNamespace(w3c=lambda: None), SimpleNamespace(w3c=dict)])
@pytest.mark.parametrize(
    ("header", "traceparent"),
    [
        ("Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1", PARENT),
        ("Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=0", PARENT[:-1] + "0"),
        ("Parent=53995C3F42CD8AD8; Root=1-5759E988-BD862E3FE1BE46A994272793; Lineage=a:1", PARENT[:-1] + "0"),
        ("Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=1", ""),
        ("Root=2-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1", ""),
        ("Root=1-00000000-000000000000000000000000;Parent=53995c3f42cd8ad8;Sampled=1", ""),
        ("Root=1-5759e988-bd862e3fe1be46a99427279x;Parent=53995c3f42cd8ad8;Sampled=1", ""),
        ("nonsense;;=;", ""),
        ("", ""),
    ],
)
def test_xray(header: str, traceparent: str, context: object) -> None:
    """X-Ray's header as W3C's, and nothing where it names no span."""
    headers = [("traceparent", traceparent)] if traceparent else []
    assert aws_lambda.carried({"_X_AMZN_TRACE_ID": header}, context) == (headers, True)
