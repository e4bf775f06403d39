"""The recorded imports become spans: what took long, below the phase that it ran in; the rest is summed up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry import trace as trace_api
from opentelemetry.trace import Status, StatusCode

from tracedbridge.origins import Origins, packages_of, source_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.context import Context
    from opentelemetry.trace import Tracer

    from tracedbridge.imports import Import, Recording
    from tracedbridge.origins import Package
    from tracedbridge.settings import Settings

__all__ = ("ImportSpans",)

# With "full", the specification's default queue of 2,048 spans must hold them and the rest of the invocation.
_FULL_MAX_SPANS = 1500


class ImportSpans:
    """The imports of one cold start, as its settings want them shown."""

    def __init__(self, recording: Recording, settings: Settings, phase_at: Callable[[int], str | None]) -> None:
        """
        Choose what is drawn.

        Args:
            recording: Closed.
            settings: What is drawn of it.
            phase_at: Says in which phase of the cold start a moment (CLOCK_MONOTONIC, ns) was.
        """
        self._origins = Origins()
        # What ran in another phase than these is our own: telemetry, the app's kind.
        self._roots: dict[str, list[Import]] = {
            "app_import": [], "app_resolve": [], "lifespan": [], "wait": [], "first_byte": [],
        }  # fmt: skip
        for root in recording.roots:
            if root.package == "tracedbridge":
                # Ours, and not asked for by the app.
                continue
            phase = phase_at(root.begun_ns) or "first_byte"
            self._roots.get(phase, []).append(root)
        self._dropped = recording.dropped
        self._top = settings.imports_top
        self._drawn = self._chosen(settings)

    def packages(self) -> list[Package]:
        """Return the top-level packages that took longest by themselves, as many as the settings want."""
        roots = [root for roots in self._roots.values() for root in roots]
        return packages_of(roots, self._origins)[: self._top]

    def summary(self, phase: str) -> dict[str, int | float]:
        """Return what a phase imported, in attributes of its span; nothing if it imported nothing."""
        imports = [each for root in self._roots[phase] for each in root.walk()]
        if not imports:
            return {}
        rest = [each for each in imports if each not in self._drawn]
        attributes: dict[str, int | float] = {
            "tracedbridge.imports.modules": sum(each.error is None for each in imports),
            "tracedbridge.imports.failed": sum(each.error is not None for each in imports),
            "tracedbridge.imports.compiled": sum(each.compile_ns > 0 for each in imports),
            "tracedbridge.imports.find_ms": _ms(sum(each.find_ns for each in imports)),
            "tracedbridge.imports.compile_ms": _ms(sum(each.compile_ns for each in imports)),
            "tracedbridge.imports.not_drawn": len(rest),
            "tracedbridge.imports.not_drawn_ms": _ms(sum(each.self_ns for each in rest)),
        }
        if self._dropped:
            attributes["tracedbridge.imports.not_recorded"] = self._dropped
        return attributes

    def draw(self, phase: str, tracer: Tracer, context: Context, wall_offset_ns: int, *, failed: bool = False) -> None:
        """
        Make the spans of what a phase imported.

        Args:
            phase: ``"app_import"``, ``"app_resolve"``, ``"lifespan"`` or ``"first_byte"``.
            tracer: Makes them.
            context: Holds the span that they are to be below.
            wall_offset_ns: Wall clock minus CLOCK_MONOTONIC.
            failed: The cold start did, so that an import that raised is an error, and no optional dependency.
        """
        waiting = [(root, context) for root in reversed(self._roots[phase])]
        while waiting:
            each, above = waiting.pop()
            below = above
            if each in self._drawn:
                span = tracer.start_span(
                    f"import {each.name}", context=above, start_time=each.begun_ns + wall_offset_ns,
                    attributes=self._attributes(each),
                )  # fmt: skip
                if failed and each.error is not None and (each.has_failed_parent or each is self._roots[phase][-1]):
                    span.set_status(Status(StatusCode.ERROR, each.error))
                span.end(each.ended_ns + wall_offset_ns)
                below = trace_api.set_span_in_context(span, above)
            waiting.extend((child, below) for child in reversed(each.children))

    def _chosen(self, settings: Settings) -> set[Import]:
        imports = [each for roots in self._roots.values() for root in roots for each in root.walk()]
        if settings.imports == "full":
            most = max(settings.imports_max_spans, _FULL_MAX_SPANS)
        else:
            least_ns, most = settings.imports_min_ms * 1e6, settings.imports_max_spans
            imports = [each for each in imports if each.total_ns >= least_ns or _is_package(each)]
        # Whatever imported one of the longest took longer: there are no holes in what is drawn.
        return set(sorted(imports, key=lambda each: -each.total_ns)[:most])

    def _attributes(self, each: Import) -> dict[str, Any]:
        attributes: dict[str, Any] = {
            "tracedbridge.import.self_ms": _ms(each.self_ns),
            "tracedbridge.import.find_ms": _ms(each.find_ns),
            "tracedbridge.import.modules": sum(1 for _ in each.walk()),
            "tracedbridge.import.owner": self._origins.owner_of(each),
            "tracedbridge.import.source": source_of(each),
        }
        if each.compile_ns:
            attributes["tracedbridge.import.compile_ms"] = _ms(each.compile_ns)
        if each.is_reload:
            attributes["tracedbridge.import.reload"] = True
        if each.error is not None:
            attributes["error.type"] = each.error
        return attributes


def _is_package(each: Import) -> bool:
    """Say whether this is where somebody asked for a package of somebody else's."""
    return "." not in each.name and (each.parent is None or each.parent.package != each.package)


def _ms(nanoseconds: int) -> float:
    return round(nanoseconds / 1e6, 3)
