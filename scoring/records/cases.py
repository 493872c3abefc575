"""Plain values of cases: rises of risk that belong together, until a person closes them. Times are UTC milliseconds."""

from __future__ import annotations

from typing import Literal

import msgspec

from .agents import AgentName

CaseStatus = Literal["open", "acknowledged", "contained", "closed"]
CaseVerdict = Literal["true", "false", "expected"]
"""Verdict on a case: it was trouble, none, or something that was planned."""
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

BY_SERVICE = "trustwatch"
"""Author of entries that no person made."""


class Case(msgspec.Struct, frozen=True):
    """Rises of agents that belong together.

    Attributes:
        verdict: of a closed case; "" = it is not closed, or was merged into another.
        level: the highest that an agent of it reached.
        lead_decision_id: the decision that brought it to that level.
        risen_ms: when an agent of it rose last.
        acknowledged_ms, contained_ms: when a person first did so; 0 = not.
        closed_ms: when it was closed; 0 = it is open.
        held_until_ms: of a contained one, until when the levels of its agents are fixed; 0 = they were not.
        owner: who works on it; "" = nobody.
        snoozed_until_ms: nothing is told until then, but of a higher level; 0 = it is not snoozed.
        merged_into: the case that has all of it now; "" = none.
        agents, decisions: how many.
        revision: rises with every change.
    """

    case_id: str
    tenant: str
    status: CaseStatus
    verdict: CaseVerdict | Literal[""]
    level: int
    lead_decision_id: str
    opened_ms: int
    updated_ms: int
    risen_ms: int
    acknowledged_ms: int
    contained_ms: int
    closed_ms: int
    held_until_ms: int
    owner: str
    snoozed_until_ms: int
    merged_into: str
    agents: int
    decisions: int
    revision: int


class CaseAgent(msgspec.Struct, frozen=True):
    """An agent of a case.

    Attributes:
        ordinal: its place in the order of joining, from 1.
        level: what the last decision about it came to.
        peak: the highest level since it joined.
        decision_id: the decision that brought it to `peak`.
        tie, tied_by: what put it into the case, and the value that it shares, or the agent, or the person.
    """

    case_id: str
    agent: AgentName
    agent_type: str
    ordinal: int
    level: int
    peak: int
    joined_ms: int
    last_ms: int
    decision_id: str
    tie: CaseTie
    tied_by: str


class CaseEntry(msgspec.Struct, frozen=True):
    """One thing that was done to a case. *note* is a person's words; *detail* a JSON object of what changed."""

    case_id: str
    sequence: int
    at_ms: int
    by: str
    action: CaseAction
    note: str
    detail: bytes = b"{}"


class SharedIndicator(msgspec.Struct, frozen=True):
    """A new target, key or network that agents of a case had, and how many of them."""

    kind: CaseTie
    value: str
    agents: int
    last_ms: int


class CaseStatistics(msgspec.Struct, frozen=True):
    """Cases that were opened in a time, and how they went; times in seconds.

    Attributes:
        opened: how many.
        closed: by what they turned out to be; merged ones are not counted.
        acknowledged, contained: how many were.
        acknowledge_p50_s, contain_p50_s: half were within this time of their opening; None = none was.
        by_day: opened by day of UTC since 1970.
    """

    opened: int
    closed: dict[str, int]
    acknowledged: int
    contained: int
    acknowledge_p50_s: float | None
    contain_p50_s: float | None
    by_day: dict[int, int]


class WaitingCases(msgspec.Struct, frozen=True):
    """Cases that are not closed, of one status and highest level; *oldest_ms* is when the first of them was opened."""

    status: CaseStatus
    level: int
    count: int
    oldest_ms: int


class CaseOfAlert(msgspec.Struct, frozen=True):
    """The case that an alert belongs to, as of when it was put there.

    Attributes:
        is_new: the alert opened it.
        above_low: agents of it that are at medium or above.
        tie: what put the alert's agent into it, in words; "" = it is the first.
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
