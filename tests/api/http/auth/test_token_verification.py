"""One token against one set of keys: everything RFC 8725 and RFC 9068 ask for."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm

from trustwatch.api.http.auth.token_verification import (
    InvalidToken,
    KeySet,
    TokenClaims,
    UnknownKey,
    parse_keys,
    unverified_issuer,
    verify_token,
)
from trustwatch.api.settings.access_settings import IssuerSettings

NOW = 1_790_000_000.0
ISSUER = "https://as.example"


def check(token: bytes, issuer: IssuerSettings, keys: KeySet, now: float = NOW) -> TokenClaims:
    return verify_token(token.decode(), issuer, keys, now)


def segment(value: Any) -> bytes:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def hand_made(token: bytes, header: dict[str, Any], key: bytes | None) -> bytes:
    """The claims of *token* under another header, signed by HMAC with *key* or not at all."""
    signed = segment(header) + b"." + token.split(b".")[1]
    signature = b"" if key is None else segment(hmac.new(key, signed, hashlib.sha256).digest())
    return signed + b"." + signature


@pytest.mark.parametrize("name", ["es", "rs", "ed"])
def test_accepts_a_right_token(name: str, issuer: IssuerSettings, keys: KeySet, request: Any) -> None:
    """ES256, RS256 and EdDSA tokens of the issuer are accepted with what they say."""
    claims = check(request.getfixturevalue(name).token(), issuer, keys)

    assert claims.members["scope"] == "trust.score:read trust.ingest"
    assert claims == TokenClaims(
        issuer=ISSUER,
        subject="service-account-1",
        client_id="gateway-1",
        scopes=frozenset({"trust.score:read", "trust.ingest"}),
        exp=NOW + 300,
        members=claims.members,
    )


def test_one_rsa_key_serves_rs256_and_ps256_unless_it_names_one(issuer: IssuerSettings, rs: Any) -> None:
    """A key without `alg` fits its family; a key with `alg` fits that alone (RFC 8725, 3.1)."""
    rs256, ps256 = rs.token(), type(rs)("PS256", rs.kid, rs.private).token()
    free = parse_keys(msgspec.json.encode({"keys": [rs.jwk()]}))
    bound = parse_keys(msgspec.json.encode({"keys": [rs.jwk(alg="PS256")]}))

    assert check(rs256, issuer, free) == check(ps256, issuer, free) == check(ps256, issuer, bound)
    with pytest.raises(UnknownKey):
        check(rs256, issuer, bound)


def test_refuses_a_token_without_signature(es: Any, issuer: IssuerSettings, keys: KeySet) -> None:
    """Algorithm `none` is refused in every spelling, with and without a signature part."""
    for alg in ("none", "None", "NONE", ""):
        forged = hand_made(es.token(), {"alg": alg, "typ": "at+jwt", "kid": es.kid}, None)
        with pytest.raises(InvalidToken, match="algorithm"):
            check(forged, issuer, keys)


@pytest.mark.parametrize("form", ["pem", "der", "jwk"])
def test_refuses_a_public_key_used_as_hmac_secret(form: str, rs: Any, issuer: IssuerSettings, keys: KeySet) -> None:
    """HS256 with the issuer's public key as secret is the classic confusion; no spelling of the key works."""
    public = rs.private.public_key()
    secret = {
        "pem": public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "der": public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "jwk": json.dumps(rs.jwk()).encode(),
    }[form]
    forged = hand_made(rs.token(), {"alg": "HS256", "typ": "at+jwt", "kid": rs.kid}, secret)

    with pytest.raises(InvalidToken, match="algorithm"):
        check(forged, issuer, keys)


def test_the_algorithm_must_fit_the_kind_of_the_key(es: Any, rs: Any, issuer: IssuerSettings, keys: KeySet) -> None:
    """A header that names the RSA key and ES256 finds no key: `alg` never chooses how a key is read."""
    with pytest.raises(UnknownKey):
        check(es.token({"kid": rs.kid}), issuer, keys)


