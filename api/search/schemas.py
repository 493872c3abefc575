"""Bodies of the search."""
# No postponed annotations here: pydantic reads them.

from typing import Annotated, Any

import msgspec
from pydantic import Field

from trustwatch.ingest.described import (
    INDICATORS,
    REASONS,
    AgentId,
    DecisionId,
    EventId,
    IssuerName,
    PrincipalId,
    RiskScore,
    TenantName,
)
from trustwatch.ingest.timestamps import format_rfc3339
from trustwatch.scoring.records.agents import LevelName
from trustwatch.scoring.records.cases import CaseId
from trustwatch.scoring.store.search_store import SeenPrincipal

from ..agents.routes import AgentOut, agent_out
from ..cases.case_reports import ListedCase
from ..events.event_origin import origin_of
from ..http.schemas import IndicatorOut, ReasonOut
from ..http.wire import TimeText, Wire, level_word
from .query import SearchQuery
from .service import EventsFound, EventWithDecision, Found, FoundDecision, SearchResult


class SearchTermOut(Wire):
    """One thing that had to hold."""

    field: str | None = Field(description="null = a word that is searched in every name", examples=["address"])
    value: str = Field(description="value of the field, or the word", examples=["203.0.113.0/24"])


class SearchExtentOut(Wire):
    """Extent of the look for one kind."""

    looked_at: int | None = Field(description="how many were looked at; null = all there are")
    complete: bool = Field(description="whether nothing else fits")


class EventExtentOut(Wire):
    """Extent of the look for events."""

    logged: int | None = Field(description="records of the log that were looked at; null = there is no log here")
    archived: int | None = Field(description="rows of the archive that were looked at; null = none were")
    complete: bool = Field(description="whether no older event fits")
    trouble: str | None = Field(description="why the archive was not looked at, or not whole")


class FoundPersonOut(Wire):
    """A person or service that agents act for."""

    principal_id: PrincipalId
    tenant: TenantName
    issuer: IssuerName
    agents: int = Field(description="agents that act for it")
    last_seen_at: TimeText = Field(description="when one did last; may be an hour old")


class FoundCaseOut(Wire):
    """A case that fits; `GET /v1/cases/{case_id}` has all of it."""

    case_id: CaseId
    tenant: TenantName
    status: str = Field(description="open, acknowledged, contained or closed", examples=["open"])
    verdict: str | None = Field(description="verdict of a closed case; null = it is not closed", examples=["true"])
    highest_level: LevelName = Field(description="highest level that was reached", examples=["critical"])
    owner: str | None = Field(description="the person who works on it; null = none", examples=["ann@example.com"])
    agents: int = Field(description="how many")
    opened_at: TimeText
    updated_at: TimeText


class FoundDecisionOut(Wire):
    """A decision that fits; `GET /v1/decisions/{decision_id}` has all of it."""

    decision_id: DecisionId
    case_id: CaseId | None
    agent_id: AgentId
    tenant: TenantName
    issuer: IssuerName
    decided_at: TimeText
    event_id: EventId | None
    previous_level: LevelName = Field(description="level before the decision", examples=["medium"])
    level: LevelName = Field(description="risk level", examples=["high"])
    risk_score: RiskScore
    reasons: Annotated[list[ReasonOut], REASONS]
    indicators: Annotated[list[IndicatorOut], INDICATORS]


class FoundEventOut(Wire):
    """An event that fits."""

    event_id: EventId | None
    time: TimeText
    tenant: TenantName | None
    issuer: IssuerName | None
    agent_id: AgentId
    principal_id: PrincipalId | None
    type: str = Field(description="type of the event", examples=["tool.call"])
    action: str = Field(description="what the agent did", examples=["read_file"])
    resource: str | None = Field(description="id of what it acted on, else its type", examples=["ledger"])
    target: str | None = Field(description="destination", examples=["files.example.net"])
    outcome: str = Field(description="success, denied or error", examples=["success"])
    error: str | None = Field(description="why it did not succeed", examples=["insufficient_scope"])
    network: str | None = Field(description="autonomous system, else the network of the address", examples=["AS65537"])
    address: str | None = Field(description="IP address that it came from", examples=["203.0.113.7"])
    software: str | None = Field(description="user agent", examples=["curl/8.9.1"])
    credential: str | None = Field(description="method of the credential", examples=["private_key_jwt"])
    key: str | None = Field(description="thumbprint of the credential's key", examples=["NzbLsXh8uDCcd-6MNwXF4W"])
    instance: str | None = Field(description="instance of the agent", examples=["pod-7"])
    session: str | None = Field(description="session", examples=["s-19"])
    decision_id: str | None = Field(description="the decision that it brought")
    level: LevelName | None = Field(description="which it brought the agent to")


