"""Mappings of foreign records to the native event."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from collections.abc import Mapping as MappingType
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from ..errors import ConfigError, MalformedEvent
from ..events import EFFECTS, EVENT_TYPES, OUTCOMES, PROVENANCES, decode_event, decode_json
from ..record_keys import raw_record_digest
from ..settings import Name, SettingsPart, setting
from ..settings_reading import error_hint
from .expressions import MEMBER_KINDS, JmesPathExpression, MemberKind, TimeFormat, member_converter
from .raw_records import (
    MAX_BODY_RECORDS,
    Enclosure,
    ParsedRecords,
    ParserBudget,
    RawRecord,
    decode_logfmt,
    rejected_record,
    split_array,
)

# Redaction is by construction: only members that the mapping names pass, whatever else the record holds.


REQUIRED_MEMBERS = ("time", "agent.id", "type", "action", "outcome")
OTHER_VALUES = "*"
ATTRIBUTE_PREFIX = "attributes."
NO_AGENT_NAMES = frozenset({"", "-", "anonymous", "anonymous_principal", "system", "unknown"})
"""Texts that products log in place of a name when they do not know the caller, or are it themselves."""
MEMBER_VOCABULARIES = {"type": EVENT_TYPES, "effect": EFFECTS, "outcome": OUTCOMES, "resource.provenance": PROVENANCES}

AnonymousPolicy = Literal["skip", "refuse"]
MappingExpression = Annotated[str, msgspec.Meta(max_length=4096)]

_decode_json = msgspec.json.Decoder().decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class MappingSpec(SettingsPart, frozen=True, kw_only=True):
    """Mapping from records to audit events; a member given here wins over the format's own.

    A value of `values` is the one listed under its text, else under its class of HTTP status, else under `*`; one that
    is not listed leaves the member out.
    """

    members: Annotated[
        MappingType[Name, MappingExpression],
        setting("JMESPath by event member (`agent.id`, `attributes.NAME`); a constant is `'text'`, empty removes it"),
    ] = {}
    values: Annotated[
        MappingType[Name, MappingType[str, str]],
        setting("by member: what a value becomes; `4xx` is a class of HTTP status, `*` every other value"),
    ] = {}
    when: Annotated[MappingExpression, setting("JMESPath: records for which it gives nothing or false are skipped")] = (
        ""
    )
    anonymous: Annotated[
        AnonymousPolicy | None, setting("what becomes of a record that names no agent; null is refuse")
    ] = None
    time_format: Annotated[TimeFormat | None, setting("of `time`: text, or a number since 1970; null is rfc3339")] = (
        None
    )
    logfmt: Annotated[bool, setting("take lines of `key=value` pairs besides JSON")] = False
    records: Annotated[
        MappingExpression,
        setting("of a complete mapping: name of the member whose list holds the records; empty: each object is one"),
    ] = ""

    def merged_over(self, base: MappingSpec) -> MappingSpec:
        """*base* with the members that this mapping gives, and without those that it takes out."""
        kept = {name: table for name, table in base.values.items() if self.members.get(name) != ""}
        return MappingSpec(
            members={**base.members, **self.members},
            values={**kept, **self.values},
            when=self.when or base.when,
            anonymous=self.anonymous or base.anonymous,
            time_format=self.time_format or base.time_format,
            logfmt=self.logfmt or base.logfmt,
            records=self.records or base.records,
        )


class MappedMember:
    """Mapping of one native member: its expression, the replacement of its values, and its type."""

    def __init__(self, name: str, text: str, values: MappingType[str, str] | None, time_format: TimeFormat) -> None:
        self.name = name
        self.target_path = (
            ("attributes", name.removeprefix(ATTRIBUTE_PREFIX))
            if name.startswith(ATTRIBUTE_PREFIX)
            else name.split(".")
        )
        try:
            self.expression = JmesPathExpression(text)
        except ConfigError as error:
            raise ConfigError(f"mapping member `{name}`: {error}") from None
        self._values = values
        kind: MemberKind = "any" if name.startswith(ATTRIBUTE_PREFIX) else MEMBER_KINDS[name]
        self._convert = member_converter(kind, time_format)

    def read(self, record: Any) -> Any:
        """Value of the member, None if the record has none. Raises MalformedEvent naming member and path."""
        try:
            value = self.expression(record)
            if self._values is not None and value is not None and value is not False:
                value = _mapped_value(value, self._values)
            return None if value is None else self._convert(value)
        except MalformedEvent as error:
            raise MalformedEvent(f"mapping member `{self.name}`: {error.reason}", self.expression.path) from None

    def missing_error(self, record: Any) -> MalformedEvent:
        """Error for a required member without value; it names the expression and what it gave."""
        seen = self.expression(record)
        what = (
            "has no value" if seen is None or self._values is None else f"has no entry in `values` for `{seen!s:.100}`"
        )
        return MalformedEvent(f"mapping member `{self.name}`: {what}", self.expression.path)


class UnpackedRecord(NamedTuple):
    """One record of a value."""

    raw: bytes  # enough to try it again, with *enclosure* around it; its identity too, if the mapping gives it none
    # for the mapping of its kind; None if it is not an audit event by design, the error if it is broken
    record: dict[str, Any] | MalformedEvent | None
    kind: str = ""  # selects the mapping
    enclosure: Enclosure | None = None  # see `RawRecord`


RecordUnpacker = Callable[[bytes], Iterable[UnpackedRecord]]
"""Takes a value apart. Raises MalformedEvent if it cannot be taken apart at all."""


class _RecordNames:
    """Names records that have no id by what they came in, which is hashed once, and by their place in it."""

    def __init__(self) -> None:
        self._raw: bytes | None = None
        self._enclosure: Enclosure | None = None
        self._digest = ""
        self._place = 0

    def move_to(self, unpacked: UnpackedRecord) -> None:
        """Advance to the next record of the value."""
        if unpacked.raw is self._raw:
            self._place += 1
        else:
            self._raw, self._enclosure, self._digest, self._place = unpacked.raw, unpacked.enclosure, "", 0

    def name(self) -> str:
        if not self._digest and self._raw is not None:
            enclosure = self._enclosure
            self._digest = raw_record_digest(self._raw) if enclosure is None else enclosure.digest(self._raw)
        return f"{self._digest}-{self._place}" if self._place else self._digest


class MappingParser:
    """Parser of foreign records: unpacks a value, and maps each record by its kind."""

    def __init__(self, unpack: RecordUnpacker, mappings: MappingType[str, RecordMapping]) -> None:
        self.unpack = unpack
        self.mappings = mappings

    def __call__(
        self, value: bytes, _headers: MappingType[str, str], budget: ParserBudget | None = None, /
    ) -> ParsedRecords:
        """Records of a value. Headers are not read."""
        budget = budget or ParserBudget()
        budget.open_value(value)
        records, skipped, names = [], 0, _RecordNames()
        for unpacked in self.unpack(value):
            names.move_to(unpacked)
            native: bytes | None = b""
            try:
                native = self._to_native(unpacked, names)
            except MalformedEvent as error:
                records.append(rejected_record(unpacked.raw, error, unpacked.enclosure))
            else:
                if native is None:
                    skipped += 1
                else:
                    records.append(RawRecord(unpacked.raw, partial(bytes, native), enclosure=unpacked.enclosure))
            budget.count(native)
        return ParsedRecords(records, skipped)

    def _to_native(self, unpacked: UnpackedRecord, names: _RecordNames) -> bytes | None:
        if isinstance(unpacked.record, MalformedEvent):
            raise unpacked.record
        if unpacked.record is None:
            return None
        return self.mappings[unpacked.kind].to_native_event(unpacked.record, names.name)


class RecordMapping(MappingParser):
    """A compiled mapping, and the parser of objects, arrays of them or (logfmt) lines by it. Raises ConfigError."""

    def __init__(self, spec: MappingSpec) -> None:
        super().__init__(self._unpack, {"": self})
        self._spec = spec
        texts = {name: text for name, text in spec.members.items() if text}
        check_member_names(spec)
        _check_spec(texts, spec.values)
        time_format = spec.time_format or "rfc3339"
        self.members = [MappedMember(name, text, spec.values.get(name), time_format) for name, text in texts.items()]
        self._agent = next(member for member in self.members if member.name == "agent.id")
        try:
            self._when = JmesPathExpression(spec.when) if spec.when else None
        except ConfigError as error:
            raise ConfigError(f"mapping `when`: {error}") from None
        self._skip_anonymous = spec.anonymous == "skip"
        self._logfmt = spec.logfmt
        self.wrapper = spec.records
        # Not a constant, which every object has.
        self._signs = [
            member for member in self.members if member.name in ("agent.id", "time") and member.expression({}) is None
        ]

    def _unpack(self, value: bytes) -> Iterator[UnpackedRecord]:
        is_array = value.lstrip()[:1] == b"["
        for raw in split_array(value, most=MAX_BODY_RECORDS) if is_array else self.unwrap(value, MAX_BODY_RECORDS):
            try:
                record: dict[str, Any] | MalformedEvent = self.decode(raw)
            except MalformedEvent as error:
                record = error
            yield UnpackedRecord(raw, record)

    def to_native_event(self, record: Any, name: Callable[[], str]) -> bytes | None:
        """Native event JSON of one decoded record; None if it is not an audit event.

        Without a member `id`, *name* identifies the event by the whole record: two records that differ only in what is
        not mapped are two events. Raises MalformedEvent.
        """
        if self.reason_to_skip(record) is not None:
            return None
        event: dict[str, Any] = {}
        for member in self.members:
            value = member.read(record)
            if value is not None:
                *parents, last = member.target_path
                (event.setdefault(parents[0], {}) if parents else event)[last] = value
            elif member.name in REQUIRED_MEMBERS:
                raise member.missing_error(record)
        if "id" not in event:
            event["id"] = f"record-{name()}"
        native = msgspec.json.encode(event)
        self._verify(native)
        return native

    def reason_to_skip(self, record: Any) -> str | None:
        """Reason why a record is not an audit event by design; None = it may be one. Raises MalformedEvent."""
        if self._when is not None and self._when(record) in (None, False, "", [], {}):
            return f"`when` gives nothing: {self._when.text}"
        if self._skip_anonymous and (self._agent.read(record) or "").casefold() in NO_AGENT_NAMES:
            return f"it names no agent: {self._agent.expression.text}"
        return None

    def _verify(self, native: bytes) -> None:
        """Check against the schema; an error names the record's member, since the sender never saw the native event."""
        try:
            decode_event(native)
        except MalformedEvent as error:
            name = error.path.removeprefix("$.").partition("[")[0]
            member = next((candidate for candidate in self.members if candidate.name == name), None)
            path = "$" if member is None else member.expression.path
            raise MalformedEvent(f"mapping member `{name}`: {error.reason}", path) from None

    def unwrap(self, value: bytes, most: int | None = None) -> list[bytes]:
        """The records that an object wraps, in the member `records`; itself if it is a record, or wraps none.

        An object that gives the mapping an agent or a time outside that list is a record.
        """
        if not self.wrapper or value.lstrip()[:1] != b"{":
            return [value]
        try:
            members = decode_json(_decode_members, value)
            inner = bytes(members.pop(self.wrapper, b""))
            beside = self.decode(msgspec.json.encode(members))
            is_record = any(member.expression(beside) is not None for member in self._signs)
        except MalformedEvent:
            return [value]
        return [value] if is_record or inner.lstrip()[:1] != b"[" else split_array(inner, most=most)

    def without_wrapper(self) -> RecordMapping:
        """The mapping for records that are cut already."""
        return RecordMapping(msgspec.structs.replace(self._spec, records=""))

    def decode(self, raw: bytes) -> dict[str, Any]:
        """A record as expressions see it. Raises MalformedEvent."""
        text = raw.lstrip()
        if self._logfmt and text[:1] != b"{":
            return {**decode_logfmt(text.decode(errors="replace"))}
        record = decode_json(_decode_json, raw)
        if not isinstance(record, dict):
            raise MalformedEvent("record must be a JSON object, or an array of objects")
        return record


