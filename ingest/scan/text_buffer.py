"""Texts put together in a buffer, and texts compared, without strings."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from trustwatch_client.events import MAX_EVENT_BYTES

from ..compilation import allocation_free, inlined
from .json_scanner import QUOTE, Bytes

TEXT_BUFFER_BYTES = MAX_EVENT_BYTES + 8192
"""Bytes of the buffer: all texts of the largest record, eight more for each of 512 names, and eight to read past."""


class WordList:
    """A few words as arrays: `texts` (words, longest) and `lengths` (words,)."""

    def __init__(self, words: Collection[str]) -> None:
        encoded = [word.encode() for word in words]
        self.lengths = np.array([len(word) for word in encoded])
        longest = int(self.lengths.max())
        self.texts = np.array([list(word.ljust(longest, b"\0")) for word in encoded], np.uint8)


@inlined
def append_byte(room: Bytes, at: int, byte: int) -> int:
    """Append one byte; returns the end, as all of these do."""
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
    """Append data[begin : begin + length]; nothing for an absent text, whose length is -1."""
    for k in range(length):
        room[at + k] = data[begin + k]
    return at + max(length, 0)


@inlined
def next_list_item(data: Bytes, at: int) -> tuple[int, int]:
    """First byte and end of the next text of a list that was read; *at* is its beginning or the end of the last one."""
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
    """True if two texts of the same length are equal."""
    for k in range(length):  # noqa: SIM110
        if data[at + k] != other[begin + k]:
            return False
    return True


@allocation_free
def list_contains(data: Bytes, begin: int, count: int, text: int, length: int) -> bool:
    """True if a list holds the text data[text : text + length]."""
    for _ in range(count):
        start, begin = next_list_item(data, begin)
        if begin - start == length and texts_equal(data, start, data, text, length):
            return True
    return False


@allocation_free
def word_index(data: Bytes, at: int, length: int, texts: npt.NDArray[np.uint8], lengths: npt.NDArray[np.int64]) -> int:
    """Position of a text in a lexicon; -1 if it is not in it."""
    for word in range(len(lengths)):
        if lengths[word] == length and texts_equal(data, at, texts[word], 0, length):
            return word
    return -1
