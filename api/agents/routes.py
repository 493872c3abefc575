"""Agents: risk, lists, release."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from trustwatch.ingest.described import AgentId, IssuerName, ModelVersionName, PolicyVersion, TenantName
from trustwatch.scoring.records.agents import AgentSummary, ConcernName, LevelName
from trustwatch.scoring.store.agent_store import AgentOrder
from trustwatch_client.described import INDICATORS
from trustwatch_client.risk_answers import Answer, EnforcementPoint, Pin

from ..http.agent_lookup import AGENT_PATH, AgentSelector
from ..http.dependencies import AgentDep, ReaderDep, ReviewerDep, provided
from ..http.problems import ProblemDetails
from ..http.responses import SIGNED_RESPONSES, signed_response
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
from ..http.wire import TimeText, Wire
from .risk_answer_cache import shows_reasons
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
    expires_at: TimeText = Field(description="until when it is valid")
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


def agent_out(summary: AgentSummary) -> AgentOut:
    """An agent for a list."""
    return AgentOut.of(summary, **({} if shows_reasons(summary) else {"reasons": [], "indicators": []}))


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
    # Reached only if a server provides no `raw_path`: `FastRiskRoute` answers before FastAPI does.
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
    bodies = (_answer_body(selector, answer) for selector, answer in zip(selectors, answers, strict=True))
    body = b'{"answers":[' + b",".join(bodies) + b"]}"
    return signed_response(request, caller, "risks", body) or _json_response(body)


def _answer_body(selector: AgentSelector, answer: bytes | ProblemDetails) -> bytes:
    if isinstance(answer, ProblemDetails):
        return msgspec.json.encode({"agent_id": selector.agent_id, "problem": msgspec.Raw(answer.body())})
    return answer


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
    return PageOut(items=[agent_out(summary) for summary in page.items], next_cursor=page.next_cursor)


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
