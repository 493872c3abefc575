"""The console, where it is enabled, and the page of the API: what the slice adds to the application."""

from __future__ import annotations

from collections.abc import Sequence

from ..http.runtime import Runtime
from ..http.service_registry import ServiceRegistry
from ..http.slice import MountedApplication, Slice
from .api_page import router
from .console_app import ConsoleApplication


def _applications(services: ServiceRegistry) -> Sequence[MountedApplication]:
    enabled = services.get(Runtime).settings.console.enabled
    return (ConsoleApplication(services),) if enabled else ()


SLICE = Slice("console", routers=(router,), applications=_applications)
