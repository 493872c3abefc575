"""Bodies of cases."""
# No postponed annotations here: pydantic reads them.

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from trustwatch.ingest.timestamps import DAY_MS, format_rfc3339
from trustwatch.scoring.records.cases import (
    Case,
    CaseAction,
    CaseAgent,
    CaseEntry,
    CaseStatistics,
    CaseStatus,
    CaseTie,
    CaseVerdict,
    SharedIndicator,
)

from ..http.agent_lookup import AgentSelector
from ..http.reasons import MAX_REASON_LENGTH
from ..http.schemas import AgentId, Level, NameText, ReasonOut, TimeText, format_rfc3339_or_none, level_word
from .case_reports import CaseReport, ListedCase
from .case_requests import MAX_HOLD_S, MAX_OWNER_LENGTH, MAX_SNOOZE_S, MIN_HOLD_S
from .timeline import TimelineItem, TimelineKind

NoteText = Annotated[str, Field(max_length=MAX_REASON_LENGTH)]
CaseId = Annotated[str, Field(min_length=1, max_length=100)]


class _CaseAct(BaseModel):
    model_config = ConfigDict(extra="forbid")


RevisionSeen = Annotated[
    int | None,
    Field(ge=0, description="`revision` that this is decided upon; 409 where the case has changed; null = any"),
]


class CaseAcknowledgementIn(_CaseAct):
    """Somebody looks at a case."""

    note: NoteText = Field("", description="kept with the case")


class CaseAssignmentIn(_CaseAct):
    """The person who is to work on a case."""

    owner: Annotated[str, Field(max_length=MAX_OWNER_LENGTH)] = Field(description="a person; empty takes it from all")
    note: NoteText = Field("", description="kept with the case")


class CaseNoteIn(_CaseAct):
    """Words of a person."""

    note: NoteText = Field(description="kept with the case")


class CaseSnoozeIn(_CaseAct):
    """For how long nobody is told of a case."""

    for_s: float = Field(description="from 60 s to 30 days; 0 ends it", ge=0, le=MAX_SNOOZE_S)
    note: NoteText = Field(description="why; kept with the case")


class CaseContainmentIn(_CaseAct):
    """Containment of a case."""

    note: NoteText = Field(description="why; kept with the case and with each pin")
    pin: bool = Field(True, description="act on every agent of it as critical")
    valid_s: float = Field(3_600, description="how long the pins hold, s", ge=MIN_HOLD_S, le=MAX_HOLD_S)
    revision: RevisionSeen = None


class CaseClosureIn(_CaseAct):
    """Verdict on a case, as a person closes it."""

    verdict: CaseVerdict = Field(description="`true`: trouble; `false`: none; `expected`: something that was planned")
    note: NoteText = Field(description="why; kept with the case")
    release: bool = Field(False, description="drop the evidence against its agents and end fixed levels")
    revision: RevisionSeen = None


class CaseMergerIn(_CaseAct):
    """The case that takes all of this one."""

    into: CaseId = Field(description="id of an open case of the same tenant; `revision` is of that one")
    note: NoteText = Field("", description="kept with both")
    revision: RevisionSeen = None


class CaseAgentIn(_CaseAct):
    """An agent of a case."""

    agent_id: AgentId
    issuer: NameText | None = Field(None, description="where its id is not unique in the case")


class CaseSplitIn(_CaseAct):
    """Agents that become a case of their own."""

    agents: list[CaseAgentIn] = Field(min_length=1, max_length=200)
    note: NoteText = Field(description="why; kept with both")
    revision: RevisionSeen = None


class CaseAgentOut(BaseModel):
    """An agent of a case."""

    agent_id: str
    issuer: str
    agent_type: str
    level: Level = Field(description="what the last decision about it came to")
    highest_level: Level
    joined_at: TimeText
    last_risen_at: TimeText
    decision_id: str = Field(description="the decision that brought it to its highest level")
    tie: CaseTie = Field(description="what put it into the case")
    tied_by: str = Field(description="the value that it shares, the agent, or the person")


class CaseSummaryOut(BaseModel):
    """A case in a list."""

    case_id: str
    tenant: str
    status: CaseStatus
    verdict: CaseVerdict | None
    highest_level: Level
    owner: str | None
    opened_at: TimeText
    updated_at: TimeText
    last_risen_at: TimeText
    acknowledged_at: TimeText | None
    contained_at: TimeText | None
    held_until: TimeText | None
    closed_at: TimeText | None
    snoozed_until: TimeText | None
    merged_into: str | None
    agents_count: int
    decisions_count: int
    revision: int = Field(description="rises with every change")
    decision_id: str = Field(description="the decision that brought it to its highest level")
    reason: str | None = Field(description="leading reason of that decision")
    agents: list[CaseAgentOut] = Field(description="in lists at most the first three")


class SharedIndicatorOut(BaseModel):
    """A new target, key or network of agents of a case."""

    kind: CaseTie
    value: str
    agents_count: int
    last_seen_at: TimeText


class CaseEntryOut(BaseModel):
    """One thing that was done to a case."""

    at: TimeText
    by: str = Field(description="a person; `trustwatch` is the service itself")
    action: CaseAction
    note: str | None
    detail: dict[str, Any] = Field(description="what changed, by action")


class CaseOut(CaseSummaryOut):
    """A case with all that is kept of it."""

    reasons: list[ReasonOut] = Field(description="of the decision that brought it to its highest level")
    shared: list[SharedIndicatorOut]
    entries: list[CaseEntryOut] = Field(description="oldest first; the newest 1,000, after an act the newest 20")
    entries_before: int = Field(description="older entries, which are not among them")


