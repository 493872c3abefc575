"""Bodies of answers about decisions."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict

from trustwatch.ingest.timestamps import format_rfc3339
from trustwatch.scoring.pipeline.ipc import LevelChange
from trustwatch.scoring.records.agents import ConcernName
from trustwatch.scoring.records.decisions import Decision

from ..http.schemas import IndicatorOut, Level, ReasonOut, TimeText, concern_or_none, level_word


def decision_out(decision: Decision) -> DecisionOut:
    """A decision with all that it keeps."""
    same = (
        "decision_id",
        "agent_type",
        "cause",
        "risk_score",
        "confidence",
        "anomaly_score",
        "p_value",
        "feature_vector",
        "model_version",
        "baseline_version",
        "policy_version",
        "mode",
        "partition",
        "offset",
    )
    return DecisionOut(
        agent_id=decision.agent.agent_id,
        tenant=decision.agent.tenant,
        issuer=decision.agent.issuer,
        decided_at=format_rfc3339(decision.decided_ms),
        event_id=decision.event_id or None,
        event_time=format_rfc3339(decision.event_time_ms),
        previous_level=level_word(decision.previous_level),
        level=level_word(decision.level),
        reasons=msgspec.to_builtins(decision.reasons),
        indicators=msgspec.to_builtins(decision.indicators),
        evidence={name: value for name, value in decision.evidence.items() if name != "indicators"},
        counterfactual=decision.counterfactual or None,
        concern=concern_or_none(decision.concern),
        **{name: getattr(decision, name) for name in same},
    )


def level_change_out(change: LevelChange) -> dict[str, Any]:
    """A change of level for a stream."""
    return {
        "decision_id": change.decision_id,
        "tenant": change.tenant,
        "agent_id": change.agent_id,
        "previous_level": level_word(change.previous_level),
        "level": level_word(change.level),
        "risk_score": round(change.risk_score, 4),
        "text": change.text,
        "event_time": format_rfc3339(change.event_time_ms),
        "decided_at": format_rfc3339(change.decided_ms),
    }


class DecisionOut(BaseModel):
    """A change of level, with everything that led to it."""

    model_config = ConfigDict(protected_namespaces=())

    decision_id: str
    agent_id: str
    tenant: str
    issuer: str
    agent_type: str
    decided_at: TimeText
    cause: Literal["event", "tick", "release", "feedback"]
    event_id: str | None
    event_time: TimeText
    previous_level: Level
    level: Level
    concern: ConcernName | None
    risk_score: float
    confidence: float
    anomaly_score: float
    p_value: float
    reasons: list[ReasonOut]
    indicators: list[IndicatorOut]
    counterfactual: str | None
    feature_vector: dict[str, float]
    evidence: dict[str, Any]
    model_version: str
    baseline_version: str
    policy_version: str
    mode: str
    partition: int
    offset: int
