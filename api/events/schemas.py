"""Examples that OpenAPI shows."""

from __future__ import annotations

from typing import Any

RISK_EXAMPLE: dict[str, Any] = {
    "agent_id": "agent-payment-processor-v2.1",
    "tenant": "acme-corp",
    "issuer": "https://as.example",
    "risk_level": "high",
    "risk_score": 0.87,
    "confidence": 0.94,
    "evaluated_at": "2026-11-24T22:23:14.130Z",
    "reasons": [
        {
            "code": "first_seen_resource",
            "feature": "resource_rarity",
            "observed": "acct-9001",
            "usual": "42 known accounts",
            "contribution": 0.41,
            "text": "first use of account acct-9001; 42 accounts known",
        }
    ],
    "counterfactual": "medium if at most 2 new accounts per hour",
    "pin": {
        "level": "high",
        "by": "analyst",
        "why": "its key may have leaked",
        "expires_at": "2026-11-25T08:00:00.000Z",
    },
    "critical_ancestor": "agent-orchestrator",
    "token_policy": {
        "allow": True,
        "max_token_lifetime_s": 60,
        "allowed_scopes": ["payments:read"],
        "refresh_allowed": False,
        "step_up": True,
        "revoke": False,
        "step_up_scopes": ["*"],
    },
    "decision_id": "01KAW43D1JQ4V1S0Z3Y8M4C2QK",
    "model_version": "2026-11-24.1",
    "policy_version": "3",
    "mode": "enforce",
    "expires_at": "2026-11-24T22:28:14.130Z",
    "stale": False,
}

EVENT_EXAMPLE: dict[str, Any] = {
    "id": "evt-0193",
    "time": "2026-11-24T22:23:14.123Z",
    "type": "tool.call",
    "tenant": "acme-corp",
    "agent": {"id": "agent-payment-processor-v2.1", "issuer": "https://as.example"},
    "action": "process_payment",
    "effect": "write",
    "resource": {"type": "account", "id": "acct-42"},
    "outcome": "success",
}

RECEIPT_EXAMPLE: dict[str, Any] = {
    "accepted": 1,
    "duplicate": 0,
    "rejected": 1,
    "skipped": 0,
    "rejections": [
        {
            "index": 1,
            "path": "$.outcome",
            "reason": "Invalid enum value 'ok'",
            "dead_letter_id": "01KAW43D1JQ4V1S0Z3Y8M4C2QK",
        }
    ],
    "rejections_omitted": 0,
}
