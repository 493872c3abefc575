"""Taking a name out of what was written down: one agent's or principal's identifier, wherever it stands."""

from __future__ import annotations

import base64
import json
import re
from functools import cache
from typing import Any, NamedTuple

import msgspec

from .events import AuditEvent
from .hashing import agent_key
from .routing import agent_route
from .source import Kind, Record

# What belongs to a name: `ann` is no part of `joann`, `ann-2`, `ann.smith` or `ann@example`, but of `user:ann` it is.
_BEFORE = r"(?<![\w-])(?<!\w[.@+])"
_BEHIND = r"(?![\w-])(?![.@+]\w)"


class Subject(NamedTuple):
    """Who is to be erased.

    Attributes:
        kind: `agent` or `principal`.
        tenant: of its events; "" = events that name none.
        issuer: of an agent; "" for principals, who are people whichever issuer names them.
        name: its identifier.
        pseudonym: what stands for it where somebody else's record named it.
    """

    kind: str
    tenant: str
    issuer: str
    name: str
    pseudonym: str

    @property
    def key(self) -> int:
        """Key of an agent; 0 for principals."""
        return agent_key(self.tenant, self.issuer, self.name) if self.kind == "agent" else 0

    @property
    def route(self) -> bytes:
        """By which an agent's records find their partition; b"" for principals."""
        return agent_route(self.tenant, self.issuer, self.name) if self.kind == "agent" else b""


class NameEraser:
    """Finds one identifier as a whole in text, JSON and bytes, and puts something else in its place.

    Args:
        name: the identifier, at least one character.
        stand_in: what is put in its place.
    """

    def __init__(self, name: str, stand_in: str) -> None:
        if not name:
            raise ValueError("an empty name can not be erased")
        self.name = name
        self._stand_in = stand_in
        self._pattern = re.compile(_BEFORE + re.escape(name) + _BEHIND)
        # As it stands in JSON: ours keeps letters of all languages, others' may escape them.
        self.needles = tuple({name.encode(), json.dumps(name)[1:-1].encode(), msgspec.json.encode(name)[1:-1]})

    def in_text(self, text: str) -> bool:
        """Whether the name stands there."""
        return self.name in text and self._pattern.search(text) is not None

    def text(self, text: str) -> str:
        """The text without the name."""
        return self._pattern.sub(lambda _: self._stand_in, text) if self.name in text else text

    def may_be_in(self, raw: bytes) -> bool:
        """Whether a closer look is worth while; never False where the name is, in whatever way JSON writes it."""
        return any(needle in raw for needle in self.needles) or b"\\" in raw

    def in_bytes(self, raw: bytes) -> bool:
        """Whether the name stands in bytes of any kind; in JSON, however it is escaped there."""
        if not self.may_be_in(raw):
            return False
        try:
            return self.value(msgspec.json.decode(raw)) is not None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self.in_text(raw.decode(errors="replace"))

    def json(self, raw: bytes) -> bytes:
        """JSON without the name, written anew; the same object where the name does not stand there.

        Bytes that are no JSON are treated as text.
        """
        if not self.may_be_in(raw):
            return raw
        try:
            changed = self.value(msgspec.json.decode(raw))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            text = raw.decode(errors="surrogateescape")
            return self.text(text).encode(errors="surrogateescape") if self.in_text(text) else raw
        return raw if changed is None else msgspec.json.encode(changed)

    def value(self, value: Any) -> Any:
        """A JSON value without the name, in strings and in names of members; None where it does not stand there."""
        if isinstance(value, str):
            return self.text(value) if self.in_text(value) else None
        if isinstance(value, list):
            parts = [self.value(part) for part in value]
            if all(part is None for part in parts):
                return None
            return [old if new is None else new for old, new in zip(value, parts, strict=True)]
        if isinstance(value, dict):
            return self._members(value)
        return None

    def _members(self, value: dict[str, Any]) -> dict[str, Any] | None:
        found = {name: self.value(member) for name, member in value.items()}
        if all(new is None for new in found.values()) and not any(self.in_text(name) for name in value):
            return None
        return {self.text(name): value[name] if new is None else new for name, new in found.items()}


