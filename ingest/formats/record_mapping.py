"""Mappings of foreign records to the native event."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Mapping as MappingType
from datetime import timedelta
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import inspect

from ..errors import ConfigError, MalformedEvent
from ..events import EFFECTS, EVENT_TYPES, OUTCOMES, PROVENANCES, NativeEvent, decode_event, decode_json
from ..record_keys import raw_record_digest
from ..settings import Name, SettingsPart, setting
from ..timestamps import EPOCH
from .expressions import JmesPathExpression
from .log_lines import decode_logfmt
from .raw_records import (
    MAX_VALUE_RECORDS,
    ParsedRecords,
    RawRecord,
    TooManyRecords,
    rejected_record,
    split_array,
)

MemberKind = Literal["text", "integer", "number", "flag", "names", "arguments", "time", "any"]
TimeFormat = Literal["rfc3339", "s", "ms", "us", "ns"]
MemberConverter = Callable[[Any], Any]

UNITS_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
ABSENT_TEXTS = ("", "-")
"""Texts with which gateways say that there is nothing."""

_KIND_OF_TYPE: dict[type, MemberKind] = {
    inspect.StrType: "text",
    inspect.LiteralType: "text",
    inspect.IntType: "integer",
    inspect.FloatType: "number",
    inspect.BoolType: "flag",
    inspect.ListType: "names",
    inspect.DateTimeType: "time",
}


def _member_kinds(struct: inspect.Type, prefix: str = "") -> dict[str, MemberKind]:
    """Kind by dotted name; `attributes`, a free object, is no leaf."""
    assert isinstance(struct, inspect.StructType)
    kinds: dict[str, MemberKind] = {}
    for field in struct.fields:
        kind = field.type
        if isinstance(kind, inspect.UnionType):
            kind = next(part for part in kind.types if not isinstance(part, inspect.NoneType))
        if isinstance(kind, inspect.Metadata):
            kind = kind.type
        if isinstance(kind, inspect.StructType):
            kinds |= _member_kinds(kind, f"{prefix}{field.name}.")
        elif isinstance(kind, inspect.ListType) and isinstance(kind.item_type, inspect.StructType):
            kinds[prefix + field.name] = "arguments"
        elif not isinstance(kind, inspect.DictType):
            kinds[prefix + field.name] = _KIND_OF_TYPE[type(kind)]
    return kinds


MEMBER_KINDS = _member_kinds(inspect.type_info(NativeEvent))


def member_converter(kind: MemberKind, time_format: TimeFormat) -> MemberConverter:
    """Converter to members of *kind* from values that are not None; it returns None for an empty value.

    It raises MalformedEvent (without a path) for a value that can be none.
    """
    if kind == "time" and time_format != "rfc3339":
        per_second = UNITS_PER_SECOND[time_format]
        return lambda value: value if _is_written_out(value) else _to_rfc3339(value, per_second)
    return _MEMBER_CONVERTERS[kind]


def _to_text(value: Any) -> str | None:
    if isinstance(value, str):
        return None if value in ABSENT_TEXTS else value
    if value is False:  # of `a && b`
        return None
    if value is True:
        return "true"
    if isinstance(value, int | float):
        return str(value)
    raise MalformedEvent(f"must be text, is {_json_type_name(value)}")


def _to_number(value: Any) -> float | None:
    if isinstance(value, str):
        if value in ABSENT_TEXTS:
            return None
        try:
            value = int(value) if value.isascii() and value.isdigit() and len(value) < 19 else float(value)
        except ValueError:
            raise MalformedEvent(f"must be a number, is `{value:.100}`") from None
    if value is False:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise MalformedEvent(f"must be a finite number, is {_json_type_name(value)}")
    return value


def _to_integer(value: Any) -> int | None:
    number = _to_number(value)
    if number is None:
        return None
    if number != int(number):
        raise MalformedEvent(f"must be a whole number, is {number}")
    return int(number)


_BLANK_ALONE = re.compile(r"[^,\s]\s")


def _to_flag(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    words = {"true": True, "false": False, "": None, "-": None}
    if not isinstance(value, str) or value.lower() not in words:
        raise MalformedEvent(f"must be true or false, is {_json_type_name(value)}")
    return words[value.lower()]


def _to_names(value: Any) -> list[str] | None:
    """A list of texts, or one text with spaces (as OAuth writes scopes) or commas (as GitHub does) between names."""
    if isinstance(value, str):
        return None if value in ABSENT_TEXTS else _split_names(value)
    if value is False:
        return None
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise MalformedEvent(f"must be a list of texts, is {_json_type_name(value)}")
    return value


def _split_names(text: str) -> list[str]:
    """Names of one text: where each blank stands behind a comma, commas are what separates them."""
    if "," not in text or _BLANK_ALONE.search(text.strip()) is not None:
        return text.split()
    return [name for part in text.split(",") if (name := part.strip())]


def _to_arguments(value: Any) -> list[Any] | None:
    """A list of objects, or its JSON as text, since attributes of OpenTelemetry hold no objects."""
    if value is False or (isinstance(value, str) and value in ABSENT_TEXTS):
        return None
    if isinstance(value, str):
        value = decode_json(_decode_json, value.encode())
    if not isinstance(value, list):
        raise MalformedEvent(f"must be a list of objects, or its JSON as text, is {_json_type_name(value)}")
    return value


def _is_written_out(value: Any) -> bool:
    """True for a time in words where numbers are usual: tables keep times as times, and say them so."""
    return isinstance(value, str) and value[4:5] == "-" and value[10:11] == "T"


def _to_rfc3339(value: Any, per_second: int) -> str | None:
    number = _to_number(value)
    if number is None:
        return None
    microseconds = number * 1_000_000 // per_second if isinstance(number, int) else number * (1e6 / per_second)
    try:
        time = EPOCH + timedelta(microseconds=round(microseconds))
    except OverflowError:
        raise MalformedEvent(f"time is out of range: {number}") from None
    return time.isoformat().replace("+00:00", "Z")


def _to_attribute(value: Any) -> Any:
    if isinstance(value, dict | list):
        raise MalformedEvent(f"an attribute is a text, a number or a truth value, is {_json_type_name(value)}")
    return None if isinstance(value, str) and value in ABSENT_TEXTS else value


def _json_type_name(value: Any) -> str:
    """The JSON type of a value, for messages: what was sent may be a secret."""
    names = {
        dict: "an object",
        list: "an array",
        str: "text",
        bool: "a truth value",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), "null")


_MEMBER_CONVERTERS: dict[MemberKind, MemberConverter] = {
    "text": _to_text,
    "integer": _to_integer,
    "number": _to_number,
    "flag": _to_flag,
    "names": _to_names,
    "arguments": _to_arguments,
    "time": _to_text,
    "any": _to_attribute,
}


# Redaction is by construction: only members that the mapping names pass, whatever else the record holds.


REQUIRED_MEMBERS = ("time", "agent.id", "type", "action", "outcome")
OTHER_VALUES = "*"
ATTRIBUTE_PREFIX = "attributes."
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
        self._convert: MemberConverter = member_converter(_kind_of_member(name), time_format)

    def read(self, record: Any) -> Any:
        """Value of the member, None where the record has none. Raises MalformedEvent naming member and path."""
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


class RecordMapping:
    """A compiled mapping: a parser of foreign records.

    Args:
        spec: complete; see `MappingSpec.merged_over`.

    Raises:
        ConfigError: names the member, and what is wrong with it.
    """

    def __init__(self, spec: MappingSpec) -> None:
        self._spec = spec
        texts = {name: text for name, text in spec.members.items() if text}
        check_member_names(spec)
        _check_spec(texts, spec.values)
        time_format = spec.time_format or "rfc3339"
        self.members = [MappedMember(name, text, spec.values.get(name), time_format) for name, text in texts.items()]
        self._agent = next(member for member in self.members if member.name == "agent.id")
        self._when = _compile_condition(spec.when)
        self._skip_anonymous = spec.anonymous == "skip"
        self._logfmt = spec.logfmt
        self.wrapper = spec.records
        self._signs = [member for member in self.members if member.name in ("agent.id", "time") and _reads(member)]

    def __call__(self, value: bytes, _headers: MappingType[str, str]) -> ParsedRecords:
        """Parse one JSON object, an array of objects, or (logfmt) one line. Headers are not read."""
        records, skipped = [], 0
        for raw in self.split(value):
            try:
                native = self.to_native_event(self.decode(raw), raw)
            except MalformedEvent as error:
                records.append(rejected_record(raw, error))
                continue
            if native is None:
                skipped += 1
            else:
                records.append(RawRecord(raw, partial(bytes, native)))
        return ParsedRecords(records, skipped)

    def to_native_event(self, record: Any, raw: bytes) -> bytes | None:
        """Native event JSON of one decoded record; None where it is none of ours.

        Without a member `id`, the event is identified by *raw*, the whole record: two records that differ only in what
        is not mapped are two events.

        Raises:
            MalformedEvent: names the mapping member and the path in the record.
        """
        if self.reason_to_skip(record) is not None:
            return None
        event: dict[str, Any] = {}
        for member in self.members:
            value = member.read(record)
            if value is not None:
                _set_member(event, member.target_path, value)
            elif member.name in REQUIRED_MEMBERS:
                raise member.missing_error(record)
        if "id" not in event:
            event["id"] = f"record-{raw_record_digest(raw)}"
        native = msgspec.json.encode(event)
        self._verify(native)
        return native

    def reason_to_skip(self, record: Any) -> str | None:
        """Reason for which a record is no audit event by design; None = it may be one. Raises MalformedEvent."""
        if self._when is not None and self._when(record) in (None, False, "", [], {}):
            return f"`when` gives nothing: {self._when.text}"
        if self._skip_anonymous and self._agent.read(record) is None:
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

    def split(self, value: bytes) -> Sequence[bytes]:
        """The records of a value. Raises MalformedEvent."""
        most = MAX_VALUE_RECORDS
        records = split_array(value, most=most) if value.lstrip()[:1] == b"[" else self.unwrap(value, most)
        if len(records) > most:
            raise TooManyRecords
        return records

    def unwrap(self, value: bytes, most: int | None = None) -> list[bytes]:
        """The records that an object wraps, in the member `records`; itself where it is a record, or wraps none.

        What gives the mapping an agent or a time beside that list is a record: else it would hold events of others.
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

    def decode(self, raw: bytes) -> Any:
        """A record as expressions see it. Raises MalformedEvent."""
        text = raw.lstrip()
        if self._logfmt and text[:1] != b"{":
            return decode_logfmt(text.decode(errors="replace"))
        record = decode_json(_decode_json, raw)
        if not isinstance(record, dict):
            raise MalformedEvent("record must be a JSON object, or an array of objects")
        return record


