"""Plain values of cases: rises of risk that belong together, until a person closes them. Times are UTC milliseconds."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from trustwatch.ingest.described import AgentType, DecisionId, Level, TenantName, member

from .agents import AgentName

CaseStatus = Literal["open", "acknowledged", "contained", "closed"]
CaseVerdict = Literal["true", "false", "expected"]
"""Verdict on a case: a real problem, none, or something planned."""
CaseTie = Literal["first", "delegation", "target", "key", "network", "merge", "split"]
"""Tie of an agent to a case: it is the first; it delegated to, or was delegated by, one that is in it; it had the
same new target, key or network; or a person put it there."""
CaseAction = Literal[
    "opened",
    "joined",
    "rose",
    "acknowledged",
    "assigned",
    "noted",
    "snoozed",
    "contained",
    "closed",
    "reopened",
    "merged",
    "split",
]

CaseId = Annotated[str, member("id of the case", "case-01KAW43D1JQ4V1S0Z3Y8M4C2QK")]

BY_SERVICE = "trustwatch"
"""Author of entries of the service."""


class Case(msgspec.Struct, frozen=True):
    """Rises of agents that belong together."""

    case_id: CaseId
    tenant: TenantName
    status: Annotated[CaseStatus, member("status of the case", "open")]
    verdict: Annotated[
        CaseVerdict | Literal[""], member("verdict; null if the case is not closed, or was merged", "false", null=True)
    ]
    level: Annotated[Level, member("highest level that an agent of it reached", "critical")]
    lead_decision_id: Annotated[DecisionId, member("decision that raised it to its highest level")]
    opened_ms: Annotated[int, member("when it was opened")]
    updated_ms: Annotated[int, member("time of the last change")]
    risen_ms: Annotated[int, member("when an agent of the case last rose")]
    acknowledged_ms: Annotated[int, member("when a person acknowledged it; null until then", null=True)]
    contained_ms: Annotated[int, member("when a person contained it; null until then", null=True)]
    closed_ms: Annotated[int, member("when a person closed it; null while it is open", null=True)]
    held_until_ms: Annotated[int, member("until when the levels of its agents are pinned, if they are", null=True)]
    owner: Annotated[str, member("person who works on the case, if any", "ann@example.com", null=True)]
    snoozed_until_ms: Annotated[int, member("until when only a higher level alerts; null if not snoozed", null=True)]
    merged_into: Annotated[str, member("case that it was merged into, if any", null=True)]
    agents: Annotated[int, member("number of agents", 3)]
    decisions: Annotated[int, member("number of decisions", 7)]
    revision: Annotated[int, member("incremented with every change")]


class CaseAgent(msgspec.Struct, frozen=True):
    """An agent of a case; *ordinal* is its position in the order of joining, from 1."""

    case_id: str
    agent: AgentName
    agent_type: AgentType
    ordinal: int
    level: Annotated[Level, member("level after the last decision about it", "high")]
    peak: Annotated[Level, member("highest level since it joined", "critical")]
    joined_ms: Annotated[int, member("when it joined the case")]
    last_ms: Annotated[int, member("time of the last rise")]
    decision_id: Annotated[DecisionId, member("decision that raised it to its highest level")]
    tie: Annotated[CaseTie, member("what added it to the case", "network")]
    tied_by: Annotated[str, member("shared value, agent or person that connects it", "203.0.113.0/24")]


class CaseEntry(msgspec.Struct, frozen=True):
    """An entry in a case's history. *note* is a person's text; *detail* a JSON object of what changed."""

    case_id: str
    sequence: int
    at_ms: Annotated[int, member("when it happened")]
    by: Annotated[str, member("person; `trustwatch` is the service itself", "analyst")]
    action: Annotated[CaseAction, member("what was done", "acknowledged")]
    note: Annotated[str, member("note of the person, if any", "checked with the team", null=True)]
    detail: Annotated[bytes, member("what changed, by action")] = b"{}"


class SharedIndicator(msgspec.Struct, frozen=True):
    """A new target, key or network that agents of a case had, and how many agents had it."""

    kind: Annotated[CaseTie, member("target, key or network", "network")]
    value: Annotated[str, member("value of the target, key or network", "203.0.113.0/24")]
    agents: Annotated[int, member("number of agents", 3)]
    last_ms: Annotated[int, member("time of the last event with it")]


class CaseStatistics(msgspec.Struct, frozen=True):
    """Outcomes of the cases opened in a period; *by_day* counts opened cases by day of UTC since 1970."""

    opened: Annotated[int, member("cases that were opened; merged cases are not counted")]
    closed: Annotated[dict[str, int], member("closed cases by verdict; merged cases are not counted")]
    acknowledged: Annotated[int, member("cases that a person acknowledged")]
    contained: Annotated[int, member("cases that a person contained")]
    acknowledge_p50_s: Annotated[float | None, member("median time until a case was acknowledged, s; null if none was")]
    contain_p50_s: Annotated[float | None, member("median time until a case was contained, s; null if none was")]
    by_day: dict[int, int]


class WaitingCases(msgspec.Struct, frozen=True):
    """Cases that are not closed, by status and highest level; *oldest_ms* is when the first of them was opened."""

    status: CaseStatus
    level: int
    count: int
    oldest_ms: int


class CaseOfAlert(msgspec.Struct, frozen=True):
    """The case that an alert belongs to, when the alert was assigned.

    Attributes:
        is_new: the alert opened it.
        above_low: agents of it that are at medium or above.
        tie: what added the alert's agent to it, as text; "" for the first agent.
        wakes: the case was contained, and waits for a person again because of this alert.
    """

    case_id: str
    status: CaseStatus
    opened_ms: int
    is_new: bool
    level: int
    agents: int
    above_low: int
    tie: str
    snoozed_until_ms: int
    wakes: bool
