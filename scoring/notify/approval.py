"""The alert that a person's approval is asked for."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from ..containment import Intervention
from ..records import OutboxRow, RiskLevel
from .alert import ALERT_ROW_KIND, APPROVAL_TYPE, format_rfc3339


def build_approval_row(asked: Intervention, source: str) -> OutboxRow:
    """The outbox row that asks every alert target. Each request is told once, so it has no cool-down group.

    Args:
        asked: the pending approval.
        source: URI of this service; links start with it.
    """
    event = {
        "specversion": "1.0",
        "id": f"approval-{asked.intervention_id}",
        "type": APPROVAL_TYPE,
        "source": source,
        "subject": asked.agent.agent_id,
        "time": format_rfc3339(asked.asked_ms),
        "datacontenttype": "application/json",
        "data": _approval_data(asked, source.rstrip("/")),
    }
    return OutboxRow(
        key=f"approval-{asked.intervention_id}",
        kind=ALERT_ROW_KIND,
        target="",
        payload=msgspec.json.encode(event),
        created_ms=asked.asked_ms,
        agent_key=asked.agent.key,
        level=max(asked.level, RiskLevel.MEDIUM),
        tenant=asked.agent.tenant,
    )


def _approval_data(asked: Intervention, base: str) -> dict[str, Any]:
    agent = asked.agent
    query = urlencode({"tenant": agent.tenant, "issuer": agent.issuer})
    return {
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
            "approval": f"{base}/v1/approvals/{asked.intervention_id}",
            "risk": f"{base}/v1/agents/{quote(agent.agent_id, safe='')}/risk?{query}",
        },
    }
