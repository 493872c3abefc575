"""Assignment of alerts to cases, in the transaction that routes them.

A rise to medium or above belongs, in this order, to the open case

1. of its agent, however old;
2. of an agent that it delegated to or was delegated by, if that one rose within the window;
3. of an agent that had the same new target, key or network, if that one rose within the window;

else it opens one. A fall belongs to the open case of its agent, if there is one. Cases of different tenants never meet.
One process routes at a time, so what it decides here nobody else decides otherwise meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from sqlalchemy import Connection

from ..records.agents import RiskLevel
from ..records.cases import CaseAgent, CaseOfAlert, CaseStatus, CaseTie
from .open_cases import AlertedLevelChange, OpenCase, OpenCases, read_level_change, tie_digest


class CaseSettings(NamedTuple):
    """Bounds of cases. No operator sets them: a day is how far apart people look for one cause.

    Attributes:
        window_s: a rise joins the case of an agent that it delegates to or was delegated by, or that had the same new
            target, key or network, if that agent rose within this time.
        max_agents: agents of one case; further ones open another: nobody reads a longer list.
    """

    window_s: int = 86_400
    max_agents: int = 200


DEFAULT_CASES = CaseSettings()


if TYPE_CHECKING:
    from .codec import AnyRow


def assign_cases(connection: Connection, rows: Sequence[AnyRow], rule: CaseSettings) -> dict[int, CaseOfAlert]:
    """Put the alerts among *rows* (of the outbox, in order) into cases, and write these."""
    changes = [change for row in rows if (change := read_level_change(row)) is not None]
    if not changes:
        return {}
    cases = OpenCases(connection, changes, rule.window_s)
    assignment = _Assignment(cases, rule)
    case_of_row = {change.seq: case for change in changes if (case := assignment.assign(change)) is not None}
    cases.write()
    return case_of_row


class _Assignment:
    """One walk over changes of level."""

    def __init__(self, cases: OpenCases, rule: CaseSettings) -> None:
        self._cases = cases
        self._rule = rule

    def assign(self, change: AlertedLevelChange) -> CaseOfAlert | None:
        """The case of one change, with the change in it; None for a fall of an agent without one."""
        case, tie, tied_by = self._find(change)
        if case is None:
            if not change.rises:
                return None
            case, tie, tied_by = self._cases.open(change), "first", ""
        case.wakes = False
        self._add(case, change, tie, tied_by)
        return CaseOfAlert(
            case.case_id,
            case.row["status"],
            int(case.row["opened_ms"]),
            case.row["decisions"] == 1,
            int(case.row["level"]),
            len(case.agents),
            sum(agent.level >= RiskLevel.MEDIUM for agent in case.agents.values()),
            tie_words(tie, tied_by),
            int(case.row["snoozed_until_ms"]),
            case.wakes,
        )

    def _find(self, change: AlertedLevelChange) -> tuple[OpenCase | None, CaseTie, str]:
        """The case that a change belongs to, and what ties its agent to it; None = none that is open."""
        agent, cases, room = change.agent, self._cases, self._rule.max_agents
        own = cases.of_agent(agent)
        if own is not None:
            mine = own.agents[agent.key]
            return own, mine.tie, mine.tied_by
        if not change.rises:
            return None, "first", ""
        since = change.at_ms - self._rule.window_s * 1000
        for key in cases.neighbours_of(agent):
            near = cases.with_neighbour(key, agent.tenant, since, room)
            if near is not None:
                return near, "delegation", near.agents[key].agent.agent_id
        for kind, value in change.ties:
            sharing = cases.with_tie(tie_digest(agent.tenant, kind, value), since, room)
            if sharing is not None:
                return sharing, kind, value
        return None, "first", ""

    def _add(self, case: OpenCase, change: AlertedLevelChange, tie: CaseTie, tied_by: str) -> None:
        """Write a change into its case."""
        case_agent = case.agents.get(change.agent.key)
        if case_agent is None:
            self._join(case, change, tie, tied_by)
        else:
            _move(case, change, case_agent)
        row = case.row
        if change.level > row["level"]:
            row |= {"level": change.level, "lead_decision_id": change.decision_id, "snoozed_until_ms": 0}
        row["updated_ms"] = max(row["updated_ms"], change.at_ms)
        if change.rises:
            row["risen_ms"] = max(row["risen_ms"], change.at_ms)
            self._cases.add_ties(case, change)
        row |= {"agents": len(case.agents), "decisions": row["decisions"] + 1}
        self._cases.add_decision(case, change)

    def _join(self, case: OpenCase, change: AlertedLevelChange, tie: CaseTie, tied_by: str) -> None:
        case_agent = CaseAgent(
            case.case_id,
            change.agent,
            change.agent_type,
            len(case.agents) + 1,
            change.level,
            change.level,
            change.at_ms,
            change.at_ms,
            change.decision_id,
            tie,
            tied_by,
        )
        self._cases.join(case, case_agent)
        if tie != "first":
            detail = {"agent": change.agent.agent_id, "tie": tie, "tied_by": tied_by, "decision": change.decision_id}
            case.add_entry(change.at_ms, "joined", detail | _wake(case))


def _move(case: OpenCase, change: AlertedLevelChange, case_agent: CaseAgent) -> None:
    """Write the change of an agent that is in the case already."""
    last_ms = max(case_agent.last_ms, change.at_ms) if change.rises else case_agent.last_ms
    moved: dict[str, Any] = {"level": change.level, "last_ms": last_ms}
    if change.level > case_agent.peak:
        moved |= {"peak": change.level, "decision_id": change.decision_id}
    case.put_agent(msgspec.structs.replace(case_agent, **moved))
    held_until_ms = int(case.row["held_until_ms"])
    if change.level > case.row["level"] or (change.rises and held_until_ms and change.at_ms > held_until_ms):
        detail = {
            "agent": change.agent.agent_id,
            "level": RiskLevel(change.level).label,
            "decision": change.decision_id,
        }
        case.add_entry(change.at_ms, "rose", detail | _wake(case))


def _wake(case: OpenCase) -> dict[str, str]:
    """A contained case that grows is not contained any more: it waits for a person again, and is told of."""
    if case.row["status"] != "contained":
        return {}
    status: CaseStatus = "acknowledged" if case.row["owner"] else "open"
    case.row |= {"status": status, "held_until_ms": 0, "snoozed_until_ms": 0}
    case.wakes = True
    return {"status": status}


def tie_words(tie: CaseTie, tied_by: str) -> str:
    """Words for what put an agent into a case; "" for the first.

    >>> tie_words("target", "https://evil.example"), tie_words("first", "")
    ('the same new target https://evil.example', '')
    """
    if tie == "first":
        return ""
    if tie == "delegation":
        return f"delegation between it and {tied_by}"
    if tie in ("merge", "split"):
        return f"{tied_by} put it there"
    return f"the same new {tie} {tied_by}"
