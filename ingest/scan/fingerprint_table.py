"""Cache of values that no kernel can compute: agent keys, networks, scope sets, canonical targets, coverage.

An entry is found by the 128-bit fingerprint (SipHash-2-4 under two secret keys) of what it is made from. Its values
come from the reference path, which the first record with a new combination takes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .. import columns
from ..compilation import allocation_free, as_int, inlined
from ..hashing import salted_key, siphash

AGENT, NETWORK, SCOPES, TARGET, CAPABILITY = range(5)
"""Kinds of entries; bit k of a row's state says that its entry of kind k is missing."""
ENTRY_KINDS = 5
TARGET_SIDE = 5
"""Replaces TARGET in fingerprints of a host alone, of which only the side is looked up."""

UInt64s = npt.NDArray[np.uint64]
Bytes = npt.NDArray[np.uint8]


class FingerprintTable(NamedTuple):
    """Open addressing; an entry with the fingerprint (0, 0) is empty."""

    keys: UInt64s  # (4,): of both halves of the fingerprint
    fingerprints: UInt64s  # (places, 2)
    values: UInt64s  # (places, w): of an agent AGENT, AGENT_CHECK, AGENT_DRAW; else one hash, in the first column
    numbers: npt.NDArray[np.float64]  # (places, 2): breadth and ungranted of scopes, side of a target, coverage


def allocate_fingerprint_table(salt: bytes, places: int) -> FingerprintTable:
    """An empty memory; *places* is a power of two."""
    keys = np.concatenate([salted_key(salt, b"tw-recall-1"), salted_key(salt, b"tw-recall-2")])
    prints, values = np.zeros((places, 2), np.uint64), np.zeros((places, 3), np.uint64)
    return FingerprintTable(keys, prints, values, np.zeros((places, 2)))


@allocation_free
def fingerprint(text: Bytes, length: int, memory: FingerprintTable, out: UInt64s) -> None:
    """Fingerprint of text[:length], never (0, 0); eight more bytes must be readable."""
    out[0] = siphash(text, 0, length, memory.keys[0], memory.keys[1]) | np.uint64(1)
    out[1] = siphash(text, 0, length, memory.keys[2], memory.keys[3])


@inlined
def slot_of(memory: FingerprintTable, prints: UInt64s) -> int:
    """Slot of an entry; if there is none, the empty slot in which it belongs."""
    mask = len(memory.values) - 1
    slot = as_int(prints[0] >> np.uint64(1)) & mask
    while memory.fingerprints[slot, 0] != 0 and (
        memory.fingerprints[slot, 0] != prints[0] or memory.fingerprints[slot, 1] != prints[1]
    ):
        slot = (slot + 1) & mask
    return slot


@allocation_free
def store_missing(
    memory: FingerprintTable,
    state: Bytes,
    prints: UInt64s,
    names: UInt64s,
    numbers: npt.NDArray[np.float64],
    codes: npt.NDArray[np.int8],
) -> int:
    """Keep the entries that rows lack, from the rows' columns; returns how many are new.

    Args:
        state: (n,): bit k = the entry of kind k is to be kept.
        prints: (n, KINDS, 2).
        names, numbers, codes: columns of the same rows, from the reference path.
    """
    added = 0
    for row in range(len(state)):
        for kind in range(ENTRY_KINDS):
            if not (state[row] >> kind) & 1:
                continue
            slot = slot_of(memory, prints[row, kind])
            added += memory.fingerprints[slot, 0] == 0
            memory.fingerprints[slot, 0], memory.fingerprints[slot, 1] = prints[row, kind, 0], prints[row, kind, 1]
            _store_entry(memory, slot, kind, names[row], numbers[row], codes[row])
    return added


@allocation_free
def _store_entry(
    memory: FingerprintTable,
    slot: int,
    kind: int,
    names: UInt64s,
    numbers: npt.NDArray[np.float64],
    codes: npt.NDArray[np.int8],
) -> None:
    if kind == AGENT:
        memory.values[slot, 0], memory.values[slot, 1] = names[columns.AGENT], names[columns.AGENT_CHECK]
        memory.values[slot, 2] = names[columns.AGENT_DRAW]
    elif kind == NETWORK:
        memory.values[slot, 0] = names[columns.NETWORK]
    elif kind == SCOPES:
        memory.values[slot, 0] = names[columns.SCOPES]
        memory.numbers[slot, 0], memory.numbers[slot, 1] = numbers[columns.BREADTH], numbers[columns.UNGRANTED]
    elif kind == CAPABILITY:
        memory.numbers[slot, 0] = codes[columns.CAPABILITY]
    else:
        memory.values[slot, 0] = names[columns.TARGET]
        memory.numbers[slot, 0] = codes[columns.EXTERNAL]
