"""Decisions that set the levels which agents are at: a list tells why an agent is there, not what it did last."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ...scoring.records.agents import AgentSummary, RiskLevel
from ...scoring.records.decisions import Decision
from ...scoring.store.sql_store import SqlStore

MAX_DECISIONS_LOOKED_UP = 60
"""Decisions that one page looks up."""


def decisions_behind_levels(
    store: SqlStore, agents: Iterable[AgentSummary], tenants: Collection[str] | None
) -> dict[str, Decision]:
    """Decision by its id, of agents above low. Blocks."""
    wanted = [one.decision_id for one in agents if one.level >= RiskLevel.MEDIUM and one.decision_id][
        :MAX_DECISIONS_LOOKED_UP
    ]
    found = ((one, store.decisions.get(one, tenants)) for one in wanted)
    return {decision_id: decision for decision_id, decision in found if decision is not None}
