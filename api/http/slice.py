"""A slice: everything that one subject (agents, decisions, alerts, …) adds to the application.

The application is given a list of slices (`api/service/slices.py`) and imports none of them. The `slice.py` of a slice
states its parts. No other module of the slice imports that file, so worker processes load no web stack.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from importlib.resources.abc import Traversable
from typing import NamedTuple, Protocol, TypeVar

from fastapi import APIRouter
from starlette.routing import Route
from starlette.types import ASGIApp

from trustwatch.ingest.errors import TrustwatchError

from .problems import MissingService, ProblemMaker
from .prometheus_metrics import MetricValues

T = TypeVar("T")


class ServiceRegistry:
    """Services by type. The composition root and the slices fill it before the first request."""

    def __init__(self, services: Iterable[object] = ()) -> None:
        self._services: dict[type, object] = {}
        for service in services:
            self.add(service)

    def add(self, service: object) -> None:
        """Add *service* under its type. Raises ValueError if the type is taken."""
        kind = type(service)
        if kind in self._services:
            raise ValueError(f"a service of the type {kind.__qualname__} is registered already")
        self._services[kind] = service

    def get(self, kind: type[T]) -> T:
        """Return the service of that type. Raises MissingService, with the type's `MISSING_DETAIL` if it has one."""
        service = self.find(kind)
        if service is None:
            raise MissingService(getattr(kind, "MISSING_DETAIL", f"no {kind.__qualname__} runs in this process"))
        return service

    def find(self, kind: type[T]) -> T | None:
        """Return the service of that type, or None."""
        service = self._services.get(kind)
        assert service is None or isinstance(service, kind)
        return service


class LifespanService(Protocol):
    """A service with something to start before the first request, and to close after the last one."""

    async def start(self) -> None:
        """Start, before the first request."""

    async def close(self) -> None:
        """Close, after the last request."""


class FastRoute(Protocol):
    """Requests that are answered in front of FastAPI, because clients wait for them."""

    def find_handler(self, path: bytes) -> ASGIApp | None:
        """Return the handler of requests to *path*, percent-encoded as received, or None."""

    def template(self, path: bytes) -> str:
        """Return the route of a *path* that this handles, as metrics and traces name it."""


class MountedApplication(LifespanService, Protocol):
    """An application under a separate path, which is not in the OpenAPI document.

    It authenticates its callers by other means than tokens, before it reads a body.
    """

    path: str
    app: ASGIApp


class Slice(NamedTuple):
    """Everything that one subject adds to the application.

    The callables are given the registry, which has the `Runtime`, `ServiceMetrics`, `StoreExecutor` and
    `AgentResolver` of the application, the services of the composition root, and those of all slices before.
    """

    name: str  # of its folder
    routers: Sequence[APIRouter] = ()
    direct_routes: Sequence[Route] = ()  # looked at before all others, and not in the OpenAPI document
    streamed_paths: Collection[str] = ()  # whose routes know their caller before they read, and bound the body
    body_limits: Mapping[str, int] = {}  # bytes by path, if a route needs more than `MAX_REQUEST_BYTES`
    problems: Mapping[type[TrustwatchError], ProblemMaker] = {}
    services: Callable[[ServiceRegistry], Sequence[object]] = lambda _: ()  # made once, and added to the registry
    lifespans: Callable[[ServiceRegistry], Sequence[LifespanService]] = lambda _: ()
    fast_routes: Callable[[ServiceRegistry], Sequence[FastRoute]] = lambda _: ()
    metrics: Callable[[ServiceRegistry], MetricValues] = lambda _: {}  # read at each scrape, also without an API
    applications: Callable[[ServiceRegistry], Sequence[MountedApplication]] = lambda _: ()
    documented: Traversable | None = None  # YAML with the part of the OpenAPI document that FastAPI cannot write
    documented_records: Sequence[type] = ()  # bodies that the document names without FastAPI's knowledge
    scopes: Mapping[str, str] = {}  # additional scopes, with what each allows