def test_refuses_a_key_brought_along(new_key: Any, issuer: IssuerSettings, keys: KeySet) -> None:
    """`jwk`, `jku` and `x5u` in a header are not looked at: trust comes from the settings alone."""
    stranger = new_key("ES256", "evil")
    header = {"jwk": stranger.jwk(), "jku": "https://evil.example/jwks", "x5u": "https://evil.example/x5u"}

    with pytest.raises(UnknownKey):
        check(stranger.token(header), issuer, keys)


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"aud": "https://other.example"}, "audience"),
        ({"aud": ["https://other.example", "account"]}, "audience"),
        ({"aud": "https://trust.example.evil"}, "audience"),
        ({"aud": []}, "lacks"),
        ({"aud": None}, "lacks"),
        ({"aud": {"https://trust.example": 1}}, "audience"),
        ({"iss": "https://as.example/"}, "issuer"),
        ({"iss": None}, "lacks"),
        ({"exp": int(NOW) - 30}, "expired"),
        ({"exp": None}, "lacks"),
        ({"exp": "1990000000"}, "exp"),
        ({"exp": True}, "exp"),
        ({"exp": 10**400}, "exp"),
        ({"nbf": int(NOW) + 31}, "not valid yet"),
        ({"nbf": "soon"}, "nbf"),
        ({"iat": int(NOW) + 31}, "not valid yet"),
        ({"iat": None}, "lacks"),
        ({"sub": None}, "lacks"),
        ({"sub": ""}, "subject"),
        ({"sub": 7}, "malformed"),
        ({"sub": "x" * 2049}, "subject"),
        ({"client_id": ["gateway-1"]}, "client"),
        ({"scope": {"trust.admin": True}}, "scopes"),
        ({"scp": ["trust.ingest", 1]}, "scopes"),
        ({"typ": "ID"}, "not an access token"),
        ({"typ": "Refresh"}, "not an access token"),
    ],
)
def test_refuses_wrong_claims(
    claims: dict[str, Any], reason: str, es: Any, issuer: IssuerSettings, keys: KeySet
) -> None:
    """Each claim that must hold is refused alone, with a sentence that says which."""
    with pytest.raises(InvalidToken, match=reason):
        check(es.token(**claims), issuer, keys)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"typ": "secevent+jwt"}, "not an access token"),
        ({"typ": "dpop+jwt"}, "not an access token"),
        ({"typ": "txntoken+jwt"}, "not an access token"),
        ({"typ": None}, "not an access token"),
        ({"crit": ["exp"], "exp": 1}, "header|crit"),
        ({"crit": ["b64"], "b64": True}, "header|crit"),
        ({"kid": ""}, "header"),
        ({"kid": "x" * 257}, "header"),
    ],
)
def test_refuses_wrong_headers(
    header: dict[str, Any], reason: str, es: Any, issuer: IssuerSettings, keys: KeySet
) -> None:
    """Other kinds of token, critical extensions and absurd key ids are refused."""
    signed = segment({"alg": "ES256", "typ": "at+jwt", "kid": es.kid, **header}) + b"." + es.token().split(b".")[1]

    with pytest.raises(InvalidToken, match=reason):
        check(signed + b"." + segment(b"\0" * 64), issuer, keys)


def test_typ_jwt_is_accepted(es: Any, issuer: IssuerSettings, keys: KeySet) -> None:
    """Keycloak and Hydra say JWT, RFC 9068 says at+jwt (or application/at+jwt)."""
    for typ in ("JWT", "jwt", "at+jwt", "application/at+jwt"):
        assert check(es.token({"typ": typ}), issuer, keys).client_id == "gateway-1"


def test_times_are_judged_by_the_clock_passed_in(es: Any, issuer: IssuerSettings, keys: KeySet) -> None:
    """Leeway forgives up to its length and not a second more, at both ends."""
    token = es.token(nbf=int(NOW) + 10)

    assert check(token, issuer, keys, now=NOW - 20)
    assert check(token, issuer, keys, now=NOW + 329)
    for now in (NOW - 21, NOW + 330):
        with pytest.raises(InvalidToken):
            check(token, issuer, keys, now=now)


def test_refuses_a_changed_token(es: Any, issuer: IssuerSettings, keys: KeySet) -> None:
    """A payload that was changed after signing, and a signature of another token, are refused."""
    header, payload, signature = es.token().split(b".")
    changed = segment({**json.loads(base64.urlsafe_b64decode(payload + b"==")), "scope": "trust.admin"})

    for forged in (b".".join([header, changed, signature]), b".".join([header, payload, segment(b"\1" * 64)])):
        with pytest.raises(InvalidToken, match="signature"):
            check(forged, issuer, keys)


@pytest.mark.parametrize(
    "garbage",
    ["", "a", "a.b", "a.b.c", "..", "a.b.c.d.e", "eyJhbGciOiJFUzI1NiJ9..", "[" * 5000, "%%%.%%%.%%%"],
)
def test_garbage_is_an_invalid_token(garbage: str, issuer: IssuerSettings, keys: KeySet) -> None:
    """Nothing that may stand in a header makes another error than InvalidToken."""
    with pytest.raises(InvalidToken):
        unverified_issuer(garbage)
    with pytest.raises(InvalidToken):
        verify_token(garbage, issuer, keys, NOW)


