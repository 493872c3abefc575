"""Agents and decisions that pages of the console show."""

from __future__ import annotations

from typing import Any

from trustwatch.ingest.identities import IdentityHasher
from trustwatch.scoring.records.agents import AgentName, AgentRow
from trustwatch.scoring.records.decisions import Decision, RiskReason

NOW = 1_764_000_000.0
NOW_MS = int(NOW * 1000)
AS = "https://as.example"
REASON = RiskReason(
    "first_seen_resource", "resource_rarity", "acct-9001", "42 known accounts", 0.41, "first use of acct-9001"
)


def row_of(agent_id: str = "bot", tenant: str = "acme", level: int = 1, **more: Any) -> AgentRow:
    """An agent as the pipeline stores it."""
    name = AgentName(IdentityHasher().agent_key(tenant, AS, agent_id), tenant, AS, agent_id)
    given = {
        "agent_type": "Robot",
        "risk_score": 0.1 if level < 2 else 0.8,
        "confidence": 0.9,
        "anomaly_score": 0.5,
        "first_seen_ms": NOW_MS - 10**7,
        "last_seen_ms": NOW_MS,
        "evaluated_ms": NOW_MS,
        "due_ms": 0,
        "events": 100,
        "decision_id": "",
        "reasons": b"[]",
        "counterfactual": "",
        "features": b"",
        "risk": b"",
        "state_version": "t",
    }
    return AgentRow(name=name, level=level, **{**given, **more})


def decision_of(row: AgentRow, number: int, before: int = 1, **more: Any) -> Decision:
    """The decision that brought *row* to its level."""
    given = {
        "decision_id": f"d-{number}",
        "decided_ms": NOW_MS + number,
        "event_id": "e",
        "event_time_ms": NOW_MS + number,
        "risk_score": row.risk_score,
        "confidence": 0.9,
        "anomaly_score": 0.9,
        "p_value": 0.001,
        "reasons": (REASON,),
        "counterfactual": "medium if at most 2 new accounts per hour",
        "feature_vector": {"resource_rarity": 3.0},
        "evidence": {},
        "model_version": "m1",
        "baseline_version": "b1",
        "policy_version": "3",
        "mode": "enforce",
        "cause": "event",
        "partition": 0,
        "offset": number,
    }
    return Decision(
        agent=row.name, agent_type=row.agent_type, previous_level=before, level=row.level, **{**given, **more}
    )
