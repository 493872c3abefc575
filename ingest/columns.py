"""Audit events as columns: what the compiled kernels read.

One `EventColumns` holds a batch. Names become keyed 64-bit hashes (0 = absent), numbers become float64 (-1 = absent),
and closed vocabularies become small integer codes. The events are kept alongside, for the text of reasons.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar, overload
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from trustwatch_client.events import Resource

from .argument_columns import ArgumentColumns, collect_arguments, read_arguments, read_untrusted_result
from .capabilities import capability_text, covers
from .events import EFFECTS, EVENT_TYPES, OUTCOMES, PROVENANCES, NativeEvent, decode_event
from .hashing import NameHasher
from .identities import IdentityHasher, unkeyed_agent_key

EXTERNAL_TARGET, INTERNAL_TARGET, UNKNOWN_SIDE = 1, 0, -1


class TenantDomains:
    """The domains that lie inside each tenant; a sub-domain counts with its parent."""

    def __init__(self, domains: Mapping[str, Sequence[str]]) -> None:
        self._domains = {tenant: tuple(d.lower().lstrip(".") for d in names) for tenant, names in domains.items()}

    def side_of(self, tenant: str, host: str) -> int:
        """EXTERNAL or INTERNAL, or UNKNOWN for a tenant that has configured no domains."""
        domains = self._domains.get(tenant)
        if not domains:
            return UNKNOWN_SIDE
        host = host.lower().rstrip(".")
        inside = any(host == domain or host.endswith("." + domain) for domain in domains)
        return INTERNAL_TARGET if inside else EXTERNAL_TARGET


def is_url(name: str) -> bool:
    """True if a name is a URL, with its scheme or without."""
    return "://" in name or name[:4].lower() == "www."


def host_of(name: str) -> str | None:
    """Host of a URL or a mail address, lower case; None for every other name.

    What begins with `www.` is a URL whose scheme was left out, as agents often write it.

    >>> host_of("https://Evil.example:8443/drop?x=1"), host_of("eve@evil.example"), host_of("acct-42")
    ('evil.example', 'evil.example', None)
    >>> host_of("www.evil.example/drop")
    'www.evil.example'
    """
    if is_url(name):
        try:
            return urlsplit(name if "://" in name else "//" + name).hostname
        except ValueError:
            return None
    user, at, domain = name.rpartition("@")
    if at and user and "." in domain and " " not in name:
        return domain.lower()
    return None


def canonical_target(resource: Resource, tenant: str, domains: TenantDomains) -> tuple[str | None, int]:
    """Destination of an action and whether it is external.

    What the event states wins. Otherwise a URL is reduced to its host (paths differ between calls, destinations do
    not), a mail address is lower-cased, and any other id is kept as it is, with an unknown side.
    """
    name = resource.target if resource.target else resource.id
    if not name:
        return None, UNKNOWN_SIDE if resource.external is None else int(resource.external)
    host = host_of(name)
    if host is None:
        return name, UNKNOWN_SIDE if resource.external is None else int(resource.external)
    side = domains.side_of(tenant, host) if resource.external is None else int(resource.external)
    return (host if is_url(name) else name.lower()), side


# Columns of `names` (uint64).
(
    AGENT,  # these two are its identity: `identities.AgentHash`
    AGENT_CHECK,
    AGENT_DRAW,  # `identities.unkeyed_agent_key`: the same in every deployment
    GROUP,
    TENANT,
    TASK,
    ACTION,
    RESOURCE,
    TARGET,
    AUDIENCE,
    PEER,
    PRINCIPAL,
    NETWORK,
    CREDENTIAL,
    SCOPES,
    CHAIN,
    TOKEN,
    SESSION,
    VERSION,
    RESOURCE_TYPE,
    UNAUTHORIZED,
    CAPABILITIES,
) = range(22)
NAMES = 22

# Columns of `numbers` (float64).
BYTES_IN, BYTES_OUT, DURATION, COUNT, BREADTH, UNGRANTED, DEPTH, LIFETIME = range(8)
NUMBERS = 8

# Columns of `codes` (int8).
EFFECT, OUTCOME, TYPE, PROVENANCE, METHOD, EXTERNAL, CAPABILITY, SELF_ASSERTED, OWN_DENIAL, UNTRUSTED_RESULT = range(10)
CODES = 10

OUTSIDE, INSIDE, UNDECLARED = 1, 0, -1
UNTRACED = -1
"""Code of `UNTRUSTED_RESULT` if no origins are reported; otherwise 1 if others may have written the answer, or 0."""

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
"""Events whose action a declared capability must cover; authorization servers report token and client events."""

# What we caused is not behavior, or a contained agent could never recover. Its mark is the member `caused_by`, which
# only sources configured for it may set. Records of 0.1 carry the mark in `error`; intake rejects such text without the
# member (docs/decisions/0024-claims.md), so both forms can be read.

OWN_DENIALS = frozenset({"ext_authz_denied", "revoked_by_trustwatch"})
"""`error` values of denials that we caused."""

OWN_OUTAGES = frozenset({"ext_authz_error", "trustwatch_unavailable"})
"""`error` values of errors that came of our not answering a gateway or authorization server: no agent did them."""

OWN_APPROVAL_RECORD = "recorded_by_trustwatch"
"""`error` of events of type `approval` that report a person's statement about an agent: no agent caused them."""

