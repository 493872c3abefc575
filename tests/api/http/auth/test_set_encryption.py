"""Keys of receivers that tokens are encrypted to: which are taken, and what is made with them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from trustwatch.api.http.auth.set_encryption import encrypt_token, parse_encryption_keys

from ....support.proofs import base64url, decrypted, encryption_jwk, public_jwk

OWN = encryption_jwk()
PUBLIC = public_jwk(OWN)


def usable(*members: Any) -> list[dict[str, str]]:
    return [dict(key.header) for key in parse_encryption_keys(json.dumps({"keys": members}).encode()).keys]


def test_a_nested_token() -> None:
    (key,) = parse_encryption_keys(json.dumps({"keys": [PUBLIC]}).encode()).keys
    first, second = encrypt_token("a.b.c", key), encrypt_token("a.b.c", key)

    assert decrypted(first, OWN) == decrypted(second, OWN) == "a.b.c"
    assert first != second


@pytest.mark.parametrize(
    ("kty", "crv", "alg"),
    [
        ("RSA", "", "RSA-OAEP-256"),
        ("EC", "P-256", "ECDH-ES+A256KW"),
        ("EC", "P-384", "ECDH-ES+A256KW"),
        ("EC", "P-521", "ECDH-ES+A256KW"),
        ("OKP", "X25519", "ECDH-ES+A256KW"),
    ],
    ids=["rsa", "p256", "p384", "p521", "x25519"],
)
def test_kinds_of_keys(kty: str, crv: str, alg: str) -> None:
    """Each by the algorithm that it names, else by ours; the key's id is told."""
    public = public_jwk(encryption_jwk(kty, crv))
    whole = {"alg": alg, "enc": "A256GCM", "cty": "JWT", "kid": "enc-1"}
    assert usable(public) == [whole]
    assert usable({name: value for name, value in public.items() if name != "alg"}) == [whole]
    (key,) = parse_encryption_keys(json.dumps({"keys": [public]}).encode()).keys
    assert encrypt_token("a.b.c", key).count(".") == 4


@pytest.mark.parametrize(
    "member",
    [
        {"kty": "OKP", "crv": "X25519", "x": "A" * 43, "use": "enc"},
        PUBLIC | {"n": base64url((2**2047).to_bytes(256, "big"))},
        PUBLIC | {"key_ops": ["verify"]},
        PUBLIC | {"key_ops": 7},
        PUBLIC | {"use": "sig"},
        {name: value for name, value in PUBLIC.items() if name != "use"},
        OWN,
        PUBLIC | {"alg": "RSA1_5"},
        PUBLIC | {"alg": "ECDH-ES"},
        PUBLIC | {"alg": 7},
        PUBLIC | {"kid": 7},
        PUBLIC | {"kid": "x" * 300},
        PUBLIC | {"n": "AQAB"},
        PUBLIC | {"n": 7},
        {"kty": "oct", "k": "c2VjcmV0", "use": "enc", "crv": ""},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "use": "enc"},
        {"use": "enc"},
        [],
        None,
    ],
    ids=range(19),
)
def test_keys_that_are_left_out(member: Any) -> None:
    """Of another use, private, symmetric, short, off the curve or no key at all; the others keep their place."""
    assert usable(member, PUBLIC) == usable(PUBLIC)


def test_short_keys_and_no_sets() -> None:
    """RSA of 1,024 bits is none; a document that is no JWKS is an error, an empty one has no key."""
    assert usable(public_jwk(encryption_jwk(bits=1024))) == []
    assert usable() == []
    for document in (b"", b"[]", b'{"keys": 7}', b"\xff"):
        with pytest.raises(ValueError, match="JWK set"):
            parse_encryption_keys(document)
