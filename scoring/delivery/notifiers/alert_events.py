"""Alerts: CloudEvents (1.0, structured JSON) of a changed risk level, a silent source, or a test of the targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import msgspec

from trustwatch.ingest.record_keys import record_id
from trustwatch.ingest.timestamps import DAY_MS, format_rfc3339

from ...records.agents import AgentName, IdentityConflict, RiskLevel
from ...records.cases import Case, CaseAgent, CaseEntry
from ...records.commits import ALERT_KEY_PREFIX, CASE_KEY_PREFIX, OutboxRow
from ...records.containment import Intervention
from ...records.decisions import Decision

ALERT_ROW_KIND = "alert"
ALERT_TYPE = "io.trustwatch.alert.risk-level-changed.v1"
SILENCE_TYPE = "io.trustwatch.alert.source-silent.v1"
APPROVAL_TYPE = "io.trustwatch.alert.approval-requested.v1"
CASE_TYPE = "io.trustwatch.alert.case-changed.v1"
IDENTITY_CONFLICT_TYPE = "io.trustwatch.alert.identity-conflict.v1"
DRIFT_ALERT_TYPE = "io.trustwatch.alert.model-drift.v1"
TEST_TYPE = "io.trustwatch.alert.test.v1"
CLOUDEVENTS_CONTENT_TYPE = "application/cloudevents+json"

_encode = msgspec.json.Encoder().encode


def build_alert_row(decision: Decision, policy: Mapping[str, Any], source: str) -> OutboxRow:
    """The outbox row that announces *decision* to every alert target.

    Its cool-down group is the leading reason's code, so that another reason is always reported.
    """
    return OutboxRow(
        key=f"{ALERT_KEY_PREFIX}{decision.decision_id}",
        kind=ALERT_ROW_KIND,
        target="",
        payload=_encode(build_alert_event(decision, policy, source)),
        created_ms=decision.decided_ms,
        agent_key=decision.agent.key,
        group=decision.reasons[0].code if decision.reasons else decision.cause,
        level=decision.level,
        tenant=decision.agent.tenant,
    )


def build_alert_event(decision: Decision, policy: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The CloudEvent; `id` is the decision's, so that a receiver recognizes a repeated alert."""
    data = {  # the decision without what only a replay needs (feature vector, evidence)
        "decision_id": decision.decision_id,
        "tenant": decision.agent.tenant,
        "issuer": decision.agent.issuer,
        "agent_id": decision.agent.agent_id,
        "agent_type": decision.agent_type,
        "previous_level": RiskLevel(decision.previous_level).label,
        "risk_level": RiskLevel(decision.level).label,
        "risk_score": decision.risk_score,
        "concern": decision.concern or None,
        "confidence": decision.confidence,
        "decided_at": format_rfc3339(decision.decided_ms),
        "cause": decision.cause,
        "event_id": decision.event_id or None,
        "event_time": format_rfc3339(decision.event_time_ms) if decision.event_id else None,
        "reasons": decision.reasons,
        "indicators": decision.indicators,
        "counterfactual": decision.counterfactual or None,
        "token_policy": dict(policy),
        "model_version": decision.model_version,
        "policy_version": decision.policy_version,
        "mode": decision.mode,
        "version": {"partition": decision.partition, "offset": decision.offset},
        "suppressed_before": 0,
        "links": {
            "risk": _risk_link(decision.agent, source),
            "decision": f"{source.rstrip('/')}/v1/decisions/{decision.decision_id}",
        },
    }
    return _cloud_event(decision.decision_id, ALERT_TYPE, source, decision.agent.agent_id, decision.decided_ms, data)


def _cloud_event(
    event_id: str, kind: str, source: str, subject: str, at_ms: int, data: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": event_id,
        "type": kind,
        "source": source,
        "subject": subject,
        "time": format_rfc3339(at_ms),
        "datacontenttype": "application/json",
        "data": data,
    }


def _row(
    key: str,
    kind: str,
    source: str,
    subject: str,
    at_ms: int,
    data: Mapping[str, Any],
    level: int,
    tenant: str,
    target: str = "",
    agent_key: int = 0,
) -> OutboxRow:
    """The outbox row of an event for every alert target; its key is the event's id."""
    payload = _encode(_cloud_event(key, kind, source, subject, at_ms, data))
    return OutboxRow(key, ALERT_ROW_KIND, target, payload, at_ms, agent_key, level=level, tenant=tenant)


class SilentSource(NamedTuple):
    """A source that sends nothing."""

    source: str
    kind: str  # topic | caller
    silence_s: float  # after so long it counts as silent
    tenants: tuple[str, ...]  # that it is authorized for; "*" = all
    heard_ms: int  # when something came last, UTC milliseconds; 0 = never
    noticed_ms: int


def build_silence_row(silence: SilentSource, source: str) -> OutboxRow:
    """Returns the outbox row that notifies every alert target of a silence. Its key is that of the silence.

    It announces the level `high`: cutting off the audit trail must not be reported with less urgency than an attack.
    """
    key = f"silence-{silence.kind}-{silence.source}-{silence.heard_ms}"
    data = {
        "source": silence.source,
        "kind": silence.kind,
        "silence_s": silence.silence_s,
        "tenants": silence.tenants,
        "last_heard_at": format_rfc3339(silence.heard_ms) if silence.heard_ms else None,
        "noticed_at": format_rfc3339(silence.noticed_ms),
        "risk_level": RiskLevel.HIGH.label,
        "suppressed_before": 0,
    }
    only = silence.tenants[0] if len(silence.tenants) == 1 and "*" not in silence.tenants else ""
    return _row(key, SILENCE_TYPE, source, silence.source, silence.noticed_ms, data, RiskLevel.HIGH, only)


