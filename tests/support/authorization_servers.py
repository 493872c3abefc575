"""Authorization servers for the contract of actuators: a small one in memory, Ory Hydra and Keycloak."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs, quote, urlsplit

import httpx2
import msgspec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from trustwatch.ingest.identities import IdentityHasher
from trustwatch.scoring.delivery.actuators.actuator import (
    Actuator,
    ActuatorAccessDenied,
    ActuatorUnavailable,
    UnknownClient,
)
from trustwatch.scoring.delivery.actuators.authenticators import (
    ClientAuthenticator,
    ClientCredentialsAuthenticator,
    RequestAuthenticator,
)
from trustwatch.scoring.delivery.actuators.client_actuator import (
    AdminApi,
    ClientActuator,
    ClientRepresentation,
    HydraActuator,
    KeycloakActuator,
)
from trustwatch.scoring.delivery.actuators.desired_state import DesiredState
from trustwatch.scoring.delivery.notifiers.webhook_notifier import make_webhook_client

from .oauth_peers import PATIENCE_S, KeycloakRealm, OAuthClient, claims_of, hydra_client, new_key, public_keys, realm

if TYPE_CHECKING:
    from scripts.service_stack import Hydra, Keycloak

DEFAULT_S = 3600
"""Lifetime of tokens of a client without one of its own, at every server here."""


def wish(client_id: str, level: str, **more: Any) -> DesiredState:
    """What the default policy asks at a level."""
    at = {
        "low": (True, None, True, False),
        "medium": (True, 300, True, False),
        "high": (True, 60, False, False),
        "critical": (False, 0, False, True),
    }[level]
    made = DesiredState(
        "acme",
        "https://as",
        client_id,
        IdentityHasher().agent_key("acme", "https://as", client_id),
        level,
        *at,
        decision_id=f"D-{level}-{secrets.token_hex(4)}",
        caused_ms=now_ms() - 500,
        decided_ms=now_ms() - 100,
    )
    return msgspec.structs.replace(made, **more)


def now_ms() -> int:
    """UTC milliseconds."""
    return int(time.time() * 1000)


class Issued(NamedTuple):
    """An access token and how long it lives, s."""

    token: str
    lifetime_s: int


class AuthorizationServer(ABC):
    """One authorization server, seen by those who use it and by the operator."""

    ODD = "https://agents.example/ü?x=1&y#z/../%2e"
    """A client id that must not become any other."""

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Actuator]:
        async with make_webhook_client() as http:
            yield self.actuator(http)

    @abstractmethod
    def actuator(self, http: httpx2.AsyncClient, *, good: bool = True) -> Actuator:
        """The actuator; not *good*: with credentials that the server does not take."""

    @abstractmethod
    def client(self, client_id: str = "", lifespan_s: int | None = None) -> str:
        """A new client that may use refresh tokens."""

    @abstractmethod
    def shown(self, client_id: str) -> dict[str, Any]:
        """All that the server shows of the client, in one order."""

    @abstractmethod
    def issue(self, client_id: str) -> Issued | None:
        """A new token by client credentials; None = refused."""

    @abstractmethod
    def refresh_token(self, client_id: str) -> str:
        """A new refresh token, with somebody's consent."""

    @abstractmethod
    def refreshes(self, client_id: str, refresh_token: str) -> bool:
        """Whether the refresh token gets a new access token."""

    @abstractmethod
    def active(self, token: str) -> bool:
        """What introspection says."""

    @abstractmethod
    def stop(self) -> None:
        """Nobody answers any more."""

    @abstractmethod
    def start(self) -> None:
        """And now again."""

    def issued(self, client_id: str) -> Issued:
        made = self.issue(client_id)
        assert made is not None
        return made


class MemoryState(msgspec.Struct, frozen=True):
    """Of a client in memory."""

    enabled: bool
    refresh: bool
    lifespan_s: int | None


class MemoryServer(AuthorizationServer):
    """A dictionary of clients and one of tokens."""

    def __init__(self) -> None:
        self.clients: dict[str, MemoryState] = {}
        self.tokens: dict[str, tuple[str, float]] = {}
        self.refresh_tokens: dict[str, str] = {}
        self.running = True
        self.writes = 0

    def actuator(self, http: httpx2.AsyncClient, *, good: bool = True) -> Actuator:
        return MemoryActuator(self, good)

    def client(self, client_id: str = "", lifespan_s: int | None = None) -> str:
        client_id = client_id or f"bot-{secrets.token_hex(4)}"
        self.clients[client_id] = MemoryState(True, True, lifespan_s)
        return client_id

    def shown(self, client_id: str) -> dict[str, Any]:
        return msgspec.structs.asdict(self.clients[client_id])

    def issue(self, client_id: str) -> Issued | None:
        client = self.clients[client_id]
        if not client.enabled:
            return None
        token, lifetime_s = secrets.token_hex(8), client.lifespan_s or DEFAULT_S
        self.tokens[token] = (client_id, time.time() + lifetime_s)
        return Issued(token, lifetime_s)

    def refresh_token(self, client_id: str) -> str:
        token = secrets.token_hex(8)
        self.refresh_tokens[token] = client_id
        return token

    def refreshes(self, client_id: str, refresh_token: str) -> bool:
        client = self.clients[client_id]
        return client.enabled and client.refresh and self.refresh_tokens.get(refresh_token) == client_id

    def active(self, token: str) -> bool:
        return token in self.tokens

    def stop(self) -> None:
        self.running = False

    def start(self) -> None:
        self.running = True


