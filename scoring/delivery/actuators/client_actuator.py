"""Actuators of servers that show their clients, over the calls of an admin API: Ory Hydra and Keycloak."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar
from urllib.parse import quote

import httpx2
import msgspec

from trustwatch.ingest.outgoing_http import connection_error_text
from trustwatch_client.timing import parse_retry_after

from .actuator import (
    ActuationNotConfirmed,
    ActuationResult,
    ActuatorAccessDenied,
    ActuatorError,
    ActuatorUnavailable,
    UnknownClient,
    error_detail,
)
from .authenticators import RequestAuthenticator
from .desired_state import DesiredState


@dataclass(eq=False, repr=False)
class AdminApi:
    """One admin API."""

    _http: httpx2.AsyncClient
    _url: str
    _auth: RequestAuthenticator
    _now_ms: Callable[[], int]

    async def call(
        self, method: str, path: str, *, expect: Collection[int] = (200, 204), missing: str = "", **request: Any
    ) -> httpx2.Response:
        """Sends one request; once more with new credentials if they are rejected.

        Raises:
            UnknownClient: 404, if *missing* declares that for a client.
            Refused: our credentials are rejected, or lack a right.
            ActuatorUnavailable: anything else.
        """
        answer = await self._send(method, path, request)
        if answer.status_code == 401:
            self._auth.invalidate()
            answer = await self._send(method, path, request)
        status = answer.status_code
        if status in expect:
            return answer
        where = f"{method} {path.split('?', 1)[0]}: HTTP {status}{error_detail(answer)}"
        if status == 404 and missing:
            raise UnknownClient(missing)
        if status in (401, 403):
            raise ActuatorAccessDenied(f"{where} - the server does not take our credentials, or they lack a right")
        raise ActuatorUnavailable(where, parse_retry_after(answer.headers.get("retry-after"), self._now_ms() / 1000))

    async def _send(self, method: str, path: str, request: dict[str, Any]) -> httpx2.Response:
        headers = await self._auth.headers()
        try:
            return await self._http.request(method, self._url.rstrip("/") + path, headers=headers, **request)
        except httpx2.HTTPError as error:
            raise ActuatorUnavailable(f"{method} {path.split('?', 1)[0]}: {connection_error_text(error)}") from None


# Actuators of servers that show their clients write nothing but differences, and read each write back.


ClientState = TypeVar("ClientState", bound=msgspec.Struct)
ClientRepresentation = Mapping[str, Any]
"""A client as the server shows it. May hold secrets: it is never stored or logged."""


class UnreadableOriginal(ActuatorError):
    """The stored original cannot be read: another version wrote it."""

    code = "bad_original"


class ClientActuator(ABC, Generic[ClientState]):
    """`Actuator` over what is lowered of a client's configuration (`ClientState`, a struct without secrets)."""

    def __init__(self, state: type[ClientState]) -> None:
        self._decoder = msgspec.json.Decoder(state)
        self._encode = msgspec.json.Encoder().encode

    async def capture(self, client_id: str) -> bytes:
        """Read the part of the client that may be lowered, as JSON."""
        return self._encode(self._extract_state(await self._read_client(client_id)))

    async def lower(self, client_id: str, original: bytes, desired: DesiredState) -> ActuationResult:
        """Writes what differs from *desired*, reads it back, then revokes tokens if required."""
        first = self._decode(original)
        client = await self._read_client(client_id)
        aim = self._compute_state(first, self._extract_state(client), desired)
        if not self._is_satisfied(self._extract_state(client), aim):
            await self._write_client(client, aim)
            client = await self._read_client(client_id)
            if not self._is_satisfied(self._extract_state(client), aim):
                raise ActuationNotConfirmed(f"client {client_id}: reading back does not show what was written")
        if desired.revoke:
            await self._revoke_tokens(client, desired)
        restorable = self._restorable_state(first, self._extract_state(client), desired)
        return ActuationResult(self._encode(restorable), confirmed=True)

    async def restore(self, client_id: str, original: bytes) -> ActuationResult:
        """Writes what differs from the original, and reads it back."""
        first = self._decode(original)
        client = await self._read_client(client_id)
        if self._extract_state(client) != first:
            await self._write_client(client, first)
            if self._extract_state(await self._read_client(client_id)) != first:
                raise ActuationNotConfirmed(f"client {client_id}: reading back does not show what was restored")
        return ActuationResult(original, confirmed=True)

    def _decode(self, original: bytes) -> ClientState:
        try:
            return self._decoder.decode(original)
        except msgspec.DecodeError as error:
            raise UnreadableOriginal(f"what the server had before cannot be read: {error}") from None

    @abstractmethod
    async def _read_client(self, client_id: str) -> ClientRepresentation:
        """Read the client. Raises UnknownClient, ActuatorAccessDenied, ActuatorUnavailable."""

    @abstractmethod
    async def _write_client(self, client: ClientRepresentation, state: ClientState) -> None:
        """Give the client that state. Raises as `_read_client` does."""

    @abstractmethod
    async def _revoke_tokens(self, client: ClientRepresentation, desired: DesiredState) -> None:
        """Let tokens die that are out, until the server has said so. May be called again."""

    @abstractmethod
    def _extract_state(self, client: ClientRepresentation) -> ClientState:
        """The part of the client that is lowered."""

    @abstractmethod
    def _compute_state(self, first: ClientState, current: ClientState, desired: DesiredState) -> ClientState:
        """State that *desired* requires of a client that had *first* and has *current*; *current* if that suffices."""

    def _is_satisfied(self, current: ClientState, aim: ClientState) -> bool:
        """Returns whether *current* equals the requested state, even if written in another way."""
        return current == aim

    def _restorable_state(self, first: ClientState, now: ClientState, desired: DesiredState) -> ClientState:
        """State to restore once *desired* is brought about: *first*, but for what would bring dead tokens back."""
        del now, desired
        return first


