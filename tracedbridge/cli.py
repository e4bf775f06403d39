"""The command line, ``tracedbridge`` and ``python -m tracedbridge``; imported by nobody else."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from tracedbridge.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from subprocess import Popen

    from tracedbridge.serving.receiver import Receiver

__all__ = ("main",)

_OK, _FAILURE, _USAGE, _INTERRUPTED = 0, 1, 2, 130

# An app's lifespan shutdown (3 s) and the last flush fit in; after that a child that was told to end is killed.
_END_TIMEOUT_S = 5.0

# How long the child may be dead, its output held open by a process that it left behind, until we notice.
_POLL_S = 0.2

# Half a second is for production. Here the backend is on this machine, and the waterfall is what one came for.
_FLUSH_TIMEOUT_MS = "5000"

_SIGNALS = ("TRACES", "METRICS", "LOGS")

_RICH_IS_MISSING = "cannot draw the waterfall without rich; run: pip install 'tracedbridge[cli]'"


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run one command and return its exit code: 0, 1 for a failure, 2 for wrong usage, 130 after Ctrl-C.

    Args:
        arguments: Without the program's name; those of this process if None.
    """
    parser = argparse.ArgumentParser(
        prog="tracedbridge",
        description="Run a Python function as its platform does, and see where the time goes.",
        epilog="tracedbridge COMMAND -h tells more about a command",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = tuple(_COMMANDS)
    parser.add_argument(
        "command",
        choices=commands,
        nargs="?",
        metavar="COMMAND",
        help="invoke: answer events with an app; coldstart: measure an app's cold starts",
    )
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="what the command takes")
    chosen = parser.parse_args(arguments)
    if chosen.command is None:
        parser.error(f"COMMAND missing: write one of {', '.join(commands)}")
    try:
        return _COMMANDS[chosen.command](chosen.rest)
    except Refusal as refusal:
        _say(str(refusal))
        return refusal.code
    except KeyboardInterrupt:
        return _INTERRUPTED


def _version() -> str:
    from tracedbridge import __version__

    return f"tracedbridge {__version__}"


def _invoke(arguments: Sequence[str]) -> int:
    options = _invoke_options(arguments)
    event = _event(options) if options.event is None else _whole_event(options.event)
    environ = {**os.environ, "TRACEDBRIDGE_APP": options.app, "TRACEDBRIDGE_TELEMETRY": _switch(os.environ)}
    elsewhere = _elsewhere(environ)
    if elsewhere is not None:
        code = _run([event] * options.repeat, environ, body_only=options.body)
        if elsewhere:
            _say(elsewhere)
        return code
    return _run_and_draw([event] * options.repeat, environ, body_only=options.body)


def _coldstart(arguments: Sequence[str]) -> int:
    from tracedbridge.coldstarts.command import run

    return run(arguments)


_COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {"invoke": _invoke, "coldstart": _coldstart}


# The command line of `invoke`, and the event that it describes.


def _invoke_options(arguments: Sequence[str]) -> argparse.Namespace:
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
    request: dict[str, Any] = {"method": options.method, "path": options.path}
    # What Vercel's proxy adds; there, everything comes through it.
    headers: dict[str, list[str]] = {
        "host": ["localhost"],
        "x-forwarded-proto": ["http"],
        "x-forwarded-for": ["127.0.0.1"],
        "x-real-ip": ["127.0.0.1"],
    }
    if options.data is not None:
        data = _data(options.data)
        headers["content-length"] = [str(len(data))]
        try:
            request["body"] = data.decode()
        except UnicodeDecodeError:
            import base64

            request.update(body=base64.b64encode(data).decode(), encoding="base64")
    own: dict[str, list[str]] = {}
    for header in options.header:
        name, _, value = header.partition(":")
        own.setdefault(name.strip().lower(), []).append(value.strip())
    if "transfer-encoding" in own:
        # RFC 9112, 6.2: a request has one of the two.
        headers.pop("content-length", None)
    headers.update(own)
    request["headers"] = {name: values[0] if len(values) == 1 else values for name, values in headers.items()}
    return {"Action": "Invoke", "body": json.dumps(request)}


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
        raise Refusal(f"could not read the event in {source}: it is no JSON: {error}", _USAGE) from None


def _read(name: str, option: str) -> bytes:
    if name == "-":
        return sys.stdin.buffer.read()
    try:
        with open(name, "rb") as file:
            return file.read()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise Refusal(
            f"could not read {name!r}: {reason}; {option} wants a file, - is standard input", _USAGE
        ) from None


# Where the telemetry goes.


def _switch(environ: Mapping[str, str]) -> str:
    """Return ``TRACEDBRIDGE_TELEMETRY`` as the bridge reads it: a bad value is one warning, not one a process."""
    from tracedbridge.settings import Settings

    given = {"TRACEDBRIDGE_TELEMETRY": environ.get("TRACEDBRIDGE_TELEMETRY", "")}
    return "on" if Settings(given).telemetry else "off"


