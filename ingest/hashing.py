"""Stable 64-bit identities of names.

Baselines keep sketches of names, not the names. An attacker who could compute the hash could search for a malicious
target that collides with a known one, so item hashes are keyed with the salt of the model: SipHash-2-4 (Aumasson and
Bernstein 2012), a pseudo-random function made for short texts. A batch's names are hashed in one compiled call: looking
them up in a memory of known names takes longer, as every look-up waits for cold memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .compiled import allocation_free, inlined

_V0, _V1 = np.uint64(0x736F6D6570736575), np.uint64(0x646F72616E646F6D)
_V2, _V3 = np.uint64(0x6C7967656E657261), np.uint64(0x7465646279746573)
_SIP_FINALISATION = np.uint64(0xFF)

Bytes = npt.NDArray[np.uint8]
Hashes = npt.NDArray[np.uint64]
SipState = tuple[np.uint64, np.uint64, np.uint64, np.uint64]


def agent_key(tenant: str, issuer: str, agent_id: str) -> int:
    """Identity of an agent, the same in every installation and for ever: unsigned 64 bits, never 0.

    The parts are joined with their lengths, so that no two triples share one text.
    """
    text = f"{len(tenant)}:{len(issuer)}:{tenant}{issuer}{agent_id}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8, person=b"tw-agent").digest(), "little") or 1


def salted_key(salt: bytes, purpose: bytes) -> Hashes:
    """Key of `siphash` for one purpose, two words, shape (2,)."""
    key = hashlib.blake2b(digest_size=16, key=salt, person=purpose).digest()
    return np.frombuffer(key, "<u8").astype(np.uint64)


class NameHasher:
    """Keyed 64-bit hashes of names; a missing or empty name hashes to 0, and no other does.

    Args:
        salt: 1 to 64 bytes; part of the model's manifest, since its baselines are written in these hashes.
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
        text = "".join(names)
        if text.isascii():
            data = text.encode()
            lengths = np.fromiter(map(len, names), np.int64, len(names))
        else:
            encoded = [name.encode() for name in names]
            data = b"".join(encoded)
            lengths = np.fromiter(map(len, encoded), np.int64, len(names))
        out = np.empty(len(names), np.uint64)
        # The last word of a name is read past its end, into the next name or this padding, and masked.
        hash_texts(np.frombuffer(data + bytes(8), np.uint8), lengths, self._k0, self._k1, out)
        return out


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
    # An index without a sign can not count from the end: only so do the eight become one load.
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
