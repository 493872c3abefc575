"""Real peers on a running Trustwatch: an authorization server that asks at issuance, gateways that ask at each call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from ..support.endpoint import Endpoint
from ..support.oauth_peers import RESOURCE, OAuthClient, access_lines, claims_of, oidc_client, upstream
from ..support.peer_fixtures import start_gateway

if TYPE_CHECKING:
    from scripts.service_stack import OidcProvider

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

MEDIUM_S = 300
"""What the built-in policy says."""
SETTINGS = """\
hooks:
  - {{name: authzen, kind: authzen, tenant: acme-corp, issuer: "{issuer}"}}
gateway:
  issuers:
    - {{issuer: "{issuer}", audiences: ["{resource}"], jwks_uri: "{jwks}", tenant: acme-corp}}
"""


@pytest.fixture
def asking(
    oidc_provider: OidcProvider, make_service: Callable[..., Any], tmp_path: Path
) -> Iterator[tuple[OidcProvider, Any]]:
    """An authorization server that asks Trustwatch by the AuthZEN profile, and Trustwatch."""
    given = {"issuer": oidc_provider.issuer, "resource": RESOURCE, "jwks": oidc_provider.jwks_url}
    service = make_service(SETTINGS.format(**given))
    service.start()
    token = tmp_path / "token"
    token.write_text(service.token())
    oidc_provider.configure(evaluations_url=f"{service.url}/access/v1/evaluations", token_file=token)
    oidc_provider.start()
    yield oidc_provider, service
    oidc_provider.configure()
    oidc_provider.start()


def pin(service: Any, server: OidcProvider, client: OAuthClient, level: str) -> None:
    """What a person does: the same effect as evidence, at once."""
    answer = service.client.post(
        f"/v1/agents/{client.client_id}/pin",
        params={"tenant": "acme-corp", "issuer": server.issuer},
        json={"level": level, "why": "test", "valid_s": 600},
        headers=service.auth(),
    )
    assert answer.status_code == 201, answer.text


def test_a_token_lives_as_long_as_its_agent_is_trusted(asking: tuple[OidcProvider, Any]) -> None:
    """Shorter at a higher level, none at the highest ones, no change for others; and none when nobody answers."""
    server, service = asking
    agent, other = oidc_client(server, agent_type="Clerk"), oidc_client(server)

    def lifetime(client: OAuthClient) -> int:
        claims = claims_of(client.token())
        return int(claims["exp"] - claims["iat"])

    claims = claims_of(agent.token())
    assert claims["risk_level"] == "unknown" and claims["policy_version"]
    for one in (agent, other):
        pin(service, server, one, "low")
    before = lifetime(agent)
    pin(service, server, agent, "medium")
    assert claims_of(agent.token())["risk_level"] == "medium"
    assert lifetime(agent) == MEDIUM_S < before
    for level in ("high", "critical"):  # the former until a person approves
        pin(service, server, agent, level)
        assert agent.ask().json()["error"] == "access_denied"
    assert lifetime(other) == before
    assert agent.exchange(other.token()).json()["error"] == "access_denied"

    service.stop()
    assert other.ask().json()["error"] == "access_denied"


@pytest.mark.parametrize(
    ("name", "path"), [("envoy", "/ext-authz"), ("caddy", "/forward-auth"), ("nginx", "/forward-auth")]
)
def test_a_live_token_is_refused_at_the_gateway(
    request: pytest.FixtureRequest, asking: tuple[OidcProvider, Any], name: str, path: str
) -> None:
    """At the very next call after its agent turned critical; that of another agent is not, a forged one is, none is."""
    server, service = asking
    gateway = request.getfixturevalue(name)
    bad, good = oidc_client(server), oidc_client(server)
    with Endpoint(upstream) as api, httpx2.Client(timeout=120) as http:
        start_gateway(gateway, api.url, service.url + path, identity={server.issuer: server.jwks_url})

        def call(token: str) -> int:
            return http.get(f"{gateway.url}/tools?x=1", headers={"authorization": f"Bearer {token}"}).status_code

        of_bad, of_good = bad.token(), good.token()
        assert [call(of_bad), call(of_good)] == [200, 200]
        pin(service, server, bad, "critical")
        assert [call(of_bad), call(of_good)] == [403, 200]
        assert call(of_good[:-6] + "AAAAAA") == 401
        assert http.get(gateway.url).status_code == 401
        assert len(api.seen) == 3
        assert len(access_lines(gateway, 6)) == 6