class _Agent(msgspec.Struct):
    id: str = ""
    issuer: str | None = None


class _Event(msgspec.Struct):
    agent: _Agent = msgspec.field(default_factory=_Agent)
    tenant: str | None = None


class _Command(msgspec.Struct):
    key: str = ""


class _Refused(msgspec.Struct):
    raw: str = ""


@cache
def schema_words() -> frozenset[str]:
    """Member names and closed vocabularies of events: nobody can be erased under such a name."""
    words: set[str] = set()
    waiting: list[Any] = [msgspec.json.schema(AuditEvent)]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            words.update(part.get("properties", {}))
            words.update(word for word in part.get("enum", ()) if isinstance(word, str))
            waiting.extend(part.values())
        elif isinstance(part, list):
            waiting.extend(part)
    return frozenset(words)


class _OrderedRule(msgspec.Struct):
    tenant: str | None = None


class _Ordered(msgspec.Struct):
    command: str = ""
    tenant: str | None = None
    rule: _OrderedRule | None = None


_event = msgspec.json.Decoder(_Event)
_ordered = msgspec.json.Decoder(_Ordered)
_command = msgspec.json.Decoder(_Command)
_refused = msgspec.json.Decoder(_Refused)


class RecordEraser:
    """Takes one subject out of records of the log, whatever they are.

    An agent's own events go, and so do refused inputs that name the subject (nobody knows what they are). In events of
    others of its tenant the pseudonym stands in its place: those agents' habits stay. Events of another agent
    that bears the very same name (at another issuer; or a principal's name) are that agent's and stay.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.names = NameEraser(subject.name, subject.pseudonym)
        self._key = str(subject.key)

    def __call__(self, record: Record) -> Record:
        """The record as it may stay; the very same one where nothing is to be done."""
        if record.kind in (Kind.TICK, Kind.ERASED):
            return record
        if record.kind == Kind.EVENT:
            return self._event(record)
        if record.kind == Kind.DEAD:
            return erased(record) if self._refuses(record.payload) else record
        if self.subject.kind == "agent" and _key_of(record.payload) == self._key:
            return erased(record)
        if not self._concerns(record.payload):
            return record
        if record.kind == Kind.FORGET:
            return erased(record) if self.names.in_bytes(record.payload) else record
        return self._changed(record)

    def _event(self, record: Record) -> Record:
        if not self.names.may_be_in(record.payload):
            return record
        try:
            event = _event.decode(record.payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return erased(record) if self.names.in_bytes(record.payload) else record
        if (event.tenant or "") != self.subject.tenant:
            return record
        if event.agent.id != self.subject.name:
            return self._changed(record)
        own = self.subject.kind == "agent" and (event.agent.issuer or "") == self.subject.issuer
        return erased(record) if own else record

    def _changed(self, record: Record) -> Record:
        payload = self.names.json(record.payload)
        return record if payload is record.payload else record._replace(payload=payload)

    def _concerns(self, payload: bytes) -> bool:
        """Whether a command may name the subject: not another tenant's, nor which model is in force."""
        try:
            told = _ordered.decode(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return True
        tenant = told.tenant if told.rule is None else told.rule.tenant
        return tenant in (None, self.subject.tenant) and not told.command.startswith("model.")

    def _refuses(self, payload: bytes) -> bool:
        if self.names.in_bytes(payload):
            return True
        try:
            return self.names.in_bytes(base64.b64decode(_refused.decode(payload).raw))
        except (msgspec.MsgspecError, ValueError):
            return False


def _key_of(payload: bytes) -> str:
    """The agent that a command is about, in decimal."""
    try:
        return _command.decode(payload).key
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""


def erased(record: Record) -> Record:
    """What stays of a record that is erased: its place, its arrival, and the hash of its event's id.

    The hash is that of tenant, source and event id: without it the same event, sent again, would count as a new one.
    """
    return Record(Kind.ERASED, record.id_hash, record.received_ms, b"")
