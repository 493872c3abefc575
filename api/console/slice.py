"""The console: what the slice adds to the application, where it is enabled."""

from __future__ import annotations

from collections.abc import Sequence

from ..http.runtime import Runtime
from ..http.service_registry import ServiceRegistry
from ..http.slice import MountedApplication, Slice
from .console_app import ConsoleApplication


def _applications(services: ServiceRegistry) -> Sequence[MountedApplication]:
    enabled = services.get(Runtime).settings.console.enabled
    return (ConsoleApplication(services),) if enabled else ()


SLICE = Slice("console", applications=_applications)