class MemoryActuator(ClientActuator[MemoryState]):
    """The least that an actuator is."""

    def __init__(self, server: MemoryServer, good: bool) -> None:
        super().__init__(MemoryState)
        self._server = server
        self._good = good

    async def _read_client(self, client_id: str) -> ClientRepresentation:
        await asyncio.sleep(0)
        if not self._server.running:
            raise ActuatorUnavailable("nobody answers")
        if not self._good:
            raise ActuatorAccessDenied("not you")
        if client_id not in self._server.clients:
            raise UnknownClient(f"no client {client_id}")
        return {"id": client_id, "state": self._server.clients[client_id]}

    async def _write_client(self, client: ClientRepresentation, state: MemoryState) -> None:
        await asyncio.sleep(0)
        self._server.clients[client["id"]] = state
        self._server.writes += 1

    async def _revoke_tokens(self, client: ClientRepresentation, wish: DesiredState) -> None:
        for token, (owner, _) in list(self._server.tokens.items()):
            if owner == client["id"]:
                del self._server.tokens[token]
        for token, owner in list(self._server.refresh_tokens.items()):
            if owner == client["id"]:
                del self._server.refresh_tokens[token]

    def _extract_state(self, client: ClientRepresentation) -> MemoryState:
        state = client["state"]
        assert isinstance(state, MemoryState)
        return state

    def _compute_state(self, first: MemoryState, found: MemoryState, wish: DesiredState) -> MemoryState:
        lifespan_s = first.lifespan_s
        if wish.ceiling_s is not None and (lifespan_s or DEFAULT_S) > wish.ceiling_s:
            lifespan_s = wish.ceiling_s
        return MemoryState(first.enabled and wish.allow, first.refresh and wish.refresh_allowed, lifespan_s)


class HydraServer(AuthorizationServer):
    """Ory Hydra whose clients prove themselves by private_key_jwt."""

    ODD = "urn:agents:ü?x=1&y#z%2F..%2e"  # its admin API cannot name a client with a slash

    def __init__(self, hydra: Hydra) -> None:
        self.hydra = hydra
        self.clients: dict[str, OAuthClient] = {}

    def actuator(self, http: httpx2.AsyncClient, *, good: bool = True) -> Actuator:
        """Hydra's admin API asks for no credentials: refusal is that of the proxy that one puts before it."""
        if good:
            return HydraActuator(AdminApi(http, self.hydra.admin_url, RequestAuthenticator(), now_ms), DEFAULT_S)
        refusing = httpx2.AsyncClient(transport=httpx2.MockTransport(lambda _: httpx2.Response(401)))
        return HydraActuator(AdminApi(refusing, "https://proxy", RequestAuthenticator("wrong"), now_ms), DEFAULT_S)

    def client(self, client_id: str = "", lifespan_s: int | None = None) -> str:
        more: dict[str, Any] = {"client_id": client_id} if client_id else {}
        if lifespan_s is not None:
            more["client_credentials_grant_access_token_lifespan"] = f"{lifespan_s}s"
        made = hydra_client(
            self.hydra,
            grant_types=["client_credentials", "authorization_code", "refresh_token"],
            response_types=["code"],
            redirect_uris=["http://127.0.0.1/callback"],
            scope="tools:read offline_access",
            metadata={"team": "payments"},
            **more,
        )
        self.clients[made.client_id] = made
        return made.client_id

    def shown(self, client_id: str) -> dict[str, Any]:
        answer = httpx2.get(f"{self.hydra.admin_url}/admin/clients/{quote(client_id, safe='')}")
        shown: dict[str, Any] = answer.json()
        del shown["updated_at"]
        return shown

    def issue(self, client_id: str) -> Issued | None:
        return _issued(self.clients[client_id].ask())

    def refresh_token(self, client_id: str) -> str:
        """By the whole authorization code flow, with its login and consent."""
        client, admin = self.clients[client_id], f"{self.hydra.admin_url}/admin/oauth2/auth/requests"
        with httpx2.Client(timeout=PATIENCE_S) as browser:
            asked = {
                "response_type": "code",
                "client_id": client_id,
                "scope": "tools:read offline_access",
                "state": secrets.token_hex(8),
                "redirect_uri": "http://127.0.0.1/callback",
            }
            answer = browser.get(f"{self.hydra.url}/oauth2/auth", params=asked)
            for kind, body in (("login", {"subject": "alice"}), ("consent", {"grant_scope": asked["scope"].split()})):
                challenge = {f"{kind}_challenge": _query(answer.headers["location"])[f"{kind}_challenge"]}
                told = browser.put(f"{admin}/{kind}/accept", params=challenge, json=body)
                answer = browser.get(told.json()["redirect_to"])
            code = _query(answer.headers["location"])["code"]
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": asked["redirect_uri"]}
        answer = client.post(client.token_url, **form)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["refresh_token"])

    def refreshes(self, client_id: str, refresh_token: str) -> bool:
        client = self.clients[client_id]
        answer = client.post(client.token_url, grant_type="refresh_token", refresh_token=refresh_token)
        return answer.status_code == 200

    def active(self, token: str) -> bool:
        answer = httpx2.post(f"{self.hydra.admin_url}/admin/oauth2/introspect", data={"token": token})
        return bool(answer.json()["active"])

    def opened_sync(self) -> httpx2.Client:
        return httpx2.Client(base_url=self.hydra.admin_url)

    def stop(self) -> None:
        self.hydra.stop()

    def start(self) -> None:
        self.hydra.start()