class SearchOut(Wire):
    """Results by kind; null = that kind was not looked for, or can not have what the query asks for."""

    terms: list[SearchTermOut] = Field(description="what had to hold")
    since: TimeText | None = Field(description="from when on was looked; null = no bound")
    until: TimeText | None = Field(description="before when; null = no bound")
    not_fields: list[str] = Field(description="beginnings of words that look like a field and are none")
    agents: list[AgentOut] | None = Field(description="the riskiest first")
    people: list[FoundPersonOut] | None = Field(description="last seen first")
    cases: list[FoundCaseOut] | None = Field(description="last changed first")
    decisions: list[FoundDecisionOut] | None = Field(description="newest first")
    events: list[FoundEventOut] | None = Field(description="newest first")
    extents: dict[str, SearchExtentOut] = Field(description="by kind; events have `event_extent`")
    event_extent: EventExtentOut | None = Field(description="null = events were not looked for")


def search_out(result: SearchResult) -> SearchOut:
    """A search as its answer."""
    kinds: dict[str, Found[Any] | None] = {
        "agents": result.agents,
        "people": result.people,
        "cases": result.cases,
        "decisions": result.decisions,
    }
    return SearchOut(
        **_query_out(result.query),
        agents=_listed(result.agents, agent_out),
        people=_listed(result.people, _person_out),
        cases=_listed(result.cases, _case_out),
        decisions=_listed(result.decisions, _decision_out),
        events=None if result.events is None else [_event_out(one) for one in result.events.items],
        extents={
            kind: SearchExtentOut(looked_at=found.looked_at, complete=found.complete)
            for kind, found in kinds.items()
            if found is not None
        },
        event_extent=None if result.events is None else _event_extent_out(result.events),
    )


def _query_out(query: SearchQuery) -> dict[str, Any]:
    since, until = query.times
    return {
        "terms": [SearchTermOut(field=term.field or None, value=term.value) for term in query.terms],
        "since": format_rfc3339(since) if since else None,
        "until": format_rfc3339(until) if until else None,
        "not_fields": list(query.not_fields),
    }


def _listed(found: Found[Any] | None, make: Any) -> list[Any] | None:
    return None if found is None else [make(one) for one in found.items]


def _person_out(person: SeenPrincipal) -> FoundPersonOut:
    return FoundPersonOut(
        principal_id=person.principal_id,
        tenant=person.tenant,
        issuer=person.issuer,
        agents=person.agents,
        last_seen_at=format_rfc3339(person.last_ms),
    )


def _case_out(listed: ListedCase) -> FoundCaseOut:
    case = listed.case
    return FoundCaseOut(
        case_id=case.case_id,
        tenant=case.tenant,
        status=case.status,
        verdict=case.verdict or None,
        highest_level=level_word(case.level),
        owner=case.owner or None,
        agents=case.agents,
        opened_at=format_rfc3339(case.opened_ms),
        updated_at=format_rfc3339(case.updated_ms),
    )


def _decision_out(found: FoundDecision) -> FoundDecisionOut:
    decision = found.decision
    return FoundDecisionOut(
        decision_id=decision.decision_id,
        case_id=found.case_id or None,
        agent_id=decision.agent.agent_id,
        tenant=decision.agent.tenant,
        issuer=decision.agent.issuer,
        decided_at=format_rfc3339(decision.decided_ms),
        event_id=decision.event_id or None,
        previous_level=level_word(decision.previous_level),
        level=level_word(decision.level),
        risk_score=decision.risk_score,
        reasons=msgspec.to_builtins(decision.reasons),
        indicators=msgspec.to_builtins(decision.indicators),
    )


def _event_out(shown: EventWithDecision) -> FoundEventOut:
    event, decision = shown.found.event, shown.decision
    resource = event.resource
    return FoundEventOut(
        event_id=event.id,
        time=format_rfc3339(int(event.time.timestamp() * 1000)),
        tenant=event.tenant,
        issuer=event.agent.issuer,
        agent_id=event.agent.id,
        principal_id=event.principal.id if event.principal else None,
        type=event.type,
        action=event.action,
        resource=(resource.id or resource.type) if resource else None,
        target=resource.target if resource else None,
        outcome=event.outcome,
        error=event.error,
        decision_id=None if decision is None else decision.decision_id,
        level=None if decision is None else level_word(decision.level),
        **{name: value or None for name, value in origin_of(event)._asdict().items()},
    )


def _event_extent_out(found: EventsFound) -> EventExtentOut:
    result = found.result
    damaged = f"{result.damaged} files of the archive can not be read" if result.damaged else ""
    return EventExtentOut(
        logged=result.logged,
        archived=result.archived,
        complete=result.complete,
        trouble=result.trouble or damaged or None,
    )
