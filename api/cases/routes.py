"""Routes of cases: lists, the story of each, and what people do with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Depends, Path, Query
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field

from trustwatch.ingest.timestamps import format_day
from trustwatch.scoring.records.agents import AgentName
from trustwatch.scoring.records.cases import CaseStatistics, CaseVerdict

from ..access.decision_point import PolicyDecisionPoint
from ..access.service import ContainmentService
from ..agents.service import AgentService
from ..feedback.service import FeedbackService
from ..http.agent_lookup import AgentResolver, AgentSelector
from ..http.auth.callers import AuthenticatedCaller
from ..http.dependencies import ReaderDep, ReviewerDep, provided
from ..http.ledger import Ledger
from ..http.prometheus_metrics import LabelledValues, MetricValues, ServiceMetrics
from ..http.runtime import Runtime
from ..http.schemas import (
    AMBIGUOUS_AGENT_RESPONSES,
    COMMON_PROBLEMS,
    AgentIdText,
    AgentParam,
    CursorParam,
    IssuerParam,
    LimitParam,
    NameText,
    PageOut,
    TenantParam,
    problem_responses,
)
from ..http.separation_of_duties import MAX_REASON_LENGTH
from ..http.slice import LifespanService, ServiceRegistry, Slice
from ..http.store_executor import StoreExecutor
from ..http.wire import Wire
from .agent_acts import CaseAgentActs
from .case_reports import MAX_HOLD_S, MAX_OWNER_LENGTH, MAX_SNOOZE_S, MIN_HOLD_S, CaseSearch, ListedCase
from .report import CASE_NAMES, CaseOut, TimelineOut, case_out, render_markdown, timeline_out
from .service import CaseFigures, CaseService
from .timeline import CaseStory

ENTRIES_AFTER_ACT: Final = 20
"""Entries in the answer to an act, newest first: the full history of a case is not read for it."""

NoteText = Annotated[str, Field(max_length=MAX_REASON_LENGTH)]


class _CaseAct(BaseModel):
    model_config = ConfigDict(extra="forbid")


RevisionSeen = Annotated[
    int | None,
    Field(ge=0, description="`revision` that the request is based on; 409 if the case has changed; null for any"),
]


class CaseAcknowledgementIn(_CaseAct):
    """Acknowledges a case."""

    note: NoteText = Field("", description="stored with the case")


class CaseAssignmentIn(_CaseAct):
    """The person who is to work on a case."""

    owner: Annotated[str, Field(max_length=MAX_OWNER_LENGTH)] = Field(description="person; empty removes the owner")
    note: NoteText = Field("", description="stored with the case")


class CaseNoteIn(_CaseAct):
    """A note."""

    note: NoteText = Field(description="stored with the case")


class CaseSnoozeIn(_CaseAct):
    """How long a case is snoozed."""

    for_s: float = Field(description="60 s to 30 days; 0 ends the snooze", ge=0, le=MAX_SNOOZE_S)
    note: NoteText = Field(description="reason; stored with the case")


class CaseContainmentIn(_CaseAct):
    """Containment of a case."""

    note: NoteText = Field(description="reason; stored with the case and with each pin")
    pin: bool = Field(True, description="treat every agent of the case as critical")
    valid_s: float = Field(3_600, description="how long the pins are valid, s", ge=MIN_HOLD_S, le=MAX_HOLD_S)
    revision: RevisionSeen = None


class CaseClosureIn(_CaseAct):
    """Verdict on a case, as a person closes it."""

    verdict: CaseVerdict = Field(description="`true`: trouble; `false`: none; `expected`: something that was planned")
    note: NoteText = Field(description="reason; stored with the case")
    release: bool = Field(False, description="also drop the evidence against its agents and end their pins")
    revision: RevisionSeen = None


class CaseMergerIn(_CaseAct):
    """The case that this one is merged into."""

    into: str = Field(min_length=1, max_length=100, description="id of an open case; `revision` is of that one")
    note: NoteText = Field("", description="stored with both cases")
    revision: RevisionSeen = None


class CaseAgentIn(_CaseAct):
    """An agent of a case."""

    agent_id: AgentIdText
    issuer: NameText | None = Field(None, description="where its id is not unique in the case")


class CaseSplitIn(_CaseAct):
    """The agents that move to a new case."""

    agents: list[CaseAgentIn] = Field(min_length=1, max_length=200, description="agents that leave the case")
    note: NoteText = Field(description="reason; stored with both cases")
    revision: RevisionSeen = None


class CaseSummaryOut(Wire, of=ListedCase, rename=CASE_NAMES):
    """A case in a list."""


class CaseDayOut(BaseModel):
    """Cases of one day."""

    day: str = Field(description="day, UTC", examples=["2026-11-24"])
    opened: int = Field(description="cases that were opened")


class CaseStatisticsOut(Wire, of=CaseStatistics):
    """Outcomes of the cases of some days."""

    days: int = Field(description="number of days covered")
    by_day: list[CaseDayOut] = Field(description="days on which a case was opened, oldest first")


router = APIRouter(tags=["cases"], responses=COMMON_PROBLEMS)

CaseIdParam = Annotated[str, Path(description="id of the case")]
CaseServiceDep = Annotated[CaseService, Depends(provided(CaseService))]
CaseStoryDep = Annotated[CaseStory, Depends(provided(CaseStory))]
CaseStatusParam = Annotated[
    Literal["open", "acknowledged", "contained", "closed", "unresolved"] | None,
    Query(description="Only cases with this status. `unresolved` matches every case that is not closed."),
]
UNKNOWN_CASE = problem_responses({404: "The case does not exist, or the caller may not see it."})
ACT_RESPONSES = UNKNOWN_CASE | problem_responses(
    {409: "The case is closed, or was changed in the meantime. Nothing was done."}
)


@router.get("/v1/cases", responses=AMBIGUOUS_AGENT_RESPONSES, summary="List cases")
async def list_cases(
    caller: ReaderDep,
    cases: CaseServiceDep,
    status: CaseStatusParam = None,
    owner: Annotated[str | None, Query(max_length=256, description="Only cases of this owner.")] = None,
    level: Annotated[
        Literal["medium", "high", "critical"] | None, Query(description="Only cases that reached at least this level.")
    ] = None,
    agent_id: AgentParam = None,
    tenant: TenantParam = None,
    issuer: IssuerParam = None,
    limit: LimitParam = 50,
    cursor: CursorParam = None,
) -> PageOut[CaseSummaryOut]:
    """Related rises of risk, most recently changed first."""
    agent = None if agent_id is None else AgentSelector(agent_id, tenant, issuer)
    search = CaseSearch(status or "", owner or "", level or "", agent, tenant or "")
    page = await cases.search(caller, search, limit, cursor)
    return PageOut(items=[CaseSummaryOut.of(listed) for listed in page.items], next_cursor=page.next_cursor)


@router.get("/v1/cases/statistics", summary="Retrieve statistics of cases")
async def get_case_statistics(
    caller: ReaderDep,
    cases: CaseServiceDep,
    days: Annotated[int, Query(ge=1, le=366, description="Only cases opened in the last so many days.")] = 30,
) -> CaseStatisticsOut:
    """Returns the cases that were opened, by verdict, and how soon people acknowledged them."""
    counted = await cases.statistics(caller, days)
    by_day = [{"day": format_day(day), "opened": opened} for day, opened in sorted(counted.by_day.items())]
    return CaseStatisticsOut.of(counted, days=days, by_day=by_day)


@router.get("/v1/cases/{case_id}", responses=UNKNOWN_CASE, summary="Retrieve a case")
async def get_case(case_id: CaseIdParam, caller: ReaderDep, cases: CaseServiceDep) -> CaseOut:
    """Returns a case with its agents, what connects them, and what people did."""
    return case_out(await cases.get(caller, case_id))


@router.get("/v1/cases/{case_id}/timeline", responses=UNKNOWN_CASE, summary="Retrieve the timeline of a case")
async def get_case_timeline(case_id: CaseIdParam, caller: ReaderDep, story: CaseStoryDep) -> TimelineOut:
    """Returns events around each rise, decisions, tokens, approvals, actuations and acts, in order of time.

    With `trust.admin`, messages to people are included.
    """
    return await story.tell(caller, case_id, lambda _, items: timeline_out(case_id, items))


@router.get(
    "/v1/cases/{case_id}/report",
    responses={**UNKNOWN_CASE, 200: {"content": {"text/markdown": {"schema": {"type": "string"}}}}},
    response_class=PlainTextResponse,
    summary="Retrieve a case as a document",
)
async def get_case_report(case_id: CaseIdParam, caller: ReaderDep, story: CaseStoryDep) -> PlainTextResponse:
    """Returns the case and its timeline as Markdown, for a ticket."""
    text = await story.tell(caller, case_id, render_markdown)
    return PlainTextResponse(text, media_type="text/markdown; charset=utf-8")


async def _after_act(cases: CaseService, caller: AuthenticatedCaller, case_id: str) -> CaseOut:
    """A case as the answer to an act on it: of its entries those that are news."""
    return case_out(await cases.get(caller, case_id, ENTRIES_AFTER_ACT))


@router.post("/v1/cases/{case_id}/acknowledge", responses=ACT_RESPONSES, summary="Acknowledge a case")
async def acknowledge_case(
    case_id: CaseIdParam, caller: ReviewerDep, cases: CaseServiceDep, act: CaseAcknowledgementIn
) -> CaseOut:
    """The caller becomes the owner, unless the case has one."""
    await cases.acknowledge(caller, case_id, act.note)
    return await _after_act(cases, caller, case_id)


@router.post("/v1/cases/{case_id}/assign", responses=ACT_RESPONSES, summary="Assign a case")
async def assign_case(
    case_id: CaseIdParam, caller: ReviewerDep, cases: CaseServiceDep, act: CaseAssignmentIn
) -> CaseOut:
    """Sets the person who works on the case."""
    await cases.assign(caller, case_id, act.owner, act.note)
    return await _after_act(cases, caller, case_id)


@router.post("/v1/cases/{case_id}/notes", status_code=201, responses=ACT_RESPONSES, summary="Add a note to a case")
async def add_case_note(case_id: CaseIdParam, caller: ReviewerDep, cases: CaseServiceDep, act: CaseNoteIn) -> CaseOut:
    """Adds a note, also to a closed case."""
    await cases.note(caller, case_id, act.note)
    return await _after_act(cases, caller, case_id)


@router.post("/v1/cases/{case_id}/snooze", responses=ACT_RESPONSES, summary="Snooze a case")
async def snooze_case(case_id: CaseIdParam, caller: ReviewerDep, cases: CaseServiceDep, act: CaseSnoozeIn) -> CaseOut:
    """While the case is snoozed, targets are alerted only if it reaches a higher level."""
    await cases.snooze(caller, case_id, act.for_s, act.note)
    return await _after_act(cases, caller, case_id)


@router.post("/v1/cases/{case_id}/contain", responses=ACT_RESPONSES, summary="Contain a case")
async def contain_case(
    case_id: CaseIdParam, caller: ReviewerDep, cases: CaseServiceDep, act: CaseContainmentIn
) -> CaseOut:
    """The policy treats every agent of the case as critical until the pins expire or are ended."""
    await cases.contain(caller, case_id, act.note, pin=act.pin, valid_s=act.valid_s, revision=act.revision)
    return await _after_act(cases, caller, case_id)


@router.post("/v1/cases/{case_id}/close", responses=ACT_RESPONSES, summary="Close a case")
async def close_case(case_id: CaseIdParam, caller: ReviewerDep, cases: CaseServiceDep, act: CaseClosureIn) -> CaseOut:
    """Records the verdict. The windows of a true case are kept out of future training."""
    await cases.close(caller, case_id, act.verdict, act.note, release=act.release, revision=act.revision)
    return await _after_act(cases, caller, case_id)


@router.post("/v1/cases/{case_id}/reopen", responses=ACT_RESPONSES, summary="Reopen a case")
async def reopen_case(case_id: CaseIdParam, caller: ReviewerDep, cases: CaseServiceDep, act: CaseNoteIn) -> CaseOut:
    """Opens a closed case again."""
    await cases.reopen(caller, case_id, act.note)
    return await _after_act(cases, caller, case_id)


@router.post("/v1/cases/{case_id}/merge", responses=ACT_RESPONSES, summary="Merge a case into another")
async def merge_case(case_id: CaseIdParam, caller: ReviewerDep, cases: CaseServiceDep, act: CaseMergerIn) -> CaseOut:
    """Moves all agents, decisions and messages to the other case, which is returned."""
    await cases.merge(caller, case_id, act.into, act.note, revision=act.revision)
    return await _after_act(cases, caller, act.into)


@router.post("/v1/cases/{case_id}/split", status_code=201, responses=ACT_RESPONSES, summary="Split a case")
async def split_case(case_id: CaseIdParam, caller: ReviewerDep, cases: CaseServiceDep, act: CaseSplitIn) -> CaseOut:
    """Moves some agents to a new case, which is returned."""
    leaving = [AgentSelector(agent.agent_id, None, agent.issuer) for agent in act.agents]
    fresh = await cases.split(caller, case_id, leaving, act.note, revision=act.revision)
    return await _after_act(cases, caller, fresh.case_id)


def _make_services(services: ServiceRegistry) -> Sequence[object]:
    runtime, executor, agents = services.get(Runtime), services.get(StoreExecutor), services.get(AgentService)
    decision_point = services.get(PolicyDecisionPoint)
    interventions = decision_point.approval_workflow.active_interventions

    def held_at(name: AgentName) -> int | None:
        pin = interventions.active_pin(name.identity, runtime.now_ms())
        return None if pin is None else pin.level

    def level_of(name: AgentName) -> int | None:
        entry = runtime.risk_view.get(*name.identity)
        return None if entry is None else int(entry.summary.level)

    figures = CaseFigures(runtime, executor, services.get(ServiceMetrics))
    containment, feedback = services.get(ContainmentService), services.find(FeedbackService)
    acts = CaseAgentActs(agents, containment, feedback, runtime.now_ms, runtime.monotonic, held_at, level_of)
    resolver = services.get(AgentResolver)
    cases = CaseService(runtime, executor, acts, decision_point.audit_sink, resolver, figures)
    return figures, cases, CaseStory(runtime, executor, services.get(Ledger), cases, agents)


def _lifespans(services: ServiceRegistry) -> Sequence[LifespanService]:
    figures = services.find(CaseFigures)
    return () if figures is None else (figures,)


def _metric_values(services: ServiceRegistry) -> MetricValues:
    figures = services.find(CaseFigures)
    budget = services.get(Runtime).settings.risk.budget
    values: dict[str, LabelledValues] = {} if figures is None else dict(figures.values())
    values["trustwatch_alert_budget"] = {(level,): getattr(budget, level) for level in ("medium", "high", "critical")}
    return values


SLICE = Slice("cases", routers=(router,), services=_make_services, lifespans=_lifespans, metrics=_metric_values)
