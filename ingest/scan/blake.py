"""BLAKE2b (RFC 7693) with 8 bytes of digest, compiled: the numbers of `hashlib`, without a Python call for each."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..compiled import allocation_free, inlined
from ..hashing import load_word
from .text import Bytes

BLAKE2B_BLOCK_BYTES = 128
BLAKE2B_DIGEST_BYTES = 8
"""Bytes of the digest."""

BlakeWords = npt.NDArray[np.uint64]
FourWords = tuple[np.uint64, np.uint64, np.uint64, np.uint64]

_BLAKE2B_IV = np.array(
    [
        0x6A09E667F3BCC908,
        0xBB67AE8584CAA73B,
        0x3C6EF372FE94F82B,
        0xA54FF53A5F1D36F1,
        0x510E527FADE682D1,
        0x9B05688C2B3E6C1F,
        0x1F83D9ABFB41BD6B,
        0x5BE0CD19137E2179,
    ],
    np.uint64,
)
_BLAKE2B_WORD_ORDER = np.array(
    [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
        [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4],
        [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
        [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13],
        [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
        [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11],
        [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
        [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5],
        [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
    ],
    np.int64,
)
"""In which order each round takes the words of a block; rounds 10 and 11 are as 0 and 1."""


def blake2b_initial_state(person: bytes) -> BlakeWords:
    """State before the first block, shape (8,), of the hash without key that *person* (16 bytes or less) names."""
    state = _BLAKE2B_IV.copy()
    state[0] ^= np.uint64(0x01010000 | BLAKE2B_DIGEST_BYTES)
    state[6:] ^= np.frombuffer(person.ljust(16, b"\0"), "<u8")
    return state


@inlined
def _rotate_right(word: np.uint64, bits: int) -> np.uint64:
    return (word >> np.uint64(bits)) | (word << np.uint64(64 - bits))


@inlined
def _blake2b_mix(a: np.uint64, b: np.uint64, c: np.uint64, d: np.uint64, x: np.uint64, y: np.uint64) -> FourWords:
    a = a + b + x
    d = _rotate_right(d ^ a, 32)
    c = c + d
    b = _rotate_right(b ^ c, 24)
    a = a + b + y
    d = _rotate_right(d ^ a, 16)
    c = c + d
    return a, _rotate_right(b ^ c, 63), c, d


@allocation_free
def _blake2b_compress(state: BlakeWords, text: Bytes, at: int, count: int, last: bool) -> None:
    """Add the block text[at : at + BLOCK]; *count* is how many bytes of the message that makes."""
    v0, v1, v2, v3, v4, v5, v6, v7 = (
        state[0],
        state[1],
        state[2],
        state[3],
        state[4],
        state[5],
        state[6],
        state[7],
    )
    v8, v9, v10, v11, v12, v13, v14, v15 = (
        _BLAKE2B_IV[0],
        _BLAKE2B_IV[1],
        _BLAKE2B_IV[2],
        _BLAKE2B_IV[3],
        _BLAKE2B_IV[4],
        _BLAKE2B_IV[5],
        _BLAKE2B_IV[6],
        _BLAKE2B_IV[7],
    )
    v12 ^= np.uint64(count)
    if last:
        v14 = ~v14
    for turn in range(12):
        o = _BLAKE2B_WORD_ORDER[turn % 10]
        v0, v4, v8, v12 = _blake2b_mix(v0, v4, v8, v12, load_word(text, at + 8 * o[0]), load_word(text, at + 8 * o[1]))
        v1, v5, v9, v13 = _blake2b_mix(v1, v5, v9, v13, load_word(text, at + 8 * o[2]), load_word(text, at + 8 * o[3]))
        v2, v6, v10, v14 = _blake2b_mix(
            v2, v6, v10, v14, load_word(text, at + 8 * o[4]), load_word(text, at + 8 * o[5])
        )
        v3, v7, v11, v15 = _blake2b_mix(
            v3, v7, v11, v15, load_word(text, at + 8 * o[6]), load_word(text, at + 8 * o[7])
        )
        v0, v5, v10, v15 = _blake2b_mix(
            v0, v5, v10, v15, load_word(text, at + 8 * o[8]), load_word(text, at + 8 * o[9])
        )
        v1, v6, v11, v12 = _blake2b_mix(
            v1, v6, v11, v12, load_word(text, at + 8 * o[10]), load_word(text, at + 8 * o[11])
        )
        v2, v7, v8, v13 = _blake2b_mix(
            v2, v7, v8, v13, load_word(text, at + 8 * o[12]), load_word(text, at + 8 * o[13])
        )
        v3, v4, v9, v14 = _blake2b_mix(
            v3, v4, v9, v14, load_word(text, at + 8 * o[14]), load_word(text, at + 8 * o[15])
        )
    state[0] ^= v0 ^ v8
    state[1] ^= v1 ^ v9
    state[2] ^= v2 ^ v10
    state[3] ^= v3 ^ v11
    state[4] ^= v4 ^ v12
    state[5] ^= v5 ^ v13
    state[6] ^= v6 ^ v14
    state[7] ^= v7 ^ v15


@allocation_free
def blake2b_digest(text: Bytes, length: int, begun: BlakeWords, state: BlakeWords) -> np.uint64:
    """Digest of text[:length] as a little-endian number; *text* is overwritten up to the end of its last block.

    Args:
        begun: what `blake2b_initial_state` gives.
        state: (8,), room to work in.
    """
    end = max(BLAKE2B_BLOCK_BYTES, (length + BLAKE2B_BLOCK_BYTES - 1) // BLAKE2B_BLOCK_BYTES * BLAKE2B_BLOCK_BYTES)
    for at in range(length, end):
        text[at] = 0
    for word in range(8):
        state[word] = begun[word]
    for at in range(0, end, BLAKE2B_BLOCK_BYTES):
        last = at + BLAKE2B_BLOCK_BYTES == end
        _blake2b_compress(state, text, at, length if last else at + BLAKE2B_BLOCK_BYTES, last)
    return np.uint64(state[0])
