"""Client authentication by a signed assertion (RFC 7523, `private_key_jwt`): the client's only module that signs."""

from __future__ import annotations

import secrets

import jwt

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ALGORITHMS = ("ES256", "ES384", "ES512", "EdDSA", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512")


class PrivateKeyJwt:
    """Proves who we are with a private key; the secret never leaves the machine.

    Args:
        key: private key, PEM.
        key_id: `kid`, as in the JWKS that the authorization server knows.
        algorithm: one of `ALGORITHMS`.
        audience: `aud`; the token endpoint where none is given (some servers want their issuer).
        lifetime_s: s until `exp`, 1 to 300; each assertion is used once.

    Raises:
        ValueError: the key is none, or does not fit the algorithm.
    """

    def __init__(
        self,
        key: str | bytes,
        key_id: str,
        *,
        algorithm: str = "ES256",
        audience: str | None = None,
        lifetime_s: int = 60,
    ) -> None:
        if algorithm not in ALGORITHMS:
            raise ValueError(f"algorithm is {algorithm!r}; it is one of {', '.join(ALGORITHMS)}")
        if not 1 <= lifetime_s <= 300:
            raise ValueError(f"lifetime_s is {lifetime_s}; it is 1 to 300")
        self._key = key
        self._key_id = key_id
        self._algorithm = algorithm
        self._audience = audience
        self._lifetime_s = lifetime_s
        self._sign({})  # a wrong key shows at start, not at the first request

    def __repr__(self) -> str:
        return f"PrivateKeyJwt(key_id={self._key_id!r}, {self._algorithm})"

    def authenticate(self, client_id: str, token_url: str, form: dict[str, str], now: float) -> dict[str, str]:
        """Add a new assertion to *form*."""
        issued = int(now)
        claims = {
            "iss": client_id,
            "sub": client_id,
            "aud": self._audience or token_url,
            "iat": issued,
            "exp": issued + self._lifetime_s,
            "jti": secrets.token_urlsafe(16),
        }
        form["client_id"] = client_id
        form["client_assertion_type"], form["client_assertion"] = ASSERTION_TYPE, self._sign(claims)
        return {}

    def _sign(self, claims: dict[str, object]) -> str:
        try:
            return jwt.encode(claims, self._key, algorithm=self._algorithm, headers={"kid": self._key_id})
        except (jwt.PyJWTError, TypeError, ValueError):
            raise ValueError(f"the key of {self._key_id!r} is no private key in PEM for {self._algorithm}") from None
