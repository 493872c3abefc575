"""What tests do with real authorization servers and gateways; the servers themselves are in `peers_fixtures.py`."""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx2
import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from .endpoint import Endpoint

if TYPE_CHECKING:
    from scripts.service_stack import Hydra, Keycloak, OidcProvider

PATIENCE_S = 120.0
"""Servers answer within so long, also on a machine that is busy with other tests."""
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
RESOURCE = "https://mcp.example"
SCOPE = "tools:read tools:write"


@dataclass(frozen=True)
class OAuthClient:
    """A confidential client that proves itself by private_key_jwt (RFC 7523).

    Attributes:
        client_id: as the server knows it.
        token_url: token endpoint of the server.
        audience: of its assertions.
        form: members that each of its token requests has.
    """

    client_id: str
    token_url: str
    audience: str
    key: rsa.RSAPrivateKey
    form: dict[str, str] = field(default_factory=dict)

    def proof(self) -> dict[str, str]:
        """The two form members by which it authenticates; good for one request within a minute."""
        now = int(time.time())
        claims = {"iss": self.client_id, "sub": self.client_id, "aud": self.audience, "iat": now, "exp": now + 60}
        signed = jwt.encode(claims | {"jti": secrets.token_hex(16)}, self.key, "RS256", {"kid": "key-1"})
        return {"client_assertion_type": ASSERTION_TYPE, "client_assertion": signed}

    def ask(self, **form: str) -> httpx2.Response:
        """A token request: client credentials, unless *form* says otherwise."""
        return self.post(self.token_url, **{"grant_type": "client_credentials"} | self.form | form)

    def token(self, **form: str) -> str:
        answer = self.ask(**form)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    def exchange(self, subject_token: str, **form: str) -> httpx2.Response:
        """A token request that exchanges another's token (RFC 8693)."""
        given = {"grant_type": EXCHANGE, "subject_token": subject_token, "subject_token_type": ACCESS_TOKEN}
        return self.ask(**given | form)

    def post(self, url: str, **form: str) -> httpx2.Response:
        """A request to *url* in which the client authenticates."""
        return httpx2.post(url, data=form | self.proof(), timeout=PATIENCE_S)


def new_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def public_keys(key: rsa.RSAPrivateKey) -> dict[str, Any]:
    made = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key()))
    return {"keys": [{"kty": "RSA", "n": made["n"], "e": made["e"], "kid": "key-1", "use": "sig", "alg": "RS256"}]}


def claims_of(token: str) -> dict[str, Any]:
    """Claims of a JWT, not verified."""
    found: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return found


def hydra_client(hydra: Hydra, **metadata: Any) -> OAuthClient:
    """A new client of Hydra, registered by the admin API."""
    key = new_key()
    body = {
        "grant_types": ["client_credentials"],
        "scope": SCOPE,
        "audience": [RESOURCE],
        "token_endpoint_auth_method": "private_key_jwt",
        "token_endpoint_auth_signing_alg": "RS256",
        "jwks": public_keys(key),
    }
    answer = httpx2.post(f"{hydra.admin_url}/admin/clients", json=body | metadata)
    assert answer.status_code == 201, answer.text
    form = {"scope": "tools:read", "audience": RESOURCE}
    return OAuthClient(answer.json()["client_id"], hydra.token_url, hydra.token_url, key, form)


def oidc_client(server: OidcProvider, **metadata: Any) -> OAuthClient:
    """A new client of node-oidc-provider, by dynamic registration (RFC 7591)."""
    key = new_key()
    body = {
        "grant_types": ["client_credentials", EXCHANGE],
        "scope": SCOPE,
        "token_endpoint_auth_method": "private_key_jwt",
        "jwks": public_keys(key),
    }
    answer = httpx2.post(f"{server.url}/reg", json=body | metadata)
    assert answer.status_code == 201, answer.text
    form = {"scope": "tools:read", "resource": RESOURCE}
    return OAuthClient(answer.json()["client_id"], server.token_url, server.issuer, key, form)