def test_a_deeply_nested_token_is_an_invalid_token() -> None:
    bomb = segment({"alg": "ES256"}) + b"." + segment(b"[" * 10_000 + b"]" * 10_000) + b"." + segment(b"x")

    with pytest.raises(InvalidToken):
        unverified_issuer(bomb.decode())


@pytest.mark.parametrize(
    ("claims", "client", "scopes"),
    [
        ({"client_id": None, "azp": "kc-client"}, "kc-client", {"trust.score:read", "trust.ingest"}),
        ({"client_id": None, "cid": "okta", "scope": None, "scp": ["a", "b"]}, "okta", {"a", "b"}),
        ({"client_id": None, "scope": None, "scp": "a b"}, "", {"a", "b"}),
        ({"client_id": "one", "azp": "two", "scope": ""}, "one", set()),
    ],
)
def test_reads_the_dialects_of_authorization_servers(
    claims: dict[str, Any], client: str, scopes: set[str], es: Any, issuer: IssuerSettings, keys: KeySet
) -> None:
    read = check(es.token(**claims), issuer, keys)

    assert (read.client_id, read.scopes) == (client, frozenset(scopes))


@pytest.mark.parametrize(
    ("separator", "written", "scopes"),
    [
        ("commas", {"scope": "a,b, c"}, {"a", "b", "c"}),
        ("commas", {"scope": None, "scp": "a,b"}, {"a", "b"}),
        ("commas", {"scope": "a b"}, {"a b"}),
        ("spaces", {"scope": "a,trust.admin"}, {"a,trust.admin"}),
    ],
)
def test_commas_separate_scopes_where_the_issuer_is_said_to_write_them(
    separator: Any, written: dict[str, Any], scopes: set[str], es: Any, issuer: IssuerSettings, keys: KeySet
) -> None:
    """RFC 6749 lets a scope hold a comma: guessed at, one name would become two rights."""
    read = check(es.token(**written), msgspec.structs.replace(issuer, scopes=separator), keys)

    assert read.scopes == frozenset(scopes)


def test_without_kid_only_a_single_fitting_key_is_used(es: Any, new_key: Any, issuer: IssuerSettings) -> None:
    """Two candidate keys and no kid is refused: guessing is not verifying."""
    token = es.token({"kid": None})
    one = parse_keys(msgspec.json.encode({"keys": [es.jwk()]}))
    two = parse_keys(msgspec.json.encode({"keys": [es.jwk(), new_key("ES256", "other").jwk()]}))

    assert check(token, issuer, one).client_id == "gateway-1"
    with pytest.raises(UnknownKey):
        check(token, issuer, two)


def test_of_two_keys_with_one_name_the_first_holds(es: Any, new_key: Any, issuer: IssuerSettings) -> None:
    """An issuer that names two keys alike has one: the set is read the same way at every fetch."""
    double = new_key("ES256", es.kid)
    keys = parse_keys(msgspec.json.encode({"keys": [es.jwk(), double.jwk()]}))

    assert check(es.token(), issuer, keys).client_id == "gateway-1"
    for header in ({}, {"kid": None}):
        with pytest.raises(InvalidToken):
            check(double.token(header), issuer, keys)


def test_unusable_keys_are_left_out(es: Any, issuer: IssuerSettings) -> None:
    """Symmetric, private, encryption, short, foreign and broken members never verify anything."""
    short = type(es)("RS256", "short", rsa.generate_private_key(65537, 1024))
    private = {**ECAlgorithm.to_jwk(es.private, as_dict=True), "kid": es.kid}
    assert "d" in private
    members = [
        {"kty": "oct", "k": "c2VjcmV0", "kid": es.kid, "alg": "HS256"},
        private,
        es.jwk(use="enc"),
        es.jwk(key_ops=["sign"]),
        es.jwk(alg="HS256"),
        short.jwk(),
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "bad"},
        {"kty": "EC", "crv": ["P-256"]},
        {"kty": "OKP", "crv": "X25519", "x": "AA"},
        "no key",
        {},
    ]

    assert len(parse_keys(msgspec.json.encode({"keys": members}))) == 0


@pytest.mark.parametrize(
    "document",
    [b"", b"[]", b"{}", b'{"keys": {}}', b'{"keys": null}', b"<html>", b"\xff", b'{"keys":' + b"[" * 100_000],
)
def test_a_document_that_is_no_jwks_is_refused(document: bytes) -> None:
    """An error page in place of keys is an error of the issuer, not the end of its keys."""
    with pytest.raises(ValueError, match="JWK set"):
        parse_keys(document)
