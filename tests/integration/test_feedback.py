"""Feedback through the real service: an agent is flagged, a person says that it was nothing, and what then happens."""

from __future__ import annotations

from typing import Any

import pytest

from ..support.service_checks import FEATURES, Agent, ended

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def test_flagged_told_calm_and_back(make_service: Any, world: Any) -> None:
    """Preview, adoption, the next such event, another feature, a restart by kill -9, and revocation."""
    service = make_service()
    service.start()
    for start in range(0, len(world.day), 500):
        assert service.post(b"\n".join(world.day[start : start + 500])).status_code == 202
    agent = Agent(service, world.day, world.attacked)
    decision = agent.flag()
    path = f"/v1/decisions/{decision['decision_id']}/feedback"
    draft: dict[str, Any] = {
        "verdict": "false_positive",
        "scope": {"kind": "agent", "features": FEATURES},
        "reason": "a new buyer",
        "expires_in_s": 86_400,
    }

    def post(where: str, body: dict[str, Any], status: int) -> dict[str, Any]:
        answer = service.client.post(where, json=body, headers=service.auth())
        assert answer.status_code == status, answer.text
        return dict(answer.json())

    assert post(path, draft, 409)["code"] == "preview_needed"
    started = post(f"{path}/preview", draft, 202)
    preview = service.wait(lambda: ended(service, started["preview_id"]), 90.0)
    assert preview["status"] == "done", preview
    assert preview["alerts_before"] > preview["alerts_after"] == 0
    assert decision["event_id"] in [one["event_id"] for one in preview["alerts_removed"] if one["marked"]]
    assert preview["window"]["source"] == "log"
    assert preview["agents_affected"] == 1

    told = post(path, draft | {"preview_id": preview["preview_id"]}, 201)
    assert told["status"] == "active"
    service.settle()
    assert agent.risk()["risk_level"] == "low"
    # Where time alone was about to move the level, a decision of that same moment says so beside it.
    items = service.get("/v1/decisions", agent_id=agent.id, **agent.name).json()["items"]
    (said,) = (one for one in items if one["cause"] == "feedback")
    assert said["level"] == "low"
    assert "a new buyer" in said["reasons"][0]["text"]

    levels = [agent.act(f"other-{number}.example")["risk_level"] for number in range(8)]
    assert set(levels) == {"low"}
    matched = service.get(f"/v1/feedback/{told['feedback_id']}").json()
    assert (matched["events_matched"], matched["partitions"]) == (8, 1)

    service.kill()
    service.start()
    calm = agent.act("after-restart.example")
    assert calm["risk_level"] == "low"

    for number in range(3):  # a key is no supplier: a hard signal, and a surprise of its own
        login = {"credential": {"method": "private_key_jwt", "thumbprint": f"stolen-{number}"}}
        odd = agent.act(f"one-more-{number}.example", **login)
    assert odd["risk_score"] > calm["risk_score"] + 0.2  # three signals of 4.0 on the way to medium at about 14
    assert "unregistered_key" in {reason["code"] for reason in odd["reasons"]}

    gone = service.client.delete(f"/v1/feedback/{told['feedback_id']}", params={"reason": "no"}, headers=service.auth())
    assert (gone.status_code, gone.json()["status"]) == (200, "revoked")
    scores = [agent.act(f"again-{number}.example")["risk_score"] for number in range(4)]
    assert scores[-1] > odd["risk_score"]
    steps = service.get(f"/v1/feedback/{told['feedback_id']}").json()["steps"]
    assert [(step["action"], step["by"]) for step in steps] == [("adopted", "all"), ("revoked", "all")]
