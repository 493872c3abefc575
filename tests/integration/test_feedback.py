"""Feedback through the real service: an agent is flagged, a person says that it was nothing, and what then happens."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

FEATURES = [
    "target_surprise",
    "resource_surprise",
    "action_target_surprise",
    "external_target",
    "novelty_1h",
    "session_strangeness",
    "transition_surprise",
    "repeat_surprise",
    "provenance_surprise",
    "write_surprise",
]
ORDER = ("unknown", "low", "medium", "high", "critical")


class Agent:
    """An agent of the simulated enterprise that goes on with its day."""

    def __init__(self, service: Any, day: list[bytes], attacked: Any, settle: Callable[[], None] | None = None) -> None:
        self.service = service
        self.settle = settle or service.settle
        events = [json.loads(raw) for raw in day]
        calm = [one for one in events if (one["tenant"], one["agent"]["id"]) not in attacked and one.get("resource")]
        busy = max({one["agent"]["id"] for one in calm}, key=lambda who: sum(one["agent"]["id"] == who for one in calm))
        self.past = [one for one in calm if one["agent"]["id"] == busy]
        self.name: dict[str, str] = {"tenant": self.past[0]["tenant"], "issuer": self.past[0]["agent"]["issuer"]}
        self.id: str = self.past[0]["agent"]["id"]
        self.at = max(datetime.fromisoformat(one["time"]) for one in self.past)
        self.number = 0

    def act(self, supplier: str = "", **more: Any) -> dict[str, Any]:
        """One more event like those of the past, but with a new supplier where one is named; returns the risk after."""
        self.number += 1
        self.at += timedelta(minutes=7)
        made = json.loads(json.dumps(self.past[self.number % len(self.past)]))
        made |= {"id": f"more-{self.number}", "time": self.at.isoformat(), "session": f"day-{self.number // 4}", **more}
        if supplier:
            resource = {"id": supplier, "target": supplier, "external": True, "provenance": "new"}
            made["resource"] = made["resource"] | resource
        assert self.service.send([made]).json()["accepted"] == 1
        self.settle()
        return self.risk()

    def risk(self) -> dict[str, Any]:
        found: dict[str, Any] = self.service.get(f"/v1/agents/{quote(self.id, safe='')}/risk", **self.name).json()
        return found

    def flag(self) -> dict[str, Any]:
        """Let it use new suppliers until it is high; returns the decision."""
        while ORDER.index(self.act(f"supplier-{self.number}.example")["risk_level"]) < 3:
            assert self.number < 120, "nobody was flagged"
        found = self.service.pages("/v1/decisions", agent_id=self.id, **self.name)
        return next(dict(one) for one in found if ORDER.index(one["level"]) >= 3)


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
    service.wait(lambda: service.metric('trustwatch_feedback_rules{scope="agent"}') == 1.0)

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


def ended(service: Any, preview_id: str) -> dict[str, Any] | None:
    """The preview, once it has ended."""
    found: dict[str, Any] = service.get(f"/v1/feedback/previews/{preview_id}").json()
    return found if found["status"] in ("done", "failed") else None
