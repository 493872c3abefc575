"""Write the columns of a batch directly from the bytes of records."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .. import columns
from ..argument_columns import ArgumentEntries, allocate_entries
from ..compilation import allocation_free, as_int, inlined
from ..events import EFFECTS, EVENT_TYPES
from ..hashing import name_hash
from . import text_buffer
from .json_scanner import AT_SIGN, COLON, DOT, MINUS, SLASH, ZERO, Bytes, is_digit
from .record_scanner import ABSENT, MemberSpans
from .scan_schema import field_number
from .text_buffer import (
    FingerprintTable,
    WordList,
    append_byte,
    append_joined,
    append_list,
    append_number,
    append_text,
    fingerprint,
    list_contains,
    slot_of,
    word_index,
)

NO_HOST, UNDECIDED_HOST = -1, -2

_FIRST_LETTER, _LAST_LETTER, _FIRST_CAPITAL, _LAST_CAPITAL, _QUERY, _FRAGMENT, _SPACE = b"azAZ?# "
_BEYOND = 0x7F
_LETTER_W, _LOWER_CASE_BIT = ord("w"), 0x20


@allocation_free
def ipv4_prefix(data: Bytes, at: int, end: int) -> int:
    """Return the bytes of the first three numbers of a dotted IPv4 address, without the last dot; 0 for other texts."""
    begin, kept = at, 0
    for part in range(4):
        start, value = at, 0
        while at < end and is_digit(data[at]):
            value = value * 10 + as_int(data[at] - ZERO)
            at += 1
        digits = at - start
        if not 1 <= digits <= 3 or value > 255 or (digits > 1 and data[start] == ZERO):
            return 0
        if part == 2:
            kept = at - begin
        if part < 3:
            if at >= end or data[at] != DOT:
                return 0
            at += 1
    return kept if at == end else 0


@allocation_free
def plain_host_span(data: Bytes, begin: int, end: int) -> tuple[int, int]:
    """Return the position of the host in a plain URL or mail address: the compiled twin of `targets.host_of`.

    Returns:
        Its first byte and its end. Both are NO_HOST for a name that is neither URL nor mail address, and UNDECIDED_HOST
        if a full parse is needed (capitals, other alphabets, users and addresses in URLs, URLs without scheme).
    """
    mark, mail, plain = NO_HOST, NO_HOST, True
    for at in range(begin, end):
        byte = data[at]
        if byte == AT_SIGN:
            mail = at
        elif byte == COLON and mark < 0 and at + 2 < end and data[at + 1] == SLASH and data[at + 2] == SLASH:
            mark = at
        plain = plain and _SPACE < byte < _BEYOND and not _FIRST_CAPITAL <= byte <= _LAST_CAPITAL
    if mark >= 0:
        return _host_of_url(data, begin, mark, end)
    if _begins_with_www(data, begin, end):
        return UNDECIDED_HOST, UNDECIDED_HOST
    if mail < 0:
        return NO_HOST, NO_HOST
    if not plain or mail == begin or not _has_dot(data, mail + 1, end):
        return UNDECIDED_HOST, UNDECIDED_HOST
    return mail + 1, end


@inlined
def _begins_with_www(data: Bytes, begin: int, end: int) -> bool:
    return (
        end - begin >= 4
        and data[begin] | _LOWER_CASE_BIT == _LETTER_W
        and data[begin + 1] | _LOWER_CASE_BIT == _LETTER_W
        and (data[begin + 2] | _LOWER_CASE_BIT == _LETTER_W and data[begin + 3] == DOT)
    )


@allocation_free
def _has_dot(data: Bytes, begin: int, end: int) -> bool:
    for at in range(begin, end):  # noqa: SIM110
        if data[at] == DOT:
            return True
    return False


@allocation_free
def _host_of_url(data: Bytes, begin: int, mark: int, end: int) -> tuple[int, int]:
    """Return the host as `host_of` does for a name with `://` at *mark*: lowercase letters before it, a host and
    perhaps a port after it."""
    for at in range(begin, mark):
        if not _FIRST_LETTER <= data[at] <= _LAST_LETTER:
            return UNDECIDED_HOST, UNDECIDED_HOST
    start = mark + 3
    at = start
    while at < end and (_FIRST_LETTER <= data[at] <= _LAST_LETTER or is_digit(data[at]) or data[at] in (DOT, MINUS)):
        at += 1
    stop = at
    if at < end and data[at] == COLON:
        at += 1
        while at < end and is_digit(data[at]):
            at += 1
    ends = at == end or data[at] in (SLASH, _QUERY, _FRAGMENT)
    return (start, stop) if ends and stop > start and mark > begin else (UNDECIDED_HOST, UNDECIDED_HOST)


# Compiled twin of `ColumnEncoder`: from the members of one record to its row of columns.


_UNIT_SEPARATOR = 0x1F
_LETTER_A, _LETTER_S = b"AS"
_NONE_TEXT = np.frombuffer(b"None", np.uint8)
_NETWORK_SUFFIX = np.frombuffer(b".0/24", np.uint8)

_METHODS = WordList(columns.METHOD_RANK)
_METHOD_TEXTS, _METHOD_LENGTHS = _METHODS.texts, _METHODS.lengths
_RANKS = np.array(list(columns.METHOD_RANK.values()))
_DENIALS = WordList(sorted(columns.OWN_DENIALS))
_DENIAL_TEXTS, _DENIAL_LENGTHS = _DENIALS.texts, _DENIALS.lengths
_OUTAGES = WordList(sorted(columns.OWN_OUTAGES))
_OUTAGE_TEXTS, _OUTAGE_LENGTHS = _OUTAGES.texts, _OUTAGES.lengths
_RECORDS = WordList([columns.OWN_APPROVAL_RECORD])
_RECORD_TEXTS, _RECORD_LENGTHS = _RECORDS.texts, _RECORDS.lengths
_IS_WORK = np.array([name in columns.WORK_TYPES for name in EVENT_TYPES])
_UNKNOWN_EFFECT = EFFECTS.index("unknown")

(_AGENT_ID, _AGENT_TYPE, _ISSUER, _CAPABILITIES, _SELF_ASSERTED) = (
    field_number(f"agent.{name}") for name in ("id", "type", "issuer", "capabilities", "self_asserted")
)
_TENANT, _ACTION, _TYPE, _OUTCOME, _TIME, _EFFECT, _ERROR, _CHAIN = (
    field_number(name) for name in ("tenant", "action", "type", "outcome", "time", "effect", "error", "delegation")
)
_UNAUTHORIZED, _CAUSED_BY, _ATTRIBUTES, _ARGUMENTS, _UNTRUSTED_RESULT = (
    field_number(name) for name in ("unauthorized", "caused_by", "attributes", "arguments", "untrusted_result")
)
_SCOPES, _REQUESTED, _GRANTED = field_number("scopes"), field_number("scopes.requested"), field_number("scopes.granted")
_RESOURCE_ID, _RESOURCE_TYPE, _TARGET, _EXTERNAL, _PROVENANCE = (
    field_number(f"resource.{name}") for name in ("id", "type", "target", "external", "provenance")
)
_IP, _ASN = field_number("client.ip"), field_number("client.asn")
_METHOD, _THUMBPRINT = field_number("credential.method"), field_number("credential.thumbprint")

_NAMES = (
    (columns.TENANT, _TENANT),
    (columns.TASK, field_number("task")),
    (columns.ACTION, _ACTION),
    (columns.AUDIENCE, field_number("resource.audience")),
    (columns.PEER, field_number("peer")),
    (columns.PRINCIPAL, field_number("principal.id")),
    (columns.TOKEN, field_number("credential.token_id")),
    (columns.SESSION, field_number("session")),
    (columns.VERSION, field_number("agent.version")),
    (columns.RESOURCE_TYPE, _RESOURCE_TYPE),
)
"""Columns that are the hash of one text of the record."""
_SIZES = (
    (columns.BYTES_IN, field_number("bytes_in"), -1.0),
    (columns.BYTES_OUT, field_number("bytes_out"), -1.0),
    (columns.DURATION, field_number("duration_ms"), -1.0),
    (columns.COUNT, field_number("count"), 1.0),
    (columns.LIFETIME, field_number("credential.token_lifetime_s"), -1.0),
)
"""Columns that are one number of the record, and their values if it is missing."""


class WriterTools(NamedTuple):
    """The workspace of the kernels."""

    key: npt.NDArray[np.uint64]  # (2,): of the name hashes
    room: Bytes  # (TEXT_BUFFER_BYTES,)
    memory: FingerprintTable


class ColumnRows(NamedTuple):
    """The output of the kernels, one row per record."""

    names: columns.UInt64s
    numbers: columns.Floats
    codes: columns.Codes
    time_ms: columns.Times
    fingerprints: columns.UInt64s  # (n, ENTRY_KINDS, 2): fingerprints of what the row needs from the memory
    state: npt.NDArray[np.uint8]  # (n,): 0 = written; else bits of missing entries, or NEEDS_DECODING
    attributes: npt.NDArray[np.int64]  # (n, 2): begin and length of the attributes, 0 = none
    argument_counts: npt.NDArray[np.int64]  # (n,)
    arguments: ArgumentEntries  # of all rows in sequence


NEEDS_DECODING = 128


_SHORTEST_ARGUMENT = len('{"name":"a","origin":"tool"}')


def allocate_rows(n: int, size: int) -> ColumnRows:
    """Allocate rows for *n* records of *size* bytes together."""
    return ColumnRows(
        np.empty((n, columns.NAMES), np.uint64),
        np.empty((n, columns.NUMBERS)),
        np.empty((n, columns.CODES), np.int8),
        np.empty(n, np.int64),
        np.empty((n, text_buffer.ENTRY_KINDS, 2), np.uint64),
        np.empty(n, np.uint8),
        np.zeros((n, 2), np.int64),
        np.zeros(n, np.int64),
        allocate_entries(size // _SHORTEST_ARGUMENT),
    )


@allocation_free
def write_arguments(
    data: Bytes, data_begin: int, spans: MemberSpans, tools: WriterTools, out: ColumnRows, row: int, total: int
) -> int:
    """Write a record's arguments after *total* others, and the position of its attributes; return the new total.

    Args:
        data_begin: first byte of the record.
    """
    if spans.lengths[_ATTRIBUTES] != ABSENT:
        out.attributes[row, 0] = spans.begins[_ATTRIBUTES] - data_begin
        out.attributes[row, 1] = spans.lengths[_ATTRIBUTES]
    count = as_int(max(spans.lengths[_ARGUMENTS], 0))
    out.argument_counts[row] = count
    for argument in range(count):
        at = total + argument
        out.arguments.values[at] = spans.arguments.values[argument]
        out.arguments.sources[at], out.arguments.calls[at] = (
            spans.arguments.sources[argument],
            spans.arguments.calls[argument],
        )
        out.arguments.routes[at] = _route(data, spans.route_texts[argument], tools)
    return as_int(total + count)


@inlined
def _route(data: Bytes, texts: npt.NDArray[np.int64], tools: WriterTools) -> np.uint64:
    """Hash a route as `route_name` names it."""
    if texts[1] == ABSENT:
        return np.uint64(0)
    end = append_byte(tools.room, append_text(tools.room, 0, data, texts[0], texts[1]), _UNIT_SEPARATOR)
    end = append_text(tools.room, end, data, texts[2], texts[3])
    return name_hash(tools.room, 0, end, tools.key[0], tools.key[1])


@allocation_free
def write_row(data: Bytes, spans: MemberSpans, tools: WriterTools, out: ColumnRows, row: int) -> int:
    """Write a complete record into a row; return the bits of the entries that the memory lacks for it."""
    names, numbers, codes = out.names[row], out.numbers[row], out.codes[row]
    k0, k1 = tools.key[0], tools.key[1]
    for column, number in _NAMES:
        names[column] = name_hash(data, spans.begins[number], spans.lengths[number], k0, k1)
    for column, number, absent in _SIZES:
        numbers[column] = spans.sizes[number] if spans.lengths[number] != ABSENT else absent
    out.time_ms[row] = spans.begins[_TIME]
    _write_composed(data, spans, tools, names)
    numbers[columns.DEPTH] = spans.lengths[_CHAIN] if spans.lengths[_CHAIN] > 0 else -1.0
    _write_codes(data, spans, codes)
    missing = _find_agent(data, spans, tools, names, out.fingerprints[row, text_buffer.AGENT])
    missing |= _find_network(data, spans, tools, names, out.fingerprints[row, text_buffer.NETWORK])
    missing |= _find_scopes(data, spans, tools, names, numbers, out.fingerprints[row, text_buffer.SCOPES])
    missing |= _find_coverage(data, spans, tools, codes, out.fingerprints[row, text_buffer.CAPABILITY])
    return missing | _find_target(data, spans, tools, names, codes, out.fingerprints[row, text_buffer.TARGET])


@inlined
def _hashed(tools: WriterTools, length: int) -> np.uint64:
    return name_hash(tools.room, 0, length, tools.key[0], tools.key[1])


@inlined
def _append_member(room: Bytes, at: int, data: Bytes, spans: MemberSpans, number: int) -> int:
    return append_text(room, at, data, spans.begins[number], spans.lengths[number])


@inlined
def _write_composed(data: Bytes, spans: MemberSpans, tools: WriterTools, names: columns.UInt64s) -> None:
    room = tools.room
    end = append_byte(room, _append_member(room, 0, data, spans, _TENANT), _UNIT_SEPARATOR)
    names[columns.GROUP] = _hashed(tools, _append_member(room, end, data, spans, _AGENT_TYPE))
    end = 0
    if spans.lengths[_RESOURCE_TYPE] != ABSENT:
        end = append_byte(room, _append_member(room, 0, data, spans, _RESOURCE_TYPE), COLON)
    names[columns.RESOURCE] = _hashed(tools, _append_member(room, end, data, spans, _RESOURCE_ID))
    end = 0
    if spans.lengths[_METHOD] != ABSENT or spans.lengths[_THUMBPRINT] != ABSENT:
        end = append_byte(room, _append_or_none(room, 0, data, spans, _METHOD), COLON)
        end = _append_or_none(room, end, data, spans, _THUMBPRINT)
    names[columns.CREDENTIAL] = _hashed(tools, end)
    end = append_joined(room, 0, data, spans.begins[_CHAIN], spans.lengths[_CHAIN], _UNIT_SEPARATOR)
    names[columns.CHAIN] = _hashed(tools, end)
    begin, count = spans.begins[_UNAUTHORIZED], spans.lengths[_UNAUTHORIZED]
    names[columns.UNAUTHORIZED] = _hashed(tools, append_joined(room, 0, data, begin, count, _UNIT_SEPARATOR))
    names[columns.CAPABILITIES] = 0
    if spans.lengths[_CAPABILITIES] != ABSENT:
        begin, count = spans.begins[_CAPABILITIES], spans.lengths[_CAPABILITIES]
        end = append_byte(room, 0, _UNIT_SEPARATOR)
        names[columns.CAPABILITIES] = _hashed(tools, append_joined(room, end, data, begin, count, _UNIT_SEPARATOR))


@inlined
def _append_or_none(room: Bytes, at: int, data: Bytes, spans: MemberSpans, number: int) -> int:
    """Append a text, or `None` if it is absent, as an f-string does."""
    if spans.lengths[number] == ABSENT:
        return append_text(room, at, _NONE_TEXT, 0, 4)
    return _append_member(room, at, data, spans, number)


@inlined
def _write_codes(data: Bytes, spans: MemberSpans, codes: columns.Codes) -> None:
    """Write all codes; the side of a target without `external` may be replaced later."""
    begins, lengths = spans.begins, spans.lengths
    codes[columns.EFFECT] = begins[_EFFECT] if lengths[_EFFECT] != ABSENT else _UNKNOWN_EFFECT
    codes[columns.OUTCOME], codes[columns.TYPE] = begins[_OUTCOME], begins[_TYPE]
    codes[columns.PROVENANCE] = begins[_PROVENANCE] if lengths[_PROVENANCE] != ABSENT else -1
    codes[columns.EXTERNAL] = begins[_EXTERNAL] if lengths[_EXTERNAL] != ABSENT else -1
    codes[columns.SELF_ASSERTED] = begins[_SELF_ASSERTED] if lengths[_SELF_ASSERTED] != ABSENT else 0
    method = word_index(data, begins[_METHOD], lengths[_METHOD], _METHOD_TEXTS, _METHOD_LENGTHS)
    codes[columns.METHOD] = _RANKS[method] if method >= 0 else 0
    codes[columns.UNTRUSTED_RESULT] = 0 if lengths[_ARGUMENTS] != ABSENT else columns.UNTRACED
    if lengths[_UNTRUSTED_RESULT] != ABSENT:
        codes[columns.UNTRUSTED_RESULT] = begins[_UNTRUSTED_RESULT]
    codes[columns.OWN_DENIAL] = begins[_TYPE] >= columns.FIRST_SIGNAL
    if begins[_TYPE] == columns.APPROVAL:
        record = word_index(data, begins[_ERROR], lengths[_ERROR], _RECORD_TEXTS, _RECORD_LENGTHS)
        codes[columns.OWN_DENIAL] = record >= 0
    if lengths[_CAUSED_BY] != ABSENT and (begins[_TYPE] == columns.APPROVAL or begins[_OUTCOME] != columns.SUCCESS):
        codes[columns.OWN_DENIAL] = 1
    if codes[columns.OWN_DENIAL]:
        return
    if begins[_OUTCOME] == columns.DENIED:
        denial = word_index(data, begins[_ERROR], lengths[_ERROR], _DENIAL_TEXTS, _DENIAL_LENGTHS)
        codes[columns.OWN_DENIAL] = denial >= 0
    elif begins[_OUTCOME] == columns.ERROR:
        outage = word_index(data, begins[_ERROR], lengths[_ERROR], _OUTAGE_TEXTS, _OUTAGE_LENGTHS)
        codes[columns.OWN_DENIAL] = outage >= 0


@allocation_free
def _look_up(tools: WriterTools, length: int, prints: columns.UInt64s) -> int:
    """Return the slot of the buffer's text in the memory; -1 if it is missing."""
    fingerprint(tools.room, length, tools.memory, prints)
    slot = slot_of(tools.memory, prints)
    return slot if tools.memory.fingerprints[slot, 0] != 0 else -1


