"""The services of one application, found by their type."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from trustwatch.ingest.errors import Unavailable

T = TypeVar("T")


class MissingService(Unavailable):
    """This process runs without the service that a request needs; answered with 503."""


class ServiceRegistry:
    """Services by type. Filled by the composition root and by the slices, before the first request."""

    def __init__(self, services: Iterable[object] = ()) -> None:
        self._services: dict[type, object] = {}
        for service in services:
            self.add(service)

    def add(self, service: object) -> None:
        """Add *service* under its type. Raises ValueError where that type is taken."""
        kind = type(service)
        if kind in self._services:
            raise ValueError(f"a service of the type {kind.__qualname__} is registered already")
        self._services[kind] = service

    def get(self, kind: type[T]) -> T:
        """The service of that type. Raises MissingService, in the words of its `MISSING_DETAIL` where it has any."""
        service = self.find(kind)
        if service is None:
            raise MissingService(getattr(kind, "MISSING_DETAIL", f"no {kind.__qualname__} runs in this process"))
        return service

    def find(self, kind: type[T]) -> T | None:
        """The service of that type; None where this process has none."""
        service = self._services.get(kind)
        assert service is None or isinstance(service, kind)
        return service
