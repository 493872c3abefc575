"""Agents: risk, lists, release."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Query, Request, Response

from trustwatch.scoring.store.agent_store import AgentOrder

from ..http.agent_lookup import AgentSelector
from ..http.agent_paths import AGENT_PATH
from ..http.dependencies import AgentDep, ReaderDep, ReviewerDep, provided
from ..http.problems import ProblemDetails
from ..http.schemas import (
    AMBIGUOUS_AGENT_RESPONSES,
    COMMON_PROBLEMS,
    UNKNOWN_AGENT_RESPONSES,
    CursorParam,
    Level,
    LimitParam,
    PageOut,
    TenantParam,
)
from ..http.signed_responses import SIGNED_RESPONSES, signed_response
from .schemas import (
    AgentOut,
    BaselineOut,
    ReleaseIn,
    ReleaseOut,
    RiskAnswersOut,
    RiskOut,
    RiskQueryIn,
    agent_out,
    baseline_out,
)
from .service import AgentFilters, AgentService

RISK_QUERY_PATH = "/v1/risk/query"

router = APIRouter(tags=["agents"], responses=COMMON_PROBLEMS)

AgentServiceDep = Annotated[AgentService, Depends(provided(AgentService))]


@router.get(
    AGENT_PATH + "/risk",
    response_model=RiskOut,
    summary="Risk of one agent",
    responses=SIGNED_RESPONSES | AMBIGUOUS_AGENT_RESPONSES,
)
async def get_risk(request: Request, agent: AgentDep, caller: ReaderDep, agents: AgentServiceDep) -> Response:
    """The risk of an agent and what it means for its tokens, from memory; signed with `Accept: application/jwt`.

    The id is percent-encoded once. An agent that was never seen has the level `unknown` and confidence 0. Scope
    `trust.score:read`.
    """
    # Reached only where a server gives no `raw_path`: `FastRiskRoute` answers before FastAPI does.
    body = agents.answer(caller, agent)
    return signed_response(request, caller, "risk", body) or _json_response(body)


@router.post(
    RISK_QUERY_PATH, response_model=RiskAnswersOut, responses=SIGNED_RESPONSES, summary="Risk of several agents"
)
async def query_risk(request: Request, questions: RiskQueryIn, caller: ReaderDep, agents: AgentServiceDep) -> Response:
    """At most 1,000 questions, answered in their order; one that has no answer gets a problem in its place.

    Signed with `Accept: application/jwt`.
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
    level: Annotated[list[Level] | None, Query(description="repeat it for several levels")] = None,
    agent_type: Annotated[str | None, Query(alias="type", max_length=2048)] = None,
    prefix: Annotated[str, Query(max_length=2048, description="beginning of the agent id")] = "",
    text: Annotated[str, Query(max_length=2048, description="part of the id or the type, in upper or lower case")] = "",
    order: Annotated[AgentOrder, Query(description="`risk`: by level, above low by score; the rest by name")] = "name",
    limit: LimitParam = 50,
    cursor: CursorParam = None,
) -> PageOut[AgentOut]:
    """Agents by tenant and id, or the riskiest first, as of the last commit. Scope `trust.score:read`.

    With checkpoints, times and scores of calm ones are older. With `text`, a page may have fewer agents than there are,
    or none: go on while there is a `next_cursor`.
    """
    page = await agents.list(caller, AgentFilters(tenant, level, agent_type, prefix, text, order), limit, cursor)
    return PageOut(items=[agent_out(summary) for summary in page.items], next_cursor=page.next_cursor)


@router.get(
    AGENT_PATH + "/baseline",
    responses=UNKNOWN_AGENT_RESPONSES | AMBIGUOUS_AGENT_RESPONSES,
    summary="What is usual for an agent",
)
async def get_baseline(agent: AgentDep, caller: ReaderDep, agents: AgentServiceDep) -> BaselineOut:
    """Habits of an agent, and notes on what is not judged or learned of it. Scope `trust.score:read`.

    The state keeps how many names are known, not which.
    """
    name = (await agents.get(caller, agent)).name
    return baseline_out(name, await agents.baseline(caller, name))


@router.post(
    AGENT_PATH + "/release",
    status_code=202,
    responses=UNKNOWN_AGENT_RESPONSES | AMBIGUOUS_AGENT_RESPONSES,
    summary="Vouch for an agent",
)
async def release_agent(
    agent: AgentDep, caller: ReviewerDep, agents: AgentServiceDep, release: ReleaseIn
) -> ReleaseOut:
    """Drop the evidence against an agent; its next decision names who vouched. Scope `trust.feedback`.

    202 as soon as the release is durable.
    """
    released = await agents.release(caller, agent, release.note)
    name = released.name
    return ReleaseOut(agent_id=name.agent_id, tenant=name.tenant, issuer=name.issuer, by=released.by)
