"""Approvals for one use at gateways: one call each."""

from __future__ import annotations

from typing import Any

from trustwatch.scoring.records.agents import RiskLevel

BOTH = "tools:read tools:write"


def test_one_call_passes_and_a_safe_one_spends_none(desk: Any) -> None:
    """A safe method passes without, so the approval is still there for the call that needs it."""
    desk.agent("bot", RiskLevel.MEDIUM)
    token = desk.issuer.token(scope=BOTH)
    assert desk.envoy(token, "POST").status_code == 401
    (waiting,) = desk.asked()
    path = f"/v1/approvals/{waiting.intervention_id}/approve"
    done = desk.send("POST", path, desk.auth(), json={"why": "as planned", "one_use": True})
    assert done.json()["status"] == "approved_once", done.text

    assert desk.envoy(token, "GET").status_code == 200
    assert desk.store.interventions.get(waiting.intervention_id).status == "approved_once"
    assert desk.forward(token, "POST").status_code == 200
    assert [desk.envoy(token, "POST").status_code, desk.forward(token, "POST").status_code] == [401, 401]
    assert desk.store.interventions.get(waiting.intervention_id).status == "used"
