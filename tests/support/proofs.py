"""What other parties have: DPoP proofs (RFC 9449), certificates (RFC 8705), and keys to encrypt to (JWE)."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from urllib.parse import quote

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

_numbers = count()


def base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class DpopClient:
    """A client with a key of its own."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        jwk = ECAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        self.jwk = {name: jwk[name] for name in ("crv", "kty", "x", "y")}
        canonical = json.dumps(self.jwk, sort_keys=True, separators=(",", ":")).encode()
        self.jkt = base64url(hashlib.sha256(canonical).digest())

    @property
    def cnf(self) -> dict[str, str]:
        return {"jkt": self.jkt}

    def proof(
        self, token: str, method: str, url: str, now: float, *, header: dict[str, Any] | None = None, **claims: Any
    ) -> str:
        """A right proof but for what is given; None removes a claim."""
        right = {
            "jti": f"proof-{next(_numbers)}",
            "htm": method,
            "htu": url,
            "iat": int(now),
            "ath": base64url(hashlib.sha256(token.encode()).digest()),
        }
        kept = {name: value for name, value in (right | claims).items() if value is not None}
        return jwt.encode(kept, self.key, "ES256", {"typ": "dpop+jwt", "jwk": self.jwk, **(header or {})})


def make_certificate(
    name: str = "agent", uris: Sequence[str] = (), hosts: Sequence[str] = (), days: int = 3650, start_day: int = 0
) -> x509.Certificate:
    """A self-signed certificate that begins so many days after 1 January 2025."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    start = datetime(2025, 1, 1, tzinfo=UTC) + timedelta(days=start_day)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    names = [*map(x509.UniformResourceIdentifier, uris), *map(x509.DNSName, hosts)]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.not_valid_before(start).not_valid_after(start + timedelta(days=days)).sign(key, hashes.SHA256())


def x5t_of(certificate: x509.Certificate) -> str:
    return base64url(hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest())


def escaped_pem(certificate: x509.Certificate) -> str:
    return quote(certificate.public_bytes(Encoding.PEM).decode())


def encryption_jwk(kty: str = "RSA", crv: str = "", kid: str = "enc-1", bits: int = 2048) -> dict[str, Any]:
    """A new private key of a receiver, `use: enc`."""
    if kty == "RSA":
        jwk = RSAAlgorithm.to_jwk(rsa.generate_private_key(65_537, bits), as_dict=True)
    elif kty == "EC":
        jwk = ECAlgorithm.to_jwk(ec.generate_private_key(_CURVES[crv]), as_dict=True)
    else:
        raw = x25519.X25519PrivateKey.generate()
        halves = {"d": raw.private_bytes_raw(), "x": raw.public_key().public_bytes_raw()}
        jwk = {"kty": "OKP", "crv": crv, **{name: base64url(half) for name, half in halves.items()}}
    kept = {name: value for name, value in jwk.items() if name != "key_ops"}
    return kept | {"use": "enc", "kid": kid, "alg": "RSA-OAEP-256" if kty == "RSA" else "ECDH-ES+A256KW"}


_CURVES: dict[str, ec.EllipticCurve] = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
_PRIVATE = {"d", "p", "q", "dp", "dq", "qi"}


def public_jwk(jwk: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in jwk.items() if name not in _PRIVATE}


def decrypted(token: str, jwk: dict[str, Any]) -> str:
    """What is encrypted to an RSA key with RSA-OAEP-256 and A256GCM, by the primitives alone (RFC 7516 section 5.2)."""
    header, wrapped, iv, content, tag = token.split(".")
    raw = [base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in (wrapped, iv, content, tag)]
    said = json.loads(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4)))
    assert said == {"alg": "RSA-OAEP-256", "enc": "A256GCM", "cty": "JWT", "kid": jwk["kid"]}
    key = RSAAlgorithm.from_jwk(jwk)
    assert isinstance(key, rsa.RSAPrivateKey)
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    return AESGCM(key.decrypt(raw[0], oaep)).decrypt(raw[1], raw[2] + raw[3], header.encode()).decode()
