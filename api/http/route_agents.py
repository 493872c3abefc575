"""Agents: risk, lists, release."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Response

from ...ingest.errors import TrustwatchError
from ...ingest.routing import agent_route
from ...scoring.orders import Release
from ...scoring.records import RiskLevel
from ...scoring.store import MAX_PAGE, AgentQuery
from ..callers import Caller
from ..problems import problem_of
from .answers import RiskAnswers
from .convert import agent_out
from .finding import find_entry, no_such, visible_tenants
from .gate import Judge, Part, Reader
from .persons import person
from .schemas import (
    AgentOut,
    AnswersOut,
    Level,
    PageOut,
    QueryIn,
    QuestionIn,
    ReleaseIn,
    ReleaseOut,
    RiskOut,
    problems,
)

AMBIGUOUS = problems({409: "several agents have that id: name tenant or issuer"})

SLICE = 100
"""Questions answered in one go; then other requests get their turn."""

router = APIRouter(tags=["agents"])

Tenant = Annotated[str | None, Query(max_length=2048, description="tenant of the agent; one of the caller's own")]
Issuer = Annotated[str | None, Query(max_length=2048, description="issuer of the agent, where its id is not unique")]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE)]
Cursor = Annotated[str | None, Query(max_length=8192, description="`next_cursor` of the page before")]


@router.get(
    "/v1/agents/{agent_id:path}/risk",
    response_model=RiskOut,
    summary="Risk of one agent",
    responses=AMBIGUOUS,
)
async def risk(agent_id: str, parts: Part, caller: Reader, tenant: Tenant = None, issuer: Issuer = None) -> Response:
    """The risk of an agent and what it means for its tokens, from memory. The id is percent-encoded once.

    An agent that was never seen has the level `unknown` and confidence 0. Scope `trust.score:read`.
    """
    # Reached only where a server gives no `raw_path`: `front.Front` answers before FastAPI does.
    return _json(parts.answers.answer(caller, agent_id, tenant, issuer))


@router.post("/v1/risk/query", response_model=AnswersOut, summary="Risk of several agents")
async def query(questions: QueryIn, parts: Part, caller: Reader) -> Response:
    """At most 1,000 questions, answered in their order; one that has no answer gets a problem in its place."""
    answers: list[bytes] = []
    for number, question in enumerate(questions.agents, 1):
        answers.append(_one_of_many(parts.answers, caller, question))
        if not number % SLICE:
            await asyncio.sleep(0)
    return _json(b'{"answers":[' + b",".join(answers) + b"]}")


def _one_of_many(answers: RiskAnswers, caller: Caller, question: QuestionIn) -> bytes:
    try:
        return answers.answer(caller, question.agent_id, question.tenant, question.issuer)
    except TrustwatchError as error:
        problem = problem_of(error)
        if problem.status >= 500:
            raise
        return msgspec.json.encode({"agent_id": question.agent_id, "problem": msgspec.Raw(problem.body())})


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json", headers={"Cache-Control": "no-store"})


@router.get("/v1/agents", summary="List agents")
async def agents(
    parts: Part,
    caller: Reader,
    tenant: Tenant = None,
    level: Annotated[list[Level] | None, Query(description="repeat it for several levels")] = None,
    agent_type: Annotated[str | None, Query(alias="type", max_length=2048)] = None,
    prefix: Annotated[str, Query(max_length=2048, description="beginning of the agent id")] = "",
    limit: Limit = 50,
    cursor: Cursor = None,
) -> PageOut[AgentOut]:
    """Agents by tenant and id, as of the last commit. Scope `trust.score:read`."""
    levels = None if level is None else [RiskLevel[name.upper()] for name in level]
    wanted = AgentQuery(visible_tenants(caller, tenant), levels, agent_type, prefix, limit, cursor)
    page = await parts.read(parts.services.store.list_agents, wanted)
    return PageOut(items=[agent_out(summary) for summary in page.items], next_cursor=page.next_cursor)


@router.post("/v1/agents/{agent_id:path}/release", status_code=202, responses=AMBIGUOUS, summary="Vouch for an agent")
async def release(
    agent_id: str, parts: Part, caller: Judge, wish: ReleaseIn, tenant: Tenant = None, issuer: Issuer = None
) -> ReleaseOut:
    """Drop the evidence against an agent; its next decision names who vouched. Scope `trust.feedback`.

    202 as soon as the release is durable.
    """
    entry = find_entry(parts.services.view, caller, agent_id, tenant, issuer)
    if entry is None:
        raise no_such("agent")
    name = entry.summary.name
    by = person(parts, caller, name, wish.note).name
    route = agent_route(name.tenant, name.issuer, name.agent_id)
    await parts.door.control(msgspec.json.encode(Release(str(name.key), by, wish.note)), route)
    return ReleaseOut(agent_id=name.agent_id, tenant=name.tenant, issuer=name.issuer, by=by)
