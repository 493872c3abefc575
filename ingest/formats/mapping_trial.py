"""Trials of a mapping: the event that it makes of each record, member by member, for people who write one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from ..errors import MalformedEvent
from .record_mapping import REQUIRED_MEMBERS, MappedMember, MultiKindParser, RecordMapping


class MemberReading(NamedTuple):
    """One member of an event, as a mapping reads it.

    Attributes:
        name: of the member.
        expression: that reads it.
        value: in the event; None = it has none.
        problem: why it can have none, or, of a required one, that it has none; None = nothing is wrong.
    """

    name: str
    expression: str
    value: Any
    problem: str | None


class RecordTrial(NamedTuple):
    """One record, as a mapping reads it.

    Attributes:
        record: as expressions see it; None where it can not be read.
        members: in the order of the mapping; empty where the record is not mapped.
        event: native event JSON; None = none came of it.
        reason: why none came of it; None where one did.
        skipped: whether it is no audit event by design, and not refused.
    """

    record: dict[str, Any] | None
    members: list[MemberReading]
    event: bytes | None
    reason: str | None
    skipped: bool = False


def try_records(parser: RecordMapping | MultiKindParser, value: bytes) -> Iterator[RecordTrial]:
    """Try a mapping on each record of a value. Raises MalformedEvent as the parser."""
    return _try_kinds(parser, value) if isinstance(parser, MultiKindParser) else _try_mapping(parser, value)


def _try_mapping(mapping: RecordMapping, value: bytes) -> Iterator[RecordTrial]:
    for raw in mapping.split(value):
        try:
            record = mapping.decode(raw)
        except MalformedEvent as error:
            yield RecordTrial(None, [], None, str(error))
        else:
            yield _try_record(mapping, record, raw)


def _try_kinds(parser: MultiKindParser, value: bytes) -> Iterator[RecordTrial]:
    for raw, record, kind, _ in parser.unpack(value):
        if isinstance(record, dict):
            yield _try_record(parser.mappings[kind], record, raw)
        elif record is None:
            yield RecordTrial(None, [], None, "it is no audit event of an agent", skipped=True)
        else:
            yield RecordTrial(None, [], None, str(record))


def _try_record(mapping: RecordMapping, record: dict[str, Any], raw: bytes) -> RecordTrial:
    members = [_read_member(member, record) for member in mapping.members]
    try:
        skipped = mapping.reason_to_skip(record)
        event = None if skipped else mapping.to_native_event(record, raw)
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