OWN_ERRORS = OWN_DENIALS | OWN_OUTAGES | {OWN_APPROVAL_RECORD}
"""`error` values that mark an event of 0.1 as ours."""

_OWN_ERRORS = {"success": frozenset(), "denied": OWN_DENIALS, "error": OWN_OUTAGES}

_OUTCOME = {name: code for code, name in enumerate(OUTCOMES)}
_TYPE = {name: code for code, name in enumerate(EVENT_TYPES)}
_EFFECT_CODE: dict[str | None, int] = {None: EFFECTS.index("unknown"), **{n: code for code, n in enumerate(EFFECTS)}}
_PROVENANCE_CODE: dict[str | None, int] = {None: -1, **{n: code for code, n in enumerate(PROVENANCES)}}
SUCCESS, DENIED, ERROR = _OUTCOME["success"], _OUTCOME["denied"], _OUTCOME["error"]
TOKEN_REVOKE, CLIENT_CHANGE, CLIENT_REGISTER = _TYPE["token.revoke"], _TYPE["client.change"], _TYPE["client.register"]
APPROVAL = _TYPE["approval"]
FIRST_WORK = _TYPE["api.call"]
"""The types before it are reports of an authorization server about tokens and clients."""
SIGNAL_HARD, SIGNAL_PROOF, SIGNAL_EVIDENCE, SIGNAL_CHANGE, SIGNAL_NOTE = (
    _TYPE[f"signal.{kind}"] for kind in ("hard", "proof", "evidence", "change", "note")
)
FIRST_SIGNAL = SIGNAL_HARD
"""The types from here on are signal events: reports of others about an agent, or a failed proof. They are not its
behavior."""

_pack = struct.Struct(f"=3Q{NUMBERS}d{CODES}bd").pack
_PACKED = np.dtype(
    [("agent", np.uint64, 3), ("numbers", np.float64, NUMBERS), ("codes", np.int8, CODES), ("time_s", np.float64)]
)
"""One packed row: rows are built by one call each, and become arrays all at once."""

UInt64s = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int8]
Times = npt.NDArray[np.int64]


_MemoKey = tuple[Any, ...]
_MemoValue = TypeVar("_MemoValue")


class MemoizedFunction(dict[_MemoKey, _MemoValue]):
    """Cache of a pure function of a tuple. Bounded: when full it is emptied, so only time is lost."""

    _MOST = 1 << 16
    _LONGEST = 500
    """Characters of a key worth remembering: long names must not make the memory large."""

    def __init__(self, function: Callable[..., _MemoValue]) -> None:
        self._function = function

    def __missing__(self, key: _MemoKey) -> _MemoValue:
        value = self._function(*key)
        if _key_length(key) <= self._LONGEST:
            if len(self) >= self._MOST:
                self.clear()
            self[key] = value
        return value


def _key_length(key: _MemoKey) -> int:
    """Characters of all texts in a key."""
    total = 0
    for part in key:
        if isinstance(part, str):
            total += len(part)
        elif isinstance(part, tuple):
            total += sum(map(len, part))
    return total


class LazyEvents(Sequence[NativeEvent]):
    """Events that are decoded on access: most are never needed as objects."""

    def __init__(self, payloads: Sequence[bytes], decoded: dict[int, NativeEvent]) -> None:
        self._payloads = payloads
        self._decoded = decoded

    def __len__(self) -> int:
        return len(self._payloads)

    @overload
    def __getitem__(self, at: int) -> NativeEvent: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[NativeEvent]: ...

    def __getitem__(self, at: int | slice) -> NativeEvent | Sequence[NativeEvent]:
        position = range(len(self._payloads))[at]
        if isinstance(position, range):
            return self.take(position)
        event = self._decoded.get(position)
        if event is None:
            event = self._decoded[position] = decode_event(self._payloads[position])
        return event

    def take(self, positions: Sequence[int]) -> LazyEvents:
        """The given events as a sequence."""
        decoded = {new: self._decoded[old] for new, old in enumerate(positions) if old in self._decoded}
        return LazyEvents([self._payloads[position] for position in positions], decoded)