class KeycloakRealm:
    """A realm of its own, and the Admin REST API of it. Use `realm(keycloak)` to make one."""

    def __init__(self, keycloak: Keycloak, name: str) -> None:
        self.keycloak, self.name = keycloak, name
        self.issuer, self.token_url = keycloak.issuer(name), keycloak.token_url(name)
        self._admin = ("", 0.0)

    def admin(self, method: str, path: str = "", **request: Any) -> httpx2.Response:
        """A request under `/admin/realms/{realm}`, as the administrator."""
        url = f"{self.keycloak.url}/admin/realms/{self.name}{path}"
        headers = {"authorization": f"Bearer {self._admin_token()}"}
        answer = httpx2.request(method, url, headers=headers, timeout=PATIENCE_S, **request)
        assert answer.is_success, answer.text
        return answer

    def _admin_token(self) -> str:
        """They live a minute, and Keycloak takes half a second to check a password."""
        known, until = self._admin
        if time.monotonic() > until:
            user, password = self.keycloak.admin
            form = {"grant_type": "password", "client_id": "admin-cli", "username": user, "password": password}
            known = httpx2.post(self.keycloak.token_url("master"), data=form, timeout=PATIENCE_S).json()["access_token"]
            self._admin = (known, time.monotonic() + 30)
        return known

    def client(self, client_id: str, audience: tuple[str, ...] = (), **attributes: str) -> OAuthClient:
        """A new client with a service account; its tokens are for RESOURCE and for the clients in *audience*."""
        key = new_key()
        keys = {"use.jwks.string": "true", "jwks.string": json.dumps(public_keys(key))}
        self.admin(
            "POST",
            "/clients",
            json={
                "clientId": client_id,
                "serviceAccountsEnabled": True,
                "standardFlowEnabled": False,
                "clientAuthenticatorType": "client-jwt",
                "attributes": keys | {"standard.token.exchange.enabled": "true"} | attributes,
                "protocolMappers": [
                    audience_mapper("included.custom.audience", RESOURCE),
                    *(audience_mapper("included.client.audience", one) for one in audience),
                ],
            },
        )
        return OAuthClient(client_id, self.token_url, self.issuer, key)

    def change(self, client_id: str, **members: Any) -> dict[str, Any]:
        """Change a client, `attributes` member by member. Returns it as it was before."""
        (before,) = self.admin("GET", "/clients", params={"clientId": client_id}).json()
        attributes = before.get("attributes", {}) | members.pop("attributes", {})
        self.admin("PUT", f"/clients/{before['id']}", json=before | members | {"attributes": attributes})
        found: dict[str, Any] = before
        return found


def audience_mapper(kind: str, audience: str) -> dict[str, Any]:
    """A protocol mapper of Keycloak that adds to `aud`."""
    config = {kind: audience, "access.token.claim": "true", "introspection.token.claim": "true"}
    return {
        "name": f"aud {audience}",
        "protocol": "openid-connect",
        "protocolMapper": "oidc-audience-mapper",
        "config": config,
    }


def realm(keycloak: Keycloak) -> KeycloakRealm:
    """A new realm that keeps its events, and lets agents with `X-Forwarded-For` come by plain HTTP."""
    made = KeycloakRealm(keycloak, f"r-{secrets.token_hex(4)}")
    body = {"realm": made.name, "enabled": True, "eventsEnabled": True, "accessTokenLifespan": 3600}
    KeycloakRealm(keycloak, "").admin("POST", json=body | {"sslRequired": "none"})
    return made


def upstream(_: Endpoint.Request) -> Endpoint.Answer:
    """What a gateway guards: it welcomes everybody."""
    return 200, {}, b"upstream"


def access_lines(gateway: Any, count: int, within_s: float = 60.0) -> list[dict[str, Any]]:
    """The access log, once it has *count* lines."""
    deadline = time.monotonic() + within_s
    while True:
        text = gateway.access_log.read_text() if gateway.access_log.exists() else ""
        if text.count("\n") >= count:
            return [json.loads(line) for line in text.splitlines()]
        assert time.monotonic() < deadline, f"{gateway.access_log}: {text}"
        time.sleep(0.02)
