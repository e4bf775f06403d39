"""What the tests of IPC mode share: an instance of each kind, checked after each test, and those of a test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.vercel.platform import Platform

KINDS = {"asgi": "index.py:app", "wsgi": "index.py:wsgi_app", "http_server": "index.py:Handler"}
"""``TRACEDBRIDGE_APP`` by kind."""


@pytest.fixture(scope="module")
def instances() -> Iterator[Callable[[str], Platform]]:
    """Instances that the tests of one module share, by kind, with telemetry off."""
    with ExitStack() as stack:
        started: dict[str, Platform] = {}

        def instance(kind: str) -> Platform:
            if kind not in started or started[kind].process.poll() is not None:
                started[kind] = stack.enter_context(Platform(KINDS[kind]))
            return started[kind]

        yield instance


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of app."""
    return str(request.param)


@pytest.fixture
def platform(instances: Callable[[str], Platform], kind: str) -> Iterator[Platform]:
    """An instance of that kind, which other tests use, too."""
    shared = instances(kind)
    before = len(shared.violations)
    yield shared
    assert not shared.violations[before:]


@pytest.fixture
def start() -> Iterator[Callable[..., Platform]]:
    """Start an instance of the test's own; takes what `Platform` takes."""
    with ExitStack() as stack:
        started: list[Platform] = []

        def begin(app: str, **options: Any) -> Platform:
            started.append(stack.enter_context(Platform(app, **options)))
            return started[-1]

        yield begin
        for each in started:
            assert not each.violations
