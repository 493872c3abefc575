"""Actuations over real HTTP: what is shown to whom, and a look that is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from trustwatch.ingest.identities import IdentityHasher
from trustwatch.scoring.delivery.actuators.actuator_settings import ActuatorSettings
from trustwatch.scoring.delivery.actuators.desired_state import DesiredState, decode_desired_state, encode_desired_state
from trustwatch.scoring.records.agents import AgentName, AgentRow
from trustwatch.scoring.records.commits import Commit, Position
from trustwatch.scoring.records.containment import Actuation
from trustwatch.scoring.store.outbox_store import DeliveryRoute

AS = "https://as.example"
NOW = 1_764_000_000_000
HYDRA = ActuatorSettings(name="hydra", kind="hydra", url="https://hydra.example", issuers=(AS,))


@pytest.fixture
def lowering(new_site: Callable[..., Any]) -> Any:
    return new_site(actuators=(HYDRA,))


def name(agent_id: str, tenant: str = "acme") -> AgentName:
    return AgentName(IdentityHasher().agent_key(tenant, AS, agent_id), tenant, AS, agent_id)


def lowered(site: Any, who: AgentName, target: str = "hydra", **more: Any) -> Actuation:
    wish = DesiredState(
        who.tenant, who.issuer, who.agent_id, who.key, "high", True, 60, False, False, "D1", NOW - 400, NOW, "Payer"
    )
    made = Actuation(
        target,
        who,
        7,
        encode_desired_state(wish),
        b'{"grant_types":["client_credentials"]}',
        "wanted",
        NOW - 400,
        NOW,
        0,
        NOW,
        "",
    )
    made = msgspec.structs.replace(made, **more)
    site.store.actuations.request(made)
    site.store.actuations.keep_original(target, who, made.original)
    assert site.store.actuations.settle(made)
    return made


def test_what_is_lowered_is_shown(lowering: Any, summary: Any) -> None:
    lowering.report([summary("bot")])
    lowered(lowering, name("bot"), status="confirmed", confirmed_ms=NOW + 900, updated_ms=NOW + 900)
    lowered(lowering, name("other"), "kc", error="token endpoint: HTTP 401", original=b"", caused_ms=0)

    (shown,) = lowering.get("/v1/actuations", target="hydra").json()["items"]

    assert shown == {
        "target": "hydra",
        "agent_id": "bot",
        "tenant": "acme",
        "issuer": AS,
        "status": "confirmed",
        "version": 7,
        "desired": {
            "risk_level": "high",
            "allow": True,
            "max_token_lifetime_s": 60,
            "refresh_allowed": False,
            "revoke": False,
        },
        "original": {"grant_types": ["client_credentials"]},
        "error": None,
        "decision_id": "D1",
        "caused_at": "2025-11-24T15:59:59.600Z",
        "wanted_at": "2025-11-24T16:00:00.000Z",
        "confirmed_at": "2025-11-24T16:00:00.900Z",
        "updated_at": "2025-11-24T16:00:00.900Z",
    }
    assert lowering.get("/v1/actuations", agent_id="bot").json()["items"] == [shown]
    assert lowering.get("/v1/actuations", agent_id="nobody").json()["items"] == []
    assert lowering.get("/v1/actuations", agent_id="other").json()["items"] == []
    unseen = lowering.get("/v1/actuations", agent_id="other", tenant="acme", issuer=AS).json()["items"]
    assert [one["target"] for one in unseen] == ["kc"]
    (waiting,) = lowering.get("/v1/actuations", target="kc").json()["items"]
    assert (waiting["status"], waiting["error"], waiting["original"]) == ("wanted", "token endpoint: HTTP 401", None)
    assert (waiting["caused_at"], waiting["confirmed_at"]) == (None, None)


def test_pages_and_tenants(lowering: Any) -> None:
    for number in range(5):
        lowered(lowering, name(f"bot-{number}"), updated_ms=NOW + number)
    lowered(lowering, name("theirs", "globex"), updated_ms=NOW + 9)

    first = lowering.get("/v1/actuations", limit=3).json()
    rest = lowering.get("/v1/actuations", limit=3, cursor=first["next_cursor"]).json()

    names = [one["agent_id"] for one in first["items"] + rest["items"]]
    assert names == ["bot-4", "bot-3", "bot-2", "bot-1", "bot-0"]
    assert rest["next_cursor"] is None
    assert len(lowering.get("/v1/actuations", "all").json()["items"]) == 6
    assert lowering.get("/v1/actuations", tenant="globex").status_code == 403
    assert lowering.get("/v1/actuations", cursor="x").status_code == 400


def test_another_versions_wish_is_shown_as_unknown(lowering: Any) -> None:
    lowered(lowering, name("bot"), desired=b'{"of":"the future"}')

    (shown,) = lowering.get("/v1/actuations").json()["items"]

    assert (shown["desired"], shown["decision_id"], shown["agent_id"]) == (None, None, "bot")


def test_a_look_is_asked_for_by_administrators_of_a_known_actuator(lowering: Any) -> None:
    """It reaches the agents of the caller's tenants that are, or ought to be, lowered."""
    at = lowering.store.partitions.claim(0)
    rows = [
        AgentRow(
            who, "Payer", 3, 0.9, 0.9, 0.9, 1, NOW, NOW, 0, 3, "D", b"[]", "", features=b"", risk=b"", state_version="v"
        )
        for who in (name("high"), name("theirs", "globex"))
    ]
    lowering.store.commit(Commit(at, Position(0, at.epoch, 1), rows, [], [], []))
    lowered(lowering, name("was"), status="confirmed")
    path = "/v1/actuations/{}/reconcile".format

    asked = lowering.client.post(path("hydra"), headers=lowering.auth())

    assert (asked.status_code, asked.json()) == (202, {"agents": 2})
    while lowering.store.outbox.route([DeliveryRoute("hydra", "action", frozenset(range(5)), 0)], NOW):
        pass
    waiting = lowering.store.outbox.lease("hydra", NOW, 100, 1_000)
    assert {decode_desired_state(row.row.payload).agent_id for row in waiting} == {"high", "was"}
    unknown = lowering.client.post(path("nobody"), headers=lowering.auth())
    assert unknown.status_code == 404
    assert "hydra" in unknown.json()["detail"]
    reader = lowering.auth("gateway", "trust.score:read")
    assert lowering.client.post(path("hydra"), headers=reader).status_code == 403
    assert lowering.client.get("/v1/actuations", headers=reader).status_code == 200
    assert lowering.client.get("/v1/actuations", headers=lowering.auth("gateway", "trust.ingest")).status_code == 403


def test_metrics_tell_how_actuators_fare(lowering: Any) -> None:
    lowering.actuations.record("hydra", "confirmed", 0.4)
    lowering.actuations.record("hydra", "retry")

    text = lowering.client.get("/metrics").text

    assert 'trustwatch_actuations_total{outcome="confirmed",target="hydra"} 1.0' in text
    assert 'trustwatch_actuations_total{outcome="retry",target="hydra"} 1.0' in text
    assert 'trustwatch_containment_seconds_bucket{le="0.25",target="hydra"} 0.0' in text
    assert 'trustwatch_containment_seconds_bucket{le="0.5",target="hydra"} 1.0' in text
    assert 'trustwatch_containment_seconds_bucket{le="+Inf",target="hydra"} 1.0' in text
    assert 'trustwatch_containment_seconds_sum{target="hydra"} 0.4' in text
    assert 'trustwatch_containment_seconds_count{target="hydra"} 1.0' in text