ROLES = ("manage-clients", "view-clients", "view-users", "manage-users")
"""What the actuator may do in the realm, and no more."""


class KeycloakServer(AuthorizationServer):
    """A realm of Keycloak, a resource server that introspects, and a client with the roles of an actuator."""

    def __init__(self, keycloak: Keycloak) -> None:
        self.keycloak = keycloak
        self.realm: KeycloakRealm = realm(keycloak)
        self.clients: dict[str, OAuthClient] = {}
        self.resource_server = self.realm.client("resource-server")
        self.secret = secrets.token_hex(16)
        self._make_actuator_client()

    def _make_actuator_client(self) -> None:
        made = {"clientId": "trustwatch", "secret": self.secret, "serviceAccountsEnabled": True}
        self.realm.admin("POST", "/clients", json=made)
        ours, management = (
            self.realm.admin("GET", "/clients", params={"clientId": name}).json()[0]["id"]
            for name in ("trustwatch", "realm-management")
        )
        user = self.realm.admin("GET", f"/clients/{ours}/service-account-user").json()["id"]
        roles = [self.realm.admin("GET", f"/clients/{management}/roles/{name}").json() for name in ROLES]
        self.realm.admin("POST", f"/users/{user}/role-mappings/clients/{management}", json=roles)

    def use_private_key(self, path: Path) -> str:
        """Let the actuator's client prove itself by a private key, written to *path*, alone; returns its `kid`."""
        key = new_key()
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        keys = {"use.jwks.string": "true", "jwks.string": json.dumps(public_keys(key))}
        self.realm.change("trustwatch", clientAuthenticatorType="client-jwt", attributes=keys)
        return "key-1"

    def actuator(self, http: httpx2.AsyncClient, *, good: bool = True) -> Actuator:
        proof = ClientAuthenticator("trustwatch", self.secret if good else "wrong")
        auth = ClientCredentialsAuthenticator(http, self.realm.token_url, proof, time.monotonic)
        api = AdminApi(http, f"{self.keycloak.url}/admin/realms/{self.realm.name}", auth, now_ms)
        return KeycloakActuator(api, time.time, DEFAULT_S)

    def client(self, client_id: str = "", lifespan_s: int | None = None) -> str:
        attributes = {"client_credentials.use_refresh_token": "true"}
        if lifespan_s is not None:
            attributes["access.token.lifespan"] = str(lifespan_s)
        name = client_id or f"bot-{secrets.token_hex(4)}"
        self.clients[name] = self.realm.client(name, ("resource-server",), **attributes)
        return name

    def shown(self, client_id: str) -> dict[str, Any]:
        (shown,) = self.realm.admin("GET", "/clients", params={"clientId": client_id}).json()
        for name in ("defaultClientScopes", "optionalClientScopes"):  # in any order
            shown[name].sort()
        found: dict[str, Any] = shown
        return found

    def issue(self, client_id: str) -> Issued | None:
        return _issued(self.clients[client_id].ask())

    def refresh_token(self, client_id: str) -> str:
        return str(self.clients[client_id].ask().json()["refresh_token"])

    def refreshes(self, client_id: str, refresh_token: str) -> bool:
        client = self.clients[client_id]
        answer = client.post(client.token_url, grant_type="refresh_token", refresh_token=refresh_token)
        return answer.status_code == 200

    def active(self, token: str) -> bool:
        server = self.resource_server
        return bool(server.post(f"{server.token_url}/introspect", token=token).json()["active"])

    def stop(self) -> None:
        self.keycloak.stop()

    def start(self) -> None:
        self.keycloak.start()


def _issued(answer: httpx2.Response) -> Issued | None:
    if answer.status_code != 200:
        assert answer.status_code in (400, 401), answer.text
        return None
    token = str(answer.json()["access_token"])
    claims = claims_of(token)
    return Issued(token, int(claims["exp"]) - int(claims["iat"]))


def _query(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
