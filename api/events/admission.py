"""Admission of records: checks the authorization of their source, and applies the operator's registry of agents."""

from __future__ import annotations

import base64
import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple

import msgspec

from trustwatch.ingest.capabilities import scope_capabilities
from trustwatch.ingest.columns import OWN_ERRORS, is_caused_by_us
from trustwatch.ingest.errors import MalformedEvent, SourceNotAllowed
from trustwatch.ingest.events import NativeEvent, decode_event
from trustwatch.ingest.formats.raw_records import RawRecord
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.ingest.record_keys import agent_partition_key
from trustwatch.ingest.source import Record, RecordKind
from trustwatch.ingest.timestamps import EPOCH
from trustwatch.scoring.records.dead_letters import RefusedInput
from trustwatch_client.events import MAX_EVENT_BYTES, MAX_NAMES

from ..http.auth.callers import SourceBinding
from ..http.ledger import NewAgents, Party
from ..settings.access_settings import RegisteredAgent

MAX_CACHED_AGENTS = 65_536
"""Maximum number of cached matches. A full cache is cleared, which costs only time."""

MAX_CACHED_NAME_LENGTH = 500
"""Maximum length of a cached name, because senders choose IDs, and long ones would use much memory."""


@dataclass(eq=False, repr=False)
class AgentRegistry:
    """Finds the operator's entry for an agent. The first matching entry wins."""

    entries: Iterable[RegisteredAgent]

    def __post_init__(self) -> None:
        self._entries: dict[tuple[str, str], list[tuple[re.Pattern[str], RegisteredAgent]]] = {}
        for entry in self.entries:
            pattern = re.compile(fnmatch.translate(entry.agent))
            self._entries.setdefault((entry.tenant, entry.issuer), []).append((pattern, entry))
        self._cache: dict[tuple[str, str, str], RegisteredAgent | None] = {}

    def find(self, tenant: str, issuer: str, agent_id: str) -> RegisteredAgent | None:
        """Return the entry of an agent, or None if the operator has declared nothing."""
        if not self._entries:
            return None
        key = (tenant, issuer, agent_id)
        if key in self._cache:
            return self._cache[key]
        fitting = self._entries.get((tenant, issuer), ())
        registered = next((entry for pattern, entry in fitting if pattern.match(agent_id)), None)
        if sum(map(len, key)) <= MAX_CACHED_NAME_LENGTH:
            if len(self._cache) >= MAX_CACHED_AGENTS:
                self._cache.clear()
            self._cache[key] = registered
        return registered

    def capabilities_of(self, tenant: str, issuer: str, agent_id: str) -> tuple[str, ...] | None:
        """Return the capabilities that the operator registered for an agent, or None."""
        entry = self.find(tenant, issuer, agent_id)
        return None if entry is None else entry.capabilities


MAX_CLOCK_AHEAD_S = 300
"""Tolerated lead of an event's time, s: clocks differ, but a date of next year would freeze an agent's time."""

CLAIMED_ERROR_PREFIX = "claimed:"  # Marks an `error` in the log that its source was not authorized to set

PrincipalAlias = Callable[[str, str], str]

_member_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


