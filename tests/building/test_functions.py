"""What of a project is a function, and where it is served; nothing of it is imported."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.building.projects import APP, make
from tracedbridge.building.functions import Function, find_functions
from tracedbridge.refusal import Refusal

OURS = "from tracedbridge import vc_handler\n"
TOLD = '[tool.vercel]\nentrypoint = "{}"\n'


def found(project: Path, entrypoint: str | None = None) -> list[tuple[str, str, str]]:
    """Return path, app and folder of each function."""
    return [tuple(function) for function in find_functions(project, entrypoint)]  # type: ignore[misc]  # of three


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({"main.py": APP}, [("index", "main.py", "")], id="one of the usual files"),
        pytest.param({"main.py": APP, "app.py": APP}, [("index", "app.py", "")], id="the first of them"),
        pytest.param({"app.py": "x = 1", "main.py": APP}, [("index", "main.py", "")], id="the first with an app"),
        pytest.param({"src/index.py": APP}, [("index", "src/index.py", "")], id="in src"),
        pytest.param(
            {"app/__init__.py": "", "app/main.py": APP}, [("index", "app.main", "")], id="in a package, by its module"
        ),
        pytest.param(
            {"src/app/__init__.py": "", "src/app/main.py": APP, "pyproject.toml": TOLD.format("app.main:app")},
            [("index", "app.main:app", "src")],
            id="a module in src",
        ),
        pytest.param(
            {"shop/api.py": APP, "pyproject.toml": TOLD.format("shop.api:app.wsgi")},
            [("index", "shop/api.py:app.wsgi", "")],
            id="what pyproject.toml says",
        ),
        pytest.param(
            {"shop/__init__.py": APP, "pyproject.toml": TOLD.format("shop:app")},
            [("index", "shop:app", "")],
            id="a package",
        ),
        pytest.param(
            {"entry.py": OURS, "index.py": APP, "pyproject.toml": TOLD.format("entry:vc_handler")},
            [("index", "index.py", "")],
            id="what an entry of ours serves",
        ),
        pytest.param({"api/index.py": APP}, [("api/index", "api/index.py", "")], id="below api"),
        pytest.param(
            {"api/b.py": APP, "api/a/c.py": APP, "api/_d.py": APP, "api/_e/f.py": APP, "api/g.py": "x = 1"},
            [("api/a/c", "api/a/c.py", ""), ("api/b", "api/b.py", "")],
            id="several, without those that are none",
        ),
        pytest.param(
            {"main.py": APP, "api/[id].py": APP}, [("index", "main.py", ""), ("api/[id]", "api/[id].py", "")], id="both"
        ),
    ],
)
def test_found(files: dict[str, str], expected: list[tuple[str, str, str]], tmp_path: Path) -> None:
    """Functions are found where Vercel looks for them."""
    assert found(make(tmp_path, files)) == expected


@pytest.mark.parametrize(
    ("source", "is_one"),
    [
        ("app = 1", True),
        ("app: object = 1", True),
        ("app: object", False),
        ("from shop import app", True),
        ("from shop import thing as application", True),
        ("import shop as app", True),
        ("def handler(environ, start_response): ...", True),
        ("async def app(scope, receive, send): ...", True),
        ("class handler: ...", True),
        ("class Handler: ...", True),
        ("try:\n    app = 1\nexcept ImportError:\n    app = 2", True),
        ("if True:\n    pass\nelse:\n    application = 1", True),
        ("other, app = 1, 2", True),
        ("def make():\n    app = 1", False),
        ("class Other:\n    app = 1", False),
        ("print('app')", False),
        ("raise SystemExit\n", False),
    ],
)
def test_an_app(source: str, is_one: bool, tmp_path: Path) -> None:
    """A module has an app if it gives a name of one a value at its top level."""
    project = make(tmp_path, {"main.py": source})
    if is_one:
        assert found(project) == [("index", "main.py", "")]
    else:
        with pytest.raises(Refusal, match="found no app"):
            found(project)


@pytest.mark.parametrize("place", ["web/site.py:wsgi", "{}/web/site.py:wsgi"])
def test_named(place: str, tmp_path: Path) -> None:
    """An entrypoint that is given is the only function."""
    project = make(tmp_path, {"web/site.py": "", "main.py": APP, "api/a.py": APP})
    assert found(project, place.format(project)) == [("index", "web/site.py:wsgi", "")]


@pytest.mark.parametrize(
    ("files", "entrypoint", "message"),
    [
        ({}, None, "--entrypoint FILE"),
        ({"main.py": APP}, "no.py", "no such file"),
        ({"main.py": APP}, "main.py:", "expected FILE or FILE:variable"),
        ({"main.py": APP}, "main.py:a b", "expected FILE or FILE:variable"),
        ({"main.py": APP}, "{outside}", "is not in"),
        ({"main.py": "def ("}, None, "could not read"),
        ({"pyproject.toml": TOLD.format("shop.api:app")}, None, "no such module"),
        ({"pyproject.toml": TOLD.format("shop/api.py")}, None, 'expected "package.module:variable"'),
        ({"pyproject.toml": "[tool"}, None, "pyproject.toml"),
        ({"api/a b.py": APP}, None, "rename it"),
        ({"entry.py": OURS, "main.py": APP}, "entry.py", "--entrypoint FILE"),
        ({"api/[a][b].py": APP}, None, "rename it"),
    ],
)
def test_refused(files: dict[str, str], entrypoint: str | None, message: str, tmp_path: Path) -> None:
    """What cannot be built is refused, and the message says what to do."""
    outside = make(tmp_path / "outside", {"x.py": APP}) / "x.py"
    project = make(tmp_path / "project", {"README": "", **files})
    with pytest.raises(Refusal, match=message.replace("(", r"\(").replace("[", r"\[")):
        find_functions(project, entrypoint and entrypoint.format(outside=outside))


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("index", None),
        ("api/users", None),
        ("api/[id]", ("^/api/([^/]+)$", "/api/[id]?id=$1")),
        ("api/[shop]/v1.0/[item]", (r"^/api/([^/]+)/v1\.0/([^/]+)$", "/api/[shop]/v1.0/[item]?shop=$1&item=$2")),
    ],
)
def test_routes(path: str, route: tuple[str, str] | None) -> None:
    """A part in brackets stands for any one segment, which is told in the query."""
    assert Function(path, "x.py").route == route