@inlined
def _append_lengths(room: Bytes, kind: int, first: int, second: int) -> int:
    """Begin a text of several parts, so that no two lists of parts give the same bytes."""
    return append_number(room, append_number(room, append_byte(room, 0, kind), max(first, 0)), max(second, 0))


@inlined
def _find_agent(
    data: Bytes, spans: MemberSpans, tools: WriterTools, names: columns.UInt64s, prints: columns.UInt64s
) -> int:
    end = _append_lengths(tools.room, text_buffer.AGENT, spans.lengths[_TENANT], spans.lengths[_ISSUER])
    end = _append_member(tools.room, end, data, spans, _TENANT)
    end = _append_member(tools.room, end, data, spans, _ISSUER)
    slot = _look_up(tools, _append_member(tools.room, end, data, spans, _AGENT_ID), prints)
    if slot < 0:
        return 1 << text_buffer.AGENT
    agent = tools.memory.values[slot]
    names[columns.AGENT], names[columns.AGENT_CHECK], names[columns.AGENT_DRAW] = agent[0], agent[1], agent[2]
    return 0


@inlined
def _find_network(
    data: Bytes, spans: MemberSpans, tools: WriterTools, names: columns.UInt64s, prints: columns.UInt64s
) -> int:
    """Find the network: IPv4 networks are cut from the text, other addresses are looked up."""
    room, begin, length = tools.room, spans.begins[_IP], spans.lengths[_IP]
    if spans.lengths[_ASN] != ABSENT:
        end = _append_member(room, append_byte(room, append_byte(room, 0, _LETTER_A), _LETTER_S), data, spans, _ASN)
        names[columns.NETWORK] = _hashed(tools, end)
        return 0
    if length <= 0:
        names[columns.NETWORK] = 0
        return 0
    kept = ipv4_prefix(data, begin, begin + length)
    if kept > 0:
        names[columns.NETWORK] = _hashed(
            tools, append_text(room, append_text(room, 0, data, begin, kept), _NETWORK_SUFFIX, 0, 5)
        )
        return 0
    slot = _look_up(tools, append_text(room, append_byte(room, 0, text_buffer.NETWORK), data, begin, length), prints)
    if slot < 0:
        return 1 << text_buffer.NETWORK
    names[columns.NETWORK] = tools.memory.values[slot, 0]
    return 0


