"""Serves the viewer on a port of 127.0.0.1, from its construction until ``close()``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracedbridge.serving.listening import HOST, Listener, bound_from
from tracedbridge.serving.viewer.app import ViewerApp
from tracedbridge.serving.viewer.saved import Saver
from tracedbridge.serving.viewer.store import Store

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType
    from typing import Self

__all__ = ("DEFAULT_PORT", "Viewer")

# OTLP/HTTP's: an exporter that nobody has told anything sends there.
DEFAULT_PORT = 4318


class Viewer:
    """The local viewer: one port for OTLP, for the page and for Jaeger's query API."""

    def __init__(
        self,
        port: int = DEFAULT_PORT,
        *,
        store: Store | None = None,
        save: Path | None = None,
        ui_dir: Path | None = None,
    ) -> None:
        """
        Listen.

        Args:
            port: If it is taken, the next free one of the fifty after it. 0 is any free port.
            store: What to show, and where to keep what comes; a new one if None.
            save: A file to append to what comes, as OTLP JSON lines.
            ui_dir: A built UI to serve below ``/jaeger/``.

        Raises:
            Refusal: No port is free or allowed, or a file or folder is not what it should be.
        """
        self.store = Store() if store is None else store
        listening = bound_from(port)
        self.port: int = listening.getsockname()[1]
        self._saver = None
        try:
            # Only once there is a port: no empty file is left by a viewer that could not start.
            self._saver = None if save is None else Saver(save)
            self._app = ViewerApp(self.store, endpoint=self.endpoint, ui_dir=ui_dir, saver=self._saver)
        except BaseException:
            listening.close()
            self._close_file()
            raise
        self._listener = Listener(self._app, listening, name="tracedbridge-viewer", prepare=self._app.load)

    @property
    def endpoint(self) -> str:
        """The base URL, as ``OTEL_EXPORTER_OTLP_ENDPOINT`` wants it."""
        return f"http://{HOST}:{self.port}"

    @property
    def url(self) -> str:
        """The page."""
        return f"{self.endpoint}/"

    @property
    def refusals(self) -> tuple[str, ...]:
        """Why requests were refused, one line for each of the first few, fit for a terminal."""
        return self._app.refusals

    def close(self) -> None:
        """Take what has been sent whole, end all connections and threads, and listen no more; the store stays."""
        self._listener.close()
        self._close_file()

    def __enter__(self) -> Self:
        """Return the viewer itself, which listens already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def _close_file(self) -> None:
        if self._saver is not None:
            self._saver.close()
