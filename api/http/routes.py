"""Health, readiness, metrics, schema of events, token policy."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from trustwatch.ingest.events import event_json_schema

from ..settings.access_settings import ANY_NAME
from .agent_lookup import visible_tenants
from .auth.callers import SCOPE_ADMIN, SCOPE_METRICS, AuthenticatedCaller, TenantNotAllowed
from .dependencies import ReaderDep, RequireScopeUnlessLocal, RuntimeDep, declared, is_local, provided
from .prometheus_metrics import ServiceMetrics
from .runtime import component_states
from .schemas import COMMON_PROBLEMS, LivenessOut, ReadinessOut, TokenPoliciesOut, token_policies_out

BODILESS_PROBLEMS: dict[int | str, Any] = {status: COMMON_PROBLEMS[status] for status in (400, 401, 403, 413, 421)}
"""Problems of routes without parameters that use no other part of the service."""

router = APIRouter(tags=["service"])

MetricsDep = Annotated[ServiceMetrics, Depends(provided(ServiceMetrics))]


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
    ready, told = (
        all(states.values()),
        is_local(request),
    )  # other callers could learn when agents are not judged
    body = ReadinessOut(
        ready=ready,
        components={name: "ok" if fine else "not ok" for name, fine in states.items()},
        reason=None if ready else runtime.pipeline_status.starting,
        learning=(told and runtime.learning()) or None,
        waiting_for=runtime.pipeline_status.waiting_for if told else None,
        restart_needed=list(runtime.settings_reloads.restart_needed if told else ()) or None,
    )
    return JSONResponse(body.model_dump(exclude_none=True), 200 if ready else 503, {"Cache-Control": "no-store"})


@router.get(
    "/metrics",
    response_class=Response,
    responses=BODILESS_PROBLEMS,
    summary="Prometheus metrics",
)
async def get_metrics(
    metrics: MetricsDep,
    caller: Annotated[AuthenticatedCaller | None, declared(RequireScopeUnlessLocal(SCOPE_METRICS, SCOPE_ADMIN))],
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
    dependencies=[declared(RequireScopeUnlessLocal(""))],
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
    return token_policies_out(runtime.live_policy.book)


@router.get("/openapi.json", dependencies=[declared(RequireScopeUnlessLocal(""))], include_in_schema=False)
def get_openapi(request: Request) -> JSONResponse:
    """From this machine, or with any valid token. Made on first use, in a thread: answers do not wait for it."""
    return JSONResponse(request.app.openapi())
