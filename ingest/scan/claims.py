"""What the door must know of a record before it is logged: that it is plain, whose it is, its identity and route.

The kernel reads records as `encoder.scan` does and leaves alone what is not plain, so whoever uses this has a
reference path. What that path finds out about a claim (a sender, and what an event says of tenant, issuer, source and
agent) is remembered under a fingerprint, and holds for every plain record with the same claim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..compiled import allocation_free, inlined
from ..events import MAX_EVENT_BYTES
from ..hashing import salted_key
from ..identity import ID_PERSON, RAW_PERSON
from .blake import BLOCK, UInt64s, blake, personal
from .compose import ROOM, put, put_byte, put_list, put_number
from .recall import Memory, fingerprint, place_of
from .schema import SCHEMA, Schema, field
from .text import COLON, ZERO, Bytes, characters
from .walk import Members, members, read_record
from .write import is_complete

PLACES = 1 << 18
"""Places of the memory: 24 bytes each, of which half are used at most. When they are used up it is emptied."""

LONGEST_ROUTE = 500
"""Bytes of a route worth remembering: long ids, which senders choose, must not make the memory large."""

LONGEST_CALLER = 4096
"""Bytes of a caller's name for which there is room beside the largest record."""

LEFT, NEW, KNOWN = range(3)
"""A record that is not plain; a plain one whose claim is not remembered; one whose claim is."""

_PADDING = bytes(24)
_TENANT, _ISSUER, _SOURCE, _ID = field("tenant"), field("agent.issuer"), field("source"), field("id")
_AGENT_ID, _AGENT_TYPE = field("agent.id"), field("agent.type")
_CAPABILITIES, _PRINCIPAL, _TIME = field("agent.capabilities"), field("principal.id"), field("time")
_CLAIMED = (_TENANT, _ISSUER, _SOURCE, _AGENT_ID, _AGENT_TYPE)


class Sender(NamedTuple):
    """Who sent a batch. Records with the same claim and another number share nothing."""

    number: int
    caller: str
    """Stands for the source of events that name none."""


class Claims(NamedTuple):
    """What was found out about a batch."""

    state: npt.NDArray[np.uint8]  # (n,): LEFT, NEW or KNOWN
    places: npt.NDArray[np.int64]  # (n,): of KNOWN records, which of the remembered routes
    ids: UInt64s  # (n,): of KNOWN records, as `event_id_hash` gives it
    prints: UInt64s  # (n, 2): of KNOWN and NEW records


class Bounds(NamedTuple):
    """What decides besides the record itself."""

    number: int
    latest_ms: int  # of the event's time, exclusive
    aliased: bool


class Workplace(NamedTuple):
    """Room and constants of the kernel."""

    room: Bytes  # (compose.ROOM + LONGEST_CALLER + 2 * BLOCK,)
    state: UInt64s  # (8,)
    of_id: UInt64s  # (8,)
    of_raw: UInt64s  # (8,)


class ClaimReader:
    """Reads batches of native JSON events.

    Args:
        salt: 1 to 64 bytes that no sender knows.
        places: of the memory; a power of two.
    """

    def __init__(self, salt: bytes, places: int = PLACES) -> None:
        keys = np.concatenate([salted_key(salt, b"tw-claims-1"), salted_key(salt, b"tw-claims-2")])
        self._memory = Memory(keys, np.zeros((places, 2), np.uint64), np.zeros(places, np.uint64), np.zeros((0, 2)))
        self._members = members()
        self._workplace = Workplace(
            np.zeros(ROOM + LONGEST_CALLER + 2 * BLOCK, np.uint8),
            np.zeros(8, np.uint64),
            personal(ID_PERSON),
            personal(RAW_PERSON),
        )
        self.routes: list[bytes] = []
        """Of the remembered claims, by place."""

    def read(self, payloads: Sequence[bytes], sender: Sender, latest_ms: int, *, aliased: bool) -> Claims:
        """Look at a batch.

        Args:
            payloads: as they would be logged.
            sender: of all of them.
            latest_ms: events of this UTC millisecond, and later ones, are left alone.
            aliased: whether events that name a principal are left alone.
        """
        n = len(payloads)
        starts = np.zeros(n + 1, np.int64)
        np.cumsum(np.fromiter(map(len, payloads), np.int64, n) + 1, out=starts[1:])
        out = Claims(np.empty(n, np.uint8), np.empty(n, np.int64), np.empty(n, np.uint64), np.empty((n, 2), np.uint64))
        caller = sender.caller.encode()
        if len(caller) > LONGEST_CALLER:
            out.state[:] = LEFT
            return out
        # The caller's name stands behind the records, so that it is a text among theirs.
        data = np.frombuffer(b"\0".join((*payloads, caller + _PADDING)), np.uint8)
        bounds = Bounds(sender.number, latest_ms, aliased)
        read_claims(data, starts, len(caller), SCHEMA, self._members, self._memory, self._workplace, bounds, out)
        return out

    def remember(self, found: UInt64s, route: bytes) -> None:
        """The claim with the fingerprint *found*, shape (2,), may be logged as it was sent, and leads to *route*."""
        if len(route) > LONGEST_ROUTE:
            return
        if len(self.routes) >= len(self._memory.values) // 2:
            self.forget()
        keep(self._memory, found, len(self.routes))
        self.routes.append(route)

    def forget(self) -> None:
        """Empty the memory. Places that were handed out before mean nothing any more."""
        self._memory.prints[:] = 0
        self.routes = []


