"""From the members of one record to its row of columns: the compiled twin of `ColumnEncoder`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .. import columns as c
from ..compiled import allocation_free, inlined
from ..events import EFFECTS, EVENT_TYPES
from ..hashing import name_hash
from . import recall
from .compose import (
    WordList,
    append_byte,
    append_joined,
    append_list,
    append_number,
    append_text,
    list_contains,
    word_index,
)
from .parts import NO_HOST, UNDECIDED_HOST, ipv4_prefix, plain_host_span
from .recall import FingerprintTable, fingerprint, slot_of
from .schema import field_number
from .text import AT_SIGN, COLON, Bytes
from .walk import ABSENT, MemberSpans

_UNIT_SEPARATOR = 0x1F
_LETTER_A, _LETTER_S = b"AS"
_NONE_TEXT = np.frombuffer(b"None", np.uint8)
_NETWORK_SUFFIX = np.frombuffer(b".0/24", np.uint8)

_METHODS = WordList(c.METHOD_RANK)
_METHOD_TEXTS, _METHOD_LENGTHS = _METHODS.texts, _METHODS.lengths
_RANKS = np.array(list(c.METHOD_RANK.values()))
_DENIALS = WordList(sorted(c.OWN_DENIALS))
_DENIAL_TEXTS, _DENIAL_LENGTHS = _DENIALS.texts, _DENIALS.lengths
_OUTAGES = WordList(sorted(c.OWN_OUTAGES))
_OUTAGE_TEXTS, _OUTAGE_LENGTHS = _OUTAGES.texts, _OUTAGES.lengths
_RECORDS = WordList([c.OWN_APPROVAL_RECORD])
_RECORD_TEXTS, _RECORD_LENGTHS = _RECORDS.texts, _RECORDS.lengths
_IS_WORK = np.array([name in c.WORK_TYPES for name in EVENT_TYPES])
_UNKNOWN_EFFECT = EFFECTS.index("unknown")

_AGENT_ID, _AGENT_TYPE, _ISSUER = field_number("agent.id"), field_number("agent.type"), field_number("agent.issuer")
_CAPABILITIES, _SELF_ASSERTED = field_number("agent.capabilities"), field_number("agent.self_asserted")
_TENANT, _ACTION, _TYPE = field_number("tenant"), field_number("action"), field_number("type")
_OUTCOME, _TIME = field_number("outcome"), field_number("time")
_EFFECT, _ERROR, _CHAIN = field_number("effect"), field_number("error"), field_number("delegation")
_SCOPES, _REQUESTED, _GRANTED = field_number("scopes"), field_number("scopes.requested"), field_number("scopes.granted")
_RESOURCE_ID, _RESOURCE_TYPE = field_number("resource.id"), field_number("resource.type")
_TARGET, _EXTERNAL, _PROVENANCE = (
    field_number("resource.target"),
    field_number("resource.external"),
    field_number("resource.provenance"),
)
_IP, _ASN = field_number("client.ip"), field_number("client.asn")
_METHOD, _THUMBPRINT = field_number("credential.method"), field_number("credential.thumbprint")

_REQUIRED = (_TIME, _AGENT_ID, _TYPE, _ACTION, _OUTCOME)
_NAMES = (
    (c.TENANT, _TENANT),
    (c.TASK, field_number("task")),
    (c.ACTION, _ACTION),
    (c.AUDIENCE, field_number("resource.audience")),
    (c.PEER, field_number("peer")),
    (c.PRINCIPAL, field_number("principal.id")),
    (c.TOKEN, field_number("credential.token_id")),
    (c.SESSION, field_number("session")),
    (c.VERSION, field_number("agent.version")),
)
"""Columns that are the hash of one text of the record."""
_SIZES = (
    (c.BYTES_IN, field_number("bytes_in"), -1.0),
    (c.BYTES_OUT, field_number("bytes_out"), -1.0),
    (c.DURATION, field_number("duration_ms"), -1.0),
    (c.COUNT, field_number("count"), 1.0),
    (c.LIFETIME, field_number("credential.token_lifetime_s"), -1.0),
)
"""Columns that are one number of the record, and what they are without it."""


class WriterTools(NamedTuple):
    """What the kernels work with."""

    key: npt.NDArray[np.uint64]  # (2,): of the name hashes
    room: Bytes  # (compose.ROOM,)
    memory: FingerprintTable


class ColumnRows(NamedTuple):
    """What the kernels write, one row per record."""

    names: c.UInt64s
    numbers: c.Floats
    codes: c.Codes
    time_ms: c.Times
    fingerprints: c.UInt64s  # (n, recall.KINDS, 2): fingerprints of what the row needs from the memory
    state: npt.NDArray[np.uint8]  # (n,): 0 = written; else bits of missing entries, or UNUSUAL


NEEDS_DECODING = 128


def allocate_rows(n: int) -> ColumnRows:
    """Room for *n* records."""
    return ColumnRows(
        np.empty((n, c.NAMES), np.uint64),
        np.empty((n, c.NUMBERS)),
        np.empty((n, c.CODES), np.int8),
        np.empty(n, np.int64),
        np.empty((n, recall.ENTRY_KINDS, 2), np.uint64),
        np.empty(n, np.uint8),
    )


@allocation_free
def is_complete(found: MemberSpans) -> bool:
    """Whether all required members are there."""
    for number in _REQUIRED:  # noqa: SIM110
        if found.lengths[number] == ABSENT:
            return False
    return True


@allocation_free
def write_row(data: Bytes, found: MemberSpans, tools: WriterTools, out: ColumnRows, row: int) -> int:
    """Write a complete record into a row; returns the bits of what the memory lacks for it."""
    names, numbers, codes = out.names[row], out.numbers[row], out.codes[row]
    k0, k1 = tools.key[0], tools.key[1]
    for column, number in _NAMES:
        names[column] = name_hash(data, found.begins[number], found.lengths[number], k0, k1)
    for column, number, absent in _SIZES:
        numbers[column] = found.sizes[number] if found.lengths[number] != ABSENT else absent
    out.time_ms[row] = found.begins[_TIME]
    _write_composed(data, found, tools, names)
    numbers[c.DEPTH] = found.lengths[_CHAIN] if found.lengths[_CHAIN] > 0 else -1.0
    _write_codes(data, found, codes)
    missing = _find_agent(data, found, tools, names, out.fingerprints[row, recall.AGENT])
    missing |= _find_network(data, found, tools, names, out.fingerprints[row, recall.NETWORK])
    missing |= _find_scopes(data, found, tools, names, numbers, out.fingerprints[row, recall.SCOPES])
    return missing | _find_target(data, found, tools, names, codes, out.fingerprints[row, recall.TARGET])


@inlined
def _hashed(tools: WriterTools, length: int) -> np.uint64:
    """Hash of the text in the buffer."""
    return name_hash(tools.room, 0, length, tools.key[0], tools.key[1])


@inlined
def _append_member(room: Bytes, at: int, data: Bytes, found: MemberSpans, number: int) -> int:
    return append_text(room, at, data, found.begins[number], found.lengths[number])


@inlined
def _write_composed(data: Bytes, found: MemberSpans, tools: WriterTools, names: c.UInt64s) -> None:
    """Names made of several texts."""
    room = tools.room
    end = append_byte(room, _append_member(room, 0, data, found, _TENANT), _UNIT_SEPARATOR)
    names[c.GROUP] = _hashed(tools, _append_member(room, end, data, found, _AGENT_TYPE))
    end = 0
    if found.lengths[_RESOURCE_TYPE] != ABSENT:
        end = append_byte(room, _append_member(room, 0, data, found, _RESOURCE_TYPE), COLON)
    names[c.RESOURCE] = _hashed(tools, _append_member(room, end, data, found, _RESOURCE_ID))
    end = 0
    if found.lengths[_METHOD] != ABSENT or found.lengths[_THUMBPRINT] != ABSENT:
        end = append_byte(room, _append_or_none(room, 0, data, found, _METHOD), COLON)
        end = _append_or_none(room, end, data, found, _THUMBPRINT)
    names[c.CREDENTIAL] = _hashed(tools, end)
    end = append_joined(room, 0, data, found.begins[_CHAIN], found.lengths[_CHAIN], _UNIT_SEPARATOR)
    names[c.CHAIN] = _hashed(tools, end)


@inlined
def _append_or_none(room: Bytes, at: int, data: Bytes, found: MemberSpans, number: int) -> int:
    """As an f-string does it: an absent text is `None`."""
    if found.lengths[number] == ABSENT:
        return append_text(room, at, _NONE_TEXT, 0, 4)
    return _append_member(room, at, data, found, number)


@inlined
def _write_codes(data: Bytes, found: MemberSpans, codes: c.Codes) -> None:
    """All codes; the side of a target that is not said may be replaced later."""
    begins, lengths = found.begins, found.lengths
    codes[c.EFFECT] = begins[_EFFECT] if lengths[_EFFECT] != ABSENT else _UNKNOWN_EFFECT
    codes[c.OUTCOME], codes[c.TYPE] = begins[_OUTCOME], begins[_TYPE]
    codes[c.PROVENANCE] = begins[_PROVENANCE] if lengths[_PROVENANCE] != ABSENT else -1
    codes[c.EXTERNAL] = begins[_EXTERNAL] if lengths[_EXTERNAL] != ABSENT else -1
    codes[c.SELF_ASSERTED] = begins[_SELF_ASSERTED] if lengths[_SELF_ASSERTED] != ABSENT else 0
    method = word_index(data, begins[_METHOD], lengths[_METHOD], _METHOD_TEXTS, _METHOD_LENGTHS)
    codes[c.METHOD] = _RANKS[method] if method >= 0 else 0
    codes[c.CAPABILITY] = c.UNDECLARED
    if lengths[_CAPABILITIES] != ABSENT and _IS_WORK[begins[_TYPE]]:
        listed = list_contains(data, begins[_CAPABILITIES], lengths[_CAPABILITIES], begins[_ACTION], lengths[_ACTION])
        codes[c.CAPABILITY] = c.INSIDE if listed else c.OUTSIDE
    codes[c.OWN_DENIAL] = 0
    if begins[_TYPE] == c.APPROVAL:
        record = word_index(data, begins[_ERROR], lengths[_ERROR], _RECORD_TEXTS, _RECORD_LENGTHS)
        codes[c.OWN_DENIAL] = record >= 0
    if codes[c.OWN_DENIAL]:
        return
    if begins[_OUTCOME] == c.DENIED:
        denial = word_index(data, begins[_ERROR], lengths[_ERROR], _DENIAL_TEXTS, _DENIAL_LENGTHS)
        codes[c.OWN_DENIAL] = denial >= 0
    elif begins[_OUTCOME] == c.ERROR:
        outage = word_index(data, begins[_ERROR], lengths[_ERROR], _OUTAGE_TEXTS, _OUTAGE_LENGTHS)
        codes[c.OWN_DENIAL] = outage >= 0


@allocation_free
def _look_up(tools: WriterTools, length: int, wanted: c.UInt64s) -> int:
    """Place in the memory of what the buffer names; -1 where it is missing."""
    fingerprint(tools.room, length, tools.memory, wanted)
    place = slot_of(tools.memory, wanted)
    return place if tools.memory.fingerprints[place, 0] != 0 else -1


@inlined
def _append_lengths(room: Bytes, kind: int, first: int, second: int) -> int:
    """Begin a text of several parts, so that no two lists of parts give the same bytes."""
    return append_number(room, append_number(room, append_byte(room, 0, kind), max(first, 0)), max(second, 0))


@inlined
def _find_agent(data: Bytes, found: MemberSpans, tools: WriterTools, names: c.UInt64s, wanted: c.UInt64s) -> int:
    end = _append_lengths(tools.room, recall.AGENT, found.lengths[_TENANT], found.lengths[_ISSUER])
    end = _append_member(tools.room, end, data, found, _TENANT)
    end = _append_member(tools.room, end, data, found, _ISSUER)
    place = _look_up(tools, _append_member(tools.room, end, data, found, _AGENT_ID), wanted)
    if place < 0:
        return 1 << recall.AGENT
    names[c.AGENT] = tools.memory.values[place]
    return 0


@inlined
def _find_network(data: Bytes, found: MemberSpans, tools: WriterTools, names: c.UInt64s, wanted: c.UInt64s) -> int:
    """Networks of IPv4 are cut from the text; other addresses are looked up."""
    room, begin, length = tools.room, found.begins[_IP], found.lengths[_IP]
    if found.lengths[_ASN] != ABSENT:
        end = _append_member(room, append_byte(room, append_byte(room, 0, _LETTER_A), _LETTER_S), data, found, _ASN)
        names[c.NETWORK] = _hashed(tools, end)
        return 0
    if length <= 0:
        names[c.NETWORK] = 0
        return 0
    kept = ipv4_prefix(data, begin, begin + length)
    if kept > 0:
        names[c.NETWORK] = _hashed(
            tools, append_text(room, append_text(room, 0, data, begin, kept), _NETWORK_SUFFIX, 0, 5)
        )
        return 0
    place = _look_up(tools, append_text(room, append_byte(room, 0, recall.NETWORK), data, begin, length), wanted)
    if place < 0:
        return 1 << recall.NETWORK
    names[c.NETWORK] = tools.memory.values[place]
    return 0


@inlined
def _find_scopes(
    data: Bytes, found: MemberSpans, tools: WriterTools, names: c.UInt64s, numbers: c.Floats, wanted: c.UInt64s
) -> int:
    names[c.SCOPES], numbers[c.BREADTH], numbers[c.UNGRANTED] = 0, -1.0, -1.0
    if found.lengths[_SCOPES] == ABSENT:
        return 0
    end = append_byte(tools.room, 0, recall.SCOPES)
    end = append_list(tools.room, end, data, found.begins[_REQUESTED], found.lengths[_REQUESTED])
    end = append_list(tools.room, end, data, found.begins[_GRANTED], found.lengths[_GRANTED])
    place = _look_up(tools, end, wanted)
    if place < 0:
        return 1 << recall.SCOPES
    names[c.SCOPES] = tools.memory.values[place]
    numbers[c.BREADTH], numbers[c.UNGRANTED] = tools.memory.numbers[place, 0], tools.memory.numbers[place, 1]
    return 0


@inlined
def _find_target(
    data: Bytes, found: MemberSpans, tools: WriterTools, names: c.UInt64s, codes: c.Codes, wanted: c.UInt64s
) -> int:
    """Most names stand for themselves, and URLs for their host; what is not plain is looked up as a whole."""
    number = _TARGET if found.lengths[_TARGET] > 0 else _RESOURCE_ID
    begin, length = found.begins[number], found.lengths[number]
    host, stop = plain_host_span(data, begin, begin + length)
    if host == UNDECIDED_HOST:
        return _look_up_target(data, found, tools, names, codes, wanted)
    if host == NO_HOST or data[host - 1] == AT_SIGN:
        names[c.TARGET] = name_hash(data, begin, length, tools.key[0], tools.key[1])
    else:
        names[c.TARGET] = name_hash(data, host, stop - host, tools.key[0], tools.key[1])
    if host == NO_HOST or found.lengths[_EXTERNAL] != ABSENT:
        return 0
    end = _append_lengths(tools.room, recall.TARGET_SIDE, found.lengths[_TENANT], 0)
    end = _append_member(tools.room, end, data, found, _TENANT)
    place = _look_up(tools, append_text(tools.room, end, data, host, stop - host), wanted)
    if place < 0:
        return 1 << recall.TARGET
    codes[c.EXTERNAL] = np.int8(tools.memory.numbers[place, 0])
    return 0


@inlined
def _look_up_target(
    data: Bytes, found: MemberSpans, tools: WriterTools, names: c.UInt64s, codes: c.Codes, wanted: c.UInt64s
) -> int:
    number = _TARGET if found.lengths[_TARGET] > 0 else _RESOURCE_ID
    end = _append_lengths(tools.room, recall.TARGET, found.lengths[_TENANT], codes[c.EXTERNAL] + 1)
    end = _append_member(tools.room, _append_member(tools.room, end, data, found, _TENANT), data, found, number)
    place = _look_up(tools, end, wanted)
    if place < 0:
        return 1 << recall.TARGET
    names[c.TARGET], codes[c.EXTERNAL] = tools.memory.values[place], np.int8(tools.memory.numbers[place, 0])
    return 0
