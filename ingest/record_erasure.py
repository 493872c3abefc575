"""Erasure of a name from records, and the filter that keeps it out of every reader."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import msgspec

from .events import NativeEvent
from .identities import unkeyed_agent_key
from .record_keys import agent_partition_key
from .source import Record, RecordBatch, RecordKind

# Bounds of a name: `ann` is not part of `joann`, `ann-2`, `ann.smith` or `ann@example`, but of `user:ann` it is.
_NAME_START = r"(?<![\w-])(?<!\w[.@+])"
_NAME_END = r"(?![\w-])(?![.@+]\w)"


_WORDS_OF_COMMANDS = frozenset(
    {"command", "kind", "rule_id", "key", "tenant", "issuer", "agent_type", "features", "decision_id", "verdict"}
)
"""Members of commands and rules that hold our own texts, numbers and ids: no name is replaced there."""


class ErasureSubject(NamedTuple):
    """Agent or principal to erase."""

    kind: str
    """`agent` or `principal`."""
    tenant: str
    """Of its events; "" = events that name none."""
    issuer: str
    """Of an agent; "" for principals, who are people whichever issuer names them."""
    name: str
    pseudonym: str
    """Replaces the name in records of others."""

    @property
    def agent_identity(self) -> tuple[str, str, str]:
        """Tenant, issuer and id of an agent."""
        return self.tenant, self.issuer, self.name

    @property
    def partition_key(self) -> bytes:
        """Key that leads to the partition of an agent's records; b"" for principals."""
        return agent_partition_key(self.tenant, self.issuer, self.name) if self.kind == "agent" else b""


