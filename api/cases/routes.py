"""Routes of cases: lists, the story of each, and what people do with them."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from fastapi import APIRouter, Depends, Query
from fastapi.responses import PlainTextResponse

from ..http.agent_lookup import AgentSelector
from ..http.auth.callers import AuthenticatedCaller
from ..http.dependencies import ReaderDep, ReviewerDep, provided
from ..http.schemas import (
    AMBIGUOUS_AGENT_RESPONSES,
    COMMON_PROBLEMS,
    CursorParam,
    IssuerParam,
    LimitParam,
    PageOut,
    TenantParam,
    problem_responses,
)
from .case_reports import CaseSearch
from .report import render_markdown
from .schemas import (
    CaseAcknowledgementIn,
    CaseAssignmentIn,
    CaseClosureIn,
    CaseContainmentIn,
    CaseMergerIn,
    CaseNoteIn,
    CaseOut,
    CaseSnoozeIn,
    CaseSplitIn,
    CaseStatisticsOut,
    CaseSummaryOut,
    TimelineOut,
    case_out,
    case_statistics_out,
    case_summary_out,
    selectors,
    timeline_out,
)
from .service import CaseService
from .story import CaseStory

ENTRIES_AFTER_ACT: Final = 20
"""Entries in the answer to an act, the newest: it is no reason to read all that a case ever had."""

router = APIRouter(tags=["cases"], responses=COMMON_PROBLEMS)

CaseServiceDep = Annotated[CaseService, Depends(provided(CaseService))]
CaseStoryDep = Annotated[CaseStory, Depends(provided(CaseStory))]
CaseStatusParam = Annotated[
    Literal["open", "acknowledged", "contained", "closed", "unresolved"] | None,
    Query(description="`unresolved` is all that is not closed"),
]
UNKNOWN_CASE = problem_responses({404: "no such case, or none that you may see"})
ACT_RESPONSES = problem_responses(
    {
        404: "no such case, or none that you may see",
        409: "it is closed, or somebody changed it meanwhile; nothing was done",
    }
)


@router.get("/v1/cases", responses=AMBIGUOUS_AGENT_RESPONSES, summary="List cases")
async def list_cases(
    caller: ReaderDep,
    cases: CaseServiceDep,
    status: CaseStatusParam = None,
    owner: Annotated[str | None, Query(max_length=256)] = None,
    level: Annotated[
        Literal["medium", "high", "critical"] | None, Query(description="those that reached at least this")
    ] = None,
    agent_id: Annotated[str | None, Query(max_length=2048)] = None,
    tenant: TenantParam = None,
    issuer: IssuerParam = None,
    limit: LimitParam = 50,
    cursor: CursorParam = None,
) -> PageOut[CaseSummaryOut]:
    """Rises of risk that belong together, last changed first. Scope `trust.score:read`."""
    agent = None if agent_id is None else AgentSelector(agent_id, tenant, issuer)
    search = CaseSearch(status or "", owner or "", level or "", agent, tenant or "")
    page = await cases.search(caller, search, limit, cursor)
    return PageOut(items=[case_summary_out(listed) for listed in page.items], next_cursor=page.next_cursor)


@router.get("/v1/cases/statistics", summary="How cases went")
async def get_case_statistics(
    caller: ReaderDep,
    cases: CaseServiceDep,
    days: Annotated[int, Query(ge=1, le=366, description="opened in the last so many days")] = 30,
) -> CaseStatisticsOut:
    """Cases that were opened, by what they turned out to be, and how soon people looked. Scope `trust.score:read`."""
    return case_statistics_out(days, await cases.statistics(caller, days))


@router.get("/v1/cases/{case_id}", responses=UNKNOWN_CASE, summary="One case")
async def get_case(case_id: str, caller: ReaderDep, cases: CaseServiceDep) -> CaseOut:
    """Its agents, what ties them, and what people did. Scope `trust.score:read`."""
    return case_out(await cases.get(caller, case_id))


@router.get("/v1/cases/{case_id}/timeline", responses=UNKNOWN_CASE, summary="The story of a case")
async def get_case_timeline(case_id: str, caller: ReaderDep, story: CaseStoryDep) -> TimelineOut:
    """Events around each rise, decisions, tokens, approvals, actuations, what people did, in one order.

    Messages to people are among it with the scope `trust.admin`. Scope `trust.score:read`.
    """
    return await story.tell(caller, case_id, lambda _, items: timeline_out(case_id, items))


@router.get(
    "/v1/cases/{case_id}/report",
    responses={**UNKNOWN_CASE, 200: {"content": {"text/markdown": {"schema": {"type": "string"}}}}},
    response_class=PlainTextResponse,
    summary="A case as a document",
)
async def get_case_report(case_id: str, caller: ReaderDep, story: CaseStoryDep) -> PlainTextResponse:
    """The case and its story as Markdown, for a ticket. Scope `trust.score:read`."""
    text = await story.tell(caller, case_id, render_markdown)
    return PlainTextResponse(text, media_type="text/markdown; charset=utf-8")


async def _after_act(cases: CaseService, caller: AuthenticatedCaller, case_id: str) -> CaseOut:
    """A case as the answer to an act on it: of its entries those that are news."""
    return case_out(await cases.get(caller, case_id, ENTRIES_AFTER_ACT))


@router.post("/v1/cases/{case_id}/acknowledge", responses=ACT_RESPONSES, summary="Acknowledge a case")
async def acknowledge_case(
    case_id: str, caller: ReviewerDep, cases: CaseServiceDep, act: CaseAcknowledgementIn
) -> CaseOut:
    """Somebody looks at it: the caller owns it, unless somebody does. Scope `trust.feedback`."""
    await cases.acknowledge(caller, case_id, act.note)
    return await _after_act(cases, caller, case_id)


@router.post("/v1/cases/{case_id}/assign", responses=ACT_RESPONSES, summary="Assign a case")
async def assign_case(case_id: str, caller: ReviewerDep, cases: CaseServiceDep, act: CaseAssignmentIn) -> CaseOut:
    """Somebody is to work on it. Scope `trust.feedback`."""
    await cases.assign(caller, case_id, act.owner, act.note)
    return await _after_act(cases, caller, case_id)


@router.post("/v1/cases/{case_id}/notes", status_code=201, responses=ACT_RESPONSES, summary="Add a note to a case")
async def add_case_note(case_id: str, caller: ReviewerDep, cases: CaseServiceDep, act: CaseNoteIn) -> CaseOut:
    """Words of a person; also with a case that is closed. Scope `trust.feedback`."""
    await cases.note(caller, case_id, act.note)
    return await _after_act(cases, caller, case_id)


@router.post("/v1/cases/{case_id}/snooze", responses=ACT_RESPONSES, summary="Snooze a case")
async def snooze_case(case_id: str, caller: ReviewerDep, cases: CaseServiceDep, act: CaseSnoozeIn) -> CaseOut:
    """Until that is over, alert targets hear of it at a higher level alone. Scope `trust.feedback`."""
    await cases.snooze(caller, case_id, act.for_s, act.note)
    return await _after_act(cases, caller, case_id)


@router.post("/v1/cases/{case_id}/contain", responses=ACT_RESPONSES, summary="Contain a case")
async def contain_case(case_id: str, caller: ReviewerDep, cases: CaseServiceDep, act: CaseContainmentIn) -> CaseOut:
    """Policy acts on every agent of it as critical, until the pins expire or are ended. Scope `trust.feedback`."""
    await cases.contain(caller, case_id, act.note, pin=act.pin, valid_s=act.valid_s, revision=act.revision)
    return await _after_act(cases, caller, case_id)


@router.post("/v1/cases/{case_id}/close", responses=ACT_RESPONSES, summary="Close a case")
async def close_case(case_id: str, caller: ReviewerDep, cases: CaseServiceDep, act: CaseClosureIn) -> CaseOut:
    """Say what it was. The windows of one that was true are kept out of future training. Scope `trust.feedback`."""
    await cases.close(caller, case_id, act.verdict, act.note, release=act.release, revision=act.revision)
    return await _after_act(cases, caller, case_id)


@router.post("/v1/cases/{case_id}/reopen", responses=ACT_RESPONSES, summary="Reopen a case")
async def reopen_case(case_id: str, caller: ReviewerDep, cases: CaseServiceDep, act: CaseNoteIn) -> CaseOut:
    """Look at a closed case again. Scope `trust.feedback`."""
    await cases.reopen(caller, case_id, act.note)
    return await _after_act(cases, caller, case_id)


@router.post("/v1/cases/{case_id}/merge", responses=ACT_RESPONSES, summary="Merge a case into another")
async def merge_case(case_id: str, caller: ReviewerDep, cases: CaseServiceDep, act: CaseMergerIn) -> CaseOut:
    """The other takes all agents, decisions and messages; answers with the other. Scope `trust.feedback`."""
    await cases.merge(caller, case_id, act.into, act.note, revision=act.revision)
    return await _after_act(cases, caller, act.into)


@router.post("/v1/cases/{case_id}/split", status_code=201, responses=ACT_RESPONSES, summary="Split a case")
async def split_case(case_id: str, caller: ReviewerDep, cases: CaseServiceDep, act: CaseSplitIn) -> CaseOut:
    """Some agents become a case of their own; answers with the new one. Scope `trust.feedback`."""
    fresh = await cases.split(caller, case_id, selectors(act.agents), act.note, revision=act.revision)
    return await _after_act(cases, caller, fresh.case_id)