@allocation_free
def keep(held: Memory, found: UInt64s, value: int) -> None:
    """Enter a value under a fingerprint."""
    place = place_of(held, found)
    held.prints[place, 0], held.prints[place, 1] = found[0], found[1]
    held.values[place] = value


@allocation_free
def read_claims(
    data: Bytes,
    starts: npt.NDArray[np.int64],
    caller: int,
    schema: Schema,
    found: Members,
    held: Memory,
    work: Workplace,
    bounds: Bounds,
    out: Claims,
) -> None:
    """Look at the records at *starts*, each followed by a zero byte; behind the last the caller's *caller* bytes."""
    for row in range(len(starts) - 1):
        start, end = starts[row], starts[row + 1] - 1
        out.state[row] = LEFT
        if end - start > MAX_EVENT_BYTES or read_record(data, start, schema, found) != end or not is_complete(found):
            continue
        if found.begins[_TIME] >= bounds.latest_ms or (bounds.aliased and found.lengths[_PRINCIPAL] > 0):
            continue
        fingerprint(work.room, _put_claim(work.room, data, found, bounds.number), held, out.prints[row])
        place = place_of(held, out.prints[row])
        out.state[row] = NEW
        if held.prints[place, 0] != 0:
            out.state[row], out.places[row] = KNOWN, held.values[place]
            out.ids[row] = _identity(data, start, end, starts[-1], caller, found, work)


@inlined
def _put_claim(room: Bytes, data: Bytes, found: Members, number: int) -> int:
    """All that the door decides by, so that no two claims give the same bytes."""
    at = put_number(room, 0, number)
    for member in _CLAIMED:
        at = put_number(room, at, found.lengths[member])
        at = put(room, at, data, found.begins[member], found.lengths[member])
    return put_list(room, at, data, found.begins[_CAPABILITIES], found.lengths[_CAPABILITIES])


@inlined
def _identity(
    data: Bytes, start: int, end: int, caller_at: int, caller: int, found: Members, work: Workplace
) -> np.uint64:
    """As `identity.event_id_hash` of the record data[start:end]."""
    room = work.room
    if found.lengths[_ID] <= 0:
        digest = blake(room, put(room, 0, data, start, end - start), work.of_raw, work.state)
        return digest if digest != 0 else np.uint64(1)
    tenant, tenant_bytes = found.begins[_TENANT], max(found.lengths[_TENANT], 0)
    source, source_bytes = found.begins[_SOURCE], found.lengths[_SOURCE]
    if source_bytes <= 0:
        source, source_bytes = caller_at, caller
    at = put_byte(room, _put_decimal(room, 0, characters(data, tenant, tenant + tenant_bytes)), COLON)
    at = put_byte(room, _put_decimal(room, at, characters(data, source, source + source_bytes)), COLON)
    at = put(room, at, data, tenant, tenant_bytes)
    at = put(room, at, data, source, source_bytes)
    at = put(room, at, data, found.begins[_ID], found.lengths[_ID])
    digest = blake(room, at, work.of_id, work.state)
    return digest if digest != 0 else np.uint64(1)


@inlined
def _put_decimal(room: Bytes, at: int, number: int) -> int:
    """Append a whole number of at most six digits as text."""
    scale = 1
    while scale * 10 <= number:
        scale *= 10
    while scale > 0:
        at = put_byte(room, at, ZERO + number // scale % 10)
        scale //= 10
    return at