@dataclass(eq=False, repr=False)
class Admission:
    """Turns received records into log records.

    An agent's type chooses its peer group, and its capabilities its normal actions. So the event's values
    count only from a source that the settings mark as trusted, and the operator's registry wins in any case. Changes
    are made in the JSON itself: every other member stays as it was sent.
    """

    registry: AgentRegistry
    alias: PrincipalAlias | None = None
    identities: IdentityHasher = field(default_factory=IdentityHasher)
    scope_actions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    new_agents: NewAgents | None = None  # None = there may be any number

    def admit(self, raw_record: RawRecord, binding: SourceBinding, now_ms: int) -> Record:
        """Return the record to log. Raises MalformedEvent, SourceNotAllowed."""
        raw = raw_record.raw if raw_record.to_native is None else raw_record.to_native()
        return self.admit_native(raw, binding, now_ms, raw_record.path_prefix)

    def admit_native(self, raw: bytes, binding: SourceBinding, now_ms: int, prefix: str = "$") -> Record:
        """Like `admit`, for native event JSON found at *prefix* in the request.

        If nothing has to be changed, the record's payload is *raw* itself.
        """
        try:
            event = decode_event(raw)
            if not is_text(raw):
                raise MalformedEvent("it has bytes that are not valid UTF-8; every member of JSON must be UTF-8")
            if event.time > EPOCH + timedelta(milliseconds=now_ms, seconds=MAX_CLOCK_AHEAD_S):
                reason = f"time is more than {MAX_CLOCK_AHEAD_S} s ahead of the clock of the service"
                raise MalformedEvent(reason, "$.time")
        except MalformedEvent as error:
            if prefix == "$":
                raise
            raise MalformedEvent(error.reason, prefix + error.path.removeprefix("$")) from None
        tenant = event.tenant or binding.default_tenant
        issuer = event.agent.issuer or binding.default_issuer
        binding.check_claims(tenant, issuer, event.source)
        binding.check_agent(issuer, event.agent.id)
        payload = self._effective_payload(raw, event, tenant or "", issuer or "", binding)
        # Ids are unique within a source. An event that names none comes from its caller, so that no caller can use up
        # the ids of another.
        source = event.source or binding.source_without_name
        partition_key = agent_partition_key(tenant or "", issuer or "", event.agent.id)
        if self.new_agents is not None:
            self.new_agents.admit((tenant or "", issuer or "", event.agent.id), partition_key)
        id_hash = self.identities.event_id_hash(tenant, source, event.id, payload)
        return Record(RecordKind.EVENT, id_hash, now_ms, payload, partition_key)

    def _effective_payload(
        self, raw: bytes, event: NativeEvent, tenant: str, issuer: str, binding: SourceBinding
    ) -> bytes:
        """Return the event with every member filled in or replaced that the sender may not set."""
        agent = event.agent
        changed = self._registered_members(event, tenant, issuer, trusted=binding.source.trusted)
        if issuer and issuer != agent.issuer:
            changed["issuer"] = issuer
        if not binding.vouches and not agent.self_asserted:
            changed["self_asserted"] = True
        filled = _effective_mark(event, binding) | _effective_authority(event, issuer, binding)
        if tenant and tenant != event.tenant:
            filled["tenant"] = tenant
        principal: dict[str, Any] = {}
        if self.alias is not None and event.principal is not None and event.principal.id:
            principal["id"] = self.alias(tenant, event.principal.id)
        if not changed and not filled and not principal:
            return raw
        try:
            payload = _rewrite_members(raw, filled, {"agent": changed, "principal": principal})
        except (msgspec.DecodeError, UnicodeDecodeError) as error:  # names that `decode_event` skips
            raise MalformedEvent(f"not a JSON object: {error}") from None
        if len(payload) > MAX_EVENT_BYTES:
            raise MalformedEvent(f"record has {len(payload)} bytes with tenant and issuer, limit is {MAX_EVENT_BYTES}")
        return payload

    def _registered_members(self, event: NativeEvent, tenant: str, issuer: str, *, trusted: bool) -> dict[str, Any]:
        """Return the members of `agent` that differ from the effective ones. None means to remove it."""
        agent = event.agent
        entry = self.registry.find(tenant, issuer, agent.id)
        kind, capabilities = (agent.type, agent.capabilities) if trusted else (None, None)
        if entry is not None:
            kind = entry.type
            capabilities = capabilities if entry.capabilities is None else list(entry.capabilities)
        if capabilities is not None and trusted and self.scope_actions and event.scopes is not None:
            added = scope_capabilities(event.scopes.granted or (), self.scope_actions)
            capabilities = list(dict.fromkeys((*capabilities, *added)))[:MAX_NAMES]
        changed: dict[str, Any] = {}
        if kind != agent.type:
            changed["type"] = kind
        if capabilities != agent.capabilities:
            changed["capabilities"] = capabilities
        return changed


def _effective_mark(event: NativeEvent, binding: SourceBinding) -> dict[str, Any]:
    """Return the members to change if an event claims that we caused it. None means to remove it.

    The mark is `caused_by`, of sources that enforce our verdicts. Without it the `error` values that were the mark in
    0.1 are claims of a sender: they are logged so that nothing mistakes them for it (docs/decisions/0024-claims.md).
    """
    if event.caused_by is None and event.error not in OWN_ERRORS:
        return {}
    changed: dict[str, Any] = {}
    counts = binding.enforces and event.caused_by is not None and is_caused_by_us(event)
    if event.caused_by is not None and not counts:
        changed["caused_by"] = None
    if event.error in OWN_ERRORS and not counts:
        changed["error"] = CLAIMED_ERROR_PREFIX + event.error
    return changed


def _effective_authority(event: NativeEvent, issuer: str, binding: SourceBinding) -> dict[str, Any]:
    """Return the member `unauthorized` if it differs from the effective value. None means to remove it.

    What the service writes itself about a caller's request has it already.
    """
    if binding.ours:
        return {}
    names = binding.unauthorized_agents(issuer, (event.peer, *(event.delegation or ())))
    found = names[:MAX_NAMES] or None  # the actors that make edges come first
    return {} if found == event.unauthorized else {"unauthorized": found}