@inlined
def _find_scopes(
    data: Bytes,
    spans: MemberSpans,
    tools: WriterTools,
    names: columns.UInt64s,
    numbers: columns.Floats,
    prints: columns.UInt64s,
) -> int:
    names[columns.SCOPES], numbers[columns.BREADTH], numbers[columns.UNGRANTED] = 0, -1.0, -1.0
    if spans.lengths[_SCOPES] == ABSENT:
        return 0
    end = append_byte(tools.room, 0, text_buffer.SCOPES)
    end = append_list(tools.room, end, data, spans.begins[_REQUESTED], spans.lengths[_REQUESTED])
    end = append_list(tools.room, end, data, spans.begins[_GRANTED], spans.lengths[_GRANTED])
    slot = _look_up(tools, end, prints)
    if slot < 0:
        return 1 << text_buffer.SCOPES
    names[columns.SCOPES] = tools.memory.values[slot, 0]
    numbers[columns.BREADTH], numbers[columns.UNGRANTED] = (
        tools.memory.numbers[slot, 0],
        tools.memory.numbers[slot, 1],
    )
    return 0


@inlined
def _find_coverage(
    data: Bytes, spans: MemberSpans, tools: WriterTools, codes: columns.Codes, prints: columns.UInt64s
) -> int:
    """Find the coverage: a listed action is covered; the reference path decides about globs (`capabilities.covers`)."""
    begins, lengths = spans.begins, spans.lengths
    codes[columns.CAPABILITY] = columns.UNDECLARED
    if lengths[_CAPABILITIES] == ABSENT or not _IS_WORK[begins[_TYPE]]:
        return 0
    codes[columns.CAPABILITY] = columns.INSIDE
    if list_contains(data, begins[_CAPABILITIES], lengths[_CAPABILITIES], begins[_ACTION], lengths[_ACTION]):
        return 0
    end = append_byte(tools.room, 0, text_buffer.CAPABILITY)
    end = append_list(tools.room, end, data, begins[_CAPABILITIES], lengths[_CAPABILITIES])
    slot = _look_up(tools, _append_member(tools.room, end, data, spans, _ACTION), prints)
    if slot < 0:
        return 1 << text_buffer.CAPABILITY
    codes[columns.CAPABILITY] = np.int8(tools.memory.numbers[slot, 0])
    return 0


