"""
Every error that tracedbridge raises, in one tree.

TracedBridgeError
├── LoadError              the app could not be loaded; raised while the function starts
│   ├── AppNotFoundError   no such file, module or variable
│   ├── AppImportError     the app's own module raised while it was imported
│   ├── AppKindError       what was found is no app of a kind we can call
│   ├── SelfLoadError      the app's file imports ``vc_handler``, which would load that file again
│   └── StartupError       the app's lifespan startup failed
├── EventError             the event is of no format that we know
├── BadRequestError        a good event carries a broken request; answered with 400
├── AppProtocolError       the app broke ASGI, PEP 3333 or HTTP; answered with 500
├── DeadlineError          the app did not answer before the deadline; answered with 504
├── ShutdownError          the app's lifespan shutdown failed; raised by ``close()`` when all else is done
└── BridgeClosedError      a bridge was called after ``close()``
"""

from __future__ import annotations

__all__ = (
    "AppImportError",
    "AppKindError",
    "AppNotFoundError",
    "AppProtocolError",
    "BadRequestError",
    "BridgeClosedError",
    "DeadlineError",
    "EventError",
    "LoadError",
    "SelfLoadError",
    "ShutdownError",
    "StartupError",
    "TracedBridgeError",
)


class TracedBridgeError(Exception):
    """The root of all errors raised by tracedbridge."""


class LoadError(TracedBridgeError):
    """The app could not be loaded."""


class AppNotFoundError(LoadError):
    """No such file, module or variable."""


class AppImportError(LoadError):
    """The app's module raised while it was imported; the app's own exception is the cause."""


class AppKindError(LoadError):
    """What was found is neither ASGI, nor WSGI, nor a ``BaseHTTPRequestHandler`` class."""


class SelfLoadError(LoadError):
    """The app's file imports ``vc_handler``, which would load that same file a second time."""


class StartupError(LoadError):
    """The app's lifespan startup failed; the app's own exception, if any, is the cause."""


class EventError(TracedBridgeError):
    """The event is of no format that we know."""


class BadRequestError(TracedBridgeError):
    """The event is of a known format, but the request in it is no valid HTTP request."""


class AppProtocolError(TracedBridgeError):
    """The app broke the contract of its kind: no response, half a response, a wrong type."""


class DeadlineError(TracedBridgeError):
    """The app did not answer before the deadline."""


class ShutdownError(TracedBridgeError):
    """The app's lifespan shutdown failed; the app's own exception, if any, is the cause."""


class BridgeClosedError(TracedBridgeError):
    """The bridge was closed and cannot take another event."""
