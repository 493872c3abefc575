"""The alert: a CloudEvent (1.0, structured JSON) that says that the risk level of an agent changed, and why."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from ..records import Decision, OutboxRow, RiskLevel

ALERT_KIND = "alert"
ALERT_TYPE = "io.trustwatch.alert.risk-level-changed.v1"
CONTENT_TYPE = "application/cloudevents+json"

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


def alert_row(decision: Decision, policy: Mapping[str, Any], source: str) -> OutboxRow:
    """The outbox row that announces *decision* to every alert target.

    Its cool-down group is the leading reason's code, so that a further reason is always told.

    Args:
        decision: the change of level.
        policy: the token policy that holds from now on, as in the risk answer.
        source: URI of this service; links start with it.
    """
    return OutboxRow(
        key=f"alert-{decision.decision_id}",
        kind=ALERT_KIND,
        target="",
        payload=alert_payload(decision, policy, source),
        created_ms=decision.decided_ms,
        agent_key=decision.agent.key,
        group=decision.reasons[0].code if decision.reasons else decision.cause,
        level=decision.level,
        tenant=decision.agent.tenant,
    )


def alert_payload(decision: Decision, policy: Mapping[str, Any], source: str) -> bytes:
    """The CloudEvent as JSON; `id` is the decision's, so that a receiver of a repeated alert can tell."""
    event = {
        "specversion": "1.0",
        "id": decision.decision_id,
        "type": ALERT_TYPE,
        "source": source,
        "subject": decision.agent.agent_id,
        "time": rfc3339(decision.decided_ms),
        "datacontenttype": "application/json",
        "data": _data(decision, policy, source),
    }
    return _encode(event)


def with_suppressed(payload: bytes, suppressed_before: int) -> bytes:
    """*payload* with the number of alerts that cool-down kept back since the previous one."""
    event = _decode(payload)
    event["data"]["suppressed_before"] = suppressed_before
    return _encode(event)


def rfc3339(at_ms: int) -> str:
    """UTC time with milliseconds.

    >>> rfc3339(1_764_000_000_123)
    '2025-11-24T16:00:00.123Z'
    """
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _data(decision: Decision, policy: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The decision without what only a replay needs (feature vector, evidence)."""
    return {
        "decision_id": decision.decision_id,
        "tenant": decision.agent.tenant,
        "issuer": decision.agent.issuer,
        "agent_id": decision.agent.agent_id,
        "agent_type": decision.agent_type,
        "previous_level": RiskLevel(decision.previous_level).label,
        "risk_level": RiskLevel(decision.level).label,
        "risk_score": decision.risk_score,
        "confidence": decision.confidence,
        "decided_at": rfc3339(decision.decided_ms),
        "cause": decision.cause,
        "event_id": decision.event_id or None,
        "event_time": rfc3339(decision.event_time_ms) if decision.event_id else None,
        "reasons": decision.reasons,
        "counterfactual": decision.counterfactual or None,
        "token_policy": dict(policy),
        "model_version": decision.model_version,
        "policy_version": decision.policy_version,
        "mode": decision.mode,
        "version": {"partition": decision.partition, "offset": decision.offset},
        "suppressed_before": 0,
        "links": _links(decision, source),
    }


def _links(decision: Decision, source: str) -> dict[str, str]:
    base = source.rstrip("/")
    agent = decision.agent
    query = urlencode({"tenant": agent.tenant, "issuer": agent.issuer})
    return {
        "risk": f"{base}/v1/agents/{quote(agent.agent_id, safe='')}/risk?{query}",
        "decision": f"{base}/v1/decisions/{decision.decision_id}",
    }
