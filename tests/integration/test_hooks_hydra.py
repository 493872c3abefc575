"""A running Ory Hydra asks a running Trustwatch at every token: claims, denial, and what holds when nobody answers."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from ..support.oauth_peers import OAuthClient, claims_of, hydra_client

if TYPE_CHECKING:
    from scripts.service_stack import Hydra

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

HEADER, SECRET = "X-Trustwatch-Key", "hydra's secret, 24 letters"
HOOKS = """\
hooks:
  - {{name: hydra, kind: hydra, tenant: acme-corp, issuer: "{issuer}", secret: "{secret}"}}
"""


@pytest.fixture
def asking(hydra: Hydra, make_service: Callable[..., Any]) -> Iterator[tuple[Hydra, Any]]:
    """Hydra whose token hook is Trustwatch, and Trustwatch."""
    service = make_service(HOOKS.format(issuer=hydra.issuer, secret=SECRET))
    service.start()
    point_to(hydra, service, SECRET)
    yield hydra, service
    hydra.configure()
    hydra.start()


def point_to(hydra: Hydra, service: Any, secret: str) -> None:
    hydra.configure(
        token_hook=f"{service.url}/hooks/hydra",
        hook_key=(HEADER, secret),
        top_level_claims=("risk_level", "policy_version"),
    )
    hydra.start()


def hostile(service: Any, make_event: Callable[..., dict[str, Any]], client: OAuthClient, issuer: str) -> None:
    """A stolen credential at work: a revoked token is used, with another key and method, outside its task."""
    agent = {"id": client.client_id, "issuer": issuer, "type": "Clerk", "capabilities": ["read_file"]}
    known = {"method": "private_key_jwt", "thumbprint": "key-1", "token_id": "sha256:1"}
    other = {"method": "client_secret_basic", "thumbprint": "key-2", "token_id": "sha256:1"}

    def event(number: int, **members: Any) -> dict[str, Any]:
        return make_event(client.client_id, number, **{"credential": known, **members}) | {"agent": agent}

    usual = [event(number) for number in range(20)]
    revoked = event(20, type="token.revoke", action="revoke")
    stolen = [
        event(
            21 + number,
            action=f"export_{number}",
            credential=other,
            client={"ip": "203.0.113.66"},
            resource={"type": "account", "id": f"acct-{number}"},
        )
        for number in range(60)
    ]
    for events in (usual, [revoked], stolen):
        answer = service.send(events)
        assert (answer.status_code, answer.json()["rejected"]) == (202, 0), answer.text


def risk_of(service: Any, client: OAuthClient, issuer: str) -> str:
    answer = service.get(f"/v1/agents/{client.client_id}/risk", tenant="acme-corp", issuer=issuer)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["risk_level"])


def test_tokens_tell_their_risk_and_a_critical_agent_gets_none(
    asking: tuple[Hydra, Any], make_event: Callable[..., dict[str, Any]]
) -> None:
    """From events alone: the hijacked client is refused, another client is not, and both were heard of by the hook."""
    hydra, service = asking
    bad, good = hydra_client(hydra), hydra_client(hydra)
    claims = claims_of(bad.token())
    assert claims["risk_level"] == "unknown"
    assert claims["policy_version"] == claims["ext"]["policy_version"] != ""
    good.token()

    hostile(service, make_event, bad, hydra.issuer)
    service.wait(lambda: risk_of(service, bad, hydra.issuer) == "critical", 30.0)
    refused = bad.ask()

    assert (refused.status_code, refused.json()["error"]) == (403, "access_denied")
    assert claims_of(good.token())["risk_level"] in ("unknown", "low")
    labels = 'level="critical",mode="enforce",reason="risk_level",via="hydra"'
    assert service.metric(f"trustwatch_verdicts_total{{{labels}}}") == 1
    service.wait(lambda: service.counts(tenant="acme-corp").get(good.client_id) == 2, 10.0)


def test_a_person_may_pin_a_client_that_was_never_seen(asking: tuple[Hydra, Any]) -> None:
    """The next token is refused; once the pin ends there is one again."""
    hydra, service = asking
    client = hydra_client(hydra)
    where = {"tenant": "acme-corp", "issuer": hydra.issuer}
    path = f"/v1/agents/{client.client_id}"
    wish = {"level": "critical", "why": "reported by its owner", "valid_s": 600}
    pinned = service.client.post(f"{path}/pin", params=where, json=wish, headers=service.auth())
    assert pinned.status_code == 201, pinned.text

    assert client.ask().status_code == 403
    ended = service.client.post(f"{path}/unpin", params=where, json={"why": "clear"}, headers=service.auth())
    assert ended.status_code == 200, ended.text
    assert claims_of(client.token())["risk_level"] != "critical"


def signed_in(hydra: Hydra, client: OAuthClient, session: dict[str, Any]) -> dict[str, Any]:
    """What the token endpoint gives a client for which ann has just consented; *session* is what consent puts in."""
    redirect, scope = "http://127.0.0.1/callback", "offline openid tools:read"
    query = {"response_type": "code", "client_id": client.client_id, "redirect_uri": redirect, "scope": scope}
    steps = (
        ("login", {"subject": "ann"}),
        ("consent", {"grant_scope": scope.split(), "session": session}),
    )
    with httpx2.Client(timeout=30) as browser:
        at = browser.get(f"{hydra.url}/oauth2/auth", params=query | {"state": "12345678"}).headers["location"]
        for step, accepted in steps:
            challenge = {f"{step}_challenge": httpx2.URL(at).params[f"{step}_challenge"]}
            url = f"{hydra.admin_url}/admin/oauth2/auth/requests/{step}/accept"
            accept = httpx2.put(url, params=challenge, json=accepted).json()["redirect_to"]
            at = browser.get(accept).headers["location"]
    code = httpx2.URL(at).params["code"]
    answer = client.post(client.token_url, grant_type="authorization_code", code=code, redirect_uri=redirect)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_a_refresh_keeps_claims_and_is_refused_at_high(asking: tuple[Hydra, Any]) -> None:
    """Claims that consent gave stay beside ours, in both tokens; a refresh token is of no use while risk is high."""
    hydra, service = asking
    client = hydra_client(
        hydra,
        grant_types=["authorization_code", "refresh_token"],
        response_types=["code"],
        redirect_uris=["http://127.0.0.1/callback"],
        scope="offline openid tools:read",
    )
    session = {"access_token": {"act": {"sub": "orchestrator"}, "cost": 1.5}, "id_token": {"nick": "ann"}}
    first = signed_in(hydra, client, session)
    second = client.post(client.token_url, grant_type="refresh_token", refresh_token=first["refresh_token"]).json()
    for tokens in (first, second):
        ours = claims_of(tokens["access_token"])["ext"]
        assert ours.pop("policy_version")
        assert ours == {**session["access_token"], "risk_level": "unknown"}
        assert claims_of(tokens["id_token"])["nick"] == "ann"

    where = {"tenant": "acme-corp", "issuer": hydra.issuer}
    wish = {"level": "high", "why": "looks odd", "valid_s": 600}
    path = f"/v1/agents/{client.client_id}"
    assert service.client.post(f"{path}/pin", params=where, json=wish, headers=service.auth()).status_code == 201
    refused = client.post(client.token_url, grant_type="refresh_token", refresh_token=second["refresh_token"])

    assert (refused.status_code, refused.json()["error"]) == (403, "access_denied")
    labels = 'level="high",mode="enforce",reason="refresh_refused",via="hydra"'
    assert service.metric(f"trustwatch_verdicts_total{{{labels}}}") == 1
    service.client.post(f"{path}/unpin", params=where, json={"why": "clear"}, headers=service.auth()).raise_for_status()
    again = client.post(client.token_url, grant_type="refresh_token", refresh_token=second["refresh_token"])
    assert again.status_code == 200  # a refusal does not use the refresh token up


def test_hydra_fails_closed_when_nobody_answers(asking: tuple[Hydra, Any]) -> None:
    """docs/fail-modes.md: stopped, frozen or with a wrong secret, no client gets a token, and all do afterwards."""
    hydra, service = asking
    client = hydra_client(hydra)
    assert client.ask().status_code == 200

    service.stop()
    answer = client.ask()
    assert (answer.status_code, answer.json()["error"]) == (500, "server_error")

    service.start()
    assert client.ask().status_code == 200
    service.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.post(client.token_url, data={"grant_type": "client_credentials", **client.form, **client.proof()})
    finally:
        service.process.send_signal(signal.SIGCONT)
    service.wait(lambda: client.ask().status_code == 200)

    point_to(hydra, service, "not the secret of the hook")
    assert client.ask().json()["error"] == "server_error"
    point_to(hydra, service, SECRET)
    assert client.ask().status_code == 200