class EventColumns(NamedTuple):
    """A batch of n events. `time_ms` is UTC event time; the other columns are described in the module's constants."""

    events: Sequence[NativeEvent]
    names: UInt64s  # shape (n, NAMES)
    numbers: Floats  # shape (n, NUMBERS)
    codes: Codes  # shape (n, CODES)
    time_ms: Times  # shape (n,)
    arguments: ArgumentColumns | None = None  # None = no event reports where its arguments came from

    def __len__(self) -> int:
        return len(self.events)

    def take(self, rows: npt.NDArray[Any]) -> EventColumns:
        """The given rows as a batch."""
        row_numbers, events = rows.tolist(), self.events
        taken = events.take(row_numbers) if isinstance(events, LazyEvents) else [events[row] for row in row_numbers]
        arguments = None if self.arguments is None else self.arguments.take(rows)
        return EventColumns(
            taken, self.names[rows], self.numbers[rows], self.codes[rows], self.time_ms[rows], arguments
        )

    def with_times(self, time_ms: Times) -> EventColumns:
        """The same events at other times. (`_replace` of a named tuple does not get along with our `len`.)"""
        return EventColumns(self.events, self.names, self.numbers, self.codes, time_ms, self.arguments)


def full_name(event: NativeEvent) -> tuple[str, str, str]:
    """Tenant, issuer and id of the agent of an event."""
    return event.tenant or "", event.agent.issuer or "", event.agent.id


def untrusted_result_code(event: NativeEvent) -> int:
    """The code `UNTRUSTED_RESULT` of an event."""
    if event.arguments is None and event.untrusted_result is None and event.attributes is None:
        return UNTRACED
    untrusted = read_untrusted_result(event)
    if untrusted is None and read_arguments(event) is None:
        return UNTRACED
    return int(bool(untrusted))


def is_caused_by_us(event: NativeEvent) -> bool:
    """True if an event carries our mark and is not a success: we cause none except a person's statement."""
    is_approval = event.type == "approval"
    if event.caused_by is not None and (is_approval or event.outcome != "success"):
        return True
    return event.error in _OWN_ERRORS[event.outcome] or (is_approval and event.error == OWN_APPROVAL_RECORD)


