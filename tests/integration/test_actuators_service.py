"""The running service and real authorization servers: clients feel what a person or an attack changes, and it ends."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from ..support.authorization_servers import DEFAULT_S, AuthorizationServer, HydraServer, KeycloakServer
from ..support.nightly import nightly

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

ISSUER = "https://as.example"
SECONDS = 10.0
"""Far more than it takes, on a machine that does other things too."""


@pytest.fixture(params=["hydra", "keycloak"])
def server(request: pytest.FixtureRequest) -> AuthorizationServer:
    peer = request.getfixturevalue(request.param)
    return HydraServer(peer) if request.param == "hydra" else KeycloakServer(peer)


def configured(server: AuthorizationServer, folder: Path, issuers: str = f'["{ISSUER}"]') -> str:
    """The `actuators` that reach it, with the most that it allows: a private key at Keycloak, nothing at Hydra."""
    common = f"name: as, issuers: {issuers}, tenants: [acme-corp], default_lifetime_s: {DEFAULT_S}"
    if isinstance(server, HydraServer):
        return f"actuators:\n  - {{kind: hydra, url: '{server.hydra.admin_url}', {common}}}\n"
    assert isinstance(server, KeycloakServer)
    key = folder / "actuator.pem"
    key_id = server.use_private_key(key)
    auth = (
        f"{{client_id: trustwatch, private_key: {{file: '{key}'}}, key_id: {key_id}, algorithm: RS256, "
        f"token_url: '{server.realm.token_url}'}}"
    )
    realm = server.realm.name
    return f"actuators:\n  - {{kind: keycloak, url: '{server.keycloak.url}', realm: {realm}, {common}, auth: {auth}}}\n"


def pin(service: Any, agent: str, level: str) -> None:
    made = service.client.post(
        f"/v1/agents/{quote(agent, safe='')}/pin",
        params={"tenant": "acme-corp", "issuer": ISSUER},
        json={"level": level, "why": "test"},
        headers=service.auth(),
    )
    assert made.status_code == 201, made.text


def unpin(service: Any, agent: str) -> None:
    ended = service.client.post(
        f"/v1/agents/{quote(agent, safe='')}/unpin",
        params={"tenant": "acme-corp", "issuer": ISSUER},
        json={"why": "test is over"},
        headers=service.auth(),
    )
    assert ended.status_code == 200, ended.text


def actuation(service: Any, agent: str, *status: str) -> dict[str, Any] | None:
    """What the API says of the agent, once it has that status."""
    found = [one for one in service.get("/v1/actuations", target="as").json()["items"] if one["agent_id"] == agent]
    return found[0] if found and found[0]["status"] in status else None


def soon(service: Any, agent: str, status: str, level: str) -> dict[str, Any]:
    """The actuation, once that level is brought about."""

    def reached() -> dict[str, Any] | None:
        found = actuation(service, agent, status)
        return found if found is not None and found["desired"]["risk_level"] == level else None

    found: dict[str, Any] = service.wait(reached, SECONDS)
    return found


@pytest.mark.parametrize("server", ["hydra", pytest.param("keycloak", marks=nightly)], indirect=True)
def test_a_pin_revokes_and_its_end_restores(
    make_service: Callable[..., Any], server: AuthorizationServer, tmp_path: Path
) -> None:
    """An agent that nobody has seen: tokens die within seconds; nobody else's; everything comes back."""
    bot, other = server.client(), server.client()
    before, mine, theirs = server.shown(bot), server.issued(bot), server.issued(other)
    service = make_service(configured(server, tmp_path))
    service.start()
    began = time.monotonic()

    pin(service, bot, "critical")

    service.wait(lambda: not server.active(mine.token), SECONDS)
    assert time.monotonic() - began < SECONDS
    told = soon(service, bot, "confirmed", "critical")
    assert told["confirmed_at"]
    assert told["original"]
    assert told["error"] is None
    assert server.issue(bot) is None
    assert server.active(theirs.token)
    unpin(service, bot)
    assert soon(service, bot, "restored", "unknown")["original"] is None
    after = server.shown(bot)
    assert after | {"notBefore": 0} == before | {"notBefore": 0}
    assert server.issued(bot).lifetime_s == DEFAULT_S
    assert not server.active(mine.token)
    metrics = service.client.get("/metrics").text
    assert 'trustwatch_actuations_total{outcome="confirmed",target="as"}' in metrics


