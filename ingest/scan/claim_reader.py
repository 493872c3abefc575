"""Read what event intake needs of a record before it is logged: its plainness, its claim, its identity, its key.

The kernel reads records as `raw_encoder.scan_records` does and skips those that are not plain; callers read them by the
reference path. The result of that path for a claim (a sender, and the event's tenant, issuer, source and agent; for a
bounded sender also the other agents that it names) is remembered under a fingerprint, and applies to every plain record
with the same claim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .. import columns
from ..compilation import allocation_free, inlined
from ..hashing import BLAKE2B_BLOCK_BYTES, BlakeWords, blake2b_digest
from ..identities import IdentityHasher
from .json_scanner import COLON, ZERO, Bytes, count_characters
from .record_scanner import ABSENT, MemberSpans, allocate_member_spans, joined_records, read_plain_record
from .scan_schema import SCAN_SCHEMA, ScanSchema, field_number
from .text_buffer import (
    TEXT_BUFFER_BYTES,
    FingerprintTable,
    WordList,
    allocate_fingerprint_table,
    append_byte,
    append_list,
    append_number,
    append_text,
    fingerprint,
    slot_of,
    word_index,
)

CLAIM_SLOTS = 1 << 18
"""Slots of the memory: 24 bytes each. At most half are used; when they are used up, the memory is emptied."""

MAX_KEY_BYTES = 500
"""Maximum size of a remembered partition key: senders choose long ids, which must not make the memory large."""

MAX_CALLER_BYTES = 4096
"""Bytes reserved for a caller's name next to the largest record."""

CLAIM_UNREADABLE, CLAIM_NEW, CLAIM_KNOWN = range(3)
"""States of a record: not plain; plain, but its claim is not remembered; plain, and its claim is remembered."""

_TENANT, _SOURCE, _ID, _TIME, _ERROR, _CAUSED_BY, _UNAUTHORIZED, _CHAIN, _PEER = (
    field_number(name)
    for name in ("tenant", "source", "id", "time", "error", "caused_by", "unauthorized", "delegation", "peer")
)
_AGENT_ID, _AGENT_TYPE, _ISSUER, _CAPABILITIES, _SELF_ASSERTED = (
    field_number(f"agent.{name}") for name in ("id", "type", "issuer", "capabilities", "self_asserted")
)
_PRINCIPAL = field_number("principal.id")
_MARKS = WordList(sorted(columns.OWN_ERRORS))
_MARK_TEXTS, _MARK_LENGTHS = _MARKS.texts, _MARKS.lengths
_CLAIMED = (_TENANT, _ISSUER, _SOURCE, _AGENT_ID, _AGENT_TYPE)


class BatchSender(NamedTuple):
    """The sender of a batch. Records with the same claim share no entry if their senders have different numbers."""

    number: int
    caller: str
    """Replaces a missing source."""
    is_bounded: bool = False
    """True if the sender is authorized for some agents only."""


class BatchClaims(NamedTuple):
    """The result of reading a batch, one row per record."""

    state: npt.NDArray[np.uint8]  # (n,): CLAIM_UNREADABLE, CLAIM_NEW or CLAIM_KNOWN
    key_numbers: npt.NDArray[np.int64]  # (n,): of CLAIM_KNOWN records, which of the remembered partition keys
    ids: BlakeWords  # (n,): of CLAIM_KNOWN records, as `IdentityHasher.event_id_hash` gives it
    fingerprints: BlakeWords  # (n, 2): of CLAIM_KNOWN and CLAIM_NEW records


def unread_claims(n: int) -> BatchClaims:
    """Return the claims of *n* records that were not read."""
    return BatchClaims(
        np.full(n, CLAIM_UNREADABLE, np.uint8),
        np.empty(n, np.int64),
        np.empty(n, np.uint64),
        np.empty((n, 2), np.uint64),
    )


class ClaimLimits(NamedTuple):
    """Limits that do not depend on the record."""

    number: int
    latest_ms: int  # of the event's time, exclusive
    aliased: bool
    is_bounded: bool


class ClaimWorkspace(NamedTuple):
    """Buffers and constants of the kernel."""

    room: Bytes  # (TEXT_BUFFER_BYTES + MAX_CALLER_BYTES + 2 * BLAKE2B_BLOCK_BYTES,)
    state: BlakeWords  # (8,)
    of_id: BlakeWords  # (9,)
    of_raw: BlakeWords  # (9,)


class ClaimReader:
    """Reads batches of native JSON events."""

    def __init__(self, salt: bytes, identities: IdentityHasher, places: int = CLAIM_SLOTS) -> None:
        memory = allocate_fingerprint_table(salt, b"claims", places, 1)
        self._memory = memory._replace(numbers=np.zeros((0, 2)))  # a claim has none
        self._members = allocate_member_spans()
        self._workplace = ClaimWorkspace(
            np.zeros(TEXT_BUFFER_BYTES + MAX_CALLER_BYTES + 2 * BLAKE2B_BLOCK_BYTES, np.uint8),
            np.zeros(8, np.uint64),
            *identities.event_states(),
        )
        self.partition_keys: list[bytes] = []
        """Partition keys of the remembered claims, by number."""

    def read(self, payloads: Sequence[bytes], sender: BatchSender, latest_ms: int, *, aliased: bool) -> BatchClaims:
        """Read the claims of a batch."""
        out = unread_claims(len(payloads))
        caller = sender.caller.encode()
        if len(caller) > MAX_CALLER_BYTES:
            return out
        data, starts = joined_records(payloads, caller)  # the caller's name is a text among theirs
        bounds = ClaimLimits(sender.number, latest_ms, aliased, sender.is_bounded)
        read_claims(data, starts, len(caller), SCAN_SCHEMA, self._members, self._memory, self._workplace, bounds, out)
        return out

    def remember(self, claim_fingerprint: BlakeWords, partition_key: bytes) -> None:
        """Remember that records with this claim (fingerprint of shape (2,)) are logged as sent, by *partition_key*."""
        if len(partition_key) > MAX_KEY_BYTES:
            return
        if len(self.partition_keys) >= len(self._memory.values) // 2:
            self.clear()
        store_claim(self._memory, claim_fingerprint, len(self.partition_keys))
        self.partition_keys.append(partition_key)

    def clear(self) -> None:
        """Empty the memory. Key numbers returned before are no longer valid."""
        self._memory.fingerprints[:] = 0
        self.partition_keys = []