# Ory Hydra: lifetimes, scopes and grants of a client, with durations as Go writes them (`1h30m0s`).

HYDRA_DEFAULT_LIFETIME_S: Final = 3600

_UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")


def parse_go_duration(text: str) -> float:
    """Seconds of a Go duration. Raises ValueError.

    >>> [parse_go_duration(text) for text in ("1h30m0s", "1.5s", "250ms", "0")]
    [5400.0, 1.5, 0.25, 0.0]
    """
    if text == "0":
        return 0.0
    total, at = 0.0, 0
    for part in _DURATION_PART.finditer(text):
        if part.start() != at:
            break
        total += float(part.group(1)) * _UNITS_NS[part.group(2)]
        at = part.end()
    if at != len(text) or not text:
        raise ValueError(f"{text!r} is not a duration")
    return total / 10**9


# Means of lowering a client of Ory Hydra (2.x), by its admin API:
#
# | desired | change of the client |
# |---|---|
# | ceiling | lifespans of access and ID tokens of every grant: the lower of the ceiling and what it had |
# | no refresh | `refresh_token` is taken out of `grant_types` (and refresh lifespans are lowered too) |
# | no tokens | `grant_types` holds nothing but `CONTAINED_GRANT_TYPE`: every request is `unauthorized_client` |
# | revoke | access tokens of the client are deleted; consents of known principals, with their refresh tokens |
#
# Introspection no longer knows deleted tokens, JWTs included; a service that verifies JWTs itself must call the
# gateway's check. The admin API lists no tokens: its 204 to their deletion is the only confirmation.


CONTAINED_GRANT_TYPE: Final = "urn:trustwatch:contained"  # A grant type that nothing can ask for

_BOUNDED_TOKENS: Final = ("access_token", "id_token")
_REFRESH_TOKEN: Final = "refresh_token"  # noqa: S105 - the name of a kind of token


class HydraState(msgspec.Struct, frozen=True):
    """Grant types of a client, and its lifespans by member as Hydra writes them (null = the server's own)."""

    grant_types: list[str]
    lifespans: dict[str, str | None]