class ColumnEncoder:
    """Turns decoded events into columns."""

    def __init__(
        self,
        salt: bytes,
        domains: Mapping[str, Sequence[str]] | None = None,
        identities: IdentityHasher | None = None,
    ) -> None:
        self.salt = salt
        self.identities = identities or IdentityHasher(salt)
        self.hash = NameHasher(salt)
        self.domains = TenantDomains(domains or {})
        # What few different parts of many events encode to.
        self._agents = MemoizedFunction(self._agent_hashes)
        self._networks = MemoizedFunction(network_of)
        self._scopes = MemoizedFunction(_scope_set)
        self._targets = MemoizedFunction(self._canonical_target)

    def encode(self, events: Sequence[NativeEvent]) -> EventColumns:
        """Columns of *events*, in their order."""
        names: list[str] = []
        packed = np.frombuffer(bytearray().join([self._row(event, names) for event in events]), _PACKED)
        hashed = np.empty((len(events), NAMES), np.uint64)
        hashed[:, [AGENT, AGENT_CHECK, AGENT_DRAW]] = packed["agent"]
        hashed[:, AGENT_DRAW + 1 :] = self.hash.hash_many(names).reshape(len(events), NAMES - 3)
        # `timestamp()` rounds to the microsecond at best; whole milliseconds are cut from that, not from the fraction.
        micros = np.rint(packed["time_s"] * 1e6).astype(np.int64)
        of_rows = {row: given for row, event in enumerate(events) if (given := read_arguments(event))}
        arguments = collect_arguments(len(events), of_rows, self.hash.hash_many)
        return EventColumns(events, hashed, packed["numbers"].copy(), packed["codes"].copy(), micros // 1000, arguments)

    def _row(self, event: NativeEvent, names: list[str]) -> bytes:
        """Numbers of one event, packed; its names are appended to *names*.

        This is the only per-event Python on the hot path, so it is one flat function.
        """
        agent, resource, principal, chain = event.agent, event.resource, event.principal, event.delegation
        client, login, scopes, capabilities = event.client, event.credential, event.scopes, agent.capabilities
        tenant, outcome, action = event.tenant or "", event.outcome, event.action
        resource_item = target = audience = network = token = credential = scope_set = ""
        kind = ""
        external = provenance = -1
        if resource is not None:
            resource_item = resource.id or ""
            target, external = self._target(resource, tenant)
            audience = resource.audience or ""
            if resource.type is not None:
                kind = resource.type
                resource_item = f"{kind}:{resource_item}"
            provenance = _PROVENANCE_CODE[resource.provenance]
        if client is not None:
            network = f"AS{client.asn}" if client.asn is not None else self._networks[(client.ip,)]
        lifetime, method, breadth, ungranted = -1.0, 0, -1.0, -1.0
        if login is not None:
            token = login.token_id or ""
            if login.token_lifetime_s is not None:
                lifetime = login.token_lifetime_s
            if login.method is not None or login.thumbprint is not None:
                credential = f"{login.method}:{login.thumbprint}"
                method = METHOD_RANK.get(login.method or "", 0)
        if scopes is not None:
            asked, given = scopes.requested, scopes.granted
            scope_set, breadth, ungranted = self._scopes[
                None if asked is None else tuple(asked), None if given is None else tuple(given)
            ]
        bytes_in, bytes_out, duration, count = event.bytes_in, event.bytes_out, event.duration_ms, event.count
        names += (
            f"{tenant}\x1f{agent.type or ''}",
            tenant,
            event.task or "",
            action,
            resource_item,
            target,
            audience,
            event.peer or "",
            (principal.id or "") if principal is not None else "",
            network,
            credential,
            scope_set,
            "\x1f".join(chain) if chain else "",
            token,
            event.session or "",
            agent.version or "",
            kind,
            "\x1f".join(event.unauthorized or ()),
            capability_text(capabilities),
        )
        return _pack(
            *self._agents[tenant, agent.issuer or "", agent.id],
            -1.0 if bytes_in is None else bytes_in,
            -1.0 if bytes_out is None else bytes_out,
            -1.0 if duration is None else duration,
            1.0 if count is None else count,
            breadth,
            ungranted,
            len(chain) if chain else -1.0,
            lifetime,
            _EFFECT_CODE[event.effect],
            _OUTCOME[outcome],
            _TYPE[event.type],
            provenance,
            method,
            external,
            UNDECLARED
            if capabilities is None or event.type not in WORK_TYPES
            else not covers(tuple(capabilities), action),
            agent.self_asserted,
            _TYPE[event.type] >= FIRST_SIGNAL
            or ((event.caused_by is not None or event.error in OWN_ERRORS) and is_caused_by_us(event)),
            untrusted_result_code(event),
            event.time.timestamp(),
        )

    def _agent_hashes(self, *name: str) -> tuple[int, int, int]:
        return *self.identities.agent_hash(*name), unkeyed_agent_key(*name)

    def _target(self, resource: Resource, tenant: str) -> tuple[str, int]:
        """Canonical target and its side; most names are neither URLs nor mail addresses, and are kept as they are."""
        name = resource.target or resource.id
        if name and ("@" in name or is_url(name)):
            return self._targets[name, tenant, resource.external]
        return name or "", -1 if resource.external is None else int(resource.external)

    def _canonical_target(self, name: str, tenant: str, external: bool | None) -> tuple[str, int]:
        target, side = canonical_target(Resource(id=name, external=external), tenant, self.domains)
        return target or "", side


def _scope_set(requested: tuple[str, ...] | None, granted: tuple[str, ...] | None) -> tuple[str, float, float]:
    """Scope set as one name, its breadth, and the number of those asked for but not granted (-1 = unknown)."""
    scopes = set(requested or granted or ())
    said = granted is not None and requested
    ungranted = float(len(scopes - set(granted or ()))) if said else -1.0
    return " ".join(sorted(scopes)), float(len(scopes)), ungranted


_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = re.compile(rf"((?:{_OCTET}\.){{3}}){_OCTET}")


def network_of(ip: str | None) -> str:
    """The network of an address: /24 of IPv4, /48 of IPv6; text that is not an address is kept as it is.

    >>> network_of("198.51.100.7"), network_of("2001:db8:1:2::7"), network_of("cluster-a")
    ('198.51.100.0/24', '2001:db8:1::/48', 'cluster-a')
    """
    if not ip:
        return ""
    if dotted := _IPV4.fullmatch(ip):  # objects of an address and a network cost thirty times as much
        return f"{dotted[1]}0/24"
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return ip
    return str(ipaddress.ip_network((address, 24 if address.version == 4 else 48), strict=False))
