"""``tracedbridge invoke``: answers events with an app in a fresh process, and draws what came of it."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from tracedbridge.children import end, ended_by_signals, lines_of, signal_name
from tracedbridge.commands import FAILURE, INTERRUPTED, OK, USAGE, say
from tracedbridge.commands.backends import elsewhere, switch, towards
from tracedbridge.refusal import Refusal
from tracedbridge.serving.fronts import vercel_event

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tracedbridge.serving.receiver import Receiver

__all__ = ("run",)

_RICH_IS_MISSING = "cannot draw the waterfall without rich; run: pip install 'tracedbridge[cli]'"


def run(arguments: Sequence[str]) -> int:
    """
    Run the command and return its exit code.

    Args:
        arguments: What follows its name on the command line.

    Raises:
        Refusal: An event cannot be read.
        SystemExit: Wrong usage, or a signal that ends us.
    """
    options = _options(arguments)
    event = _event(options) if options.event is None else _whole_event(options.event)
    environ = {**os.environ, "TRACEDBRIDGE_APP": options.app, "TRACEDBRIDGE_TELEMETRY": switch(os.environ)}
    other = elsewhere(environ)
    if other is not None:
        code = _run([event] * options.repeat, environ, body_only=options.body)
        if other:
            say(other)
        return code
    return _run_and_draw([event] * options.repeat, environ, body_only=options.body)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tracedbridge invoke",
        usage="%(prog)s APP METHOD PATH [-H 'Name: value']... [-d DATA | -d @FILE | -d @-] [--repeat N] [--body]\n"
        "       %(prog)s APP --event FILE [--repeat N] [--body]",
        description="Answer one event, or several, with an app in a fresh process, as on the platform. "
        "Standard output carries the answers and nothing else; what the app prints, log lines and the waterfall of "
        "the spans that were exported go to standard error. If an OTLP endpoint is configured, the spans go there.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "app", metavar="APP", help="path/to/file.py, path/to/file.py:variable or package.module:variable"
    )
    parser.add_argument("method", metavar="METHOD", nargs="?", help="GET, POST, …")
    parser.add_argument("path", metavar="PATH", nargs="?", help="percent-encoded, with the query: /items/7?full=1")
    parser.add_argument(
        "-H", "--header", metavar="'Name: value'", action="append", default=[], help="a request header; repeatable"
    )
    parser.add_argument(
        "-d", "--data", metavar="DATA", help="the request's body; @FILE reads a file, @- standard input"
    )
    parser.add_argument("--event", metavar="FILE", help="a whole event as JSON instead; - is standard input")
    parser.add_argument("--repeat", metavar="N", type=int, default=1, help="invoke N times in the same process")
    parser.add_argument("--body", action="store_true", help="print the bodies instead of one JSON object per answer")
    # Intermixed: "invoke APP GET -H 'a: b' /" is what people type.
    options = parser.parse_intermixed_args(arguments)
    if not options.app.strip():
        parser.error("APP is empty: name a file or a module")
    if options.repeat < 1:
        parser.error(f"--repeat {options.repeat}: expected 1 or more")
    if options.event is not None:
        if options.method is not None or options.header or options.data is not None:
            parser.error("--event gives the whole event: leave METHOD, PATH, -H and -d out")
    elif options.method is None or options.path is None:
        parser.error(f"{'PATH' if options.method else 'METHOD and PATH'} missing: write METHOD PATH, or --event FILE")
    for header in options.header:
        if not header.partition(":")[0].strip() or ":" not in header:
            parser.error(f"-H {header!r}: expected 'Name: value'")
    return options


def _event(options: argparse.Namespace) -> dict[str, str]:
    headers: dict[str, list[str]] = {"host": ["localhost"]}
    data = b""
    if options.data is not None:
        data = _data(options.data)
        headers["content-length"] = [str(len(data))]
    own: dict[str, list[str]] = {}
    for header in options.header:
        name, _, value = header.partition(":")
        own.setdefault(name.strip().lower(), []).append(value.strip())
    if "transfer-encoding" in own:
        # RFC 9112, 6.2: a request has one of the two.
        headers.pop("content-length", None)
    headers.update(own)
    return vercel_event(options.method, options.path, headers, None if options.data is None else data)


def _data(argument: str) -> bytes:
    if not argument.startswith("@"):
        return os.fsencode(argument)
    return _read(argument[1:], "-d @FILE")


def _whole_event(name: str) -> object:
    text = _read(name, "--event FILE")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        source = "standard input" if name == "-" else repr(name)
        raise Refusal(f"could not read the event in {source}: it is no JSON: {error}", USAGE) from None


def _read(name: str, option: str) -> bytes:
    if name == "-":
        return sys.stdin.buffer.read()
    try:
        with open(name, "rb") as file:
            return file.read()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise Refusal(f"could not read {name!r}: {reason}; {option} wants a file, - is standard input", USAGE) from None


def _run_and_draw(events: list[object], environ: Mapping[str, str], *, body_only: bool) -> int:
    from tracedbridge.serving.receiver import Receiver

    with Receiver() as receiver:
        code = _run(events, towards(receiver.endpoint, environ), body_only=body_only)
    # Closed first: what came in the child's last moment is stored now.
    _draw(receiver)
    return code


def _draw(receiver: Receiver) -> None:
    from tracedbridge.serving import waterfall

    spans = receiver.spans
    if spans:
        # Apart from the log lines and, on a terminal, from the answers.
        sys.stderr.write("\n")
        try:
            waterfall.draw(spans, sys.stderr)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "rich":
                raise
            say(_RICH_IS_MISSING)
    elif not receiver.refusals:
        say("no spans arrived, so there is no waterfall: the log lines above may say why")
    if receiver.refusals:
        # One is enough: an exporter sends again what was refused, or the next signal has the same fault.
        say(f"the local receiver did not take everything: {waterfall.printable(receiver.refusals[0])}")
    if receiver.dropped:
        say(f"the waterfall is not whole: {receiver.dropped} older records were dropped")


# The child.


def _run(events: list[object], environ: Mapping[str, str], *, body_only: bool) -> int:
    """Answer ``events`` in a fresh process, print the answers and return our exit code."""
    with ended_by_signals(), _started(environ) as child:
        try:
            return _exchange(child, events, body_only=body_only)
        except KeyboardInterrupt:
            end(child, signal.SIGINT)
            say("interrupted")
            return INTERRUPTED
        finally:
            end(child, signal.SIGTERM)


def _started(environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tracedbridge.serving.invoke"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environ,
        # A group of its own: Ctrl-C reaches it once, through us, and not a second time while it shuts down.
        process_group=0,
    )


def _exchange(child: subprocess.Popen[bytes], events: list[object], *, body_only: bool) -> int:
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        with child.stdin as to_child:
            for event in events:
                to_child.write(json.dumps(event).encode() + b"\n")
    except BrokenPipeError:
        # It died before it had read them all; its end says more.
        pass
    answered, explained, lost = 0, False, False
    for line in lines_of(child, child.stdout.fileno()):
        if line == b"null":
            explained = True
            continue
        answered += 1
        # Read on where nobody takes the answers any more: the child must not hang on a full pipe.
        lost = lost or not _print_answer(line, body_only=body_only)
    code = child.wait()
    if code < 0:
        say(f"the app's process died by {signal_name(-code)} {_after(answered, len(events))}")
    elif answered < len(events) and not explained:
        say(f"the app's process ended with exit code {code} {_after(answered, len(events))}")
    return OK if answered == len(events) and code >= 0 and not lost else FAILURE


def _print_answer(line: bytes, *, body_only: bool) -> bool:
    """Print one answer and say whether it could be printed."""
    shown = line + b"\n"
    if body_only:
        answer = json.loads(line)
        shown = answer.get("body", "").encode()
        if answer.get("encoding") == "base64":
            import base64

            shown = base64.b64decode(shown)
    try:
        sys.stdout.buffer.write(shown)
        sys.stdout.buffer.flush()
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            say(f"could not write to standard output: {error.strerror}")
        # The interpreter flushes at its end, and would fail once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def _after(answered: int, asked: int) -> str:
    return f"after it had answered {answered} of {asked} event{'' if asked == 1 else 's'}"
