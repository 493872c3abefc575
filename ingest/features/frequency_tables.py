"""Compiled tables: an agent's own frequency table of fixed size, and look-ups in the shared baseline.

The own table keeps 22-bit fingerprints and 10-bit counts, 64 of them in a region. When a region is full, its rarest
entry fades with a probability that falls with its count (HeavyKeeper, Yang et al. 2018): names used once replace each
other, habits stay. Which entry fades, and when, follows from counts and the order of events alone, never from a hash:
two models of one history, whose salts differ, forget the same names.
"""

from __future__ import annotations

import numpy as np

from .. import columns
from ..compilation import allocation_free, inlined, inlined_and_callable
from .layout import (
    FLEET,
    N_DISTINCT,
    N_SEEN,
    NUMBER_OF_KIND,
    PEERS,
    REGION,
    REGION_SIZE,
    ROUTE_NUMBER,
    TASK,
    TENANT,
    UNCOUNTED,
    VALUE_NUMBER,
    VALUE_PERIOD_MS,
    Array,
    Baseline,
)

_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_GOLDEN_RATIO = np.uint64(0x9E3779B97F4A7C15)
_COUNT_BITS = np.uint64(10)
_MAX_COUNT = np.uint32(1023)
_NAMED = np.uint32(0xFFFFFFFF ^ 1023)
"""Bits of an entry that hold its fingerprint."""
_FINGERPRINT_MASK = np.uint64((1 << 22) - 1)
_DECAY_BASE = 1.3
_CONTEXTS = 100
"""Added to a kind's number to count what followed a context instead of an item."""
_VOUCHED_COUNT = np.uint32(8)
"""Minimum count of an authenticated item that enters a full region: one newcomer in eight then takes one off it."""


@inlined
def mix_bits(value: np.uint64) -> np.uint64:
    """Spread a 64-bit value over all bits (Splitmix64 finalizer)."""
    value = (value ^ (value >> np.uint64(30))) * _MIX_1
    value = (value ^ (value >> np.uint64(27))) * _MIX_2
    return value ^ (value >> np.uint64(31))


@inlined
def hash_pair(left: np.uint64, right: np.uint64) -> np.uint64:
    """Hash two values in this order."""
    return mix_bits(left * _GOLDEN_RATIO + right)


def mix_pairs(left: Array, right: Array) -> Array:
    """Apply `hash_pair` to arrays uint64 (n,)."""
    mixed = left * _GOLDEN_RATIO + right
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX_1
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX_2
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))


@inlined
def _numbered_hash(number: int, item: np.uint64) -> np.uint64:
    return mix_bits(item + np.uint64(number + 1) * _GOLDEN_RATIO)


@inlined
def item_hash(kind: int, item: np.uint64) -> np.uint64:
    """Return the identity of an item of a kind."""
    return _numbered_hash(NUMBER_OF_KIND[kind], item)


@inlined_and_callable
def distinct_hash(kind: int, context: np.uint64) -> np.uint64:
    """Return the key under which a shared baseline counts the different items of a kind after a context."""
    return _numbered_hash(NUMBER_OF_KIND[kind] + _CONTEXTS, context)


@inlined
def value_item(value: np.uint64) -> np.uint64:
    """Return the identity of an argument's value."""
    return _numbered_hash(VALUE_NUMBER, value)


@inlined
def route_item(route: np.uint64, rule: int) -> np.uint64:
    """Return the identity of an argument's route under one of the rules on routes."""
    return _numbered_hash(ROUTE_NUMBER + rule, route)


