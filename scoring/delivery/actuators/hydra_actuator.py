"""Ory Hydra: lifetimes, scopes and grants of a client, with durations as Go writes them (`1h30m0s`)."""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import quote

import msgspec

from .actuator import UnknownClient
from .client_actuator import AdminApi, ClientActuator, ClientRepresentation
from .desired_state import DesiredState

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
        raise ValueError(f"{text!r} is no duration")
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


CONTAINED_GRANT_TYPE: Final = "urn:trustwatch:contained"
"""A grant type that nothing can ask for."""

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
            raise UnknownClient(f"client {client_id}: the path of Hydra's admin API can not name it")
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
        same = current.lifespans.keys() == aim.lifespans.keys() and all(
            _lifespan_seconds(current.lifespans[name]) == _lifespan_seconds(value)
            for name, value in aim.lifespans.items()
        )
        return same and current.grant_types == aim.grant_types


def _lifespan_seconds(value: str | None) -> float | None:
    return None if value is None else parse_go_duration(value)