class TimelineItemOut(BaseModel):
    """One thing that happened in a case."""

    at: TimeText
    kind: TimelineKind
    agent_id: str | None = Field(description="null = the case as a whole")
    text: str
    indicators: list[tuple[str, str]] = Field(description="kind and value of what an event came with")
    decision_id: str | None


class TimelineOut(BaseModel):
    """The story of a case."""

    case_id: str
    items: list[TimelineItemOut] = Field(description="oldest first")


class CaseDayOut(BaseModel):
    """Cases of one day."""

    day: str = Field(description="UTC", examples=["2026-11-24"])
    opened: int = Field(description="cases that were opened")


class CaseStatisticsOut(BaseModel):
    """Outcomes of the cases of some days."""

    days: int = Field(description="days that were looked at")
    opened: int = Field(description="cases that were opened; merged ones are not counted")
    closed: dict[str, int] = Field(description="closed ones by what they turned out to be")
    acknowledged: int = Field(description="cases that a person looked at")
    contained: int = Field(description="cases that a person contained")
    acknowledge_p50_s: float | None = Field(description="half were looked at within this time, s; null = none was")
    contain_p50_s: float | None = Field(description="half were contained within this time, s; null = none was")
    by_day: list[CaseDayOut] = Field(description="days on which any was opened, oldest first")


def case_statistics_out(days: int, counted: CaseStatistics) -> CaseStatisticsOut:
    """Statistics as they are answered."""
    return CaseStatisticsOut(
        days=days,
        opened=counted.opened,
        closed=counted.closed,
        acknowledged=counted.acknowledged,
        contained=counted.contained,
        acknowledge_p50_s=counted.acknowledge_p50_s,
        contain_p50_s=counted.contain_p50_s,
        by_day=[
            CaseDayOut(day=format_rfc3339(day * DAY_MS)[:10], opened=opened)
            for day, opened in sorted(counted.by_day.items())
        ],
    )


def case_agent_out(case_agent: CaseAgent) -> CaseAgentOut:
    """An agent of a case as it is answered."""
    return CaseAgentOut(
        agent_id=case_agent.agent.agent_id,
        issuer=case_agent.agent.issuer,
        agent_type=case_agent.agent_type,
        level=level_word(case_agent.level),
        highest_level=level_word(case_agent.peak),
        joined_at=format_rfc3339(case_agent.joined_ms),
        last_risen_at=format_rfc3339(case_agent.last_ms),
        decision_id=case_agent.decision_id,
        tie=case_agent.tie,
        tied_by=case_agent.tied_by,
    )


def case_summary_out(listed: ListedCase) -> CaseSummaryOut:
    """A case of a list as it is answered."""
    return CaseSummaryOut(**_summary_values(listed))


def case_out(report: CaseReport) -> CaseOut:
    """A case as it is answered."""
    reasons = [] if report.lead is None else msgspec.to_builtins(report.lead.reasons)
    return CaseOut(
        **_summary_values(ListedCase(report.case, report.agents, report.lead)),
        reasons=reasons,
        shared=[_shared_out(indicator) for indicator in report.shared],
        entries=[_entry_out(entry) for entry in report.entries],
        entries_before=report.entries_before or 0,
    )


def timeline_out(case_id: str, items: Sequence[TimelineItem]) -> TimelineOut:
    """A timeline as it is answered."""
    return TimelineOut(
        case_id=case_id,
        items=[
            TimelineItemOut(
                at=format_rfc3339(item.at_ms),
                kind=item.kind,
                agent_id=item.agent_id or None,
                text=item.text,
                indicators=list(item.indicators),
                decision_id=item.decision_id or None,
            )
            for item in items
        ],
    )


def selectors(agents: list[CaseAgentIn]) -> list[AgentSelector]:
    """Agents that a body names."""
    return [AgentSelector(agent.agent_id, None, agent.issuer) for agent in agents]


def _summary_values(listed: ListedCase) -> dict[str, Any]:
    case, lead = listed.case, listed.lead
    return {
        "case_id": case.case_id,
        "tenant": case.tenant,
        "status": case.status,
        "verdict": case.verdict or None,
        "highest_level": level_word(case.level),
        "owner": case.owner or None,
        **_times(case),
        "merged_into": case.merged_into or None,
        "agents_count": case.agents,
        "decisions_count": case.decisions,
        "revision": case.revision,
        "decision_id": case.lead_decision_id,
        "reason": lead.reasons[0].text if lead is not None and lead.reasons else None,
        "agents": [case_agent_out(case_agent) for case_agent in listed.agents],
    }


def _times(case: Case) -> dict[str, str | None]:
    return {
        "opened_at": format_rfc3339(case.opened_ms),
        "updated_at": format_rfc3339(case.updated_ms),
        "last_risen_at": format_rfc3339(case.risen_ms),
        "acknowledged_at": format_rfc3339_or_none(case.acknowledged_ms),
        "contained_at": format_rfc3339_or_none(case.contained_ms),
        "held_until": format_rfc3339_or_none(case.held_until_ms),
        "closed_at": format_rfc3339_or_none(case.closed_ms),
        "snoozed_until": format_rfc3339_or_none(case.snoozed_until_ms),
    }


def _shared_out(indicator: SharedIndicator) -> SharedIndicatorOut:
    return SharedIndicatorOut(
        kind=indicator.kind,
        value=indicator.value,
        agents_count=indicator.agents,
        last_seen_at=format_rfc3339(indicator.last_ms),
    )


def _entry_out(entry: CaseEntry) -> CaseEntryOut:
    return CaseEntryOut(
        at=format_rfc3339(entry.at_ms),
        by=entry.by,
        action=entry.action,
        note=entry.note or None,
        detail=msgspec.json.decode(entry.detail),
    )
