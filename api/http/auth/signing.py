"""Signing: tokens of the local development key (RFC 9068), and assertions that prove who we are elsewhere.

The local key is trusted only if the settings name its issuer and `jwks_file`, as for any other issuer.
The only module that imports PyJWT for signing.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from jwt.algorithms import ECAlgorithm

from trustwatch.ingest.durable_files import create_secret_file, write_file_atomically
from trustwatch.ingest.errors import ConfigError

from ... import clock
from .token_verification import key_thumbprint

LOCAL_ISSUER: Final = "urn:trustwatch:local"
LOCAL_KEY_FILE: Final = "local-key.pem"
LOCAL_JWKS_FILE: Final = "local-jwks.json"
ASSERTION_LIFETIME_S: Final = 60
"""Lifetime of an assertion, s."""


class LocalSigningKey:
    """An ES256 key of this machine. `kid` is its RFC 7638 thumbprint."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        public = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
        self.kid = key_thumbprint(public)
        self.jwk = {**public, "kid": self.kid, "alg": "ES256", "use": "sig"}

    def __repr__(self) -> str:
        return f"LocalSigningKey(kid={self.kid!r})"

    @classmethod
    def open(cls, data_dir: Path) -> LocalSigningKey:
        """The key of *data_dir*, created on first use: `local-key.pem` (mode 0600) and `local-jwks.json`.

        Raises ConfigError.
        """
        path = data_dir / LOCAL_KEY_FILE
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                _create_key(path)
            local = cls(_load_key(path))
            published = data_dir / LOCAL_JWKS_FILE
            if not published.exists() or published.read_bytes() != local.jwks():
                write_file_atomically(published, local.jwks(), mode=0o644)
        except OSError as error:
            raise ConfigError(f"{path}: the local key cannot be read or written: {error.strerror}") from None
        return local

    def jwks(self) -> bytes:
        """The public key as a JWK set document."""
        return msgspec.json.encode({"keys": [self.jwk]})

    def issue_token(
        self,
        subject: str,
        client_id: str,
        scopes: Iterable[str],
        audience: str,
        lifetime_s: int,
        now: float,
        token_id: str,
    ) -> str:
        """An access token of issuer `urn:trustwatch:local` in the form of RFC 9068."""
        claims = {
            "iss": LOCAL_ISSUER,
            "sub": subject,
            "client_id": client_id,
            "aud": audience,
            "scope": " ".join(scopes),
            "iat": int(now),
            "exp": int(now) + lifetime_s,
            "jti": token_id,
        }
        return jwt.encode(claims, self._key, algorithm="ES256", headers={"typ": "at+jwt", "kid": self.kid})

    def sign_document(self, document: dict[str, Any], kind: str) -> str:
        """Sign a document as a compact JWS. *kind* is its `typ`, which none of our tokens has."""
        return jwt.encode(document, self._key, algorithm="ES256", headers={"typ": kind, "kid": self.kid})

    def read_document(self, signed: str, kind: str) -> dict[str, Any]:
        """Verify a signed document and return what `sign_document` was given. Raises ValueError."""
        try:
            if jwt.get_unverified_header(signed).get("typ") != kind:
                raise ValueError(f"not of the kind {kind}")
            return dict(jwt.decode(signed, self._key.public_key(), algorithms=["ES256"]))
        except jwt.PyJWTError as error:
            raise ValueError(f"not signed by the key {self.kid}: {error}") from None


def assertion_signer(
    key: str, key_id: str, now_s: Callable[[], float], new_id: Callable[[], str]
) -> Callable[[str, str], str]:
    """Signs our client authentication at other servers (`private_key_jwt`, RFC 7523). Raises ConfigError."""

    def sign(client_id: str, audience: str) -> str:
        issued = int(now_s())
        claims = {
            "iss": client_id,
            "sub": client_id,
            "aud": audience,
            "iat": issued,
            "exp": issued + ASSERTION_LIFETIME_S,
            "jti": new_id(),
        }
        return jwt.encode(claims, private, algorithm=algorithm, headers={"kid": key_id})

    try:  # a wrong key shows at start, not at the first containment
        private: Any = load_pem_private_key(key.encode(), None)
        algorithm = _ALGORITHMS.get(getattr(getattr(private, "curve", None), "name", ""), "EdDSA")
        if isinstance(private, rsa.RSAPrivateKey):
            algorithm = "RS256"
        sign("trial", "trial")
    except (jwt.PyJWTError, TypeError, ValueError, NotImplementedError, UnsupportedAlgorithm):
        raise ConfigError(f"the key {key_id!r} is not a private key in PEM: RSA, EC or Ed25519") from None
    return sign


_ALGORITHMS = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}


def _create_key(path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    create_secret_file(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    if path.stat().st_mode & 0o077:
        raise ConfigError(f"{path}: others may read the local key; its mode must be 0600")
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except ValueError:
        raise ConfigError(f"{path}: is no private key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError(f"{path}: the local key must be a P-256 key")
    return key


def issue_local_token(data_dir: Path, client_id: str, scopes: list[str], audience: str, lifetime_s: int) -> str:
    """A token signed with the key of *data_dir*. It is accepted only if the settings trust that issuer."""
    return LocalSigningKey.open(data_dir).issue_token(
        subject=client_id,
        client_id=client_id,
        scopes=scopes,
        audience=audience,
        lifetime_s=lifetime_s,
        now=clock.now_s(),
        token_id=secrets.token_urlsafe(12),
    )
