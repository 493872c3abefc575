"""Agents: what the slice adds to the application: risk, lists, release."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.types import Receive, Scope

from trustwatch.ingest.described import AgentId, IssuerName, ModelVersionName, PolicyVersion, TenantName
from trustwatch.scoring.records.agents import AgentSummary, ConcernName, LevelName
from trustwatch.scoring.store.agent_store import AgentOrder
from trustwatch_client.described import INDICATORS
from trustwatch_client.risk_answers import Answer, EnforcementPoint, Pin

from ..events.intake import EventIntake
from ..http.agent_lookup import AGENT_PATH, AgentResolver, AgentSelector, parse_agent_selection
from ..http.auth.callers import AuthenticatedCaller
from ..http.dependencies import AgentDep, ReaderDep, ReviewerDep, provided
from ..http.fast_path import JSON_HEADER, FastAgentRoute
from ..http.problems import ProblemDetails
from ..http.refused_callers import RefusedCallers
from ..http.responses import SIGNED_RESPONSES, AnswerSigner, signed_response, wants_signed
from ..http.runtime import Runtime
from ..http.schemas import (
    AMBIGUOUS_AGENT_RESPONSES,
    COMMON_PROBLEMS,
    UNKNOWN_AGENT_RESPONSES,
    AgentIdText,
    CursorParam,
    IndicatorOut,
    LimitParam,
    NameText,
    PageOut,
    ProblemOut,
    ReasonOut,
    TenantParam,
    TokenPolicyOut,
)
from ..http.separation_of_duties import MAX_REASON_LENGTH
from ..http.slice import ServiceRegistry, Slice
from ..http.store_executor import BulkWork, StoreExecutor
from ..http.wire import TimeText, Wire
from ..privacy.service import ErasureService
from .risk_answer_cache import RiskAnswerCache, shows_reasons
from .service import AgentFilters, AgentService, BaselineProfile, ReleasedAgent

RISK_QUERY_PATH = "/v1/risk/query"
MAX_QUESTIONS = 1000


class PinOut(Wire, of=Pin):
    """A pin of the level that the policy uses."""

    level: LevelName


class EnforcementPointOut(Wire, of=EnforcementPoint):
    """A server that enforces the policy."""

    by: Literal["hook", "actuator", "gateway"]


class RiskOut(Wire, of=Answer, omit=("source", "age_s")):
    """The risk of one agent, as of `evaluated_at`."""

    risk_level: LevelName
    evaluated_at: str
    concern: ConcernName | None
    token_policy: TokenPolicyOut
    policy_version: PolicyVersion
    model_version: ModelVersionName
    expires_at: TimeText = Field(description="until when it is valid", examples=["2026-11-24T22:28:14.130Z"])
    indicators: Annotated[list[IndicatorOut], INDICATORS]


class RiskQuestionIn(BaseModel):
    """Name of the agent whose risk is queried."""

    model_config = ConfigDict(extra="forbid")

    agent_id: AgentIdText
    tenant: NameText | None = Field(None, description="tenant of the agent", examples=["acme-corp"])
    issuer: NameText | None = Field(None, description="issuer of the agent", examples=["https://as.example"])


class RiskQueryIn(BaseModel):
    """Queries about several agents."""

    model_config = ConfigDict(extra="forbid")

    agents: list[RiskQuestionIn] = Field(max_length=MAX_QUESTIONS, description="agents whose risk is queried")


class RiskFailureOut(Wire):
    """A query that has no answer."""

    agent_id: AgentId
    problem: ProblemOut = Field(description="why there is no answer")


class RiskAnswersOut(Wire):
    """Answers in the order of the queries."""

    answers: list[RiskOut | RiskFailureOut] = Field(description="one answer for each question, in the same order")


class AgentOut(Wire, of=AgentSummary, rename={"level": "risk_level"}):
    """One agent in a list."""

    concern: ConcernName | None
    reasons: list[ReasonOut]
    indicators: list[IndicatorOut]


class BaselineOut(Wire, of=BaselineProfile, rename={"distinct_counts": "known"}):
    """The usual behavior of an agent, as of the last commit that changed it."""

    agent_id: AgentId
    tenant: TenantName
    issuer: IssuerName
    learned: int | None


class ReleaseIn(BaseModel):
    """Releases an agent."""

    model_config = ConfigDict(extra="forbid")

    note: str = Field(
        "", max_length=MAX_REASON_LENGTH, description="reason; stored with the decision", examples=["new accounts"]
    )


class ReleaseOut(Wire, of=ReleasedAgent):
    """A logged release. The decision follows when the pipeline has read it."""


router = APIRouter(tags=["agents"], responses=COMMON_PROBLEMS)

AgentServiceDep = Annotated[AgentService, Depends(provided(AgentService))]


@router.get(
    AGENT_PATH + "/risk",
    response_model=RiskOut,
    summary="Retrieve the risk of an agent",
    responses=SIGNED_RESPONSES | AMBIGUOUS_AGENT_RESPONSES,
)
async def get_risk(request: Request, agent: AgentDep, caller: ReaderDep, agents: AgentServiceDep) -> Response:
    """Returns the risk of an agent and its token policy, from memory.

    An agent that was never seen has the level `unknown` and the confidence 0. The answer is signed with
    `Accept: application/jwt`.
    """
    # Called only if a server provides no `raw_path`: `FastRiskRoute` answers before FastAPI does.
    body = agents.answer(caller, agent)
    return signed_response(request, caller, "risk", body) or _json_response(body)


@router.post(
    RISK_QUERY_PATH,
    response_model=RiskAnswersOut,
    responses=SIGNED_RESPONSES,
    summary="Retrieve the risk of several agents",
)
async def query_risk(request: Request, questions: RiskQueryIn, caller: ReaderDep, agents: AgentServiceDep) -> Response:
    """Accepts up to 1,000 queries. Answers are in the same order; a query without an answer gets a problem document.

    The answer is signed with `Accept: application/jwt`.
    """
    selectors = [AgentSelector(question.agent_id, question.tenant, question.issuer) for question in questions.agents]
    answers = await agents.answer_many(caller, selectors)
    bodies = [
        msgspec.json.encode({"agent_id": selector.agent_id, "problem": msgspec.Raw(answer.body())})
        if isinstance(answer, ProblemDetails)
        else answer
        for selector, answer in zip(selectors, answers, strict=True)
    ]
    body = b'{"answers":[' + b",".join(bodies) + b"]}"
    return signed_response(request, caller, "risks", body) or _json_response(body)


def _json_response(body: bytes) -> Response:
    return Response(body, media_type="application/json", headers={"Cache-Control": "no-store"})


@router.get("/v1/agents", summary="List agents")
async def list_agents(
    caller: ReaderDep,
    agents: AgentServiceDep,
    tenant: TenantParam = None,
    level: Annotated[
        list[LevelName] | None, Query(description="Only agents at this level. Repeat the parameter for several levels.")
    ] = None,
    agent_type: Annotated[
        str | None, Query(alias="type", max_length=2048, description="Only agents of this type.")
    ] = None,
    prefix: Annotated[str, Query(max_length=2048, description="Only agents whose ID begins with this text.")] = "",
    text: Annotated[
        str, Query(max_length=2048, description="Only agents whose ID or type contains this text, ignoring case.")
    ] = "",
    order: Annotated[
        AgentOrder, Query(description="`risk` sorts by level, above low by score, and then by name.")
    ] = "name",
    limit: LimitParam = 50,
    cursor: CursorParam = None,
) -> PageOut[AgentOut]:
    """Agents by tenant and ID, or the riskiest first, as of the last commit.

    With `text`, a page may be short or empty. Continue while there is a `next_cursor`.
    """
    page = await agents.list(caller, AgentFilters(tenant, level, agent_type, prefix, text, order), limit, cursor)
    hidden: dict[str, object] = {"reasons": [], "indicators": []}
    items = [AgentOut.of(summary, **({} if shows_reasons(summary) else hidden)) for summary in page.items]
    return PageOut(items=items, next_cursor=page.next_cursor)


@router.get(
    AGENT_PATH + "/baseline",
    responses=UNKNOWN_AGENT_RESPONSES | AMBIGUOUS_AGENT_RESPONSES,
    summary="Retrieve the baseline of an agent",
)
async def get_baseline(agent: AgentDep, caller: ReaderDep, agents: AgentServiceDep) -> BaselineOut:
    """Returns the usual behavior of an agent, and notes on what is not judged or learned.

    The state stores how many names are known, not which ones.
    """
    name = (await agents.get(caller, agent)).name
    profile = await agents.baseline(caller, name)
    identity = {"agent_id": name.agent_id, "tenant": name.tenant, "issuer": name.issuer}
    if profile is None:
        return BaselineOut.model_validate(identity | {"learned": None, "known": [], "usual": [], "notes": []})
    return BaselineOut.of(profile, **identity)


@router.post(
    AGENT_PATH + "/release",
    status_code=202,
    responses=UNKNOWN_AGENT_RESPONSES | AMBIGUOUS_AGENT_RESPONSES,
    summary="Release an agent",
)
async def release_agent(
    agent: AgentDep, caller: ReviewerDep, agents: AgentServiceDep, release: ReleaseIn
) -> ReleaseOut:
    """Drops the evidence against an agent. Its next decision names who released it.

    Returns 202 when the release is durable.
    """
    return ReleaseOut.of(await agents.release(caller, agent, release.note))


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
"""Bytes of a query string that is cached: most requests name the same few tenants and issuers."""
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
        None if erasures is None else erasures.open_erasures,
        services.get(RefusedCallers),
        services.get(BulkWork),
    )
    return answers, agents


SLICE = Slice(
    "agents",
    routers=(router,),
    body_limits={RISK_QUERY_PATH: MAX_RISK_QUERY_BYTES},
    services=_make_services,
    fast_routes=lambda services: (FastRiskRoute(services),),
)