def _mapped_value(value: Any, values: MappingType[str, str]) -> str | None:
    text = str(value)
    mapped = values.get(text)
    if mapped is None and len(text) == 3 and text.isdigit():
        mapped = values.get(f"{text[0]}xx")
    return values.get(OTHER_VALUES) if mapped is None else mapped


def mapping_spec(raw: object) -> MappingSpec:
    """A mapping, complete or not, as files and settings hold it; its expressions are not compiled yet.

    Raises ConfigError, which names the member.
    """
    try:
        spec = msgspec.convert(raw, MappingSpec)
    except msgspec.ValidationError as error:
        raise ConfigError(f"mapping: {error}{error_hint(MappingSpec, str(error))}") from None
    check_member_names(spec)
    return spec


def check_member_names(spec: MappingSpec) -> None:
    """Raise ConfigError if a mapping, complete or not, names a member that events do not have."""
    for name in (*spec.members, *spec.values):
        if name not in MEMBER_KINDS and not (name.startswith(ATTRIBUTE_PREFIX) and name != ATTRIBUTE_PREFIX):
            raise ConfigError(
                f"mapping member `{name}`: no such member; one of {', '.join(MEMBER_KINDS)}, attributes.NAME"
            )


def _check_spec(texts: MappingType[str, str], values: MappingType[str, MappingType[str, str]]) -> None:
    missing = [name for name in REQUIRED_MEMBERS if name not in texts]
    if missing:
        raise ConfigError(f"mapping has no member {', '.join(f'`{name}`' for name in missing)}; an event must have it")
    for name, table in values.items():
        if name not in texts:
            raise ConfigError(f"mapping has `values` for `{name}`, which is not a member of it")
        wrong = sorted(set(table.values()) - set(MEMBER_VOCABULARIES.get(name, table.values())))
        if wrong:
            raise ConfigError(
                f"mapping member `{name}`: `{wrong[0]}` is none of {', '.join(MEMBER_VOCABULARIES[name])}"
            )


