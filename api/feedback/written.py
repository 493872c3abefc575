"""What is written of feedback beside the store: control records for event logs, and events for the audit trail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ...ingest.columns import OWN_APPROVAL_RECORD
from ...ingest.routing import agent_partition_key, key_for_partition, partition_of
from ...ingest.source import Record, RecordKind
from ...scoring.feedback.values import AdoptFeedbackRule, Feedback, RevokeFeedbackRule
from ...scoring.notify.alert import format_rfc3339
from ..guard.audit import OWN_SOURCE_PREFIX


def rule_control_records(made: Feedback, partitions: int, now_ms: int) -> Sequence[Record]:
    """One record for each partition: that of the agent, or all where it is about a peer group."""
    agent = made.agent
    own = agent_partition_key(agent.tenant, agent.issuer, agent.agent_id)
    home = partition_of(own, partitions)
    wanted: Sequence[int] = [home] if made.kind == "agent" else range(partitions)
    records = []
    for partition in wanted:
        if made.status == "revoking":
            command: AdoptFeedbackRule | RevokeFeedbackRule = RevokeFeedbackRule(
                made.rule, made.revoked_by, made.revoked_why
            )
        else:
            taken = made.withdraw if partition == home else 0.0
            command = AdoptFeedbackRule(made.rule, made.author, made.reason, taken, made.decision_id)
        payload = msgspec.json.encode(command)
        route = own if partition == home else key_for_partition(partition, partitions)
        records.append(Record(RecordKind.CONTROL, 0, now_ms, payload, route))
    return records


def feedback_audit_event(made: Feedback, action: str, by: str, why: str, at_ms: int) -> dict[str, Any]:
    """An audit event of what was said: durable, in order, and no behaviour of the agent."""
    agent = made.agent
    return {
        "time": format_rfc3339(at_ms),
        "source": f"{OWN_SOURCE_PREFIX}feedback",
        "type": "approval",
        "tenant": agent.tenant or None,
        "agent": {"id": agent.agent_id, "issuer": agent.issuer or None},
        "principal": {"id": by[:2048], "type": "user"},
        "action": action,
        "outcome": "success",
        "error": OWN_APPROVAL_RECORD,
        "attributes": {
            "feedback_id": made.feedback_id,
            "decision_id": made.decision_id,
            "verdict": made.verdict,
            "scope": made.kind,
            "features": None if made.features is None else list(made.features),
            "resource": made.resource,
            "why": why,
            "expires_at": format_rfc3339(made.expires_ms),
        },
    }
