"""A declared mapping from any JSON record (or logfmt line) to the native audit event.

Redaction is by construction: only members that the mapping names pass, whatever else the record holds.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingType
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import msgspec

from ..errors import ConfigError, MalformedEvent
from ..events import EFFECTS, EVENT_TYPES, OUTCOMES, PROVENANCES, decode_event
from ..identity import event_id_hash
from .bodies import split_array
from .expressions import JmesPathExpression
from .logfmt import decode_logfmt
from .members import MEMBER_KINDS, MemberConverter, MemberKind, TimeFormat, member_converter
from .parcel import ParsedRecords, RawRecord, rejected_record

REQUIRED_MEMBERS = ("time", "agent.id", "type", "action", "outcome")
OTHER_VALUES = "*"
ATTRIBUTE_PREFIX = "attributes."
MEMBER_VOCABULARIES = {"type": EVENT_TYPES, "effect": EFFECTS, "outcome": OUTCOMES, "resource.provenance": PROVENANCES}

AnonymousPolicy = Literal["skip", "refuse"]
RecordEncoding = Literal["json", "logfmt"]

_decode_json = msgspec.json.Decoder().decode


class MappingSpec(msgspec.Struct, frozen=True, kw_only=True):
    """How records become native events. The defaults change nothing of what `over` merges it with.

    Attributes:
        members: JMESPath expression by native member (`agent.id`, `resource.target`, `attributes.NAME`); a constant is
            a JMESPath literal such as `'api.call'`. "" takes a member out again.
        values: by member, what a value becomes: the value as text, else its class (`4xx`) where it is an HTTP status,
            else `*`. A value that is not listed leaves the member out.
        when: records for which it is null, false or empty are skipped; "" = all are taken.
        anonymous: what becomes of a record that names no agent; None = refused.
        time_format: of `time`; None = RFC 3339.
        encoding: None = JSON; `logfmt` takes lines of `key=value` pairs besides.
    """

    members: MappingType[str, str] = {}
    values: MappingType[str, MappingType[str, str]] = {}
    when: str = ""
    anonymous: AnonymousPolicy | None = None
    time_format: TimeFormat | None = None
    encoding: RecordEncoding | None = None

    def merged_over(self, base: MappingSpec) -> MappingSpec:
        """*base* with what this one says otherwise."""
        return MappingSpec(
            members={**base.members, **self.members},
            values={**base.values, **self.values},
            when=self.when or base.when,
            anonymous=self.anonymous or base.anonymous,
            time_format=self.time_format or base.time_format,
            encoding=self.encoding or base.encoding,
        )


class _MappedMember:
    """One native member: where it comes from, what its values become, and of which type it is."""

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
        """Its value, None where the record has none. Raises MalformedEvent naming member and path."""
        try:
            value = self.expression(record)
            if self._values is not None and value is not None and value is not False:
                value = _mapped_value(value, self._values)
            return None if value is None else self._convert(value)
        except MalformedEvent as error:
            raise MalformedEvent(f"mapping member `{self.name}`: {error.reason}", self.expression.path) from None

    def missing_error(self, record: Any) -> MalformedEvent:
        """Why a required member has no value."""
        seen = self.expression(record)
        what = (
            "has no value" if seen is None or self._values is None else f"has no entry in `values` for `{seen!s:.100}`"
        )
        return MalformedEvent(f"mapping member `{self.name}`: {what}", self.expression.path)


class RecordMapping:
    """A compiled mapping: a parser of foreign records.

    Args:
        spec: complete; see `MappingSpec.over`.

    Raises:
        ConfigError: names the member, and what is wrong with it.
    """

    def __init__(self, spec: MappingSpec) -> None:
        texts = {name: text for name, text in spec.members.items() if text}
        _check_spec(texts, spec.values)
        time_format = spec.time_format or "rfc3339"
        self._members = [_MappedMember(name, text, spec.values.get(name), time_format) for name, text in texts.items()]
        self._agent = next(member for member in self._members if member.name == "agent.id")
        self._when = _compile_condition(spec.when)
        self._skip_anonymous = spec.anonymous == "skip"
        self._logfmt = spec.encoding == "logfmt"

    def __call__(self, value: bytes, _headers: MappingType[str, str]) -> ParsedRecords:
        """One JSON object, an array of objects, or (logfmt) one line. Headers are not read."""
        parcels, skipped = [], 0
        for raw in self._split(value):
            try:
                native = self.to_native_event(self._decoded(raw), raw)
            except MalformedEvent as error:
                parcels.append(rejected_record(raw, error))
                continue
            if native is None:
                skipped += 1
            else:
                parcels.append(RawRecord(raw, partial(bytes, native)))
        return ParsedRecords(parcels, skipped)

    def to_native_event(self, record: Any, raw: bytes) -> bytes | None:
        """Native event JSON of one decoded record; None where it is none of ours.

        Without a member `id`, the event is identified by *raw*, the whole record: two records that differ only in what
        is not mapped are two events.

        Raises:
            MalformedEvent: names the mapping member and the path in the record.
        """
        if self._when is not None and self._when(record) in (None, False, "", [], {}):
            return None
        if self._skip_anonymous and self._agent.read(record) is None:
            return None
        event: dict[str, Any] = {}
        for member in self._members:
            value = member.read(record)
            if value is not None:
                _set_member(event, member.target_path, value)
            elif member.name in REQUIRED_MEMBERS:
                raise member.missing_error(record)
        if "id" not in event:
            event["id"] = f"record-{event_id_hash(None, None, None, raw):016x}"
        native = msgspec.json.encode(event)
        self._verify(native)
        return native

    def _verify(self, native: bytes) -> None:
        """What the schema refuses is said in the words of the record, not of an event that nobody sent."""
        try:
            decode_event(native)
        except MalformedEvent as error:
            name = error.path.removeprefix("$.")
            member = next((one for one in self._members if one.name == name), None)
            path = "$" if member is None else member.expression.path
            raise MalformedEvent(f"mapping member `{name}`: {error.reason}", path) from None

    def _split(self, value: bytes) -> Sequence[bytes]:
        return split_array(value) if value.lstrip()[:1] == b"[" else (value,)

    def _decoded(self, raw: bytes) -> Any:
        text = raw.lstrip()
        if self._logfmt and text[:1] != b"{":
            return decode_logfmt(text.decode(errors="replace"))
        try:
            record = _decode_json(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedEvent(f"not a JSON object: {error}") from None
        if not isinstance(record, dict):
            raise MalformedEvent("record must be a JSON object, or an array of objects")
        return record


def _compile_condition(text: str) -> JmesPathExpression | None:
    try:
        return JmesPathExpression(text) if text else None
    except ConfigError as error:
        raise ConfigError(f"mapping `when`: {error}") from None


def _kind_of_member(name: str) -> MemberKind:
    return "any" if name.startswith(ATTRIBUTE_PREFIX) else MEMBER_KINDS[name]


def _mapped_value(value: Any, values: MappingType[str, str]) -> str | None:
    text = str(value)
    found = values.get(text)
    if found is None and len(text) == 3 and text.isdigit():
        found = values.get(f"{text[0]}xx")
    return values.get(OTHER_VALUES) if found is None else found


def _set_member(event: dict[str, Any], place: Sequence[str], value: Any) -> None:
    if len(place) == 1:
        event[place[0]] = value
    else:
        event.setdefault(place[0], {})[place[1]] = value


def _check_spec(texts: MappingType[str, str], values: MappingType[str, MappingType[str, str]]) -> None:
    for name in (*texts, *values):
        if name not in MEMBER_KINDS and not (name.startswith(ATTRIBUTE_PREFIX) and name != ATTRIBUTE_PREFIX):
            raise ConfigError(
                f"mapping member `{name}`: no such member; one of {', '.join(MEMBER_KINDS)}, attributes.NAME"
            )
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
