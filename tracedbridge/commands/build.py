"""``tracedbridge build``: writes what ``vercel deploy --prebuilt`` takes."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tracedbridge.building import Order, build
from tracedbridge.building.sizes import LIMIT_BYTES
from tracedbridge.building.vendoring import ARCHITECTURES, PYTHONS, Target, python_of
from tracedbridge.commands import FAILURE, OK, say
from tracedbridge.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tracedbridge.building import Built
    from tracedbridge.building.sizes import Size

__all__ = ("run",)

_OUTPUT = Path(".vercel", "output")
_SHOWN = 5


def run(arguments: Sequence[str]) -> int:
    """
    Build a project and return the exit code: 1 also where a function is too large to be deployed.

    Args:
        arguments: What follows the command's name on the command line.

    Raises:
        Refusal: It cannot be built.
        SystemExit: Wrong usage.
    """
    options = _options(arguments)
    begun_s = time.monotonic()
    project: Path = options.project
    if not project.is_dir():
        raise Refusal(f"no folder {str(project)!r} to build", 2)
    target = Target(options.python or python_of(project, say), options.arch)
    output: Path = options.output or project / _OUTPUT
    if (project / "vercel.json").is_file():
        say("vercel.json is not read: its rewrites, headers and functions are not in what is built")
    order = Order(project, output, target, options.entrypoint, options.installer, options.tracedbridge)
    built = build(order, say)
    took_s = time.monotonic() - begun_s
    sys.stdout.writelines(f"{line}\n" for line in _report(output, target, built, took_s))
    return FAILURE if any(size.over_bytes > 0 for size in built.functions.values()) else OK


def _report(output: Path, target: Target, built: Built, took_s: float) -> Iterator[str]:
    compiled = "with bytecode" if built.compiled_by is not None else "without bytecode"
    yield f"{output}: Python {target.python}, Linux {target.arch}, by {built.installer}, {compiled}, {took_s:.1f} s"
    for function, size in built.functions.items():
        yield f"  /{function.path:<14} {function.app:<24} {_mb(size.total_bytes)} of {_mb(LIMIT_BYTES)}"
        yield f"  {'':<15} largest: {_largest(size)}"
        if size.over_bytes > 0:
            say(f"{function.path} is {_mb(size.over_bytes)} too large to be deployed; the largest: {_largest(size)}")
    yield "deploy it: vercel deploy --prebuilt"


def _largest(size: Size) -> str:
    return ", ".join(f"{name} {_mb(count)}" for name, count in list(size.packages.items())[:_SHOWN])


def _mb(count: int) -> str:
    return f"{count / (1024 * 1024):.1f} MB"


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tracedbridge build",
        description="Write a Vercel Build Output (v3) of a project whose functions tracedbridge serves, in both of the "
        "platform's modes. Nothing of the project is imported, and nothing but the output folder is written.",
        allow_abbrev=False,
    )
    parser.add_argument("project", metavar="DIR", type=Path, nargs="?", default=Path(), help="the project (.)")
    parser.add_argument(
        "--entrypoint",
        metavar="FILE[:VARIABLE]",
        help="the app; else [tool.vercel] entrypoint of pyproject.toml, else app.py, index.py, server.py, main.py, "
        "wsgi.py or asgi.py (there, in src/ or app/), and each file below api/ that has an app",
    )
    parser.add_argument("--output", metavar="DIR", type=Path, help="replaced as a whole (DIR/.vercel/output)")
    parser.add_argument(
        "--python", choices=PYTHONS, help="of the function; else .python-version, else requires-python, else 3.12"
    )
    parser.add_argument("--arch", choices=tuple(ARCHITECTURES), default="x86_64", help="of the function (x86_64)")
    parser.add_argument("--installer", choices=("uv", "pip"), help="uv where it is present, else pip")
    parser.add_argument(
        "--tracedbridge",
        metavar="WHAT",
        help="what is installed as tracedbridge: a requirement, a wheel, or a folder of its source (this one)",
    )
    return parser.parse_args(arguments)
