"""Audit events as columns: what the compiled kernels read.

One `EventColumns` holds a batch. Names become keyed 64-bit hashes (0 = absent), numbers become float64 (-1 = absent),
and closed vocabularies become small integer codes. The events themselves stay beside the columns, for reasons in words.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .events import EFFECTS, EVENT_TYPES, OUTCOMES, PROVENANCES, AuditEvent
from .hashing import NameHasher, agent_key
from .targets import TenantDomains, canonical_target

# Columns of `names` (uint64).
(AGENT, GROUP, TENANT, TASK, ACTION, RESOURCE, TARGET, AUDIENCE, PEER, PRINCIPAL, NETWORK, CREDENTIAL, SCOPES, CHAIN,
 TOKEN, SESSION, VERSION) = range(17)  # fmt: skip
NAMES = 17

# Columns of `numbers` (float64).
BYTES_IN, BYTES_OUT, DURATION, COUNT, BREADTH, UNGRANTED, DEPTH, LIFETIME = range(8)
NUMBERS = 8

# Columns of `codes` (int8).
EFFECT, OUTCOME, TYPE, PROVENANCE, METHOD, EXTERNAL, CAPABILITY, SELF_ASSERTED, OWN_DENIAL = range(9)
CODES = 9

OUTSIDE, INSIDE, UNDECLARED = 1, 0, -1

# Strength of client authentication, weakest first; a step down from what an agent usually does is a downgrade.
METHOD_RANK = {
    "none": 1,
    "client_secret_post": 2,
    "client_secret_basic": 2,
    "client_secret_jwt": 3,
    "private_key_jwt": 4,
    "self_signed_tls_client_auth": 4,
    "tls_client_auth": 5,
    "spiffe": 5,
}

WORK_TYPES = frozenset({"api.call", "tool.call", "a2a.message", "approval", "admin"})
"""Events whose action must be a declared capability; token and client events are the authorization server's own words."""

OWN_DENIALS = frozenset({"ext_authz_denied", "revoked_by_trustwatch"})
"""`error` values of denials that we caused: excluded from behaviour, else a contained agent could never recover."""

_EFFECT = {name: code for code, name in enumerate(EFFECTS)}
_OUTCOME = {name: code for code, name in enumerate(OUTCOMES)}
_TYPE = {name: code for code, name in enumerate(EVENT_TYPES)}
_PROVENANCE = {name: code for code, name in enumerate(PROVENANCES)}
SUCCESS, DENIED, ERROR = _OUTCOME["success"], _OUTCOME["denied"], _OUTCOME["error"]
TOKEN_REVOKE, CLIENT_CHANGE, CLIENT_REGISTER = _TYPE["token.revoke"], _TYPE["client.change"], _TYPE["client.register"]

UInt64s = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int8]
Times = npt.NDArray[np.int64]


class EventColumns(NamedTuple):
    """A batch of n events. `time_ms` is UTC event time; the other columns are described in the module's constants."""

    events: Sequence[AuditEvent]
    names: UInt64s  # shape (n, NAMES)
    numbers: Floats  # shape (n, NUMBERS)
    codes: Codes  # shape (n, CODES)
    time_ms: Times  # shape (n,)

    def __len__(self) -> int:
        return len(self.events)

    def take(self, rows: npt.NDArray[Any]) -> EventColumns:
        """The given rows as a batch of their own."""
        events = [self.events[row] for row in rows.tolist()]
        return EventColumns(events, self.names[rows], self.numbers[rows], self.codes[rows], self.time_ms[rows])