# Trials of a mapping: the event that it makes of each record, member by member, for people who write one.


class MemberReading(NamedTuple):
    """One member of an event, as a mapping reads it."""

    name: str  # of the member
    expression: str  # that reads it
    value: Any  # in the event; None = it has none
    problem: str | None  # why it has no value; None = nothing is wrong


class RecordTrial(NamedTuple):
    """One record, as a mapping reads it."""

    record: dict[str, Any] | None  # as expressions see it; None if it cannot be read
    members: list[MemberReading]  # in the order of the mapping; empty if the record is not mapped
    event: bytes | None  # native event JSON; None = no event
    reason: str | None  # why no event was created; None if one was
    skipped: bool = False  # whether it is not an audit event by design, rather than refused


def try_records(parser: MappingParser, value: bytes) -> Iterator[RecordTrial]:
    """Try a mapping on each record of a value. Raises MalformedEvent as the parser."""
    for raw, record, kind, _ in parser.unpack(value):
        if isinstance(record, dict):
            yield _try_record(parser.mappings[kind], record, raw)
        elif record is None:
            yield RecordTrial(None, [], None, "it is not an audit event of an agent", skipped=True)
        else:
            yield RecordTrial(None, [], None, str(record))


def _try_record(mapping: RecordMapping, record: dict[str, Any], raw: bytes) -> RecordTrial:
    members = [_read_member(member, record) for member in mapping.members]
    try:
        skipped = mapping.reason_to_skip(record)
        event = None if skipped else mapping.to_native_event(record, partial(raw_record_digest, raw))
    except MalformedEvent as error:
        return RecordTrial(record, members, None, str(error))
    return RecordTrial(record, members, event, skipped, skipped is not None)


def _read_member(member: MappedMember, record: Any) -> MemberReading:
    value, problem = None, None
    try:
        value = member.read(record)
        if value is None and member.name in REQUIRED_MEMBERS:
            raise member.missing_error(record)
    except MalformedEvent as error:
        problem = error.reason.removeprefix(f"mapping member `{member.name}`: ")
    return MemberReading(member.name, member.expression.text, value, problem)
