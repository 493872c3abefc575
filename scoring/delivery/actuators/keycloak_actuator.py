"""Keycloak (26.x) by its admin API, for the clients of one realm.

| desired | change of the client |
|---|---|
| ceiling | attribute `access.token.lifespan`: the lower of the ceiling and what it had |
| no refresh | `use.refresh.tokens` and `client_credentials.use_refresh_token` are `false`: none is issued any more; `notBefore` is raised, so that those which are out are refused. Introspection then answers `active: false` for access tokens issued before, too: Keycloak has no switch for refresh alone |
| no tokens | `enabled` is `false`: no tokens, no refresh, nothing of it is active at introspection |
| revoke | `notBefore` is raised, sessions of the service account are ended and read back as gone. `notBefore` stays when all else is restored, so that revoked tokens stay dead |

`client.session.*` is left alone: it also ends sessions that the policy lets live.
"""  # noqa: E501 - a table

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from .actuator import ActuationNotConfirmed, UnknownClient
from .client_actuator import AdminApi, ClientActuator, ClientRepresentation
from .desired_state import DesiredState

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
            raise ActuationNotConfirmed(
                f"client {client['clientId']}: sessions of its service account are left after logout"
            )

    def _extract_state(self, client: ClientRepresentation) -> KeycloakState:
        attributes = client.get("attributes") or {}
        return KeycloakState(
            bool(client.get("enabled")),
            int(client.get("notBefore") or 0),
            {name: attributes.get(name) for name in LOWERED_ATTRIBUTES},
        )

    def _compute_state(self, first: KeycloakState, current: KeycloakState, desired: DesiredState) -> KeycloakState:
        attributes = dict(first.attributes)
        attributes[LIFESPAN_ATTRIBUTE] = self._lowered_lifespan(
            first.attributes.get(LIFESPAN_ATTRIBUTE), desired.ceiling_s
        )
        if not desired.refresh_allowed:
            attributes |= {REFRESH_ATTRIBUTE: "false", SERVICE_REFRESH_ATTRIBUTE: "false"}
        return KeycloakState(
            first.enabled and desired.allow, self._compute_not_before(first, current, desired), attributes
        )

    def _compute_not_before(self, first: KeycloakState, current: KeycloakState, desired: DesiredState) -> int:
        """Time from which tokens count: the original, or now, unless it was raised for this decision already.

        A token of the very second counts as old for a revocation, and as new where only refresh is refused.
        """
        if not desired.revoke and desired.refresh_allowed:
            return first.not_before
        more = int(desired.revoke)
        if current.not_before >= max(first.not_before, desired.decided_ms // 1000 + more):
            return current.not_before
        return max(first.not_before, int(self._now_s()) + more)

    def _lowered_lifespan(self, value: str | None, ceiling_s: int | None) -> str | None:
        if ceiling_s is None:
            return value
        had_s = int(value) if value is not None and value.isdigit() and int(value) > 0 else self._default_s
        return value if had_s <= ceiling_s else str(ceiling_s)

    def _restorable_state(self, first: KeycloakState, now: KeycloakState, desired: DesiredState) -> KeycloakState:
        return msgspec.structs.replace(first, not_before=now.not_before) if desired.revoke else first