class ColumnEncoder:
    """Turns decoded events into columns.

    Args:
        salt: key of the name hashes (see `hashing`).
        domains: the domains that lie inside each tenant, to tell external targets where the event does not say.
    """

    def __init__(self, salt: bytes, domains: Mapping[str, Sequence[str]] | None = None) -> None:
        self.hash = NameHasher(salt)
        self.domains = TenantDomains(domains or {})
        self._agents: dict[tuple[str | None, str | None, str], int] = {}
        self._networks: dict[str | None, str] = {}

    def agent(self, event: AuditEvent) -> int:
        """Key of the event's agent."""
        agent = event.agent
        name = (event.tenant, agent.issuer, agent.id)
        key = self._agents.get(name)
        if key is None:
            if len(self._agents) >= 1 << 20:
                self._agents.clear()
            key = self._agents[name] = agent_key(event.tenant or "", agent.issuer or "", agent.id)
        return key

    def encode(self, events: Sequence[AuditEvent]) -> EventColumns:
        """Columns of *events*, in their order."""
        n = len(events)
        rows = [self._row(event) for event in events]
        names = np.array([row[0] for row in rows], dtype=np.uint64).reshape(n, NAMES)
        numbers = np.array([row[1] for row in rows], dtype=np.float64).reshape(n, NUMBERS)
        codes = np.array([row[2] for row in rows], dtype=np.int8).reshape(n, CODES)
        time_ms = np.array([int(event.time.timestamp() * 1000) for event in events], dtype=np.int64)
        return EventColumns(events, names, numbers, codes, time_ms)

    def _row(self, event: AuditEvent) -> tuple[tuple[int, ...], tuple[float, ...], tuple[int, ...]]:
        """Numbers of one event. This is the only per-event Python on the hot path, so it is one flat function."""
        h = self.hash
        agent, resource, principal = event.agent, event.resource, event.principal
        tenant = event.tenant or ""
        resource_name = target = audience = provenance = None
        external = -1
        if resource is not None:
            audience, provenance = resource.audience, resource.provenance
            resource_name = resource.id if resource.type is None else f"{resource.type}:{resource.id or ''}"
            target, external = canonical_target(resource, tenant, self.domains)
        network = credential = token = None
        lifetime, method = -1.0, 0
        if event.client is not None:
            client = event.client
            network = f"AS{client.asn}" if client.asn is not None else self._network(client.ip)
        if event.credential is not None:
            login = event.credential
            token = login.token_id
            if login.token_lifetime_s is not None:
                lifetime = login.token_lifetime_s
            if login.method is not None or login.thumbprint is not None:
                credential = f"{login.method}:{login.thumbprint}"
                method = METHOD_RANK.get(login.method or "", 0)
        scopes, breadth, ungranted = _scopes(event)
        chain = event.delegation
        capabilities = agent.capabilities
        return (
            (
                self.agent(event), h(f"{tenant}\x1f{agent.type or ''}"), h(tenant), h(event.task), h(event.action),
                h(resource_name), h(target), h(audience), h(event.peer),
                h(principal.id) if principal is not None else 0,
                h(network), h(credential), h(scopes), h("\x1f".join(chain)) if chain else 0, h(token),
                h(event.session), h(agent.version),
            ),
            (
                _number(event.bytes_in), _number(event.bytes_out), _number(event.duration_ms),
                1.0 if event.count is None else event.count,
                breadth, ungranted, float(len(chain)) if chain else -1.0, lifetime,
            ),
            (
                4 if event.effect is None else _EFFECT[event.effect], _OUTCOME[event.outcome], _TYPE[event.type],
                -1 if provenance is None else _PROVENANCE[provenance], method, external,
                -1 if capabilities is None or event.type not in WORK_TYPES else int(event.action not in capabilities), agent.self_asserted,
                event.outcome == "denied" and event.error in OWN_DENIALS,
            ),
        )  # fmt: skip

    def _network(self, ip: str | None) -> str | None:
        """The network an address belongs to: /24 of IPv4, /48 of IPv6; text that is no address stands for itself."""
        found = self._networks.get(ip)
        if found is None and ip:
            if len(self._networks) >= 1 << 18:
                self._networks.clear()
            try:
                address = ipaddress.ip_address(ip)
            except ValueError:
                found = ip
            else:
                prefix = 24 if address.version == 4 else 48
                found = str(ipaddress.ip_network((address, prefix), strict=False))
            self._networks[ip] = found
        return found


def _number(value: float | None) -> float:
    return -1.0 if value is None else value


def _scopes(event: AuditEvent) -> tuple[str | None, float, float]:
    """Scope set as one name, its breadth, and how many were asked for but not granted (-1 = not said)."""
    scopes = event.scopes
    if scopes is None:
        return None, -1.0, -1.0
    requested = scopes.requested or scopes.granted or []
    wanted = set(requested)
    ungranted = -1.0 if scopes.granted is None or not scopes.requested else float(len(wanted - set(scopes.granted)))
    return " ".join(sorted(wanted)), float(len(wanted)), ungranted