@inlined
def _find_target(
    data: Bytes,
    spans: MemberSpans,
    tools: WriterTools,
    names: columns.UInt64s,
    codes: columns.Codes,
    prints: columns.UInt64s,
) -> int:
    """Find the target: most names are used as they are, URLs as their host; others are looked up as a whole."""
    number = _TARGET if spans.lengths[_TARGET] > 0 else _RESOURCE_ID
    begin, length = spans.begins[number], spans.lengths[number]
    host, stop = plain_host_span(data, begin, begin + length)
    if host == UNDECIDED_HOST:
        side = codes[columns.EXTERNAL] + 1
        end = _append_lengths(tools.room, text_buffer.TARGET, spans.lengths[_TENANT], side)
        end = _append_member(tools.room, _append_member(tools.room, end, data, spans, _TENANT), data, spans, number)
        slot = _look_up(tools, end, prints)
        if slot < 0:
            return 1 << text_buffer.TARGET
        names[columns.TARGET] = tools.memory.values[slot, 0]
        codes[columns.EXTERNAL] = np.int8(tools.memory.numbers[slot, 0])
        return 0
    if host == NO_HOST or data[host - 1] == AT_SIGN:
        names[columns.TARGET] = name_hash(data, begin, length, tools.key[0], tools.key[1])
    else:
        names[columns.TARGET] = name_hash(data, host, stop - host, tools.key[0], tools.key[1])
    if host == NO_HOST or spans.lengths[_EXTERNAL] != ABSENT:
        return 0
    end = _append_lengths(tools.room, text_buffer.TARGET_SIDE, spans.lengths[_TENANT], 0)
    end = _append_member(tools.room, end, data, spans, _TENANT)
    slot = _look_up(tools, append_text(tools.room, end, data, host, stop - host), prints)
    if slot < 0:
        return 1 << text_buffer.TARGET
    codes[columns.EXTERNAL] = np.int8(tools.memory.numbers[slot, 0])
    return 0
