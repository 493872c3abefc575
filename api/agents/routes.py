"""Agents: risk, lists, release."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Response

from ...ingest.errors import TrustwatchError
from ...ingest.record_keys import agent_partition_key
from ...scoring.records.agents import ReleaseAgent, RiskLevel
from ...scoring.store.agent_store import AgentQuery
from ..http.agent_lookup import find_agent_entry, not_found_error, visible_tenants
from ..http.auth.callers import AuthenticatedCaller
from ..http.dependencies import ContextDep, ReaderDep, ReviewerDep
from ..http.problems import problem_of
from ..http.schemas import (
    AMBIGUOUS_AGENT_RESPONSES,
    CursorParam,
    IssuerParam,
    Level,
    LimitParam,
    PageOut,
    TenantParam,
)
from ..http.separation_of_duties import attribute_to_caller
from .risk_answer_cache import RiskAnswerCache
from .schemas import AgentOut, ReleaseIn, ReleaseOut, RiskAnswersOut, RiskOut, RiskQueryIn, RiskQuestionIn, agent_out

ANSWERS_PER_TURN = 100
"""Questions answered in one go; then other requests get their turn."""

router = APIRouter(tags=["agents"])


@router.get(
    "/v1/agents/{agent_id:path}/risk",
    response_model=RiskOut,
    summary="Risk of one agent",
    responses=AMBIGUOUS_AGENT_RESPONSES,
)
async def get_risk(
    agent_id: str, parts: ContextDep, caller: ReaderDep, tenant: TenantParam = None, issuer: IssuerParam = None
) -> Response:
    """The risk of an agent and what it means for its tokens, from memory. The id is percent-encoded once.

    An agent that was never seen has the level `unknown` and confidence 0. Scope `trust.score:read`.
    """
    # Reached only where a server gives no `raw_path`: `front.FastPath` answers before FastAPI does.
    return _json_response(parts.risk_answers.answer(caller, agent_id, tenant, issuer))


@router.post("/v1/risk/query", response_model=RiskAnswersOut, summary="Risk of several agents")
async def query_risk(questions: RiskQueryIn, parts: ContextDep, caller: ReaderDep) -> Response:
    """At most 1,000 questions, answered in their order; one that has no answer gets a problem in its place."""
    answers: list[bytes] = []
    for number, question in enumerate(questions.agents, 1):
        answers.append(_answer_or_problem(parts.risk_answers, caller, question))
        if not number % ANSWERS_PER_TURN:
            await asyncio.sleep(0)
    return _json_response(b'{"answers":[' + b",".join(answers) + b"]}")


def _answer_or_problem(answers: RiskAnswerCache, caller: AuthenticatedCaller, question: RiskQuestionIn) -> bytes:
    try:
        return answers.answer(caller, question.agent_id, question.tenant, question.issuer)
    except TrustwatchError as error:
        problem = problem_of(error)
        if problem.status >= 500:
            raise
        return msgspec.json.encode({"agent_id": question.agent_id, "problem": msgspec.Raw(problem.body())})


def _json_response(body: bytes) -> Response:
    return Response(body, media_type="application/json", headers={"Cache-Control": "no-store"})


@router.get("/v1/agents", summary="List agents")
async def list_agents(
    parts: ContextDep,
    caller: ReaderDep,
    tenant: TenantParam = None,
    level: Annotated[list[Level] | None, Query(description="repeat it for several levels")] = None,
    agent_type: Annotated[str | None, Query(alias="type", max_length=2048)] = None,
    prefix: Annotated[str, Query(max_length=2048, description="beginning of the agent id")] = "",
    limit: LimitParam = 50,
    cursor: CursorParam = None,
) -> PageOut[AgentOut]:
    """Agents by tenant and id, as of the last commit. Scope `trust.score:read`."""
    levels = None if level is None else [RiskLevel[name.upper()] for name in level]
    wanted = AgentQuery(visible_tenants(caller, tenant), levels, agent_type, prefix, limit, cursor)
    page = await parts.call_store(parts.runtime.store.agents.page, wanted)
    return PageOut(items=[agent_out(summary) for summary in page.items], next_cursor=page.next_cursor)


@router.post(
    "/v1/agents/{agent_id:path}/release",
    status_code=202,
    responses=AMBIGUOUS_AGENT_RESPONSES,
    summary="Vouch for an agent",
)
async def release_agent(
    agent_id: str,
    parts: ContextDep,
    caller: ReviewerDep,
    wish: ReleaseIn,
    tenant: TenantParam = None,
    issuer: IssuerParam = None,
) -> ReleaseOut:
    """Drop the evidence against an agent; its next decision names who vouched. Scope `trust.feedback`.

    202 as soon as the release is durable.
    """
    entry = find_agent_entry(parts.runtime.risk_view, caller, agent_id, tenant, issuer)
    if entry is None:
        raise not_found_error("agent")
    name = entry.summary.name
    by = attribute_to_caller(parts.runtime.settings.actuators, caller, name, wish.note).name
    route = agent_partition_key(name.tenant, name.issuer, name.agent_id)
    await parts.event_intake.write_control_record(
        msgspec.json.encode(ReleaseAgent(str(name.key), by, wish.note)), route
    )
    return ReleaseOut(agent_id=name.agent_id, tenant=name.tenant, issuer=name.issuer, by=by)