@inlined
def period_item(at_ms: int) -> np.uint64:
    """Return the key that marks in a shared baseline that it has values of a period, because clients change their keys
    each period."""
    return _numbered_hash(VALUE_NUMBER + _CONTEXTS, np.uint64(at_ms // VALUE_PERIOD_MS))


@inlined
def _fingerprint_of(hashed: np.uint64) -> np.uint32:
    return np.uint32(((hashed & _FINGERPRINT_MASK) | np.uint64(1)) << _COUNT_BITS)


@inlined
def _place_of(table: Array, kind: int, fingerprint: np.uint32) -> np.int32:
    """Return the position of an item in one agent's table, -1 if it is missing.

    No step leaves the loop early and indices have no sign, so that it compiles to a few wide comparisons.
    """
    start, place = np.uint64(REGION[kind] * REGION_SIZE), np.int32(-1)
    for offset in range(np.uint32(0), np.uint32(REGION_SIZE)):
        entry = table[start + np.uint64(offset)]
        place = max(place, np.int32(offset) if np.uint32(entry & _NAMED) == fingerprint else np.int32(-1))
    return place if place < 0 else np.int32(start) + place


@inlined
def own_count(table: Array, kind: int, hashed: np.uint64) -> float:
    """Return the count of an item in one agent's table; *table* is that agent's row."""
    place = _place_of(table, kind, _fingerprint_of(hashed))
    return 0.0 if place < 0 else np.float64(table[place] & _MAX_COUNT)


@inlined
def own_add(table: Array, numbers: Array, known: Array, kind: int, hashed: np.uint64) -> bool:
    """Count the item once; *table*, *numbers* and *known* are one agent's rows. Return True if it was new.

    A new item that finds a free slot was never counted before: nothing is forgotten until a region is full. So
    *known*, which counts those alone, is exact until then, and afterwards a lower bound.
    """
    fingerprint = _fingerprint_of(hashed)
    numbers[N_SEEN + kind] += np.float32(1.0)
    place = _place_of(table, kind, fingerprint)
    if place >= 0:
        table[place] += np.uint32(1)
        if table[place] & _MAX_COUNT >= _MAX_COUNT:
            _halve_region(table, numbers, REGION[kind])
        return False
    numbers[N_DISTINCT + kind] += np.float32(1.0)
    turn = mix_bits(np.uint64(np.int64(numbers[N_SEEN + kind])) + np.uint64(kind) * _GOLDEN_RATIO)
    rarest = _rarest_place(table, kind, turn)
    if table[rarest] == 0:
        table[rarest] = fingerprint | np.uint32(1)
        if known[kind] != UNCOUNTED:
            known[kind] += np.uint8(1)
    else:
        _compete_for_place(table, rarest, fingerprint, turn)
    return True


@inlined
def _rarest_place(table: Array, kind: int, turn: np.uint64) -> np.int64:
    """Return the position of a region's rarest entry, a free one first; among equal ones, the next after a position
    that moves with *turn*."""
    start, last = np.uint64(REGION[kind] * REGION_SIZE), np.uint32(REGION_SIZE - 1)
    hand, best = np.uint32(turn & np.uint64(last)), np.uint32(0xFFFFFFFF)
    for offset in range(np.uint32(0), np.uint32(REGION_SIZE)):
        count = table[start + np.uint64(offset)] & _MAX_COUNT
        best = min(best, np.uint32((count << np.uint32(6)) | ((np.uint32(offset) - hand) & last)))
    return np.int64(start + np.uint64((best + hand) & last))


def different_items_known(known: Array, kind: int) -> tuple[int, bool] | None:
    """Return the number of different items of a kind that an agent has learned, and whether it is complete; None if
    they were not counted.

    Args:
        known: the agent's, (KINDS,).
    """
    if known[kind] == UNCOUNTED:
        return None
    return int(known[kind]), int(known[REGION[kind] == REGION].sum()) < REGION_SIZE


@allocation_free
def _compete_for_place(table: Array, place: np.int64, fingerprint: np.uint32, turn: np.uint64) -> None:
    """Fade the rarest entry of a full region. The newcomer takes its place when nothing is left of it."""
    count = table[place] & _MAX_COUNT
    dice = np.float64(turn >> np.uint64(11)) / 9007199254740992.0
    if dice < _DECAY_BASE ** -np.float64(count):
        if count <= 1:
            table[place] = fingerprint | np.uint32(1)
        else:
            table[place] -= np.uint32(1)


@allocation_free
def own_add_vouched(table: Array, kind: int, hashed: np.uint64) -> None:
    """Make an attested item stay after `own_add`, even if its region is full of habits.

    It then takes the place of the rarest other item, with a count that does not fade at once. If the region has free
    slots, nothing changes.
    """
    fingerprint = _fingerprint_of(hashed)
    rarest = _rarest_place(table, kind, np.uint64(0))
    if table[rarest] == 0:
        return
    place = _place_of(table, kind, fingerprint)
    chosen = rarest if place < 0 else np.int64(place)
    table[chosen] = fingerprint | max(table[chosen] & _MAX_COUNT, _VOUCHED_COUNT)


@allocation_free
def _halve_region(table: Array, numbers: Array, region: np.int64) -> None:
    """Halve a region whose counter is full, rounding up so that nothing known is forgotten, and its totals."""
    for position in range(region * REGION_SIZE, (region + 1) * REGION_SIZE):
        entry = table[position]
        count = entry & _MAX_COUNT
        table[position] = (entry & ~_MAX_COUNT) | ((count + np.uint32(1)) >> np.uint32(1))
    for kind in range(len(REGION)):
        if REGION[kind] == region:
            _halve_totals(numbers, kind)


@allocation_free
def halve_habits(table: Array, numbers: Array, kinds: int) -> None:
    """Halve the weight of what was learned, since a new version is a change-point."""
    for position in range(len(table)):
        entry = table[position]
        count = entry & _MAX_COUNT
        table[position] = (entry & ~_MAX_COUNT) | ((count + np.uint32(1)) >> np.uint32(1))
    for kind in range(kinds):
        _halve_totals(numbers, kind)


@inlined
def _halve_totals(numbers: Array, kind: int) -> None:
    """Halve totals. Positive ones stay at least 1, because counts are rounded up and are useless without a total."""
    for column in (N_SEEN + kind, N_DISTINCT + kind):
        numbers[column] = max(numbers[column] * np.float32(0.5), min(numbers[column], np.float32(1.0)))


@inlined_and_callable
def scope_keys(out: Array, names: Array) -> None:
    """Return the keys of an event's scopes in the order FLEET, TENANT, PEERS, TASK; 0 for a missing one."""
    out[FLEET] = mix_bits(np.uint64(11))
    out[TENANT] = hash_pair(np.uint64(12), names[columns.TENANT])
    out[PEERS] = hash_pair(np.uint64(13), names[columns.GROUP])
    out[TASK] = np.uint64(0) if names[columns.TASK] == 0 else hash_pair(names[columns.GROUP], names[columns.TASK])


@inlined_and_callable
def scope_row(baseline: Baseline, key: np.uint64) -> np.int64:
    """Return the row of a scope in the baseline, -1 if it has never seen it."""
    mask = np.uint64(len(baseline.scope_keys) - 1)
    at = key & mask
    while baseline.scope_keys[at] != 0:
        if baseline.scope_keys[at] == key:
            return np.int64(baseline.scope_rows[at])
        at = (at + np.uint64(1)) & mask
    return np.int64(-1)


@inlined_and_callable
def shared_count(baseline: Baseline, scope: np.uint64, hashed: np.uint64) -> float:
    """Return the count of an item in a scope of the shared baseline."""
    key = hash_pair(scope, hashed)
    mask = np.uint64(len(baseline.keys) - 1)
    at = key & mask
    while baseline.keys[at] != 0:
        if baseline.keys[at] == key:
            return np.float64(baseline.counts[at])
        at = (at + np.uint64(1)) & mask
    return 0.0


@allocation_free
def count_key(keys: Array, counts: Array, key: np.uint64) -> bool:
    """Count a key in an open-addressing table that has room; return True if it was new."""
    mask = np.uint64(len(keys) - 1)
    at = key & mask
    while keys[at] != 0:
        if keys[at] == key:
            counts[at] += np.float32(1.0)
            return False
        at = (at + np.uint64(1)) & mask
    keys[at] = key
    counts[at] = np.float32(1.0)
    return True
