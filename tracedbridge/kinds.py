"""Tells what an app is (ASGI, WSGI, a BaseHTTPRequestHandler class) by its shape, without calling it if it can."""

from __future__ import annotations

import functools
import inspect
import sys
import types
from typing import TYPE_CHECKING, Any

from tracedbridge.errors import AppKindError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracedbridge.messages import Kind

__all__ = ("KINDS", "is_handler_class", "kind_of", "one_call")

KINDS: tuple[Kind, ...] = ("asgi", "wsgi", "http_server")

_ASGI_NAMES = frozenset(("scope", "receive", "send"))
_WSGI_NAMES = frozenset(("environ", "env", "start_response"))
_WOULD_DO = (
    "an ASGI app (scope, receive, send), a WSGI app (environ, start_response) "
    "or a subclass of http.server.BaseHTTPRequestHandler would do"
)


def is_handler_class(app: object) -> bool:
    """Say whether ``app`` is a subclass of ``http.server.BaseHTTPRequestHandler``."""
    # Without the import: where nobody has loaded http.server there is no such class.
    server = sys.modules.get("http.server")
    return server is not None and isinstance(app, type) and issubclass(app, server.BaseHTTPRequestHandler)


def kind_of(app: object) -> Kind:
    """
    Return the kind of ``app``.

    A plain function of any arguments (``lambda *args: …``) looks the same in ASGI and WSGI: that one, and a callable
    that does not tell its parameters, is asked by a call with a lifespan scope, which only an ASGI app answers with
    an awaitable.

    Raises:
        AppKindError: It is none; the message says what was found and what would do.
    """
    if is_handler_class(app):
        return "http_server"
    if _is_plain_asgi(app):
        return "asgi"
    if not callable(app):
        raise _refusal(app, "it cannot be called")
    _refuse_lambda_handler(app)
    if _is_async_generator(app):
        raise _refusal(app, "it is an async generator")
    signature = _signature(app)
    if signature is None:
        return "asgi" if _is_coroutine_function(app) or _answers_like_asgi(app) else "wsgi"
    takes = {count for count in (1, 2, 3) if _takes(signature, count)}
    if _is_coroutine_function(app):
        if 3 in takes:
            return "asgi"
        raise _refusal(app, f"it is a coroutine function of {_parameters(signature)}")
    if isinstance(app, type):
        return _kind_of_class(app, signature, takes)
    if 3 in takes and 2 in takes:
        return _kind_by_names(app, signature)
    if 3 in takes:
        return "asgi"
    if 2 in takes:
        return "wsgi"
    if takes == {1} and _is_double(app, signature):
        return "asgi"
    raise _refusal(app, f"it takes {_parameters(signature)}")


def one_call(app: Callable[..., Any]) -> Callable[..., Any]:
    """Return an ASGI app as one callable of three arguments; ASGI 2 apps, called twice, are wrapped."""
    if _is_plain_asgi(app):
        return app
    signature = _signature(app)
    if signature is None or _is_coroutine_function(app) or _takes(signature, 3) or not _takes(signature, 1):
        return app

    async def single(scope: Any, receive: Any, send: Any) -> None:
        await app(scope)(receive, send)

    return single


def _is_plain_asgi(app: object) -> bool:
    """
    Say whether ``app`` is a coroutine function of just three parameters, or an object with such a ``__call__``.

    Nearly all ASGI apps are, and a cold start need not wait for their signatures.
    """
    call: object = app
    bound = 0
    if not isinstance(app, (types.FunctionType, type)):
        call = next((vars(each)["__call__"] for each in type(app).__mro__ if "__call__" in vars(each)), None)
        bound = 1
    if not isinstance(call, types.FunctionType) or vars(call):
        # What is in there may be another signature.
        return False
    code = call.__code__
    has_more = code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS) or code.co_kwonlyargcount
    names = code.co_varnames[bound : code.co_argcount]
    is_asgi = bool(code.co_flags & inspect.CO_COROUTINE) and not has_more and len(names) == 3
    return is_asgi and names[0].strip("_") != "event"


