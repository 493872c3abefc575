"""The application: FastAPI with its routes, and the bare risk route in front of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import Any, Protocol

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp

from ...ingest.events import event_schema_components
from ..access import routes as route_actuations
from ..access import routes as route_containment
from ..access.approval_workflow import InterventionNotOpen
from ..access.gateways.gateway_issuers import GatewayIssuers
from ..access.gateways.gateway_server import GatewayServer
from ..access.gateways.gateway_server import GatewayServerDependencies as GatewayNeeds
from ..access.hooks.hook_server import HookServer, HookServerDependencies
from ..agents import routes as route_agents
from ..agents.risk_answer_cache import RiskAnswerCache
from ..alerts import routes as route_alerts
from ..decisions import routes as route_decisions
from ..events import routes as route_events
from ..events import routes as route_otlp
from ..events.admission import Admission, AgentRegistry
from ..events.event_bodies import CONTENT_CODINGS, EVENT_MEDIA_TYPES
from ..events.intake import EventIntake
from ..events.intake_limits import BodyTooLarge, IntakeLimits, Overloaded, UnsupportedBody
from ..events.source_silence import SilenceDetector
from ..feedback import routes as route_feedback
from ..models import routes as route_models
from ..privacy import routes as route_privacy
from ..privacy.service import ErasureRefused
from . import routes as route_service
from .dependencies import ApplicationContext, authenticate_request
from .fast_path import FastPath
from .problems import ProblemDetails, install_problem_handlers, problem_response
from .prometheus_metrics import ServiceMetrics
from .runtime import Runtime
from .schemas import problem_responses
from .store_executor import StoreExecutor

SCHEMA_REF_PREFIX = "#/components/schemas/"

SILENCE_CHECK_INTERVAL_S = 1.0

API_DESCRIPTION = """Risk of AI agents that hold OAuth tokens, and the door for their audit events.

