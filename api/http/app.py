"""The application: FastAPI with the routes of all slices, and the fast routes in front of it.

Here are also the routes of the service itself: health, readiness, metrics, schema of events, token policy.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry
from pydantic import BaseModel, Field
from starlette.responses import RedirectResponse

from trustwatch.ingest.described import PolicyVersion
from trustwatch.ingest.events import event_json_schema
from trustwatch.scoring.policy.risk_view import RiskView
from trustwatch.scoring.records.agents import RiskLevel

from ..settings.access_settings import ANY_NAME
from .agent_lookup import AgentResolver, visible_tenants
from .auth.callers import SCOPE_ADMIN, SCOPE_METRICS, SCOPE_WORDS, AuthenticatedCaller, TenantNotAllowed
from .connection_guard import ConnectionGuard
from .dependencies import AnyCallerUnlessLocal, ReaderDep, RequireScope, RuntimeDep, declared, is_local, provided
from .fast_path import FastPath
from .ledger import Ledger
from .openapi_document import complete_document
from .problems import ProblemTable, install_problem_handlers
from .prometheus_metrics import MetricValues, ServiceMetrics
from .refused_callers import RefusedCallers
from .request_traces import FASTAPI_TELEMETRY_OFF
from .runtime import Runtime, component_states
from .schemas import COMMON_PROBLEMS, TokenPolicyOut
from .slice import LifespanService, ServiceRegistry, Slice
from .store_executor import BulkWork, StoreExecutor
from .wire import Wire
from .worker_pool import WorkerPool

BODILESS_PROBLEMS: dict[int | str, Any] = {status: COMMON_PROBLEMS[status] for status in (400, 401, 403, 413, 421)}
"""Problems of routes without parameters that use no other part of the service."""

router = APIRouter(tags=["service"])

MetricsDep = Annotated[ServiceMetrics, Depends(provided(ServiceMetrics))]


class TokenPoliciesOut(Wire):
    """The token policy of every level."""

    version: PolicyVersion
    levels: dict[str, TokenPolicyOut] = Field(description="token policy by level")


class LivenessOut(BaseModel):
    """The process answers."""

    status: Literal["ok"] = Field(default="ok", description="always `ok`")


class ReadinessOut(BaseModel):
    """Readiness of the service, by component."""

    ready: bool = Field(description="true if every component is `ok`")
    components: dict[str, Literal["ok", "not ok"]] = Field(
        description="state by component", examples=[{"store": "ok", "pipeline": "ok"}]
    )
    reason: str | None = Field(None, description="why a starting service is not ready")
    learning: bool | None = Field(None, description="true while no trained model is active; otherwise omitted")
    waiting_for: str | None = Field(None, description="what a worker that is ready still waits for; otherwise omitted")
    restart_needed: list[str] | None = Field(
        None,
        description="reloaded settings that take effect only after a restart; otherwise omitted",
    )


@router.get("/healthz", summary="Check liveness")
async def get_health() -> LivenessOut:
    """Needs no token."""
    return LivenessOut()


@router.get("/readyz", response_model=ReadinessOut, responses={503: {"model": ReadinessOut}}, summary="Check readiness")
async def get_readiness(request: Request, runtime: RuntimeDep) -> Response:
    """Returns the state of each component, and why a slow start is not finished. Needs no token. A request from this
    machine also gets what needs attention: no model yet, an idle worker, settings that need a restart.

    The status is 503 unless all components are `ok`.
    """
    states = component_states(runtime)
    ready = all(states.values())
    local = is_local(request)  # other callers could learn when agents are not judged
    body = ReadinessOut(
        ready=ready,
        components={name: "ok" if fine else "not ok" for name, fine in states.items()},
        reason=None if ready else runtime.pipeline_status.starting,
        learning=(local and runtime.learning()) or None,
        waiting_for=runtime.pipeline_status.waiting_for if local else None,
        restart_needed=list(runtime.settings_reloads.restart_needed if local else ()) or None,
    )
    return JSONResponse(body.model_dump(exclude_none=True), 200 if ready else 503, {"Cache-Control": "no-store"})


@router.get("/metrics", response_class=Response, responses=BODILESS_PROBLEMS, summary="Prometheus metrics")
async def get_metrics(
    metrics: MetricsDep,
    caller: Annotated[
        AuthenticatedCaller | None, declared(RequireScope(SCOPE_METRICS, SCOPE_ADMIN, unless_local=True))
    ],
) -> Response:
    """Returns the metrics in the Prometheus text format. Requires a request from this machine, the scope
    `trust.metrics`, or `trust.admin` for all tenants.
    """
    if caller is not None and SCOPE_METRICS not in caller.scopes and ANY_NAME not in caller.tenants:
        raise TenantNotAllowed(
            "metrics name callers and targets of all tenants: for a caller of all, or `trust.metrics`"
        )
    return Response(metrics.exposition(), media_type=CONTENT_TYPE_PLAIN_0_0_4)


@router.get(
    "/v1/schema/audit-event",
    dependencies=[declared(AnyCallerUnlessLocal)],
    responses=BODILESS_PROBLEMS,
    summary="Retrieve the JSON Schema of the audit event",
)
async def get_event_schema() -> dict[str, Any]:
    """Requires a request from this machine, or any valid token."""
    return event_json_schema()


@router.get("/v1/policy", responses=BODILESS_PROBLEMS, summary="Retrieve the token policy")
async def get_policy(runtime: RuntimeDep, caller: ReaderDep) -> TokenPoliciesOut:
    """Returns the token policy of every risk level. Requires the scope `trust.score:read` and a caller that is bound
    to a tenant.
    """
    visible_tenants(caller, None)
    book = runtime.live_policy.book
    levels = {level.label: TokenPolicyOut.of(book.table[level]) for level in RiskLevel}
    return TokenPoliciesOut(version=book.version, levels=levels)


@router.get("/openapi.json", dependencies=[declared(AnyCallerUnlessLocal)], include_in_schema=False)
def get_openapi(request: Request) -> JSONResponse:
    """From this machine, or with any valid token. Made on first use, in a thread: answers do not wait for it."""
    return JSONResponse(request.app.openapi())


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
        self.include_router(router)
        for part in slices:
            for slice_router in part.routers:
                self.include_router(slice_router)
        self.router.routes[:0] = [route for part in slices for route in part.direct_routes]

    def openapi(self) -> dict[str, Any]:
        """Return the complete document, which is made once."""
        with self._documenting:
            if self._document is None:
                scopes = {name: text for part in self._slices for name, text in part.scopes.items()}
                records = [record for part in self._slices for record in part.documented_records]
                parts = [part.documented for part in self._slices if part.documented is not None]
                self._document = complete_document(super().openapi(), parts, records, {**SCOPE_WORDS, **scopes})
            return self._document


def create_app(runtime: Runtime, slices: Sequence[Slice], *, only_service: bool = False) -> FastPath:
    """Create the ASGI application that a server runs."""
    services = ServiceRegistry((runtime, *runtime.services))
    guard = services.find(ConnectionGuard)
    refused_callers = RefusedCallers(runtime.monotonic)
    observed: list[Callable[[], MetricValues]] = [partial(part.metrics, services) for part in slices]
    observed += [part.metric_values for part in (guard, refused_callers) if part is not None]
    metrics = ServiceMetrics(runtime, CollectorRegistry(), observed)
    problems = ProblemTable({kind: maker for part in slices for kind, maker in part.problems.items()})
    executor = services.find(StoreExecutor)
    if executor is None:
        executor = StoreExecutor()
        services.add(executor)
    if services.find(AgentResolver) is None:
        services.add(AgentResolver(runtime.risk_view, runtime.store, executor))
    services.add(metrics)
    pool = WorkerPool()
    ledger = Ledger(runtime.monotonic, partial(_is_known, runtime.risk_view), partial(_count_limited, metrics))
    services.add(pool)
    services.add(ledger)
    services.add(BulkWork(runtime.store, ledger, pool))
    services.add(problems)
    services.add(refused_callers)
    answering = () if only_service else slices
    for part in answering:
        for service in part.services(services):
            services.add(service)
    mounts = [application for part in answering for application in part.applications(services)]
    lifespans: list[LifespanService] = [] if guard is None else [guard]
    lifespans += [service for part in answering for service in part.lifespans(services)]
    app = DocumentedApp(answering, partial(_lifespan, runtime, [*lifespans, *mounts]))
    app.state.services = services
    install_problem_handlers(app, problems, runtime.new_id, refused_callers)
    for mounted in mounts:
        app.mount(mounted.path, mounted.app)
        app.add_api_route(mounted.path, _redirection(f"{mounted.path}/"), include_in_schema=False)
    return FastPath(
        app,
        runtime,
        metrics,
        guard,
        tuple(route for part in answering for route in part.fast_routes(services)),
        frozenset(path for part in answering for path in part.streamed_paths),
        {path: limit for part in answering for path, limit in part.body_limits.items()},
        tuple(f"{mounted.path}/" for mounted in mounts),
    )


def _is_known(risk_view: RiskView, tenant: str, issuer: str, agent_id: str) -> bool:
    return risk_view.get(tenant, issuer, agent_id) is not None


def _count_limited(metrics: ServiceMetrics, source: str, limit: str) -> None:
    metrics.counter("trustwatch_limited_requests_total", source, limit).inc()


def _redirection(target: str) -> Callable[[], Response]:
    return lambda: RedirectResponse(target, 308)


@asynccontextmanager
async def _lifespan(runtime: Runtime, services: Sequence[LifespanService], _: FastAPI) -> AsyncIterator[None]:
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
