"""What is written of feedback beside the store: control records for event logs, and events for the audit trail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ...ingest.columns import OWN_RECORD
from ...ingest.routing import agent_route, partition_of, route_to
from ...ingest.source import Kind, Record
from ...scoring.feedback.values import Adopt, Feedback, Revoke
from ...scoring.notify.alert import rfc3339
from ..guard.audit import SOURCE


def control_records(made: Feedback, partitions: int, now_ms: int) -> Sequence[Record]:
    """One record for each partition: that of the agent, or all where it is about a peer group."""
    agent = made.agent
    own = agent_route(agent.tenant, agent.issuer, agent.agent_id)
    home = partition_of(own, partitions)
    wanted: Sequence[int] = [home] if made.kind == "agent" else range(partitions)
    records = []
    for partition in wanted:
        if made.status == "revoking":
            command: Adopt | Revoke = Revoke(made.rule, made.revoked_by, made.revoked_why)
        else:
            taken = made.withdraw if partition == home else 0.0
            command = Adopt(made.rule, made.author, made.reason, taken, made.decision_id)
        payload = msgspec.json.encode(command)
        route = own if partition == home else route_to(partition, partitions)
        records.append(Record(Kind.CONTROL, 0, now_ms, payload, route))
    return records


def audit_event(made: Feedback, action: str, by: str, why: str, at_ms: int) -> dict[str, Any]:
    """An audit event of what was said: durable, in order, and no behaviour of the agent."""
    agent = made.agent
    return {
        "time": rfc3339(at_ms),
        "source": f"{SOURCE}feedback",
        "type": "approval",
        "tenant": agent.tenant or None,
        "agent": {"id": agent.agent_id, "issuer": agent.issuer or None},
        "principal": {"id": by[:2048], "type": "user"},
        "action": action,
        "outcome": "success",
        "error": OWN_RECORD,
        "attributes": {
            "feedback_id": made.feedback_id,
            "decision_id": made.decision_id,
            "verdict": made.verdict,
            "scope": made.kind,
            "features": None if made.features is None else list(made.features),
            "resource": made.resource,
            "why": why,
            "expires_at": rfc3339(made.expires_ms),
        },
    }
