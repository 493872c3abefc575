"""Stable 64-bit identities of names.

Baselines keep sketches of names, not the names. An attacker who could compute the hash could search for a malicious
target that collides with a known one, so item hashes are keyed with the salt of the model: SipHash-2-4 (Aumasson and
Bernstein 2012), a pseudo-random function made for short texts. A batch's names are hashed in one compiled call: looking
them up in a memory of known names takes longer, as every look-up waits for cold memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .compilation import allocation_free, as_int, inlined

_V0, _V1 = np.uint64(0x736F6D6570736575), np.uint64(0x646F72616E646F6D)
_V2, _V3 = np.uint64(0x6C7967656E657261), np.uint64(0x7465646279746573)
_SIP_FINALISATION = np.uint64(0xFF)

Bytes = npt.NDArray[np.uint8]
Hashes = npt.NDArray[np.uint64]
SipState = tuple[np.uint64, np.uint64, np.uint64, np.uint64]


def salted_key(salt: bytes, purpose: bytes) -> Hashes:
    """Key of `siphash` for one purpose, two words, shape (2,)."""
    key = hashlib.blake2b(digest_size=16, key=salt, person=purpose).digest()
    return np.frombuffer(key, "<u8").astype(np.uint64)


class NameHasher:
    """Keyed 64-bit hashes of names; a missing or empty name hashes to 0, and no other does.

    The salt, 1 to 64 bytes, is part of the model's manifest, since its baselines are written in these hashes.
    """

    def __init__(self, salt: bytes) -> None:
        if not 1 <= len(salt) <= 64:
            raise ValueError(f"salt must have 1 to 64 bytes, has {len(salt)}")
        self._k0, self._k1 = self.key = salted_key(salt, b"tw-names")

    def __call__(self, name: str | None) -> int:
        """Unsigned 64-bit hash of one name."""
        return int(self.hash_many([name or ""])[0])

    def hash_many(self, names: Sequence[str]) -> Hashes:
        """Hashes of *names*, shape (n,)."""
        data, lengths = encode_texts(names)
        out = np.empty(len(names), np.uint64)
        # The last word of a name is read past its end, into the next name or this padding, and masked.
        hash_texts(np.frombuffer(data + bytes(8), np.uint8), lengths, self._k0, self._k1, out)
        return out


class EncodedTexts(NamedTuple):
    """UTF-8 of texts, one behind the other, and how many bytes each has."""

    data: bytes
    lengths: npt.NDArray[np.int64]


def encode_texts(texts: Sequence[str]) -> EncodedTexts:
    """Encode texts for compiled code."""
    joined = "".join(texts)
    if joined.isascii():
        return EncodedTexts(joined.encode(), np.fromiter(map(len, texts), np.int64, len(texts)))
    encoded = [text.encode() for text in texts]
    return EncodedTexts(b"".join(encoded), np.fromiter(map(len, encoded), np.int64, len(texts)))


@inlined
def _sip_round(v0: np.uint64, v1: np.uint64, v2: np.uint64, v3: np.uint64) -> SipState:
    """SipRound."""
    v0 += v1
    v2 += v3
    v1 = ((v1 << np.uint64(13)) | (v1 >> np.uint64(51))) ^ v0
    v3 = ((v3 << np.uint64(16)) | (v3 >> np.uint64(48))) ^ v2
    v0 = (v0 << np.uint64(32)) | (v0 >> np.uint64(32))
    v2 += v1
    v0 += v3
    v1 = ((v1 << np.uint64(17)) | (v1 >> np.uint64(47))) ^ v2
    v3 = ((v3 << np.uint64(21)) | (v3 >> np.uint64(43))) ^ v0
    v2 = (v2 << np.uint64(32)) | (v2 >> np.uint64(32))
    return v0, v1, v2, v3


@inlined
def load_word(data: Bytes, at: int) -> np.uint64:
    """The eight bytes from *at* on as one little-endian number."""
    # An index without a sign cannot count from the end: only so do the eight become one load.
    first, word = np.uint64(at), np.uint64(0)
    for k in range(8):
        word |= np.uint64(data[first + np.uint64(k)]) << np.uint64(8 * k)
    return word


@allocation_free
def siphash(data: Bytes, start: int, length: int, k0: np.uint64, k1: np.uint64) -> np.uint64:
    """SipHash-2-4 of data[start : start + length]; eight more bytes must be readable."""
    v0, v1, v2, v3 = k0 ^ _V0, k1 ^ _V1, k0 ^ _V2, k1 ^ _V3
    whole = length // 8
    for block in range(whole):
        word = load_word(data, start + 8 * block)
        v3 ^= word
        v0, v1, v2, v3 = _sip_round(v0, v1, v2, v3)
        v0, v1, v2, v3 = _sip_round(v0, v1, v2, v3)
        v0 ^= word
    rest = np.uint64(8 * (length % 8))
    word = load_word(data, start + 8 * whole) & ((np.uint64(1) << rest) - np.uint64(1))
    word |= np.uint64(length & 255) << np.uint64(56)
    v3 ^= word
    v0, v1, v2, v3 = _sip_round(v0, v1, v2, v3)
    v0, v1, v2, v3 = _sip_round(v0, v1, v2, v3)
    v0 ^= word
    v2 ^= _SIP_FINALISATION
    for _ in range(4):
        v0, v1, v2, v3 = _sip_round(v0, v1, v2, v3)
    return v0 ^ v1 ^ v2 ^ v3


@allocation_free
def name_hash(data: Bytes, start: int, length: int, k0: np.uint64, k1: np.uint64) -> np.uint64:
    """Hash of the name data[start : start + length]: 0 for an empty one alone; eight more bytes must be readable."""
    if length <= 0:
        return np.uint64(0)
    value = siphash(data, start, length, k0, k1)
    return value if value != 0 else np.uint64(1)


@allocation_free
def hash_texts(data: Bytes, lengths: npt.NDArray[np.int64], k0: np.uint64, k1: np.uint64, out: Hashes) -> None:
    """Hash of each of the texts that lie one behind the other in *data*; 0 for empty ones alone."""
    start = 0
    for text in range(len(lengths)):
        out[text] = name_hash(data, start, lengths[text], k0, k1)
        start += lengths[text]


# BLAKE2b (RFC 7693) with 8 or 16 bytes of digest, equal to `hashlib`'s: compiled, since a Python call each is too slow.


BLAKE2B_BLOCK_BYTES = 128
BLAKE2B_DIGEST_BYTES = 8
"""Bytes of `blake2b_digest`."""

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
"""Order in which each round takes the words of a block; rounds 10 and 11 are as 0 and 1."""


BLAKE2B_COUNT = 8
"""Place of the bytes that a begun hash has read, behind the eight words of its state."""


def blake2b_initial_state(person: bytes, key: bytes = b"", digest_bytes: int = BLAKE2B_DIGEST_BYTES) -> BlakeWords:
    """State before the first block of a text, shape (9,), of the hash that *person* names; see `BLAKE2B_COUNT`.

    Args:
        person: 16 bytes or less.
        key: 64 bytes or less; b"" = none.
        digest_bytes: 8 or 16.
    """
    state = np.append(_BLAKE2B_IV, np.uint64(0))
    state[0] ^= np.uint64(0x01010000 | len(key) << 8 | digest_bytes)
    state[6:BLAKE2B_COUNT] ^= np.frombuffer(person.ljust(16, b"\0"), "<u8")
    if key:  # it is a separate block, the same before every text
        block = np.frombuffer(key.ljust(BLAKE2B_BLOCK_BYTES, b"\0") + bytes(8), np.uint8)
        state[BLAKE2B_COUNT] = BLAKE2B_BLOCK_BYTES
        _blake2b_compress(state, block, 0, BLAKE2B_BLOCK_BYTES, False)
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
    iv = _BLAKE2B_IV
    v0, v1, v2, v3, v4, v5, v6, v7 = state[0], state[1], state[2], state[3], state[4], state[5], state[6], state[7]
    v8, v9, v10, v11, v12, v13, v14, v15 = iv[0], iv[1], iv[2], iv[3], iv[4], iv[5], iv[6], iv[7]
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
        text: at least one byte long.
        begun: result of `blake2b_initial_state`.
        state: (8,), room to work in.
    """
    read = as_int(begun[BLAKE2B_COUNT])
    end = max(BLAKE2B_BLOCK_BYTES, (length + BLAKE2B_BLOCK_BYTES - 1) // BLAKE2B_BLOCK_BYTES * BLAKE2B_BLOCK_BYTES)
    for at in range(length, end):
        text[at] = 0
    for word in range(8):
        state[word] = begun[word]
    for at in range(0, end, BLAKE2B_BLOCK_BYTES):
        last = at + BLAKE2B_BLOCK_BYTES == end
        _blake2b_compress(state, text, at, read + (length if last else at + BLAKE2B_BLOCK_BYTES), last)
    return np.uint64(state[0])


def blake2b_pairs(texts: EncodedTexts, begun: BlakeWords) -> Hashes:
    """Digests of 16 bytes of many texts, each as two little-endian numbers, shape (n, 2).

    Args:
        begun: result of `blake2b_initial_state` for 16 bytes.
    """
    data, lengths = texts
    longest = int(lengths.max(initial=0))
    room = np.empty((longest // BLAKE2B_BLOCK_BYTES + 1) * BLAKE2B_BLOCK_BYTES + 8, np.uint8)
    out = np.empty((len(lengths), 2), np.uint64)
    _digest_pairs(np.frombuffer(data, np.uint8), lengths, begun, room, np.empty(8, np.uint64), out)
    return out


@allocation_free
def _digest_pairs(
    data: Bytes, lengths: npt.NDArray[np.int64], begun: BlakeWords, room: Bytes, state: BlakeWords, out: Hashes
) -> None:
    """Digest of each of the texts that lie one behind the other in *data*; *room* holds the blocks of the longest."""
    start = 0
    for text in range(len(lengths)):
        length = lengths[text]
        for at in range(length):
            room[at] = data[start + at]
        blake2b_digest(room, length, begun, state)
        out[text, 0], out[text, 1] = state[0], state[1]
        start += length
