"""An attack is noticed, explained, alerted and released, through the real service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any
from urllib.parse import quote

import pytest
from standardwebhooks import Webhook

from ..support.alert_receiver import SECRET, Receiver

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

ORDER = ("unknown", "low", "medium", "high", "critical")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    made.answers = [(500, {}, b"")]  # the first attempt fails
    yield made
    made.close()


def test_attack_is_noticed_explained_alerted_and_released(make_service: Any, world: Any, receiver: Receiver) -> None:
    """The simulated day: attacked agents rise, reasons and decisions say why, a signed alert arrives, release helps."""
    hook = f"- {{name: soc, url: '{receiver.url}', secret: '{SECRET}'}}"
    service = make_service(f"webhooks:\n  {hook}\n")
    service.start()
    for start in range(0, len(world.day), 500):
        answer = service.post(b"\n".join(world.day[start : start + 500]))
        assert answer.status_code == 202
        assert answer.json()["rejected"] == 0
    service.settle()
    decisions = service.pages("/v1/decisions")
    about = {who: [d for d in decisions if (d["tenant"], d["agent_id"]) == who] for who in world.attacked}
    highest = {who: max(found, key=level) for who, found in about.items() if found}
    assert len(world.attacked) == 2
    for who in world.attacked:
        assert level(highest[who]) >= 2, (who, world.attacked[who])
        assert highest[who]["reasons"][0]["text"]
        assert highest[who]["feature_vector"]
    (tenant, agent), decision = next((who, highest[who]) for who in world.attacked)
    check_order(about[tenant, agent])
    check_alert(service, receiver, tenant, agent)
    check_release(service, tenant, agent, decision["issuer"])


def level(decision: dict[str, Any]) -> int:
    return ORDER.index(decision["level"])


def check_order(newest_first: list[dict[str, Any]]) -> None:
    """The history of an agent is a chain: each change begins at the level where the one before ended."""
    chain = newest_first[::-1]
    for before, after in pairwise(chain):
        assert before["level"] == after["previous_level"], [(d["previous_level"], d["level"]) for d in chain]


def check_alert(service: Any, receiver: Receiver, tenant: str, agent: str) -> None:
    """An alert about the agent arrives though the first attempt was refused; its signature is valid."""

    def about() -> list[tuple[dict[str, str], bytes]]:
        taken = receiver.got[1:]
        return [(h, b) for h, b in taken if f"{tenant}" in b.decode() and agent in json.loads(b)["subject"]]

    headers, body = service.wait(about)[0]
    alert = Webhook(SECRET).verify(body, headers)
    assert alert["specversion"] == "1.0"
    with pytest.raises(Exception, match="signature"):
        Webhook(SECRET).verify(body.replace(b"1.0", b"1.1", 1), headers)
    assert service.wait(lambda: receiver.keys[0] in receiver.keys[1:], 30.0)
    assert len(receiver.keys) == len({*receiver.keys}) + 1
    assert "delivered" in {row["status"] for row in service.pages("/v1/deliveries")}


def check_release(service: Any, tenant: str, agent: str, issuer: str) -> None:
    """A person's release brings the level down at once and names the person; who may not release gets 403."""
    path = f"/v1/agents/{quote(agent, safe='')}"
    where = {"tenant": tenant, "issuer": issuer}
    note = {"note": "talked to the team"}
    refused = service.client.post(
        f"{path}/release", params=where, json=note, headers=service.auth("all", "trust.score:read")
    )
    assert refused.status_code == 403
    answer = service.client.post(f"{path}/release", params=where, json=note, headers=service.auth())
    assert answer.status_code == 202, answer.text
    service.settle()
    risk = service.get(f"{path}/risk", **where).json()
    assert risk["risk_level"] in ("low", "unknown")
    assert risk["risk_score"] == 0
    (last, *_) = service.get(f"{path}/decisions", **where).json()["items"]
    assert last["cause"] == "release"
    assert "talked to the team" in last["reasons"][0]["text"]
