"""Scan the members of one record: positions of texts, values of numbers, words and times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trustwatch_client.events import MAX_ARGUMENTS, MAX_EVENT_BYTES, MAX_ID_LENGTH, MAX_LABEL_LENGTH

from ..argument_columns import NO_CALL, UNTRUSTED_CALL, VALUE_DIGITS, ArgumentEntries, allocate_entries
from ..compilation import allocation_free, as_int, inlined
from ..events import ORIGINS
from ..hashing import load_word
from . import scan_schema
from .json_scanner import (
    CLOSE_LIST,
    CLOSE_OBJECT,
    COMMA,
    NULL_BEGINS,
    OPEN_LIST,
    OPEN_OBJECT,
    QUOTE,
    TRUE_BEGINS,
    Bytes,
    boolean_end,
    count_characters,
    integer_end,
    is_digit,
    null_end,
    number_at,
    number_end,
    rfc3339_ms,
    skip_blanks,
    string_end,
    value_after_colon,
    value_end,
)
from .scan_schema import ScanSchema

ABSENT = -1
MAX_LIST_ITEMS = 256
MAX_CALL_INDEX_DIGITS = 9
MIN_HASH_DIGITS, MAX_HASH_DIGITS = 8, 64
_LETTER_A, _LETTER_F = b"af"
_DIGIT_0 = ord("0")
_HASH, _ORIGIN, _FROM, _UNTRUSTED, _NAME, _FROM_ACTION = (
    scan_schema.field_number(f"arguments.{name}")
    for name in ("hash", "origin", "from", "untrusted", "name", "from_action")
)
_TOOL = ORIGINS.index("tool")
_REQUIRED = tuple(scan_schema.field_number(name) for name in ("time", "agent.id", "type", "action", "outcome"))

Integers = npt.NDArray[np.int64]


class MemberSpans(NamedTuple):
    """Positions of one record's members, by field number. A member that is missing or null has the length ABSENT."""

    begins: Integers  # of texts, lists and integers: first byte; of words their code, of flags 0 or 1, of times ms
    lengths: Integers  # of texts and integers: bytes; of lists: items; of all others 0 if they are present
    # The members of the objects of a list are those of its last object.
    sizes: npt.NDArray[np.float64]  # of numbers
    arguments: ArgumentEntries  # (MAX_ARGUMENTS,): of each argument of the call, without its route
    route_texts: Integers  # (MAX_ARGUMENTS, 4): begin and length of the action and the name that are its route


def allocate_member_spans() -> MemberSpans:
    return MemberSpans(
        np.zeros(scan_schema.FIELD_COUNT, np.int64),
        np.zeros(scan_schema.FIELD_COUNT, np.int64),
        np.zeros(scan_schema.FIELD_COUNT),
        allocate_entries(MAX_ARGUMENTS),
        np.zeros((MAX_ARGUMENTS, 4), np.int64),
    )


def joined_records(payloads: Sequence[bytes], behind: bytes = b"") -> tuple[Bytes, Integers]:
    """Return the bytes of all records followed by *behind*, and where each record begins, (n + 1,).

    Each record is followed by a zero byte, the last text by more: words are read past the end of a text.
    """
    starts = np.zeros(len(payloads) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, payloads), np.int64, len(payloads)) + 1, out=starts[1:])
    return np.frombuffer(b"\0".join((*payloads, behind + bytes(24))), np.uint8), starts


@allocation_free
def read_plain_record(data: Bytes, start: int, end: int, schema: ScanSchema, spans: MemberSpans) -> bool:
    """Read the record data[start:end] into *spans*; return whether it is plain and has all required members."""
    if end - start > MAX_EVENT_BYTES or read_record(data, start, schema, spans) != end:
        return False
    for number in _REQUIRED:  # noqa: SIM110
        if spans.lengths[number] == ABSENT:
            return False
    return True


@allocation_free
def read_record(data: Bytes, at: int, schema: ScanSchema, spans: MemberSpans) -> int:
    spans.lengths[:] = ABSENT
    at, level, seen = skip_blanks(data, at), scan_schema.TOP_LEVEL, np.uint64(0)
    if data[at] != OPEN_OBJECT:
        return -1
    at = skip_blanks(data, at + 1)
    while at >= 0:
        if data[at] == CLOSE_OBJECT:
            if level == scan_schema.TOP_LEVEL:
                return skip_blanks(data, at + 1)
            at, level = _next_member(data, at + 1), scan_schema.TOP_LEVEL
            continue
        field, at = _read_name(data, at, level, schema)
        if at < 0 or field < 0:
            at = _next_member(data, value_end(data, at)) if at >= 0 else -1
            continue
        bit = np.uint64(1) << np.uint64(field)
        if seen & bit:
            return -1
        seen |= bit
        if schema.kinds[field] == scan_schema.OBJECT and data[at] == OPEN_OBJECT:
            spans.lengths[field] = 0
            at, level = skip_blanks(data, at + 1), schema.inner[field]
        elif schema.kinds[field] == scan_schema.OBJECTS and data[at] == OPEN_LIST:
            at = _next_member(data, _read_objects(data, at, field, schema, spans))
        else:
            at = _next_member(data, _read_value(data, at, field, schema, spans))
    return -1