class HydraActuator(ClientActuator[HydraState]):
    """Lowers and restores clients of Hydra."""

    def __init__(self, api: AdminApi, default_s: int = HYDRA_DEFAULT_LIFETIME_S) -> None:
        super().__init__(HydraState)
        self._api = api
        self._default_s = default_s

    async def _read_client(self, client_id: str) -> ClientRepresentation:
        if "/" in client_id or client_id in (".", ".."):
            raise UnknownClient(f"client {client_id}: the path of Hydra's admin API cannot name it")
        path, missing = f"/admin/clients/{quote(client_id, safe='')}", f"Hydra has no client {client_id}"
        answer = await self._api.call("GET", path, expect=(200,), missing=missing)
        client: dict[str, Any] = answer.json()
        return client

    async def _write_client(self, client: ClientRepresentation, state: HydraState) -> None:
        path = f"/admin/clients/{quote(client['client_id'], safe='')}"
        current, missing = self._extract_state(client), f"Hydra has no client {client['client_id']}"
        if current.grant_types != state.grant_types:
            change = [{"op": "replace", "path": "/grant_types", "value": state.grant_types}]
            await self._api.call("PATCH", path, json=change, expect=(200,), missing=missing)
        if current.lifespans != state.lifespans:  # PUT replaces them all
            await self._api.call("PUT", f"{path}/lifespans", json=state.lifespans, expect=(200,), missing=missing)

    async def _revoke_tokens(self, client: ClientRepresentation, desired: DesiredState) -> None:
        client_id = client["client_id"]
        await self._api.call("DELETE", "/admin/oauth2/tokens", params={"client_id": client_id}, expect=(204,))
        for principal in desired.principals:
            asked = {"subject": principal, "client": client_id}
            await self._api.call("DELETE", "/admin/oauth2/auth/sessions/consent", params=asked, expect=(204, 404))

    def _extract_state(self, client: ClientRepresentation) -> HydraState:
        lifespans = {name: client[name] for name in sorted(client) if name.endswith("_lifespan")}
        return HydraState(client.get("grant_types") or [], lifespans)

    def _compute_state(self, first: HydraState, current: HydraState, desired: DesiredState) -> HydraState:
        del current  # nothing here depends on when it is done
        grants = first.grant_types
        if not desired.allow:
            grants = [CONTAINED_GRANT_TYPE]
        elif not desired.refresh_allowed and _REFRESH_TOKEN in grants:
            grants = [grant for grant in grants if grant != _REFRESH_TOKEN] or [CONTAINED_GRANT_TYPE]
        lifespans = {name: self._lowered_lifespan(name, value, desired) for name, value in first.lifespans.items()}
        return HydraState(grants, lifespans)

    def _lowered_lifespan(self, member: str, value: str | None, desired: DesiredState) -> str | None:
        """The lower of a member's lifespan and the ceiling; a lifespan that is not higher stays as it is written."""
        of = member.removesuffix("_lifespan").partition("_grant_")[2]
        if desired.ceiling_s is None or not (
            of in _BOUNDED_TOKENS or (of == _REFRESH_TOKEN and not desired.refresh_allowed)
        ):
            return value
        had_s = float(self._default_s) if value is None else parse_go_duration(value)
        if value is None and of == _REFRESH_TOKEN:
            had_s = float("inf")
        return value if 0 < had_s <= desired.ceiling_s else f"{desired.ceiling_s}s"

    def _is_satisfied(self, current: HydraState, aim: HydraState) -> bool:
        def seconds(state: HydraState) -> dict[str, float | None]:
            return {name: None if text is None else parse_go_duration(text) for name, text in state.lifespans.items()}

        return seconds(current) == seconds(aim) and current.grant_types == aim.grant_types


# Means of lowering a client of Keycloak (26.x), by the admin API of its realm:
#
# | desired | change of the client |
# |---|---|
# | ceiling | attribute `access.token.lifespan`: the lower of the ceiling and what it had |
# | no refresh | `use.refresh.tokens` and `client_credentials.use_refresh_token` are `false`: none is issued any more; |
# | | `notBefore` is raised, so that issued ones are refused. Introspection then answers `active: false` for older |
# | | access tokens, too: Keycloak has no switch for refresh alone |
# | no tokens | `enabled` is `false`: no tokens, no refresh, nothing of it is active at introspection |
# | revoke | `notBefore` is raised, sessions of the service account are ended and read back as gone. `notBefore` stays |
# | | when all else is restored, so that revoked tokens stay dead |
#
# `client.session.*` is left alone: it also ends sessions that the policy lets live.

