"""Build texts in a buffer and compare texts, without Python strings."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trustwatch_client.events import MAX_EVENT_BYTES

from .. import columns
from ..compilation import allocation_free, as_int, inlined
from ..hashing import salted_key, siphash
from .json_scanner import QUOTE, Bytes

TEXT_BUFFER_BYTES = MAX_EVENT_BYTES + 8192
"""Size of the buffer: all texts of the largest record, eight bytes for each of 512 names, and eight to read past the
end."""


class WordList:
    """A few words as arrays: `texts` (words, longest) and `lengths` (words,)."""

    def __init__(self, words: Collection[str]) -> None:
        encoded = [word.encode() for word in words]
        self.lengths = np.array([len(word) for word in encoded])
        longest = int(self.lengths.max())
        self.texts = np.array([list(word.ljust(longest, b"\0")) for word in encoded], np.uint8)


@inlined
def append_byte(room: Bytes, at: int, byte: int) -> int:
    """Append one byte; return the new end, as all append functions do."""
    room[at] = byte
    return at + 1


@inlined
def append_number(room: Bytes, at: int, number: int) -> int:
    """Append a whole number as eight bytes."""
    for k in range(8):
        room[at + k] = (number >> (8 * k)) & 255
    return at + 8


@inlined
def append_text(room: Bytes, at: int, data: Bytes, begin: int, length: int) -> int:
    """Append data[begin : begin + length]; nothing if the text is absent (length -1)."""
    for k in range(length):
        room[at + k] = data[begin + k]
    return at + max(length, 0)


@inlined
def next_list_item(data: Bytes, at: int) -> tuple[int, int]:
    """Return the start and end of the next text of a list; *at* is the list's beginning or the end of the last text."""
    at += 1
    while data[at] != QUOTE:
        at += 1
    start = at + 1
    at = start
    while data[at] != QUOTE:
        at += 1
    return start, at


@allocation_free
def append_list(room: Bytes, at: int, data: Bytes, begin: int, count: int) -> int:
    """Append a list so that no two lists give the same bytes; its count is -1 if it is absent."""
    at = append_number(room, at, count)
    for _ in range(count):
        start, begin = next_list_item(data, begin)
        at = append_number(room, at, begin - start)
        at = append_text(room, at, data, start, begin - start)
    return at


@allocation_free
def append_joined(room: Bytes, at: int, data: Bytes, begin: int, count: int, separator: int) -> int:
    """Append a list with a separator between its texts."""
    for item in range(count):
        start, begin = next_list_item(data, begin)
        if item > 0:
            at = append_byte(room, at, separator)
        at = append_text(room, at, data, start, begin - start)
    return at


@inlined
def texts_equal(data: Bytes, at: int, other: Bytes, begin: int, length: int) -> bool:
    for k in range(length):  # noqa: SIM110
        if data[at + k] != other[begin + k]:
            return False
    return True


@allocation_free
def list_contains(data: Bytes, begin: int, count: int, text: int, length: int) -> bool:
    """Return whether a list holds the text data[text : text + length]."""
    for _ in range(count):
        start, begin = next_list_item(data, begin)
        if begin - start == length and texts_equal(data, start, data, text, length):
            return True
    return False


@allocation_free
def word_index(data: Bytes, at: int, length: int, texts: npt.NDArray[np.uint8], lengths: npt.NDArray[np.int64]) -> int:
    """Return the position of a text in a lexicon; -1 if it is missing."""
    for word in range(len(lengths)):
        if lengths[word] == length and texts_equal(data, at, texts[word], 0, length):
            return word
    return -1


# Cache of values that no kernel can compute: agent keys, networks, scope sets, canonical targets, coverage.
#
# An entry is found by the 128-bit fingerprint (SipHash-2-4 under two secret keys) of what it is made from. Its values
# come from the reference path, which the first record with a new combination takes.


AGENT, NETWORK, SCOPES, TARGET, CAPABILITY = range(5)
"""Kinds of entries; bit k of a row's state says that its entry of kind k is missing."""
ENTRY_KINDS = 5
TARGET_SIDE = 5
"""Replaces TARGET in fingerprints of a host for which only the side is looked up."""

UInt64s = npt.NDArray[np.uint64]


class FingerprintTable(NamedTuple):
    """An open-addressing table; an entry with the fingerprint (0, 0) is empty."""

    keys: UInt64s  # (4,): of both halves of the fingerprint
    fingerprints: UInt64s  # (places, 2)
    values: UInt64s  # (places, w): of an agent AGENT, AGENT_CHECK, AGENT_DRAW; else one hash, in the first column
    numbers: npt.NDArray[np.float64]  # (places, 2): breadth and ungranted of scopes, side of a target, coverage


def allocate_fingerprint_table(salt: bytes, purpose: bytes, places: int, width: int) -> FingerprintTable:
    """Return an empty memory with *width* values per entry; *places* is a power of two."""
    keys = np.concatenate([salted_key(salt, b"tw-" + purpose + half) for half in (b"-1", b"-2")])
    prints, values = np.zeros((places, 2), np.uint64), np.zeros((places, width), np.uint64)
    return FingerprintTable(keys, prints, values, np.zeros((places, 2)))


@allocation_free
def fingerprint(text: Bytes, length: int, memory: FingerprintTable, out: UInt64s) -> None:
    """Write the fingerprint of text[:length], never (0, 0), into *out*; eight more bytes must be readable."""
    out[0] = siphash(text, 0, length, memory.keys[0], memory.keys[1]) | np.uint64(1)
    out[1] = siphash(text, 0, length, memory.keys[2], memory.keys[3])


@inlined
def slot_of(memory: FingerprintTable, prints: UInt64s) -> int:
    """Return the slot of an entry; if it is missing, the empty slot in which it belongs."""
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
    """Store the entries that rows lack, from the rows' columns; return how many are new.

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