class NameEraser:
    """Replaces one identifier, as a whole word, in text, JSON and bytes."""

    def __init__(self, name: str, stand_in: str) -> None:
        if not name:
            raise ValueError("an empty name cannot be erased")
        self.name = name
        self._stand_in = stand_in
        self._pattern = re.compile(_NAME_START + re.escape(name) + _NAME_END)
        # As it appears in JSON: our encoder keeps letters of all languages, others may escape them.
        self.needles = tuple({name.encode(), json.dumps(name)[1:-1].encode(), msgspec.json.encode(name)[1:-1]})

    def is_in_text(self, text: str) -> bool:
        """True if the text holds the name."""
        return self.name in text and self._pattern.search(text) is not None

    def erase_in_text(self, text: str) -> str:
        """The text without the name."""
        return self._pattern.sub(lambda _: self._stand_in, text) if self.name in text else text

    def may_occur_in(self, raw: bytes) -> bool:
        """Quick check before decoding; never False for bytes that hold the name, however JSON escapes it."""
        return any(needle in raw for needle in self.needles) or b"\\" in raw

    def is_in_bytes(self, raw: bytes) -> bool:
        """True if bytes of any kind hold the name; in JSON, however it is escaped."""
        return self.erase_in_json(raw) is not raw

    def erase_in_json(self, raw: bytes, *, keep_members: bool = False) -> bytes:
        """JSON without the name, written again; the same object if it does not contain the name.

        Bytes that are not JSON are treated as text. If *keep_members*, names of members stay.
        """
        return self._rewritten(raw, lambda value: self._erased(value, keep_members))

    def erase_in_command(self, raw: bytes) -> bytes:
        """As `erase_in_json`, for a command or a rule: only in members that may hold names, never in our own texts."""
        return self._rewritten(raw, self._erased_command)

    def _rewritten(self, raw: bytes, erase: Callable[[Any], Any]) -> bytes:
        if not self.may_occur_in(raw):
            return raw
        try:
            value = msgspec.json.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            text = raw.decode(errors="surrogateescape")
            return self.erase_in_text(text).encode(errors="surrogateescape") if self.is_in_text(text) else raw
        erased = erase(value)
        return raw if erased == value else msgspec.json.encode(erased)

    def _erased(self, value: Any, keep_members: bool) -> Any:
        """A JSON value without the name, in strings and, unless they are kept, in names of members."""
        if isinstance(value, str):
            return self.erase_in_text(value)
        if isinstance(value, list):
            return [self._erased(part, keep_members) for part in value]
        if isinstance(value, dict):
            return {
                name if keep_members else self.erase_in_text(name): self._erased(member, keep_members)
                for name, member in value.items()
            }
        return value

    def _erased_command(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return self._erased(value, keep_members=False)
        return {
            name: member if name in _WORDS_OF_COMMANDS else self._erased_command(member)
            for name, member in value.items()
        }


class _ErasableAgent(msgspec.Struct):
    id: str = ""
    issuer: str | None = None


class _ErasableEvent(msgspec.Struct):
    agent: _ErasableAgent = msgspec.field(default_factory=_ErasableAgent)
    tenant: str | None = None


class _CommandAgent(msgspec.Struct):
    """The agent that a command is about: by name, or in 0.1 by its unkeyed hash, in decimal."""

    key: str = ""
    tenant: str = ""
    issuer: str = ""
    agent_id: str = ""


class _RefusedInput(msgspec.Struct):
    raw: str = ""


@cache
def reserved_words(kind: Any = NativeEvent) -> frozenset[str]:
    """Member names and closed vocabularies of events, or of another type that is stored as JSON: a subject with such a
    name cannot be erased."""
    words: set[str] = set()
    waiting: list[Any] = [msgspec.json.schema(kind)]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            words.update(part.get("properties", {}))
            words.update(word for word in part.get("enum", ()) if isinstance(word, str))
            waiting.extend(part.values())
        elif isinstance(part, list):
            waiting.extend(part)
    return frozenset(words)


class _CommandRule(msgspec.Struct):
    tenant: str | None = None


class _CommandScope(msgspec.Struct):
    command: str = ""
    tenant: str | None = None
    rule: _CommandRule | None = None


_erasable_event = msgspec.json.Decoder(_ErasableEvent)
_command_scope = msgspec.json.Decoder(_CommandScope)
_command_agent = msgspec.json.Decoder(_CommandAgent)
_refused_input = msgspec.json.Decoder(_RefusedInput)


class RecordEraser:
    """Erases one subject from records of the log, whatever their kind.

    An agent's own events go, and so do refused inputs that name the subject (their content is unknown). In events of
    others of its tenant the pseudonym replaces it: those agents' habits stay. Events of another agent that bears the
    very same name (at another issuer; or a principal's name) are that agent's and stay.
    """

    def __init__(self, subject: ErasureSubject) -> None:
        self.subject = subject
        self.name_eraser = NameEraser(subject.name, subject.pseudonym)
        self._unkeyed = str(unkeyed_agent_key(*subject.agent_identity))

    def __call__(self, record: Record) -> Record:
        """The record without the subject; the same object if it does not name the subject."""
        if record.kind in (RecordKind.TICK, RecordKind.ERASED):
            return record
        if record.kind == RecordKind.EVENT:
            return self._erase_in_event(record)
        if record.kind == RecordKind.DEAD:
            return erased_record(record) if self._dead_letter_names_subject(record.payload) else record
        if self.subject.kind == "agent" and self._is_about_agent(record.payload):
            return erased_record(record)
        if not self._may_name_subject(record.payload):
            return record
        if record.kind == RecordKind.FORGET:
            return erased_record(record) if self.name_eraser.is_in_bytes(record.payload) else record
        return _with_payload(record, self.name_eraser.erase_in_command(record.payload))

    def _erase_in_event(self, record: Record) -> Record:
        if not self.name_eraser.may_occur_in(record.payload):
            return record
        try:
            event = _erasable_event.decode(record.payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return erased_record(record) if self.name_eraser.is_in_bytes(record.payload) else record
        if (event.tenant or "") != self.subject.tenant:
            return record
        if event.agent.id != self.subject.name:
            return _with_payload(record, self.name_eraser.erase_in_json(record.payload))
        own = self.subject.kind == "agent" and (event.agent.issuer or "") == self.subject.issuer
        return erased_record(record) if own else record

    def _is_about_agent(self, payload: bytes) -> bool:
        """True for a command about the agent itself."""
        try:
            agent = _command_agent.decode(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return False
        if agent.agent_id:
            return (agent.tenant, agent.issuer, agent.agent_id) == self.subject.agent_identity
        return agent.key == self._unkeyed

    def _may_name_subject(self, payload: bytes) -> bool:
        """False for a command that cannot name the subject: another tenant's, or one about models."""
        try:
            command = _command_scope.decode(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return True
        tenant = command.tenant if command.rule is None else command.rule.tenant
        return tenant in (None, self.subject.tenant) and not command.command.startswith("model.")

    def _dead_letter_names_subject(self, payload: bytes) -> bool:
        if self.name_eraser.is_in_bytes(payload):
            return True
        try:
            return self.name_eraser.is_in_bytes(base64.b64decode(_refused_input.decode(payload).raw))
        except (msgspec.MsgspecError, ValueError):
            return False


def _with_payload(record: Record, payload: bytes) -> Record:
    return record if payload is record.payload else record._replace(payload=payload)


def erased_record(record: Record) -> Record:
    """Remainder of an erased record: its offset, its arrival time, and the hash of its event's id.

    The hash is that of tenant, source and event id: without it the same event, sent again, would count as a new one.
    """
    return Record(RecordKind.ERASED, record.id_hash, record.received_ms, b"")


# One search for many names: a record that holds none of them must not cost a search for each.


PATTERN_PART_BYTES = 8
"""Bytes of a name that are looked up."""


class MultiPatternSearch:
    """Finds candidates, which its callers check more closely.

    Of each name the part is looked up that the fewest others have, since names of one house begin or end alike.
    """

    def __init__(self, needles: Sequence[Collection[bytes]]) -> None:
        shared = Counter(part for several in needles for needle in several for part in _pattern_parts(needle))
        self._count = len(needles)
        self._short: list[tuple[int, Collection[bytes]]] = []
        self._by_part: dict[bytes, list[tuple[int, bytes]]] = {}
        for number, several in enumerate(needles):
            if any(len(needle) < PATTERN_PART_BYTES for needle in several):
                self._short.append((number, several))
                continue
            for needle in several:
                rarest = min(_pattern_parts(needle), key=shared.__getitem__)
                self._by_part.setdefault(rarest, []).append((number, needle))
        self._parts = frozenset(self._by_part)

    def candidates(self, raw: bytes) -> Sequence[int]:
        """Numbers of the names that the JSON may contain, in order; all of them if it cannot be read."""
        if not self._count:
            return ()
        if b"\\" in raw:
            try:
                raw = msgspec.json.encode(msgspec.json.decode(raw))  # as we write it
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                return range(self._count)
        numbers = {number for number, several in self._short if any(needle in raw for needle in several)}
        for part in self._parts.intersection(_pattern_parts(raw)):
            numbers.update(number for number, needle in self._by_part[part] if needle in raw)
        return sorted(numbers)


def _pattern_parts(text: bytes) -> set[bytes]:
    return {text[at : at + PATTERN_PART_BYTES] for at in range(len(text) - PATTERN_PART_BYTES + 1)}


# A topic cannot be rewritten: records of erased subjects stay until retention removes them, so readers erase them.


class ErasedSubject(NamedTuple):
    """Erased subject whose records are still in the topic."""

    subject: ErasureSubject
    up_to: Mapping[int, int]
    """By partition, the offset of the erasure record: the records before it are erased."""


class ErasedFilter:
    """Erases subjects from records that are read again: by a worker that restarts or continues from a backup, an
    archive, a back-test, a preview, a notebook.
    """

    def __init__(self, bygone: Iterable[ErasedSubject] = ()) -> None:
        pending = [subject for subject in bygone if subject.up_to]
        self._erasers = [(subject.up_to, RecordEraser(subject.subject)) for subject in pending]
        self._name_search = MultiPatternSearch([erase.name_eraser.needles for _, erase in self._erasers])
        self._last_offsets: dict[int, int] = {}
        for subject in pending:
            for partition, offset in subject.up_to.items():
                self._last_offsets[partition] = max(offset, self._last_offsets.get(partition, -1))

    def filter_record(self, partition: int, offset: int, record: Record) -> Record:
        """The record as it may be read. Erasure records stay: a state rebuilt must apply them."""
        if offset > self._last_offsets.get(partition, -1) or record.kind == RecordKind.FORGET:
            return record
        asked: Iterable[int] = range(len(self._erasers))
        if (
            record.kind == RecordKind.EVENT
        ):  # commands and refused inputs are few, and each eraser knows how to read them
            asked = self._name_search.candidates(record.payload)
        for up_to, erase in (self._erasers[number] for number in asked):
            if offset < up_to.get(partition, -1):
                record = erase(record)
        return record

    def filter_batch(self, batch: RecordBatch) -> RecordBatch:
        """A batch as it may be read; the same object if it is behind all of it."""
        if batch.base_offset > self._last_offsets.get(batch.partition, -1):
            return batch
        records = [
            self.filter_record(batch.partition, at, record)
            for at, record in enumerate(batch.records, batch.base_offset)
        ]
        return RecordBatch(batch.partition, batch.base_offset, records)