def build_identity_conflict_row(conflict: IdentityConflict, source: str) -> OutboxRow:
    """Returns the outbox row that reports an agent whose events are refused, once a day; the other agent is not named.

    Two names with one key do not occur by chance: an attacker has searched for them. The other agent may be another
    tenant's.
    """
    day = conflict.noticed_ms // DAY_MS
    key = f"identity-{record_id(day * DAY_MS, conflict.tenant, conflict.issuer, conflict.agent_id)}"
    data = {
        "tenant": conflict.tenant,
        "issuer": conflict.issuer,
        "agent_id": conflict.agent_id,
        "message": "another agent has this agent's key: events of this agent are refused as dead letters, and its risk "
        "is unknown; give the agent another id, and find out who registered it",
        "noticed_at": format_rfc3339(conflict.noticed_ms),
        "risk_level": RiskLevel.HIGH.label,
        "suppressed_before": 0,
    }
    about = conflict.agent_id, conflict.noticed_ms
    return _row(key, IDENTITY_CONFLICT_TYPE, source, *about, data, RiskLevel.HIGH, conflict.tenant)


def build_test_alert_row(
    test_id: str, target: str, by: str, at_ms: int, source: str, level: RiskLevel, tenant: str
) -> OutboxRow:
    """The outbox row of a test alert to *target* alone. It is never cooled down and says that nothing has happened."""
    key = f"test-{test_id}-{target}"
    data = {
        "test": True,
        "message": "This is a test of alerts by Trustwatch. Nothing has happened, nothing is to be done.",
        "target": target,
        "requested_by": by,
        "requested_at": format_rfc3339(at_ms),
        "suppressed_before": 0,
    }
    return _row(key, TEST_TYPE, source, target, at_ms, data, level, tenant, target)


def _risk_link(agent: AgentName, source: str) -> str:
    query = urlencode({"tenant": agent.tenant, "issuer": agent.issuer})
    return f"{source.rstrip('/')}/v1/agents/{quote(agent.agent_id, safe='')}/risk?{query}"


MAX_NAMED_AGENTS = 20  # Agents that an alert about a case names


def build_case_row(case: Case, entry: CaseEntry, agents: Sequence[CaseAgent], source: str) -> OutboxRow:
    """The outbox row that notifies every alert target of a person's act on a case; without a cool-down group."""
    key = f"{CASE_KEY_PREFIX}{case.case_id}-{case.revision}-{entry.action}"
    data = {
        "case_id": case.case_id,
        "tenant": case.tenant,
        "action": entry.action,
        "status": case.status,
        "verdict": case.verdict or None,
        "risk_level": RiskLevel(case.level).label,
        "agents": [case_agent.agent.agent_id for case_agent in agents[:MAX_NAMED_AGENTS]],
        "agents_count": len(agents),
        "agents_above_low": sum(case_agent.level >= RiskLevel.MEDIUM for case_agent in agents),
        "by": entry.by,
        "note": entry.note or None,
        "merged_into": case.merged_into or None,
        "opened_at": format_rfc3339(case.opened_ms),
        "changed_at": format_rfc3339(entry.at_ms),
        "suppressed_before": 0,
        "links": {"case": f"{source.rstrip('/')}/v1/cases/{quote(case.case_id, safe='')}"},
    }
    return _row(key, CASE_TYPE, source, case.case_id, entry.at_ms, data, case.level, case.tenant)


def build_approval_row(asked: Intervention, source: str) -> OutboxRow:
    """Returns the outbox row of a request to every alert target. Each is sent once, so it has no cool-down group."""
    agent, key = asked.agent, f"approval-{asked.intervention_id}"
    data = {
        "approval_id": asked.intervention_id,
        "tenant": agent.tenant,
        "issuer": agent.issuer,
        "agent_id": agent.agent_id,
        "risk_level": RiskLevel(asked.level).label,
        "scopes": asked.scopes,
        "reason": asked.asked_why,
        "requested_by": asked.asked_by,
        "requested_at": format_rfc3339(asked.asked_ms),
        "expires_at": format_rfc3339(asked.expires_ms),
        "suppressed_before": 0,
        "links": {
            "approval": f"{source.rstrip('/')}/v1/approvals/{asked.intervention_id}",
            "risk": _risk_link(agent, source),
        },
    }
    level = max(asked.level, RiskLevel.MEDIUM)
    about = agent.agent_id, asked.asked_ms
    return _row(key, APPROVAL_TYPE, source, *about, data, level, agent.tenant, agent_key=agent.key)


_PAGES = {
    APPROVAL_TYPE: "approvals",
    DRIFT_ALERT_TYPE: "models",
    IDENTITY_CONFLICT_TYPE: "dead-letters",
    TEST_TYPE: "alerts",
}
"""Pages by type of alert; others are about what the overview shows."""


def with_console_link(event: dict[str, Any], console: str) -> dict[str, Any]:
    """Return *event* (an alert's CloudEvent) with its page of the console as the first link: the API needs a token."""
    data = event.get("data")
    if not console or not isinstance(data, dict):
        return event
    case = data if event.get("type") == CASE_TYPE else data.get("case")
    case_id = case.get("case_id") if isinstance(case, dict) else None
    decision_id = data.get("decision_id") if event.get("type") == ALERT_TYPE else None
    if case_id and isinstance(case_id, str):
        page = f"cases/{quote(case_id, safe='')}"
    elif decision_id and isinstance(decision_id, str):
        page = f"decisions/{quote(decision_id, safe='')}"
    else:
        page = _PAGES.get(str(event.get("type")), "")
    links = data.get("links")
    more = links if isinstance(links, dict) else {}
    return {**event, "data": {**data, "links": {"console": f"{console}/{page}", **more}}}
