"""Rows of lists as files have them: names as in the API, times as RFC 3339."""

from __future__ import annotations

from typing import Any

from trustwatch.ingest.timestamps import format_rfc3339
from trustwatch.scoring.records.agents import AgentSummary, RiskLevel
from trustwatch.scoring.records.decisions import Decision

from ...cases.case_reports import ListedCase
from .case_display import lead_reason


def agent_row(agent: AgentSummary) -> dict[str, Any]:
    """An agent as it is at."""
    name = agent.name
    return {
        "agent_id": name.agent_id,
        "tenant": name.tenant,
        "issuer": name.issuer,
        "agent_type": agent.agent_type,
        "risk_level": RiskLevel(agent.level).label,
        "concern": agent.concern or None,
        "risk_score": agent.risk_score,
        "confidence": agent.confidence,
        "events": agent.events,
        "first_seen_at": _time(agent.first_seen_ms),
        "last_seen_at": _time(agent.last_seen_ms),
        "decision_id": agent.decision_id or None,
    }


def decision_row(decision: Decision) -> dict[str, Any]:
    """A change of level, with its reasons and indicators as texts."""
    name = decision.agent
    return {
        "decided_at": format_rfc3339(decision.decided_ms),
        "event_time": _time(decision.event_time_ms),
        "agent_id": name.agent_id,
        "tenant": name.tenant,
        "issuer": name.issuer,
        "agent_type": decision.agent_type,
        "previous_level": RiskLevel(decision.previous_level).label,
        "level": RiskLevel(decision.level).label,
        "concern": decision.concern or None,
        "risk_score": decision.risk_score,
        "cause": decision.cause,
        "mode": decision.mode,
        "reasons": [reason.text for reason in decision.reasons],
        "indicators": [f"{one.kind} {one.value}" for one in decision.indicators],
        "decision_id": decision.decision_id,
        "event_id": decision.event_id or None,
        "model_version": decision.model_version,
        "policy_version": decision.policy_version,
    }


def case_row(listed: ListedCase) -> dict[str, Any]:
    """A case, with its first agents."""
    case = listed.case
    return {
        "case_id": case.case_id,
        "tenant": case.tenant,
        "status": case.status,
        "verdict": case.verdict or None,
        "highest_level": RiskLevel(case.level).label,
        "leading_reason": lead_reason(listed.lead),
        "agents_count": case.agents,
        "first_agents": [one.agent.agent_id for one in listed.agents],
        "owner": case.owner or None,
        "opened_at": _time(case.opened_ms),
        "last_risen_at": _time(case.risen_ms),
        "acknowledged_at": _time(case.acknowledged_ms),
        "contained_at": _time(case.contained_ms),
        "closed_at": _time(case.closed_ms),
    }


def _time(at_ms: int) -> str | None:
    """A time; None = it was not."""
    return format_rfc3339(at_ms) if at_ms else None
