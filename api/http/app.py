"""The application: FastAPI with its routes, and the bare risk route in front of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import Any, Protocol

import msgspec
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp

from ...ingest.events import AuditEvent
from ..edge import Admission, AgentRegistry, BodyTooLarge, Door, Limits, Overloaded, UnsupportedBody
from ..edge.bodies import CODINGS, MEDIA_TYPES
from ..edge.silence import SilenceWatch
from ..gateway import GatewayIssuers, GatewayServer
from ..gateway import Needs as GatewayNeeds
from ..guard.approvals import NotOpen
from ..hooks import HookServer, Needs
from ..privacy.desk import Refused
from ..problems import Problem, install_problem_handlers, problem_response
from . import (
    route_actuations,
    route_agents,
    route_alerts,
    route_containment,
    route_decisions,
    route_events,
    route_feedback,
    route_models,
    route_otlp,
    route_privacy,
    route_service,
)
from .answers import RiskAnswers
from .front import Front, caller_of
from .gate import Parts, StoreReader
from .metrics import Metrics
from .schemas import problems
from .services import Services

SCHEMAS = "#/components/schemas/"

SILENCE_EVERY_S = 1.0

ABOUT = """Risk of AI agents that hold OAuth tokens, and the door for their audit events.

Every request needs an access token (JWT, RFC 9068) of a configured issuer; a scope includes no other. Errors are
problem documents (RFC 9457). Identifiers may be URLs: in a path they are percent-encoded once."""


COMMON_PROBLEMS = problems(
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
            _, parts = msgspec.json.schema_components([AuditEvent], ref_template=SCHEMAS + "{name}")
            document["components"]["schemas"].update(parts)
        return self.openapi_schema or {}


CONSOLE = "/console"


class Mounted(Protocol):
    """Pages for people, with what runs beside them."""

    app: ASGIApp

    async def start(self) -> None:
        """Before the first request."""

    async def close(self) -> None:
        """After the last one."""


def create_app(
    services: Services,
    registry: CollectorRegistry | None = None,
    *,
    only_service: bool = False,
    console: Callable[[Parts], Mounted] | None = None,
) -> Front:
    """The ASGI application that a server runs.

    Args:
        services: everything it uses.
        registry: where its metrics are registered; by default one of its own.
        only_service: a worker's: health, readiness, metrics, and no questions or events.
        console: makes the pages at `/console`; None = there are none.
    """
    door = _door(services)
    silence = SilenceWatch({}, services.monotonic()) if only_service else _silence(services)
    issuers = None if only_service else _gateway_issuers(services)
    metrics = Metrics(services, registry or CollectorRegistry(), lambda: door.limits.held_bytes, silence, issuers)
    answers = RiskAnswers(services)
    parts = Parts(services, answers, door, metrics, StoreReader(), silence)
    pages = None if console is None or only_service else console(parts)
    app = DocumentedApp(
        title="Trustwatch",
        version=version("trustwatch"),
        description=ABOUT,
        lifespan=_lifespan(services, silence, issuers, pages),
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    app.state.parts = parts
    install_problem_handlers(app, services.new_id)
    _install_door_problems(app)
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
        for router in (*(part.router for part in routes), route_events.letters):
            app.include_router(router, responses=COMMON_PROBLEMS)
        app.router.routes.insert(0, route_events.DIRECT)
    if pages is not None:
        app.mount(CONSOLE, pages.app)
        app.add_api_route(CONSOLE, _to_console, include_in_schema=False)
    hooks = None if only_service else _hooks(services, metrics)
    gateway = None if issuers is None else _gateway(services, metrics, issuers)
    return Front(app, services, answers, metrics, answering=not only_service, hooks=hooks, gateway=gateway)


async def _to_console() -> Response:
    return RedirectResponse(f"{CONSOLE}/", 308)


def _door(services: Services) -> Door:
    behind = services.behind or (lambda: 0)
    limits = Limits(behind, services.settings.pipeline.max_lag_bytes, services.monotonic)
    admission = Admission(AgentRegistry(services.settings.registry), services.alias)
    return Door(services.log, admission, limits, services.clock, services.new_id)


def _hooks(services: Services, metrics: Metrics) -> HookServer:
    needs = Needs(
        services.guard,
        services.policy,
        partial(caller_of, services.verifier),
        services.settings.listen.url(),
        services.clock,
        services.monotonic,
        metrics.hook_answered,
        services.new_id,
    )
    return HookServer(services.settings.hooks, needs)


def _gateway_issuers(services: Services) -> GatewayIssuers | None:
    settings = services.settings
    if not settings.gateway.issuers:
        return None
    return GatewayIssuers(settings.gateway, settings.verification, services.clock, services.new_id)


def _gateway(services: Services, metrics: Metrics, issuers: GatewayIssuers) -> GatewayServer:
    needs = GatewayNeeds(
        issuers,
        services.guard,
        services.policy,
        partial(caller_of, services.verifier),
        services.clock,
        services.monotonic,
        metrics.gateway_answered,
        services.new_id,
    )
    return GatewayServer(services.settings.gateway, needs)


def _silence(services: Services) -> SilenceWatch:
    callers = services.settings.callers
    bounds = {caller.name: caller.silence_s for caller in callers if caller.silence_s is not None}
    return SilenceWatch(bounds, services.monotonic())


async def _watch_silence(services: Services, silence: SilenceWatch) -> None:
    while True:
        await asyncio.sleep(SILENCE_EVERY_S)
        silence.check(services.monotonic())
        if services.on_silence is not None:
            await services.on_silence(list(silence))


def _lifespan(
    services: Services, silence: SilenceWatch, issuers: GatewayIssuers | None, pages: Mounted | None
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
            services.status.close()
            if pages is not None:
                await pages.close()
            if issuers is not None:
                await issuers.close()
            for stop in services.on_shutdown:
                await stop()

    return lifespan


def _install_door_problems(app: FastAPI) -> None:
    """Answers to requests that the door does not take as a whole."""

    async def overloaded(_: Request, error: Exception) -> Response:
        assert isinstance(error, Overloaded)
        headers = {"Retry-After": str(max(1, -int(-error.retry_after_s // 1)))}
        return problem_response(Problem(429, error.code, "Too many requests", str(error), headers))

    async def too_large(_: Request, error: Exception) -> Response:
        return problem_response(Problem(413, BodyTooLarge.code, "Body too large", str(error)))

    async def unsupported(_: Request, error: Exception) -> Response:
        headers = {"Accept": ", ".join(MEDIA_TYPES), "Accept-Encoding": ", ".join(CODINGS)}
        return problem_response(Problem(415, UnsupportedBody.code, "Unsupported body", str(error), headers))

    async def not_open(_: Request, error: Exception) -> Response:
        return problem_response(Problem(409, NotOpen.code, "Not open", str(error)))

    async def refused(_: Request, error: Exception) -> Response:
        return problem_response(Problem(409, Refused.code, "Erasure refused", str(error)))

    app.add_exception_handler(NotOpen, not_open)
    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(Overloaded, overloaded)
    app.add_exception_handler(BodyTooLarge, too_large)
    app.add_exception_handler(UnsupportedBody, unsupported)
