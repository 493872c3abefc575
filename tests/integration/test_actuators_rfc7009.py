"""Tokens at hand are revoked at real servers, which say afterwards whether they are dead."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import jwt
import pytest

from trustwatch.scoring.delivery.actuators.authenticators import ClientAuthenticator
from trustwatch.scoring.delivery.actuators.token_revocation import RevocationEndpoint, RevocationResult, TokenRevoker
from trustwatch.scoring.delivery.notifiers.webhook_notifier import make_webhook_client

from ..support.oauth_peers import SCOPE, OAuthClient, hydra_client, oidc_client

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def proof(client: OAuthClient) -> ClientAuthenticator:

    def sign(client_id: str, audience: str) -> str:
        now = int(time.time())
        claims = {"iss": client_id, "sub": client_id, "aud": audience, "iat": now, "exp": now + 60}
        return jwt.encode(claims | {"jti": f"j-{time.time_ns()}"}, client.key, "RS256", {"kid": "key-1"})

    return ClientAuthenticator(client.client_id, sign=sign, audience=client.audience)


def burn(token: str, client: OAuthClient, revoke: str, introspect: str) -> RevocationResult:

    async def work() -> RevocationResult:
        async with make_webhook_client() as http:
            endpoint = RevocationEndpoint("as", frozenset({"as"}), revoke, proof(client), introspect)
            return await TokenRevoker([endpoint], http, lambda *_: None).revoke(token, "as")

    return asyncio.run(work())


def test_a_token_is_revoked_and_introspection_says_so(hydra: Any) -> None:
    """Hydra, as the client that it was issued to."""
    bot = hydra_client(hydra)
    token, other = bot.token(), bot.token()
    introspect = f"{hydra.admin_url}/admin/oauth2/introspect"

    burned = burn(token, bot, f"{hydra.url}/oauth2/revoke", introspect)

    assert burned == RevocationResult("confirmed")
    assert burn(other, bot, f"{hydra.url}/oauth2/revoke", introspect) == RevocationResult("confirmed")


def test_a_server_that_revokes_only_the_askers_tokens_is_found_out(hydra: Any) -> None:
    """RFC 7009, 2.1: then the admin API has to do it. The token is still alive, and that is what is told."""
    bot, ours = hydra_client(hydra), hydra_client(hydra)
    token = bot.token()

    burned = burn(token, ours, f"{hydra.url}/oauth2/revoke", f"{hydra.admin_url}/admin/oauth2/introspect")

    assert burned.outcome == "still_active"
    assert token not in burned.error


def test_an_operator_may_revoke_what_others_were_issued(oidc_provider: Any) -> None:
    """node-oidc-provider, told so: opaque tokens of any client die. JWTs it refuses to revoke, and says so."""
    given = {name: {"scope": SCOPE, "format": kind} for name, kind in (("https://o", "opaque"), ("https://j", "jwt"))}
    oidc_provider.configure(resources=given)
    oidc_provider.start()
    bot, ours = oidc_client(oidc_provider), oidc_client(oidc_provider)
    oidc_provider.configure(resources=given, operators=(ours.client_id,))
    oidc_provider.start()
    revoke, ask = (f"{oidc_provider.token_url}/{name}" for name in ("revocation", "introspection"))

    opaque = burn(bot.token(resource="https://o"), ours, revoke, ask)
    signed = burn(bot.token(resource="https://j"), ours, revoke, ask)

    assert opaque == RevocationResult("confirmed")
    assert signed.outcome == "unsupported"
    assert "JWT" in signed.error