@allocation_free
def store_claim(memory: FingerprintTable, claim_fingerprint: BlakeWords, value: int) -> None:
    """Store a value under a fingerprint."""
    slot = slot_of(memory, claim_fingerprint)
    memory.fingerprints[slot, 0], memory.fingerprints[slot, 1] = claim_fingerprint[0], claim_fingerprint[1]
    memory.values[slot, 0] = value


@allocation_free
def read_claims(
    data: Bytes,
    starts: npt.NDArray[np.int64],
    caller: int,
    schema: ScanSchema,
    spans: MemberSpans,
    memory: FingerprintTable,
    work: ClaimWorkspace,
    bounds: ClaimLimits,
    out: BatchClaims,
) -> None:
    """Read the claims of the records at *starts*, each followed by a zero byte; the caller's *caller* bytes follow the
    last."""
    for row in range(len(starts) - 1):
        start, end = starts[row], starts[row + 1] - 1
        out.state[row] = CLAIM_UNREADABLE
        if not read_plain_record(data, start, end, schema, spans):
            continue
        if spans.begins[_TIME] >= bounds.latest_ms or (bounds.aliased and spans.lengths[_PRINCIPAL] > 0):
            continue
        if _is_for_admission(data, spans):
            continue
        fingerprint(work.room, _append_claim(work.room, data, spans, bounds), memory, out.fingerprints[row])
        slot = slot_of(memory, out.fingerprints[row])
        out.state[row] = CLAIM_NEW
        if memory.fingerprints[slot, 0] != 0:
            out.state[row], out.key_numbers[row] = CLAIM_KNOWN, memory.values[slot, 0]
            out.ids[row] = _event_id_hash(data, start, end, starts[-1], caller, spans, work)


@inlined
def _is_for_admission(data: Bytes, spans: MemberSpans) -> bool:
    """Return whether a record has what only `Admission` may write, or states that we caused it: few do."""
    if spans.lengths[_CAUSED_BY] != ABSENT or spans.lengths[_UNAUTHORIZED] != ABSENT:
        return True
    return word_index(data, spans.begins[_ERROR], spans.lengths[_ERROR], _MARK_TEXTS, _MARK_LENGTHS) >= 0


@inlined
def _append_claim(room: Bytes, data: Bytes, spans: MemberSpans, bounds: ClaimLimits) -> int:
    """Append all members that decide about a claim, so that no two claims give the same bytes."""
    at = append_number(room, 0, bounds.number)
    asserted = spans.begins[_SELF_ASSERTED] if spans.lengths[_SELF_ASSERTED] != ABSENT else 0
    at = append_number(room, at, asserted)
    for member in _CLAIMED:
        at = append_number(room, at, spans.lengths[member])
        at = append_text(room, at, data, spans.begins[member], spans.lengths[member])
    if bounds.is_bounded:
        at = append_number(room, at, spans.lengths[_PEER])
        at = append_text(room, at, data, spans.begins[_PEER], spans.lengths[_PEER])
        at = append_list(room, at, data, spans.begins[_CHAIN], spans.lengths[_CHAIN])
    return append_list(room, at, data, spans.begins[_CAPABILITIES], spans.lengths[_CAPABILITIES])


@inlined
def _event_id_hash(
    data: Bytes, start: int, end: int, caller_at: int, caller: int, spans: MemberSpans, work: ClaimWorkspace
) -> np.uint64:
    """Hash record data[start:end] as `IdentityHasher.event_id_hash` does."""
    room = work.room
    if spans.lengths[_ID] <= 0:
        digest = blake2b_digest(room, append_text(room, 0, data, start, end - start), work.of_raw, work.state)
        return digest if digest != 0 else np.uint64(1)
    tenant, tenant_bytes = spans.begins[_TENANT], max(spans.lengths[_TENANT], 0)
    source, source_bytes = spans.begins[_SOURCE], spans.lengths[_SOURCE]
    if source_bytes <= 0:
        source, source_bytes = caller_at, caller
    at = append_byte(room, _append_decimal(room, 0, count_characters(data, tenant, tenant + tenant_bytes)), COLON)
    at = append_byte(room, _append_decimal(room, at, count_characters(data, source, source + source_bytes)), COLON)
    at = append_text(room, at, data, tenant, tenant_bytes)
    at = append_text(room, at, data, source, source_bytes)
    at = append_text(room, at, data, spans.begins[_ID], spans.lengths[_ID])
    digest = blake2b_digest(room, at, work.of_id, work.state)
    return digest if digest != 0 else np.uint64(1)


@inlined
def _append_decimal(room: Bytes, at: int, number: int) -> int:
    scale = 1
    while scale * 10 <= number:
        scale *= 10
    while scale > 0:
        at = append_byte(room, at, ZERO + number // scale % 10)
        scale //= 10
    return at
