"""The application: FastAPI with the routes of all slices, and the fast routes in front of it."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.responses import RedirectResponse, Response

from . import routes as service_routes
from .agent_lookup import AgentResolver
from .auth.callers import SCOPE_WORDS
from .connection_guard import ConnectionGuard
from .fast_path import AllowedHosts, FastPath, RequestAdmission
from .openapi_document import complete_document
from .problems import ProblemTable, install_problem_handlers
from .prometheus_metrics import MetricValues, ServiceMetrics
from .refused_callers import RefusedCallers
from .request_traces import FASTAPI_TELEMETRY_OFF
from .runtime import Runtime
from .slice import LifespanService, MountedApplication, ServiceRegistry, Slice
from .store_executor import StoreExecutor

API_DESCRIPTION = """Read the risk of AI agents that hold OAuth tokens, and send their audit events.

Every request needs an access token (JWT, RFC 9068) of a configured issuer. No scope includes another. Errors are
problem documents (RFC 9457). IDs may be URLs; percent-encode them once in a path."""


class DocumentedApp(FastAPI):
    """FastAPI whose OpenAPI document is complete."""

    def __init__(
        self,
        slices: Sequence[Slice],
        lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None,
    ) -> None:
        super().__init__(
            title="Trustwatch",
            version=version("trustwatch"),
            summary="Continuous trust for AI agents",
            description=API_DESCRIPTION,
            license_info={"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
            lifespan=lifespan,
            openapi_url=None,
            docs_url=None,
            redoc_url=None,
            generate_unique_id_function=lambda route: route.name,
            telemetry=FASTAPI_TELEMETRY_OFF,
        )
        self._slices = slices
        self._documenting = threading.Lock()
        self._document: dict[str, Any] | None = None
        self.include_router(service_routes.router)
        for part in slices:
            for router in part.routers:
                self.include_router(router)
        self.router.routes[:0] = [route for part in slices for route in part.direct_routes]

    def openapi(self) -> dict[str, Any]:
        """The complete document, made once."""
        with self._documenting:
            if self._document is None:
                scopes = {name: text for part in self._slices for name, text in part.scopes.items()}
                records = [record for part in self._slices for record in part.documented_records]
                parts = [part.documented for part in self._slices if part.documented is not None]
                self._document = complete_document(super().openapi(), parts, records, {**SCOPE_WORDS, **scopes})
            return self._document


def create_app(
    runtime: Runtime,
    slices: Sequence[Slice],
    registry: CollectorRegistry | None = None,
    *,
    only_service: bool = False,
) -> FastPath:
    """The ASGI application that a server runs."""
    services = ServiceRegistry((runtime, *runtime.services))
    guard = services.find(ConnectionGuard)
    observed: list[Callable[[], MetricValues]] = [partial(part.metrics, services) for part in slices]
    if guard is not None:
        observed.append(guard.metric_values)
    refused_callers = RefusedCallers(runtime.monotonic)
    observed.append(refused_callers.metric_values)
    metrics = ServiceMetrics(runtime, registry or CollectorRegistry(), observed)
    problems = ProblemTable({kind: maker for part in slices for kind, maker in part.problems.items()})
    services.add(metrics)
    services.add(problems)
    services.add(refused_callers)
    _add_store_access(services)
    answering = () if only_service else slices
    for part in answering:
        for service in part.services(services):
            services.add(service)
    mounts = [application for part in answering for application in part.applications(services)]
    app = _make_app(services, answering, mounts)
    fast_routes = [route for part in answering for route in part.fast_routes(services)]
    streamed_paths = [path for part in answering for path in part.streamed_paths]
    body_limits = {path: limit for part in answering for path, limit in part.body_limits.items()}
    hosts = AllowedHosts(runtime.settings.listen)
    admission = RequestAdmission(runtime.verifier, hosts, body_limits, [mounted.path for mounted in mounts], guard)
    return FastPath(app, fast_routes, streamed_paths, admission, metrics, runtime.monotonic, runtime.new_id)


def _add_store_access(services: ServiceRegistry) -> None:
    """Add the store executor and the agent resolver, unless the composition root made them."""
    runtime, executor = services.get(Runtime), services.find(StoreExecutor)
    if executor is None:
        executor = StoreExecutor()
        services.add(executor)
    if services.find(AgentResolver) is None:
        services.add(AgentResolver(runtime.risk_view, runtime.store, executor))


def _make_app(services: ServiceRegistry, slices: Sequence[Slice], mounts: Sequence[MountedApplication]) -> FastAPI:
    runtime = services.get(Runtime)
    lifespans: list[LifespanService] = [service for part in slices for service in part.lifespans(services)]
    guard = services.find(ConnectionGuard)
    if guard is not None:
        lifespans.insert(0, guard)
    app = DocumentedApp(slices, _lifespan(runtime, [*lifespans, *mounts]))
    app.state.services = services
    install_problem_handlers(app, services.get(ProblemTable), runtime.new_id, services.get(RefusedCallers))
    for mounted in mounts:
        app.mount(mounted.path, mounted.app)
        app.add_api_route(mounted.path, _redirection(f"{mounted.path}/"), include_in_schema=False)
    return app


def _redirection(target: str) -> Callable[[], Response]:
    """A route that redirects to *target*, for a path without its last slash."""

    def redirect() -> Response:
        return RedirectResponse(target, 308)

    return redirect


def _lifespan(
    runtime: Runtime, services: Sequence[LifespanService]
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        for start in runtime.on_startup:
            await start()
        for service in services:
            await service.start()
        try:
            yield
        finally:
            runtime.pipeline_status.close()
            for service in reversed(services):
                await service.close()
            for stop in runtime.on_shutdown:
                await stop()

    return lifespan