@inlined
def _next_member(data: Bytes, at: int) -> int:
    if at < 0:
        return -1
    at = skip_blanks(data, at)
    if data[at] == CLOSE_OBJECT:
        return at
    if data[at] != COMMA:
        return -1
    at = skip_blanks(data, at + 1)
    return at if data[at] == QUOTE else -1


@inlined
def _read_name(data: Bytes, at: int, level: int, schema: ScanSchema) -> tuple[int, int]:
    """Return the field number (-1 if not in the schema) of the name at *at*, and where its value begins (-1 if
    unusual)."""
    if data[at] != QUOTE:
        return -1, -1
    end = string_end(data, at + 1)
    if end < 0:
        return -1, -1
    return find_word(data, at + 1, end, level, schema), value_after_colon(data, end + 1)


@inlined
def find_word(data: Bytes, at: int, end: int, level: int, schema: ScanSchema) -> int:
    """Return the meaning of a member name of a level, or of a word of a vocabulary; -1 if it is unknown."""
    length = end - at
    if length > scan_schema.MAX_WORD_BYTES:
        return -1
    first = _first_bytes(load_word(data, at), min(length, 8))
    second = _first_bytes(load_word(data, at + 8), max(length - 8, 0))
    mixed = first ^ (second * np.uint64(0x9E3779B97F4A7C15)) ^ (np.uint64(level) * np.uint64(0xC2B2AE3D27D4EB4F))
    slot = as_int((mixed * np.uint64(0xFF51AFD7ED558CCD)) >> np.uint64(56))
    while schema.levels[slot] >= 0:
        if schema.levels[slot] == level and schema.words[slot, 0] == first and schema.words[slot, 1] == second:
            return as_int(schema.meanings[slot])
        slot = (slot + 1) & (scan_schema.WORD_SLOTS - 1)
    return -1


@inlined
def _first_bytes(word: np.uint64, length: int) -> np.uint64:
    if length == 8:
        return word
    return word & ((np.uint64(1) << np.uint64(8 * length)) - np.uint64(1))


@inlined
def _read_value(data: Bytes, at: int, field: int, schema: ScanSchema, spans: MemberSpans) -> int:
    first, kind = data[at], schema.kinds[field]
    if first == NULL_BEGINS:
        return null_end(data, at) if schema.nullable[field] else -1
    if first == QUOTE:
        return _read_string(data, at + 1, field, kind, schema, spans)
    if kind == scan_schema.NAMES:
        return _read_list(data, at, field, spans)
    if kind == scan_schema.FREE_OBJECT and first == OPEN_OBJECT:
        end = value_end(data, at)
        spans.begins[field], spans.lengths[field] = at, end - at
        return end
    if kind == scan_schema.FLAG:
        spans.begins[field], spans.lengths[field] = as_int(first == TRUE_BEGINS), 0
        return boolean_end(data, at)
    if kind == scan_schema.CALL_INDEX:
        end = _read_number(data, at, field, scan_schema.INTEGER, spans)
        return end if end - at <= MAX_CALL_INDEX_DIGITS else -1
    if kind == scan_schema.SIZE or kind == scan_schema.COUNT or kind == scan_schema.INTEGER:
        return _read_number(data, at, field, kind, spans)
    return -1


@inlined
def _read_number(data: Bytes, at: int, field: int, kind: int, spans: MemberSpans) -> int:
    end = integer_end(data, at) if kind == scan_schema.INTEGER else number_end(data, at)
    if end < 0:
        return -1
    spans.begins[field], spans.lengths[field] = at, end - at
    if kind != scan_schema.INTEGER:
        spans.sizes[field] = number_at(data, at, end)
    return -1 if kind == scan_schema.COUNT and spans.sizes[field] < 1.0 else end


@inlined
def _read_string(data: Bytes, at: int, field: int, kind: int, schema: ScanSchema, spans: MemberSpans) -> int:
    end = string_end(data, at)
    if end < 0:
        return -1
    spans.begins[field], spans.lengths[field] = at, end - at
    if kind == scan_schema.TEXT:
        return end + 1 if _within_limit(data, at, end, MAX_ID_LENGTH) else -1
    if kind == scan_schema.IDENTIFIER:
        return end + 1 if end > at and _within_limit(data, at, end, MAX_ID_LENGTH) else -1
    if kind == scan_schema.WORD:
        spans.begins[field] = find_word(data, at, end, schema.inner[field], schema)
        return end + 1 if spans.begins[field] >= 0 else -1
    if kind == scan_schema.LABEL:
        return end + 1 if end > at and _within_limit(data, at, end, MAX_LABEL_LENGTH) else -1
    if kind == scan_schema.HEX_HASH:
        return end + 1 if _is_hex_hash(data, at, end) else -1
    if kind == scan_schema.TIME:
        spans.begins[field] = rfc3339_ms(data, at, end)
        return end + 1 if spans.begins[field] >= 0 else -1
    return -1


