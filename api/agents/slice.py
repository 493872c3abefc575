"""Agents: what the slice adds to the application."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from starlette.types import Receive, Scope

from trustwatch.scoring.records.erasures import Erasure

from ..events.intake import EventIntake
from ..http.agent_lookup import AgentResolver, parse_agent_selection
from ..http.auth.callers import AuthenticatedCaller
from ..http.fast_path import JSON_HEADER, FastAgentRoute
from ..http.refused_callers import RefusedCallers
from ..http.responses import AnswerSigner, wants_signed
from ..http.runtime import Runtime
from ..http.slice import FastRoute, ServiceRegistry, Slice
from ..http.store_executor import StoreExecutor
from ..privacy.service import ErasureService
from .risk_answer_cache import RiskAnswerCache
from .routes import RISK_QUERY_PATH, router
from .service import AgentService

_SIGNED = (b"content-type", b"application/jwt")


class FastRiskRoute(FastAgentRoute):
    """Answers requests for the risk of an agent from memory. `signer` is None if the service signs nothing."""

    route, method = "/v1/agents/{agent_id}/risk", "GET"

    def __init__(self, services: ServiceRegistry) -> None:
        super().__init__(services)
        self._answers, self._signer = services.get(RiskAnswerCache), services.find(AnswerSigner)

    async def _answer(
        self, caller: AuthenticatedCaller, agent_id: str, scope: Scope, _: Receive
    ) -> tuple[tuple[bytes, bytes], bytes]:
        signer = self._signer if wants_signed(scope["headers"], can_sign=self._signer is not None) else None
        query = scope["query_string"]
        parse = _remembered_selection if len(query) <= MAX_REMEMBERED_QUERY else parse_agent_selection
        tenant, issuer = parse(query) if query else (None, None)
        body = self._answers.answer(caller, agent_id, tenant, issuer)
        return (JSON_HEADER, body) if signer is None else (_SIGNED, signer.sign("risk", caller.audience, body))


MAX_REMEMBERED_QUERY = 256
"""Bytes of a query string worth remembering: most requests name the same few tenants and issuers."""
_remembered_selection = lru_cache(maxsize=1024)(parse_agent_selection)


MAX_RISK_QUERY_BYTES = 1024 * 1024
"""Maximum size of a batch of queries, bytes: up to 1,000, each with an id that may be a URL."""


def _make_services(services: ServiceRegistry) -> Sequence[object]:
    runtime = services.get(Runtime)
    answers = RiskAnswerCache(runtime)
    erasures = services.find(ErasureService)
    agents = AgentService(
        runtime,
        answers,
        services.get(AgentResolver),
        services.get(StoreExecutor),
        services.get(EventIntake),
        _nothing_is_erased if erasures is None else erasures.open_erasures,
        services.get(RefusedCallers),
    )
    return answers, agents


async def _nothing_is_erased() -> Sequence[Erasure]:
    return ()


def _fast_routes(services: ServiceRegistry) -> Sequence[FastRoute]:
    return (FastRiskRoute(services),)


SLICE = Slice(
    "agents",
    routers=(router,),
    body_limits={RISK_QUERY_PATH: MAX_RISK_QUERY_BYTES},
    services=_make_services,
    fast_routes=_fast_routes,
)
