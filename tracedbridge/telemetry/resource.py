"""The resource: which function this is, and which instance of it; what the user's variables say comes first."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from opentelemetry.sdk.resources import OTELResourceDetector, Resource

if TYPE_CHECKING:
    from tracedbridge.protocols import Platform

__all__ = ("resource_of",)


def resource_of(platform: Platform, name: str) -> Resource:
    """
    Return the resource of this process.

    No platform tells instances apart everywhere: an id of its own keeps their metrics from collapsing into one
    series. A host name keeps Jaeger from taking every parent and child for different machines.
    """
    instance = os.urandom(16).hex()
    ours: dict[str, str | int] = {
        "service.name": name,
        "service.instance.id": instance,
        "faas.name": name,
        "faas.instance": instance,
        "host.name": socket.gethostname(),
        **platform.resource_attributes(os.environ),
    }
    theirs = OTELResourceDetector().detect().attributes
    # Attributes given to create() would win over the environment's.
    return Resource.create({key: value for key, value in ours.items() if key not in theirs})
