"""From records to the bodies of answers."""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from ...scoring.pipeline.ipc import LevelChange
from ...scoring.records.agents import AgentSummary, Decision, Delivery, RiskLevel
from ...scoring.store.interface import StoredDeadLetter
from ..agents.risk_answer_cache import shows_reasons
from ..http.schemas import AgentOut, DeadLetterOut, DecisionOut, DeliveryOut, format_rfc3339, format_rfc3339_or_none


def agent_out(summary: AgentSummary) -> AgentOut:
    """An agent for a list."""
    name = summary.name
    return AgentOut(
        agent_id=name.agent_id,
        tenant=name.tenant,
        issuer=name.issuer,
        agent_type=summary.agent_type,
        risk_level=level_word(summary.level),
        risk_score=summary.risk_score,
        confidence=summary.confidence,
        anomaly_score=summary.anomaly_score,
        first_seen_at=format_rfc3339_or_none(summary.first_seen_ms),
        last_seen_at=format_rfc3339_or_none(summary.last_seen_ms),
        evaluated_at=format_rfc3339_or_none(summary.evaluated_ms),
        events=summary.events,
        decision_id=summary.decision_id or None,
        reasons=msgspec.json.decode(summary.reasons) if shows_reasons(summary) else [],
        counterfactual=summary.counterfactual or None,
    )


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
        "evidence",
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
        counterfactual=decision.counterfactual or None,
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


def dead_letter_out(stored: StoredDeadLetter, *, with_raw: bool) -> DeadLetterOut:
    """A dead letter; its bytes only where they are asked for."""
    letter = stored.letter
    return DeadLetterOut(
        letter_id=letter.letter_id,
        received_at=format_rfc3339(letter.received_ms),
        source=letter.source,
        reason=letter.reason,
        path=letter.path,
        size=len(letter.raw),
        replayed_at=format_rfc3339_or_none(stored.replayed_ms),
        raw=base64.b64encode(letter.raw).decode() if with_raw else None,
    )


class _CloudEventHead(msgspec.Struct):
    """What a list shows of a CloudEvent."""

    type: str = ""
    subject: str = ""


def _cloud_event_head(payload: bytes) -> _CloudEventHead:
    try:
        return msgspec.json.decode(payload, type=_CloudEventHead)
    except msgspec.MsgspecError:  # none of our alerts: how it fares is shown all the same
        return _CloudEventHead()


def delivery_out(delivery: Delivery) -> DeliveryOut:
    """The state of a delivery."""
    head = _cloud_event_head(delivery.payload)
    held_back = delivery.status == "suppressed"
    return DeliveryOut(
        key=delivery.key,
        type=head.type,
        subject=head.subject,
        target=delivery.target,
        kind=delivery.kind,
        tenant=delivery.tenant,
        level=level_word(delivery.level),
        reason=delivery.group,
        created_at=format_rfc3339(delivery.created_ms),
        status=delivery.status,  # type: ignore[arg-type] # the store writes no other word; pydantic checks it
        attempts=delivery.attempts,
        next_attempt_at=format_rfc3339_or_none(delivery.next_attempt_ms) if delivery.status == "pending" else None,
        last_error=None if held_back else delivery.last_error or None,
        why=delivery.last_error or None,
        delivered_at=format_rfc3339_or_none(delivery.delivered_ms),
        suppressed_before=delivery.suppressed_before,
    )


def level_word(level: int) -> Any:
    """The word of a level; Any because pydantic, not the type checker, knows the words."""
    return RiskLevel(level).label