def _reads(member: MappedMember) -> bool:
    """False for a constant, which every object has."""
    return member.expression({}) is None


def _compile_condition(text: str) -> JmesPathExpression | None:
    try:
        return JmesPathExpression(text) if text else None
    except ConfigError as error:
        raise ConfigError(f"mapping `when`: {error}") from None


def _kind_of_member(name: str) -> MemberKind:
    return "any" if name.startswith(ATTRIBUTE_PREFIX) else MEMBER_KINDS[name]


def _mapped_value(value: Any, values: MappingType[str, str]) -> str | None:
    text = str(value)
    mapped = values.get(text)
    if mapped is None and len(text) == 3 and text.isdigit():
        mapped = values.get(f"{text[0]}xx")
    return values.get(OTHER_VALUES) if mapped is None else mapped


def _set_member(event: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    if len(keys) == 1:
        event[keys[0]] = value
    else:
        event.setdefault(keys[0], {})[keys[1]] = value


def check_member_names(spec: MappingSpec) -> None:
    """Raise ConfigError where a mapping, complete or not, names a member that events do not have."""
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
            raise ConfigError(f"mapping has `values` for `{name}`, which is no member of it")
        wrong = sorted(set(table.values()) - set(MEMBER_VOCABULARIES.get(name, table.values())))
        if wrong:
            raise ConfigError(
                f"mapping member `{name}`: `{wrong[0]}` is none of {', '.join(MEMBER_VOCABULARIES[name])}"
            )


# Formats with several kinds of records: one unpacker, one mapping for each kind.


class UnpackedRecord(NamedTuple):
    """One record of a value.

    Attributes:
        raw: enough to try it again; its identity too, where the mapping gives it none.
        record: for the mapping of its kind; None where it is no audit event by design, the error where it is broken.
        kind: selects the mapping.
    """

    raw: bytes
    record: dict[str, Any] | MalformedEvent | None
    kind: str = ""


RecordUnpacker = Callable[[bytes], Iterable[UnpackedRecord]]
"""Takes a value apart. Raises MalformedEvent where it can not be taken apart at all."""


class MultiKindParser:
    """Parser for a format of several kinds: unpacks a value, and maps each record by its kind.

    Args:
        unpack: splits a value into records.
        specs: complete mappings by kind; see `MappingSpec.merged_over`.

    Raises:
        ConfigError: a mapping is wrong.
    """

    def __init__(self, unpack: RecordUnpacker, specs: MappingType[str, MappingSpec]) -> None:
        self.unpack = unpack
        self.mappings = {kind: RecordMapping(spec) for kind, spec in specs.items()}

    def __call__(self, value: bytes, _headers: MappingType[str, str]) -> ParsedRecords:
        """Records of a value. Headers are not read."""
        records, skipped = [], 0
        for raw, record, kind in self.unpack(value):
            native = self._to_raw_record(raw, record, kind)
            if native is None:
                skipped += 1
            else:
                records.append(native)
        return ParsedRecords(records, skipped)

    def _to_raw_record(self, raw: bytes, record: dict[str, Any] | MalformedEvent | None, kind: str) -> RawRecord | None:
        if isinstance(record, MalformedEvent):
            return rejected_record(raw, record)
        try:
            native = None if record is None else self.mappings[kind].to_native_event(record, raw)
        except MalformedEvent as error:
            return rejected_record(raw, error)
        return None if native is None else RawRecord(raw, partial(bytes, native))