@pytest.mark.parametrize("server", ["hydra", pytest.param("keycloak", marks=nightly)], indirect=True)
def test_a_server_that_was_down_is_caught_up_with(
    make_service: Callable[..., Any], server: AuthorizationServer, tmp_path: Path
) -> None:
    """A pin while the server is down, and a restart of the service before it is back: the wish is not lost."""
    bot = server.client()
    service = make_service(configured(server, tmp_path))
    service.start()
    server.stop()
    try:
        pin(service, bot, "high")
        service.wait(lambda: (actuation(service, bot, "wanted") or {}).get("error"), SECONDS)
        service.kill()
        service.start()
    finally:
        server.start()

    told = service.wait(lambda: actuation(service, bot, "confirmed"), 60.0)

    assert told["desired"]["max_token_lifetime_s"] == 60
    assert 58 <= server.issued(bot).lifetime_s <= 60


def test_drift_and_another_policy_are_put_right(make_service: Callable[..., Any], hydra: Any, tmp_path: Path) -> None:
    """Somebody undid it at the server: a look at everything does it again. In shadow mode everything is restored."""
    server = HydraServer(hydra)
    bot = server.client()
    before = server.shown(bot)
    service = make_service(configured(server, tmp_path) + "token_policy_file: policy.yaml\n")
    policy = service.folder / "policy.yaml"
    policy.write_text("version: '1'\nmode: enforce\n")
    service.start()
    pin(service, bot, "medium")
    soon(service, bot, "confirmed", "medium")
    lowered = server.shown(bot)
    with server.opened_sync() as admin:
        admin.put(f"/admin/clients/{bot}/lifespans", json={}).raise_for_status()
    assert server.issued(bot).lifetime_s == DEFAULT_S

    asked = service.client.post("/v1/actuations/as/reconcile", headers=service.auth())

    assert asked.status_code == 202, asked.text
    assert asked.json() == {"agents": 1}
    service.wait(lambda: server.shown(bot) == lowered, SECONDS)
    assert service.client.post("/v1/actuations/nobody/reconcile", headers=service.auth()).status_code == 404
    policy.write_text("version: '2'\nmode: shadow\n")
    service.wait(lambda: server.shown(bot) == before, SECONDS)
    assert soon(service, bot, "restored", "medium")["original"] is None
    policy.write_text("version: '3'\nmode: enforce\n")
    service.wait(lambda: server.shown(bot) == lowered, SECONDS)


def test_an_attack_reaches_the_server(make_service: Callable[..., Any], world: Any, hydra: Any, tmp_path: Path) -> None:
    """The simulated day: what is decided about an attacked agent is done to its client, and to no calm agent's."""
    server = HydraServer(hydra)
    rows = [json.loads(event) for event in world.day]
    names = sorted({row["agent"]["id"] for row in rows if row["tenant"] == "acme-corp"})
    issuers = sorted({row["agent"].get("issuer", "") for row in rows})
    clients = {name: server.client() for name in names}
    before = {name: server.shown(client) for name, client in clients.items()}
    more = configured(server, tmp_path, json.dumps(issuers)).replace(
        "kind: hydra,", f"kind: hydra, clients: {json.dumps(clients)},"
    )
    service = make_service(more)
    service.start()
    for start in range(0, len(world.day), 500):
        assert service.post(b"\n".join(world.day[start : start + 500])).status_code == 202
    service.settle()
    levels = {row["agent_id"]: row["risk_level"] for row in service.pages("/v1/agents", tenant="acme-corp")}
    raised = {name for name in names if levels[name] in ("medium", "high", "critical")}
    decided = {row["agent_id"] for row in service.pages("/v1/decisions", tenant="acme-corp")}

    def done() -> bool:
        found = service.pages("/v1/actuations")
        status = {one["agent_id"]: one["status"] for one in found}
        return all(status.get(name) == "confirmed" for name in raised) and not any(
            state in ("wanted", "applied") for state in status.values()
        )

    service.wait(done)

    assert raised
    assert raised <= decided
    for name, client in clients.items():
        assert (server.shown(client) != before[name]) == (name in raised), (name, levels[name])
