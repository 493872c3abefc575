"""Approvals for one use at hooks: one token, or one permit of AuthZEN, each."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from trustwatch.scoring.engine.call_scorer import CallScorer

from ....support.call_history import NEW_VALUE, call, call_model

NOW_MS = 1_764_000_000_000


def approve_once(desk: Any) -> str:
    waiting = max(desk.asked(), key=lambda one: one.asked_ms)
    path = f"/v1/approvals/{waiting.intervention_id}/approve"
    sent = {"content_type": "application/json", **desk.auth("as")}
    answer = desk.send("POST", path, b'{"why": "this one", "one_use": true}', **sent)
    assert answer.json()["status"] == "approved_once", answer.text
    desk.now += 1
    return str(waiting.intervention_id)


def question(action: str = "notes:write", **context: Any) -> dict[str, Any]:
    return {
        "subject": {"type": "client", "id": "bot"},
        "action": {"name": action},
        "resource": {"type": "notes", "id": "n-1"},
        "context": context,
    }


def test_one_token_is_issued(make_desk: Any, body: Any) -> None:
    desk, request = make_desk("hydra"), body("hydra_token")
    desk.level("medium", "app-client")
    request["request"]["granted_scopes"] = ["notes:write"]
    assert desk.ask("hydra", request).json()["reason"] == "step_up_required"
    asked = approve_once(desk)

    assert desk.ask("hydra", request).status_code == 200
    assert desk.ask("hydra", request).json()["reason"] == "step_up_required"
    assert desk.store.interventions.get(asked).status == "used"


def test_one_evaluation_is_permitted_of_many_at_once(make_desk: Any) -> None:
    desk = make_desk("authzen")
    desk.level("medium")
    assert desk.evaluate(question(), several=False).json()["decision"] is False
    approve_once(desk)
    sent = {"authorization": desk.auth("as")["authorization"], "content-type": "application/json"}

    async def ask_at_once() -> list[bool]:
        posts = (
            desk.http.post("/access/v1/evaluation", content=json.dumps(question()), headers=sent) for _ in range(8)
        )
        return [answer.json()["decision"] for answer in await asyncio.gather(*posts)]

    assert sorted(desk.runner.run(ask_at_once())) == [False] * 7 + [True]


def test_a_batch_and_another_action_spend_none(make_desk: Any) -> None:
    """A batch may be several permits, so no approval for one use counts in it."""
    desk = make_desk("authzen")
    desk.level("medium")
    desk.evaluate(question(), several=False)
    asked = approve_once(desk)

    answers = desk.evaluate({"evaluations": [question(), question()]}).json()["evaluations"]
    assert [one["decision"] for one in answers] == [False, False]
    assert desk.evaluate(question("notes:read"), several=False).json() == {"decision": True}
    assert desk.evaluate(question("notes:delete"), several=False).json()["decision"] is False
    assert desk.store.interventions.get(asked).status == "approved_once"
    assert desk.evaluate(question(), several=False).json() == {"decision": True}


def test_one_odd_call_is_permitted(make_desk: Any) -> None:
    desk, odd = make_desk("authzen"), call(NEW_VALUE)
    desk.calls.scorer = CallScorer(call_model(NOW_MS), {})
    desk.level("low", agent_type="Clerk")
    asked = {
        "subject": {"type": "client", "id": "bot"},
        "action": {"name": odd["action"], "properties": {"effect": odd["effect"]}},
        "resource": {"type": "mailbox", "id": "m-1", "properties": odd["resource"]},
        "context": {"arguments": odd["arguments"], "task": odd["task"]},
    }
    assert desk.evaluate(asked, several=False).json()["context"]["call"] == "step_up"
    approve_once(desk)

    decisions = [desk.evaluate(asked, several=False).json()["decision"] for _ in range(2)]
    assert decisions == [True, False]
