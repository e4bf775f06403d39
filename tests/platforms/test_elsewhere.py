"""An unknown host says nothing about a function but its file."""

from __future__ import annotations

import pytest

from tracedbridge.messages import Request
from tracedbridge.platforms import Elsewhere, platform_of


@pytest.mark.parametrize("environ", [{}, {"PATH": "/bin"}, {"VERCEL": ""}], ids=["empty", "a laptop", "VERCEL empty"])
def test_platform(environ: dict[str, str]) -> None:
    """Where no platform is recognised it is this one."""
    assert isinstance(platform_of(environ), Elsewhere)


@pytest.mark.parametrize(
    ("app", "name"),
    [
        ("index.py", "index"),
        ("api/index.py", "index"),
        ("/srv/shop/[item].py", "[item]"),
        ("pkg.mod", "pkg.mod"),
        ("./index.py", "index"),
    ],
)
def test_function_name(app: str, name: str) -> None:
    """The function is called as its file, without folder and suffix, or as its module."""
    assert Elsewhere().function_name({}, app) == name


def test_nothing_else() -> None:
    """There are no attributes and no ids to be had, whatever the request says."""
    request = Request("GET", "/", "", [("x-vercel-id", "fra1::abc")], b"", "https", "localhost", 443, None)
    assert Elsewhere().resource_attributes({"VERCEL_REGION": "fra1"}) == {}
    assert Elsewhere().span_attributes({}, request) == {}
    assert Elsewhere().invocation_id(request, None) is None
