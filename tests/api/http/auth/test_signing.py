"""The local development key."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from trustwatch.api.http.auth.bearer_tokens import TokenVerifier
from trustwatch.api.http.auth.jwks import JwksCache
from trustwatch.api.http.auth.signing import LOCAL_ISSUER, LocalSigningKey
from trustwatch.api.http.auth.token_verification import InvalidToken, TokenClaims
from trustwatch.api.settings.access_settings import IssuerSettings, VerificationSettings
from trustwatch.ingest.errors import ConfigError

NOW = 1_790_000_000.0


def token_of(key: LocalSigningKey) -> bytes:
    return key.issue_token("demo", "demo-cli", ["trust.score:read"], "trustwatch", 3600, NOW, "jti-1").encode()


def verify(token: bytes, *issuers: IssuerSettings) -> TokenClaims:
    rules = VerificationSettings()

    async def play() -> TokenClaims:
        jwks = JwksCache(issuers, lambda: NOW)
        await jwks.start()
        try:
            verifier: TokenVerifier[TokenClaims] = TokenVerifier(
                issuers, jwks, lambda claims: claims, rules, lambda: NOW
            )
            return verifier.verify_now(token)
        finally:
            await jwks.close()

    return asyncio.run(play())


def test_the_key_is_created_once_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    """First use creates it with mode 0600; later uses find the same key and nothing is left beside it."""
    first, second = LocalSigningKey.open(tmp_path / "var"), LocalSigningKey.open(tmp_path / "var")

    assert first.kid == second.kid
    assert stat.S_IMODE((tmp_path / "var" / "local-key.pem").stat().st_mode) == 0o600
    assert sorted(path.name for path in (tmp_path / "var").iterdir()) == ["local-jwks.json", "local-key.pem"]
    assert '"d"' not in (tmp_path / "var" / "local-jwks.json").read_text(encoding="utf-8")


def test_a_local_token_is_trusted_only_where_the_settings_say_so(tmp_path: Path) -> None:
    """It is verified like that of any other issuer; without the entry it is refused."""
    token = token_of(LocalSigningKey.open(tmp_path))
    local = IssuerSettings(issuer=LOCAL_ISSUER, audiences=("trustwatch",), jwks_file=tmp_path / "local-jwks.json")

    claims = verify(token, local)
    assert (claims.subject, claims.client_id, claims.scopes) == ("demo", "demo-cli", frozenset({"trust.score:read"}))
    assert claims.exp == NOW + 3600
    with pytest.raises(InvalidToken, match="issuer"):
        verify(token)


def test_a_local_token_has_the_form_of_rfc_9068(tmp_path: Path) -> None:
    token = token_of(LocalSigningKey.open(tmp_path))
    claims = jwt.decode(token, options={"verify_signature": False})

    assert jwt.get_unverified_header(token)["typ"] == "at+jwt"
    assert set(claims) == {"iss", "exp", "aud", "sub", "client_id", "iat", "jti", "scope"}


def test_two_machines_have_two_keys(tmp_path: Path) -> None:
    """A token of one is refused by the other, though the issuer has the same name."""
    token = token_of(LocalSigningKey.open(tmp_path / "a"))
    LocalSigningKey.open(tmp_path / "b")
    other = IssuerSettings(issuer=LOCAL_ISSUER, audiences=("trustwatch",), jwks_file=tmp_path / "b" / "local-jwks.json")

    with pytest.raises(InvalidToken):
        verify(token, other)


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    LocalSigningKey.open(tmp_path)
    (tmp_path / "local-key.pem").chmod(0o644)

    with pytest.raises(ConfigError, match="0600"):
        LocalSigningKey.open(tmp_path)


def test_a_file_that_is_no_fitting_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "local-key.pem"
    foreign = ed25519.Ed25519PrivateKey.generate()
    for content in (b"garbage", foreign.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())):
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(ConfigError, match=r"PEM|P-256"):
            LocalSigningKey.open(tmp_path)
        assert path.read_bytes() == content


def test_the_key_is_not_shown(tmp_path: Path) -> None:
    key = LocalSigningKey.open(tmp_path)

    assert repr(key) == f"LocalSigningKey(kid='{key.kid}')"
