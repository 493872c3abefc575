"""Tokens by client credentials, from a token endpoint on loopback that checks what it is sent."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from trustwatch_client import ClientCredentials, ClientSecret, RiskSettings, TrustUnavailable, service_connection
from trustwatch_client.assertion import ASSERTION_TYPE, PrivateKeyJwt

from ..support.client_doubles import Clock, Reply, Request, Scripted

Make = Callable[..., Any]
SECRET = "s3cret & more"
SETTINGS = RiskSettings(fail_mode="closed", budget_s=5.0, cache_s=0.0, pause_s=0.0)
KEY = ec.generate_private_key(ec.SECP256R1())
PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def form(request: Request) -> dict[str, str]:
    return dict(parse_qsl(request.body.decode(), strict_parsing=True))


@pytest.fixture
def issuer(server: Scripted) -> Scripted:
    """The same server is also the token endpoint: tokens are numbered, and live 100 s."""
    calm, count = server.calm, iter(range(1, 100))

    def answer(request: Request) -> Reply:
        if request.path != "/token":
            return calm(request)
        return Reply(200, {"access_token": f"token-{next(count)}", "token_type": "bearer", "expires_in": 100})

    server.answer = answer
    return server


def used(server: Scripted) -> list[str]:
    """Tokens that came with look-ups."""
    return [one.headers["authorization"].split()[1] for one in server.requests if one.path != "/token"]


def credentials(server: Scripted, proof: Any = None, **more: Any) -> ClientCredentials:
    return ClientCredentials(f"{server.url}/token", "gate way", proof or ClientSecret(SECRET), **more)


def test_a_token_is_kept_and_renewed_before_it_ends(issuer: Scripted, make_client: Make, clock: Clock) -> None:
    client = make_client(issuer.url, credentials(issuer), SETTINGS, clock=clock)

    for now in (0.0, 79.0, 81.0):
        clock.now = now
        client.risk("bot")

    assert used(issuer) == ["token-1", "token-1", "token-2"]


def test_a_secret_travels_as_the_specification_has_it(issuer: Scripted, make_client: Make) -> None:
    """Basic: both parts are form-encoded first (RFC 6749, section 2.3.1); post: in the form."""
    make_client(issuer.url, credentials(issuer, scope="trust.score:read", audience="tw"), SETTINGS).risk("a")
    post = ClientSecret(SECRET, "client_secret_post")
    make_client(issuer.url, credentials(issuer, post, resource="https://tw.example"), SETTINGS).risk("b")

    basic, posted = (one for one in issuer.requests if one.path == "/token")
    login = base64.b64decode(basic.headers["authorization"].removeprefix("Basic ")).decode()
    assert login == "gate+way:s3cret+%26+more"
    assert form(basic) == {"grant_type": "client_credentials", "scope": "trust.score:read", "audience": "tw"}
    assert form(posted) | {"scope": ""} == {
        "grant_type": "client_credentials",
        "client_id": "gate way",
        "client_secret": SECRET,
        "scope": "",
        "resource": "https://tw.example",
    }


def test_private_key_jwt_verifies_and_is_used_once(issuer: Scripted, make_client: Make) -> None:
    proof = PrivateKeyJwt(PEM, "key-1", audience="https://as.example")
    client = make_client(issuer.url, credentials(issuer, proof), SETTINGS)
    client.risk("bot")
    issuer.then(Reply(401))
    client.risk("bot")

    forms = [form(one) for one in issuer.requests if one.path == "/token"]
    claims = [
        jwt.decode(one["client_assertion"], KEY.public_key(), ["ES256"], audience="https://as.example") for one in forms
    ]
    assert {one["client_assertion_type"] for one in forms} == {ASSERTION_TYPE}
    assert jwt.get_unverified_header(forms[0]["client_assertion"])["kid"] == "key-1"
    assert {(one["iss"], one["sub"], one["exp"] - one["iat"]) for one in claims} == {("gate way", "gate way", 60)}
    assert len({one["jti"] for one in claims}) == len(claims) == 2
    assert "client_secret" not in forms[0]


def test_while_the_old_token_works_a_dead_endpoint_does_no_harm(
    issuer: Scripted, make_client: Make, clock: Clock
) -> None:
    client = make_client(issuer.url, credentials(issuer), SETTINGS, clock=clock)
    client.risk("bot")
    answer = issuer.answer
    issuer.answer = lambda request: Reply(500) if request.path == "/token" else answer(request)

    clock.now = 90.0
    client.risk("bot")
    clock.now = 101.0
    with pytest.raises(TrustUnavailable) as raised:
        client.risk("bot")

    assert used(issuer) == ["token-1", "token-1"]
    assert raised.value.cause == "token"


@pytest.mark.parametrize(
    "reply",
    [
        Reply(401, {"error": "invalid_client", "error_description": f"{SECRET} is wrong"}),
        Reply(200, b"<html>"),
        Reply(200, {"access_token": ""}),
        Reply(200, {"access_token": "x", "token_type": "DPoP"}),
        Reply(200, {"access_token": "x", "expires_in": "soon"}),
        Reply(302, headers={"location": "https://evil.example"}),
    ],
)
def test_what_is_no_token_is_none_and_no_secret_shows(
    issuer: Scripted, make_client: Make, caplog: pytest.LogCaptureFixture, reply: Reply
) -> None:
    issuer.answer = lambda request: reply
    client = make_client(issuer.url, credentials(issuer), SETTINGS)

    with pytest.raises(TrustUnavailable) as raised:
        client.risk("bot")

    assert raised.value.cause == "token"
    assert SECRET not in caplog.text + str(raised.value) + repr(ClientSecret(SECRET))
    assert {one.path for one in issuer.requests} == {"/token"}


def test_wrong_keys_show_at_start() -> None:
    other = rsa.generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for key, more in ((b"no key", {}), (other, {}), (PEM, {"algorithm": "HS256"}), (PEM, {"lifetime_s": 3600})):
        with pytest.raises(ValueError, match=r"key|algorithm|lifetime_s"):
            PrivateKeyJwt(key, "kid", **more)
    assert "BEGIN" not in repr(PrivateKeyJwt(PEM, "kid"))


def test_secrets_never_travel_in_clear() -> None:
    with pytest.raises(ValueError, match="in clear"):
        ClientCredentials("http://as.example/token", "me", ClientSecret(SECRET))
    assert ClientCredentials("http://as.mesh/token", "me", ClientSecret(SECRET), insecure_http=True).client_id == "me"


def test_a_callable_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_connection, "TOKEN_TIMEOUT_S", 0.01)

    async def hang() -> str:
        await asyncio.Event().wait()
        return "never"

    async def ask() -> None:
        async with httpx2.AsyncClient() as http:
            requests = service_connection.Requests(http.request, hang, Clock(), asyncio.Lock(), may_await=True)
            await requests.send("GET", "http://127.0.0.1:1/", 1.0)

    with pytest.raises(service_connection.TokenFailed, match=r"nothing within 0\.01 s"):
        asyncio.run(ask())