def is_text(raw: bytes) -> bool:
    """Return whether *raw* is UTF-8 throughout, because the decoder skips members that it does not know."""
    if raw.isascii():
        return True
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _rewrite_members(raw: bytes, filled: dict[str, Any], changed: dict[str, dict[str, Any]]) -> bytes:
    """Return the JSON object with changed members, also in nested objects. The rest stays as it was sent."""
    members = _member_decoder.decode(raw)
    for name, values in changed.items():
        if values:
            inner = _member_decoder.decode(members[name])
            _set_members(inner, values)
            members[name] = msgspec.Raw(msgspec.json.encode(inner))
    _set_members(members, filled)
    return msgspec.json.encode(members)


def _set_members(members: dict[str, msgspec.Raw], values: dict[str, Any]) -> None:
    for name, value in values.items():
        if value is None:
            members.pop(name, None)
        else:
            members[name] = msgspec.Raw(msgspec.json.encode(value))


# Refused input is logged too, so that it can be inspected and replayed.

MAX_DEAD_LETTER_BYTES = MAX_EVENT_BYTES
"""Maximum number of bytes kept of a refused input; an event cannot be larger."""


def dead_letter_record(letter_id: str, now_ms: int, source: Party, reason: str, path: str, raw: bytes) -> Record:
    """Return the log record of a refused input."""
    if len(raw) > MAX_DEAD_LETTER_BYTES:
        reason = f"{reason} (the first {MAX_DEAD_LETTER_BYTES} of {len(raw)} bytes are kept)"
        raw = raw[:MAX_DEAD_LETTER_BYTES]
    encoded = base64.b64encode(raw).decode()
    letter = RefusedInput(letter_id, now_ms, source.caller, reason, path, encoded, source.tenant)
    return Record(RecordKind.DEAD, 0, now_ms, msgspec.json.encode(letter), letter_id.encode())


# Refused records of a body, as dead letters: an enclosing record of several is kept once.


class RefusedLetter(NamedTuple):
    """A complete dead letter."""

    record: Record  # for the log
    letter_id: str  # its id
    raw: bytes  # what was refused, whole
    reason: str  # why, of the first record in it
    path: str  # likewise
    records: int  # how many were refused


class _OpenLetter:
    """A letter to which records with the same enclosing record can be added."""

    def __init__(self, first: RawRecord, letter_id: str, reason: str, path: str, *, repeated: bool) -> None:
        self.letter_id, self._reason, self._path = letter_id, reason, path
        self._surroundings = first.enclosure and first.enclosure.surroundings
        self._held, self._refused, self._bytes, self._short = [first], 1, _length(first), repeated
        if self._surroundings is not None:
            self._short = repeated or self._surroundings.length(short=False) > MAX_DEAD_LETTER_BYTES // 2
            self._bytes += self._surroundings.length(short=self._short)

    def take(self, raw_record: RawRecord) -> bool:
        if raw_record.raw is not self._held[-1].raw:
            self._bytes += 1 + _length(raw_record)
            if self._bytes > MAX_DEAD_LETTER_BYTES:
                return False
            self._held.append(raw_record)
        self._refused += 1
        return True

    def close(self, now_ms: int, source: Party) -> RefusedLetter:
        reason, path, around = self._reason, self._path, self._surroundings
        raw = self._held[0].raw if around is None else around.enclose(self._held, short=self._short)
        if self._refused > 1:
            reason = f"{reason} (the first of {self._refused} refused records in this letter)"
        record = dead_letter_record(self.letter_id, now_ms, source, reason, path, raw)
        return RefusedLetter(record, self.letter_id, raw, reason, path, self._refused)


def _length(record: RawRecord) -> int:
    return len(record.raw) + (0 if record.enclosure is None else len(record.enclosure.before + record.enclosure.after))


@dataclass(eq=False, repr=False)
class RefusedRecords:
    """Collects refused records. Records from one enclosing record, or with equal surroundings, share letters."""

    now_ms: int
    source: Party
    letter_id: Callable[[int], str]  # id of the letter whose first record is at a place of the body
    _letters: list[_OpenLetter] = field(default_factory=list, init=False)
    _open: dict[int, _OpenLetter] = field(default_factory=dict, init=False)  # by identity of what they share

    def add(self, raw_record: RawRecord, error: MalformedEvent | SourceNotAllowed, index: int) -> str:
        """Keep a record, and return the ID of the letter that holds it."""
        shared = id(raw_record.raw if raw_record.enclosure is None else raw_record.enclosure.surroundings)
        letter = self._open.get(shared)
        if letter is None or not letter.take(raw_record):
            repeated = letter is not None
            letter_id = self.letter_id(index)
            letter = _OpenLetter(raw_record, letter_id, error.reason, error.path, repeated=repeated)
            self._open[shared] = letter
            self._letters.append(letter)
        return letter.letter_id

    def letters(self) -> list[RefusedLetter]:
        """Return the letters, in the order of their first records."""
        return [letter.close(self.now_ms, self.source) for letter in self._letters]