def _elsewhere(environ: Mapping[str, str]) -> str | None:
    """Return where the spans go without our receiver, ``""`` if there are none, or None if the receiver takes them."""

    def told(name: str) -> str:
        return environ.get(name, "").strip()

    if told("TRACEDBRIDGE_TELEMETRY") == "off" or told("OTEL_SDK_DISABLED").lower() == "true":
        return ""
    endpoints = ["OTEL_EXPORTER_OTLP_ENDPOINT", *(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT" for signal in _SIGNALS)]
    exporters = [f"OTEL_{signal}_EXPORTER" for signal in _SIGNALS]
    chosen = [name for name in (*endpoints, *exporters) if told(name)]
    if not chosen:
        return None
    exporter = told("OTEL_TRACES_EXPORTER")
    if exporter and "otlp" not in exporter.replace(" ", "").split(","):
        return f"no spans over OTLP, no waterfall: OTEL_TRACES_EXPORTER={exporter}"
    for name in ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        if told(name):
            return f"the spans went to {_host(told(name))} ({name}), no waterfall"
    if exporter:
        protocol = told("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or told("OTEL_EXPORTER_OTLP_PROTOCOL")
        return f"the spans went to localhost:{4317 if protocol == 'grpc' else 4318}, the default endpoint, no waterfall"
    return f"no spans, no waterfall: {chosen[0]} is set, but no endpoint for traces"


def _host(url: str) -> str:
    """Return host and port of an endpoint: a path or a user may be a secret."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url if "//" in url else "//" + url)
        host = parts.hostname or "an endpoint without a host"
        return f"{host}:{parts.port}" if parts.port else host
    except ValueError:
        return "an endpoint that is no URL"


def _towards(receiver: Receiver, environ: Mapping[str, str]) -> dict[str, str]:
    overruled = {f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL" for signal in _SIGNALS}
    environ = {name: value for name, value in environ.items() if name not in overruled}
    for name in ("no_proxy", "NO_PROXY"):
        # Where a proxy is configured, it cannot reach our 127.0.0.1.
        environ[name] = ",".join(filter(None, (environ.get(name), "127.0.0.1")))
    return {
        "TRACEDBRIDGE_FLUSH_TIMEOUT_MS": _FLUSH_TIMEOUT_MS,
        **environ,
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    }


def _run_and_draw(events: list[object], environ: Mapping[str, str], *, body_only: bool) -> int:
    from tracedbridge.serving.receiver import Receiver

    with Receiver() as receiver:
        code = _run(events, _towards(receiver, environ), body_only=body_only)
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
            _say(_RICH_IS_MISSING)
    elif not receiver.refusals:
        _say("no spans arrived, so there is no waterfall: the log lines above may say why")
    if receiver.refusals:
        # One is enough: an exporter sends again what was refused, or the next signal has the same fault.
        _say(f"the local receiver did not take everything: {waterfall.printable(receiver.refusals[0])}")
    if receiver.dropped:
        _say(f"the waterfall is not whole: {receiver.dropped} older records were dropped")


# The child.


def _run(events: list[object], environ: Mapping[str, str], *, body_only: bool) -> int:
    """Answer ``events`` in a fresh process, print the answers and return our exit code."""
    import signal

    from tracedbridge.children import ended_by_signals

    with ended_by_signals(), _started(environ) as child:
        try:
            return _exchange(child, events, body_only=body_only)
        except KeyboardInterrupt:
            _end(child, signal.SIGINT)
            _say("interrupted")
            return _INTERRUPTED
        finally:
            _end(child, signal.SIGTERM)


def _started(environ: Mapping[str, str]) -> Popen[bytes]:
    import subprocess

    return subprocess.Popen(
        [sys.executable, "-m", "tracedbridge.serving.invoke"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environ,
        # A group of its own: Ctrl-C reaches it once, through us, and not a second time while it shuts down.
        process_group=0,
    )


def _exchange(child: Popen[bytes], events: list[object], *, body_only: bool) -> int:
    assert child.stdin is not None
    try:
        with child.stdin as to_child:
            for event in events:
                to_child.write(json.dumps(event).encode() + b"\n")
    except BrokenPipeError:
        # It died before it had read them all; its end says more.
        pass
    answered, explained, lost = 0, False, False
    for line in _lines(child):
        if line == b"null":
            explained = True
            continue
        answered += 1
        # Read on where nobody takes the answers any more: the child must not hang on a full pipe.
        lost = lost or not _print_answer(line, body_only=body_only)
    code = child.wait()
    if code < 0:
        from tracedbridge.children import signal_name

        _say(f"the app's process died by {signal_name(-code)} {_after(answered, len(events))}")
    elif answered < len(events) and not explained:
        _say(f"the app's process ended with exit code {code} {_after(answered, len(events))}")
    return _OK if answered == len(events) and code >= 0 and not lost else _FAILURE


def _lines(child: Popen[bytes]) -> Iterator[bytes]:
    """Yield the lines that the child writes until it has ended, whoever else holds its output open."""
    import select

    assert child.stdout is not None
    descriptor = child.stdout.fileno()
    rest = b""
    while True:
        # Asked first: what it wrote before its end is readable then.
        ended = child.poll() is not None
        readable, _, _ = select.select([descriptor], [], [], 0 if ended else _POLL_S)
        if not readable:
            if ended:
                return
            continue
        chunk = os.read(descriptor, 65536)
        if not chunk:
            return
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines


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
            _say(f"could not write to standard output: {error.strerror}")
        # The interpreter flushes at its end, and would fail once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def _end(child: Popen[bytes], number: int) -> None:
    """Send a signal to a child that still runs, and kill it if that does not end it."""
    from subprocess import TimeoutExpired

    if child.poll() is not None:
        return
    child.send_signal(number)
    try:
        child.wait(_END_TIMEOUT_S)
    except (TimeoutExpired, KeyboardInterrupt):
        child.kill()
        child.wait()


def _after(answered: int, asked: int) -> str:
    return f"after it had answered {answered} of {asked} event{'' if asked == 1 else 's'}"


def _say(line: str) -> None:
    sys.stderr.write(f"tracedbridge: {line}\n")
