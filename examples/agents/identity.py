"""Agents' identities: registration (RFC 7591), tokens by private_key_jwt (RFC 7523), token exchange (RFC 8693)."""

from __future__ import annotations

import json
import secrets
import time
from typing import Any, NamedTuple

import httpx2
import jwt
import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from trustwatch_client import Caller, caller_from_claims

from .roles import TENANT, USER, Role

ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
SCOPES = "a2a:send tools:read tools:write"


class TokenRefused(Exception):
    """The authorization server gives no token; the text is its error code."""


class Token(NamedTuple):
    """An access token, and what it says. Only whom it is for verifies it; here the claims are for showing."""

    value: str
    claims: dict[str, Any]

    @property
    def lifetime_s(self) -> int:
        return int(self.claims["exp"] - self.claims["iat"])

    @property
    def left_s(self) -> float:
        return float(self.claims["exp"] - time.time())


def register(issuer: str, name: str, role: Role) -> dict[str, Any]:
    """Register an agent at the authorization server, with a key of its own. Returns `client_id` and `key` (PEM)."""
    key = rsa.generate_private_key(65537, 2048)
    public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key()))
    jwk = {member: public[member] for member in ("kty", "n", "e")} | {"kid": "key-1", "use": "sig", "alg": "RS256"}
    metadata = {
        "client_name": name,
        "grant_types": ["client_credentials", EXCHANGE],
        "scope": SCOPES,
        "token_endpoint_auth_method": "private_key_jwt",
        "jwks": {"keys": [jwk]},
        "agent_type": role.type,
        "capabilities": list(role.capabilities),
        "delegated_user_id": USER,
        "organization_id": TENANT,
    }
    answer = httpx2.post(f"{issuer}/reg", json=metadata, trust_env=False, timeout=30)
    answer.raise_for_status()
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    return {"client_id": answer.json()["client_id"], "key": pem}


class Identity:
    """One registered agent at the token endpoint."""

    def __init__(self, issuer: str, client_id: str, key: str, http: httpx2.AsyncClient) -> None:
        self.client_id = client_id
        self._issuer, self._key, self._http = issuer, key, http

    async def token(self, resource: str, scope: str) -> Token:
        """By client credentials (RFC 6749, 4.4), for one resource (RFC 8707). Raises TokenRefused."""
        return await self._ask({"grant_type": "client_credentials", "resource": resource, "scope": scope})

    async def exchange(self, subject_token: str, resource: str, scope: str) -> Token:
        """By another agent's token (RFC 8693): the new one says in `act` who acts now, and for whom. TokenRefused."""
        form = {"grant_type": EXCHANGE, "subject_token": subject_token, "subject_token_type": ACCESS_TOKEN}
        return await self._ask(form | {"resource": resource, "scope": scope})

    async def _ask(self, form: dict[str, str]) -> Token:
        now = int(time.time())
        claims = {"iss": self.client_id, "sub": self.client_id, "aud": self._issuer, "iat": now, "exp": now + 60}
        proof = jwt.encode(claims | {"jti": secrets.token_hex(16)}, self._key, "RS256", {"kid": "key-1"})
        proven = {"client_assertion_type": ASSERTION, "client_assertion": proof}
        answer = await self._http.post(f"{self._issuer}/token", data=form | proven)
        if answer.status_code != 200:
            raise TokenRefused(str(answer.json().get("error", answer.status_code)))
        value = str(answer.json()["access_token"])
        return Token(value, jwt.decode(value, options={"verify_signature": False}))


def caller_of(claims: dict[str, Any] | None) -> Caller | None:
    """Who calls, by verified claims, as it is told to Trustwatch: without scopes and lifetime of its token. Those
    Trustwatch itself narrows and shortens, and what it did itself is no behaviour of the agent."""
    found = caller_from_claims(claims or {})
    return None if found is None else msgspec.structs.replace(found, scopes=None, token_lifetime_s=None)


class Verifier:
    """Verifies access tokens (RFC 9068) for one resource, by the keys that the authorization server publishes."""

    def __init__(self, issuer: str, resource: str) -> None:
        self._issuer, self._resource = issuer, resource
        self._keys = jwt.PyJWKSet.from_dict(httpx2.get(f"{issuer}/jwks", trust_env=False, timeout=30).json())

    def claims(self, token: str) -> dict[str, Any] | None:
        """What a good token says; None for any other. Nothing else ever names an agent."""
        options = {"require": ["iss", "aud", "exp", "iat", "client_id", "jti"]}
        try:
            header = jwt.get_unverified_header(token)
            if header.get("typ") != "at+jwt":
                return None
            key = self._keys[header.get("kid", "")]
            claims = jwt.decode(
                token, key, ["RS256"], audience=self._resource, issuer=self._issuer, options=options, leeway=5
            )
        except (jwt.PyJWTError, KeyError):
            return None
        return None if "cnf" in claims else claims  # bound to a key, whose proof is not read here