def _kind_of_class(app: type, signature: inspect.Signature, takes: set[int]) -> Kind:
    # Each request makes an instance: what that can do tells the kind.
    if 3 in takes and hasattr(app, "__await__"):
        return "asgi"
    if 2 in takes and hasattr(app, "__iter__"):
        return "wsgi"
    if 1 in takes and 2 not in takes and _is_double(app, signature):
        return "asgi"
    raise _refusal(app, "it is a class whose instances are no app: an instance of it may be the app")


def _kind_by_names(app: Callable[..., Any], signature: inspect.Signature) -> Kind:
    names = {name.strip("_").lower() for name in signature.parameters}
    if names & _ASGI_NAMES and not names & _WSGI_NAMES:
        return "asgi"
    if names & _WSGI_NAMES and not names & _ASGI_NAMES:
        return "wsgi"
    if inspect.isgeneratorfunction(_called(app)):
        return "wsgi"
    return "asgi" if _answers_like_asgi(app) else "wsgi"


def _answers_like_asgi(app: Callable[..., Any]) -> bool:
    async def receive() -> dict[str, str]:
        return {"type": "lifespan.shutdown"}

    async def send(message: object) -> None:
        del message

    scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
    try:
        answer = app(scope, receive, send)
    except Exception:  # noqa: BLE001 - whatever it is, an ASGI app would have given an awaitable
        return False
    if inspect.iscoroutine(answer):
        # Never started: closing it runs none of it and keeps Python from warning.
        answer.close()
    return inspect.isawaitable(answer)


def _is_double(app: Callable[..., Any], signature: inspect.Signature) -> bool:
    if isinstance(app, type):
        call = getattr(app, "__call__", None)  # noqa: B004 - its signature is what counts
        bound = None if call is None else _signature(call)
        # Unbound: self, receive, send.
        return bound is not None and _takes(bound, 3)
    name = next(iter(signature.parameters)).strip("_").lower()
    return name in ("scope", "s")


def _refuse_lambda_handler(app: Callable[..., Any]) -> None:
    signature = _signature(app)
    names = [] if signature is None else list(signature.parameters)
    if [name.strip("_") for name in names[:2]] == ["event", "context"]:
        raise _refusal(app, "it takes (event, context): it is a Lambda handler already, not an app")


def _called(app: object) -> Any:
    """Return the function that runs when ``app`` is called, as far as it can be seen."""
    while isinstance(app, functools.partial):
        app = app.func
    if inspect.isroutine(app) or isinstance(app, type):
        return app
    return getattr(type(app), "__call__", app)  # noqa: B004 - the function itself is wanted


def _is_coroutine_function(app: object) -> bool:
    return inspect.iscoroutinefunction(_called(app)) or inspect.iscoroutinefunction(app)


def _is_async_generator(app: object) -> bool:
    return inspect.isasyncgenfunction(_called(app))


def _signature(app: Callable[..., Any]) -> inspect.Signature | None:
    # inspect would take the first parameter of a static __call__ for self.
    call = inspect.getattr_static(type(app), "__call__", None)
    try:
        return inspect.signature(call.__func__ if isinstance(call, staticmethod) else app)
    except (ValueError, TypeError):
        return None


def _takes(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


def _parameters(signature: inspect.Signature) -> str:
    return f"({', '.join(map(str, signature.replace(return_annotation=signature.empty).parameters.values()))})"


def _refusal(app: object, found: str) -> AppKindError:
    name = getattr(app, "__qualname__", None)
    what = f"{name!r}" if isinstance(name, str) else f"an instance of {type(app).__module__}.{type(app).__qualname__}"
    return AppKindError(f"cannot serve {what}: {found}; {_WOULD_DO}")