Every request needs an access token (JWT, RFC 9068) of a configured issuer; a scope includes no other. Errors are
problem documents (RFC 9457). Identifiers may be URLs: in a path they are percent-encoded once."""


COMMON_PROBLEMS = problem_responses(
    {
        401: "no token, or one that is refused; `WWW-Authenticate` says why",
        403: "the token lacks a scope, or its client is not bound to that tenant",
        422: "a parameter or the body is not valid; `errors` says where",
    }
)


class DocumentedApp(FastAPI):
    """FastAPI whose OpenAPI document holds the schema of events too, which FastAPI does not decode itself."""

    def openapi(self) -> dict[str, Any]:
        """The document; made once."""
        if self.openapi_schema is None:
            document = super().openapi()
            _, parts = event_schema_components(SCHEMA_REF_PREFIX)
            document["components"]["schemas"].update(parts)
        return self.openapi_schema or {}


CONSOLE_PATH = "/console"


class MountedApplication(Protocol):
    """Pages for people, with what runs beside them."""

    app: ASGIApp

    async def start(self) -> None:
        """Before the first request."""

    async def close(self) -> None:
        """After the last one."""


def create_app(
    services: Runtime,
    registry: CollectorRegistry | None = None,
    *,
    only_service: bool = False,
    console: Callable[[ApplicationContext], MountedApplication] | None = None,
) -> FastPath:
    """The ASGI application that a server runs.

    Args:
        services: everything it uses.
        registry: where its metrics are registered; by default one of its own.
        only_service: a worker's: health, readiness, metrics, and no questions or events.
        console: makes the pages at `/console`; None = there are none.
    """
    door = _make_event_intake(services)
    silence = SilenceDetector({}, services.monotonic()) if only_service else _make_silence_watch(services)
    issuers = None if only_service else _make_gateway_issuers(services)
    metrics = ServiceMetrics(
        services, registry or CollectorRegistry(), lambda: door.limits.reserved_bytes, silence, issuers
    )
    answers = RiskAnswerCache(services)
    parts = ApplicationContext(services, answers, door, metrics, StoreExecutor(), silence)
    pages = None if console is None or only_service else console(parts)
    app = DocumentedApp(
        title="Trustwatch",
        version=version("trustwatch"),
        description=API_DESCRIPTION,
        lifespan=_lifespan(services, silence, issuers, pages),
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    app.state.parts = parts
    install_problem_handlers(app, services.new_id)
    _install_slice_problem_handlers(app)
    app.include_router(route_service.router)
    if not only_service:
        routes = (
            route_actuations,
            route_containment,
            route_privacy,
            route_agents,
            route_decisions,
            route_alerts,
            route_events,
            route_feedback,
            route_models,
            route_otlp,
        )
        for router in (*(part.router for part in routes), route_events.dead_letters_router):
            app.include_router(router, responses=COMMON_PROBLEMS)
        app.router.routes.insert(0, route_events.DIRECT_EVENTS_ROUTE)
    if pages is not None:
        app.mount(CONSOLE_PATH, pages.app)
        app.add_api_route(CONSOLE_PATH, _redirect_to_console, include_in_schema=False)
    hooks = None if only_service else _make_hook_server(services, metrics)
    gateway = None if issuers is None else _make_gateway_server(services, metrics, issuers)
    return FastPath(app, services, answers, metrics, answering=not only_service, hooks=hooks, gateway=gateway)


async def _redirect_to_console() -> Response:
    return RedirectResponse(f"{CONSOLE_PATH}/", 308)


def _make_event_intake(services: Runtime) -> EventIntake:
    behind = services.log_lag or (lambda: 0)
    limits = IntakeLimits(behind, services.settings.pipeline.max_lag_bytes, services.monotonic)
    admission = Admission(AgentRegistry(services.settings.registry), services.principal_alias)
    return EventIntake(services.event_log, admission, limits, services.clock, services.new_id)


def _make_hook_server(services: Runtime, metrics: ServiceMetrics) -> HookServer:
    needs = HookServerDependencies(
        services.decision_point,
        services.live_policy,
        partial(authenticate_request, services.verifier),
        services.settings.listen.url(),
        services.clock,
        services.monotonic,
        metrics.count_hook_answer,
        services.new_id,
    )
    return HookServer(services.settings.hooks, needs)


def _make_gateway_issuers(services: Runtime) -> GatewayIssuers | None:
    settings = services.settings
    if not settings.gateway.issuers:
        return None
    return GatewayIssuers(settings.gateway, settings.verification, services.clock, services.new_id)


def _make_gateway_server(services: Runtime, metrics: ServiceMetrics, issuers: GatewayIssuers) -> GatewayServer:
    needs = GatewayNeeds(
        issuers,
        services.decision_point,
        services.live_policy,
        partial(authenticate_request, services.verifier),
        services.clock,
        services.monotonic,
        metrics.count_gateway_answer,
        services.new_id,
    )
    return GatewayServer(services.settings.gateway, needs)


def _make_silence_watch(services: Runtime) -> SilenceDetector:
    callers = services.settings.callers
    bounds = {caller.name: caller.silence_s for caller in callers if caller.silence_s is not None}
    return SilenceDetector(bounds, services.monotonic())


async def _watch_silence(services: Runtime, silence: SilenceDetector) -> None:
    while True:
        await asyncio.sleep(SILENCE_CHECK_INTERVAL_S)
        silence.check(services.monotonic())
        if services.on_silence is not None:
            await services.on_silence(list(silence))


def _lifespan(
    services: Runtime, silence: SilenceDetector, issuers: GatewayIssuers | None, pages: MountedApplication | None
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        for start in services.on_startup:
            await start()
        if issuers is not None:
            await issuers.start()
        if pages is not None:
            await pages.start()
        watch = asyncio.create_task(_watch_silence(services, silence))
        try:
            yield
        finally:
            watch.cancel()
            services.pipeline_status.close()
            if pages is not None:
                await pages.close()
            if issuers is not None:
                await issuers.close()
            for stop in services.on_shutdown:
                await stop()

    return lifespan


def _install_slice_problem_handlers(app: FastAPI) -> None:
    """Answers to requests that the door does not take as a whole."""

    async def overloaded(_: Request, error: Exception) -> Response:
        assert isinstance(error, Overloaded)
        headers = {"Retry-After": str(max(1, -int(-error.retry_after_s // 1)))}
        return problem_response(ProblemDetails(429, error.code, "Too many requests", str(error), headers))

    async def too_large(_: Request, error: Exception) -> Response:
        return problem_response(ProblemDetails(413, BodyTooLarge.code, "Body too large", str(error)))

    async def unsupported(_: Request, error: Exception) -> Response:
        headers = {"Accept": ", ".join(EVENT_MEDIA_TYPES), "Accept-Encoding": ", ".join(CONTENT_CODINGS)}
        return problem_response(ProblemDetails(415, UnsupportedBody.code, "Unsupported body", str(error), headers))

    async def not_open(_: Request, error: Exception) -> Response:
        return problem_response(ProblemDetails(409, InterventionNotOpen.code, "Not open", str(error)))

    async def refused(_: Request, error: Exception) -> Response:
        return problem_response(ProblemDetails(409, ErasureRefused.code, "Erasure refused", str(error)))

    app.add_exception_handler(InterventionNotOpen, not_open)
    app.add_exception_handler(ErasureRefused, refused)
    app.add_exception_handler(Overloaded, overloaded)
    app.add_exception_handler(BodyTooLarge, too_large)
    app.add_exception_handler(UnsupportedBody, unsupported)