KEYCLOAK_DEFAULT_LIFETIME_S: Final = 300
LIFESPAN_ATTRIBUTE: Final = "access.token.lifespan"
REFRESH_ATTRIBUTE: Final = "use.refresh.tokens"
SERVICE_REFRESH_ATTRIBUTE: Final = "client_credentials.use_refresh_token"
LOWERED_ATTRIBUTES: Final = (LIFESPAN_ATTRIBUTE, REFRESH_ATTRIBUTE, SERVICE_REFRESH_ATTRIBUTE)


class KeycloakState(msgspec.Struct, frozen=True):
    """State of a client: enabled or not, start of valid tokens (s since 1970), attributes (null = absent)."""

    enabled: bool
    not_before: int
    attributes: dict[str, str | None]


class KeycloakActuator(ClientActuator[KeycloakState]):
    """Lowers and restores clients of a realm of Keycloak."""

    def __init__(self, api: AdminApi, now_s: Callable[[], float], default_s: int = KEYCLOAK_DEFAULT_LIFETIME_S) -> None:
        super().__init__(KeycloakState)
        self._api = api
        self._now_s = now_s
        self._default_s = default_s

    async def _read_client(self, client_id: str) -> ClientRepresentation:
        answer = await self._api.call("GET", "/clients", params={"clientId": client_id}, expect=(200,))
        clients: list[dict[str, Any]] = [client for client in answer.json() if client.get("clientId") == client_id]
        if not clients:
            raise UnknownClient(f"the realm has no client {client_id}")
        return clients[0]

    async def _write_client(self, client: ClientRepresentation, state: KeycloakState) -> None:
        """Write the whole representation, with the lowered parts replaced. An empty attribute removes it."""
        attributes = dict(client.get("attributes") or {}) | {
            name: "" if value is None else value for name, value in state.attributes.items()
        }
        changed = {"enabled": state.enabled, "notBefore": state.not_before, "attributes": attributes}
        missing = f"the realm has no client {client['clientId']}"
        path = f"/clients/{client['id']}"
        await self._api.call("PUT", path, json=dict(client) | changed, expect=(204,), missing=missing)

    async def _revoke_tokens(self, client: ClientRepresentation, desired: DesiredState) -> None:
        """End the sessions of the client's own user; tokens are dead since `notBefore` was raised."""
        del desired
        if not client.get("serviceAccountsEnabled"):
            return
        answer = await self._api.call("GET", f"/clients/{client['id']}/service-account-user", expect=(200,))
        user = f"/users/{answer.json()['id']}"
        await self._api.call("POST", f"{user}/logout", expect=(204,))
        left = await self._api.call("GET", f"{user}/sessions", expect=(200,))
        if left.json():
            left_over = "sessions of its service account are left after logout"
            raise ActuationNotConfirmed(f"client {client['clientId']}: {left_over}")

    def _extract_state(self, client: ClientRepresentation) -> KeycloakState:
        attributes = client.get("attributes") or {}
        return KeycloakState(
            bool(client.get("enabled")),
            int(client.get("notBefore") or 0),
            {name: attributes.get(name) for name in LOWERED_ATTRIBUTES},
        )

    def _compute_state(self, first: KeycloakState, current: KeycloakState, desired: DesiredState) -> KeycloakState:
        attributes, not_before = dict(first.attributes), first.not_before
        if desired.ceiling_s is not None:
            had = first.attributes.get(LIFESPAN_ATTRIBUTE)
            had_s = int(had) if had is not None and had.isdigit() and int(had) > 0 else self._default_s
            attributes[LIFESPAN_ATTRIBUTE] = had if had_s <= desired.ceiling_s else str(desired.ceiling_s)
        if not desired.refresh_allowed:
            attributes |= {REFRESH_ATTRIBUTE: "false", SERVICE_REFRESH_ATTRIBUTE: "false"}
        if desired.revoke or not desired.refresh_allowed:
            # Tokens count from now on, unless that was raised for this decision already. A token of the same second
            # counts as old for a revocation, and as new if only refresh is refused.
            more = int(desired.revoke)
            if current.not_before >= max(first.not_before, desired.decided_ms // 1000 + more):
                not_before = current.not_before
            else:
                not_before = max(first.not_before, int(self._now_s()) + more)
        return KeycloakState(first.enabled and desired.allow, not_before, attributes)

    def _restorable_state(self, first: KeycloakState, now: KeycloakState, desired: DesiredState) -> KeycloakState:
        return msgspec.structs.replace(first, not_before=now.not_before) if desired.revoke else first