@inlined
def _within_limit(data: Bytes, at: int, end: int, most: int) -> bool:
    return end - at <= most or count_characters(data, at, end) <= most


@allocation_free
def _is_hex_hash(data: Bytes, at: int, end: int) -> bool:
    """Return whether a text is 8 to 64 lowercase hexadecimal digits."""
    if not MIN_HASH_DIGITS <= end - at <= MAX_HASH_DIGITS:
        return False
    for place in range(at, end):  # noqa: SIM110
        if not (is_digit(data[place]) or _LETTER_A <= data[place] <= _LETTER_F):
            return False
    return True


@allocation_free
def _read_objects(data: Bytes, at: int, field: int, schema: ScanSchema, spans: MemberSpans) -> int:
    spans.begins[field], count = at, 0
    at = skip_blanks(data, at + 1)
    while data[at] == OPEN_OBJECT:
        for number in (_FROM, _UNTRUSTED, _HASH, _FROM_ACTION):  # those of the object before
            spans.lengths[number] = ABSENT
        at = _read_object(data, at, schema.inner[field], schema, spans)
        if at < 0 or count >= MAX_ARGUMENTS:
            return -1
        _keep_argument(data, spans, count)
        count += 1
        at = skip_blanks(data, at)
        if data[at] == COMMA:
            at = skip_blanks(data, at + 1)
            if data[at] != OPEN_OBJECT:
                return -1
        elif data[at] != CLOSE_LIST:
            return -1
    spans.lengths[field] = count
    return at + 1 if data[at] == CLOSE_LIST else -1


@inlined
def _keep_argument(data: Bytes, spans: MemberSpans, argument: int) -> None:
    value, begin = np.uint64(0), spans.begins[_HASH]
    for at in range(begin, begin + min(spans.lengths[_HASH], VALUE_DIGITS)):
        digit = data[at] - _DIGIT_0 if is_digit(data[at]) else data[at] - _LETTER_A + 10
        value = (value << np.uint64(4)) | np.uint64(digit)
    spans.arguments.values[argument] = np.uint64(1) if value == 0 and spans.lengths[_HASH] != ABSENT else value
    call, from_tool = NO_CALL, spans.begins[_ORIGIN] == _TOOL
    if from_tool and spans.lengths[_FROM] != ABSENT:
        call = 0
        for at in range(spans.begins[_FROM], spans.begins[_FROM] + spans.lengths[_FROM]):
            call = 10 * call + as_int(data[at] - _DIGIT_0)
    source = call
    if from_tool and spans.lengths[_UNTRUSTED] != ABSENT:
        source = UNTRUSTED_CALL if spans.begins[_UNTRUSTED] == 1 else NO_CALL
    spans.arguments.sources[argument], spans.arguments.calls[argument] = source, call
    texts = spans.route_texts[argument]
    texts[0], texts[1] = spans.begins[_FROM_ACTION], spans.lengths[_FROM_ACTION] if from_tool else ABSENT
    texts[2], texts[3] = spans.begins[_NAME], spans.lengths[_NAME]


@allocation_free
def _read_object(data: Bytes, at: int, level: int, schema: ScanSchema, spans: MemberSpans) -> int:
    """Read one object of a list, none of whose members is an object of the schema. All required members must be
    present."""
    seen = np.uint64(0)
    at = skip_blanks(data, at + 1)
    while at >= 0 and data[at] != CLOSE_OBJECT:
        field, at = _read_name(data, at, level, schema)
        if at < 0:
            return -1
        if field < 0:
            at = _next_member(data, value_end(data, at))
            continue
        bit = np.uint64(1) << np.uint64(field)
        if seen & bit:
            return -1
        seen |= bit
        at = _next_member(data, _read_value(data, at, field, schema, spans))
    return at + 1 if at >= 0 and seen & schema.required[level] == schema.required[level] else -1


@allocation_free
def _read_list(data: Bytes, at: int, field: int, spans: MemberSpans) -> int:
    if data[at] != OPEN_LIST:
        return -1
    spans.begins[field], count = at, 0
    at = skip_blanks(data, at + 1)
    while data[at] == QUOTE:
        end = string_end(data, at + 1)
        count += 1
        if end < 0 or count > MAX_LIST_ITEMS or not _within_limit(data, at + 1, end, MAX_ID_LENGTH):
            return -1
        at = skip_blanks(data, end + 1)
        if data[at] == COMMA:
            at = skip_blanks(data, at + 1)
            if data[at] != QUOTE:
                return -1
        elif data[at] != CLOSE_LIST:
            return -1
    spans.lengths[field] = count
    return at + 1 if data[at] == CLOSE_LIST else -1
