"""Stable 64-bit identities of names.

Baselines keep sketches of names, not the names. An attacker who could compute the hash could search for a malicious
target that collides with a known one, so item hashes are keyed (BLAKE2b) with the salt of the model.
"""

from __future__ import annotations

import hashlib

CACHE_SIZE = 1 << 18
"""Names remembered; when full the cache is emptied (a hash is a pure function, so only time is lost)."""

_LONGEST_KEPT = 256
"""Longer names are hashed anew each time, so that the cache stays below about 100 MB whatever is sent."""


def agent_key(tenant: str, issuer: str, agent_id: str) -> int:
    """Identity of an agent, the same in every installation and for ever: unsigned 64 bits, never 0.

    The parts are joined with their lengths, so that no two triples share one text.
    """
    text = f"{len(tenant)}:{len(issuer)}:{tenant}{issuer}{agent_id}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8, person=b"tw-agent").digest(), "little") or 1


class NameHasher(dict[str | None, int]):
    """Keyed 64-bit hashes of names: `hasher[name]`, or `hasher(name)`. Missing or empty names hash to 0.

    It is the dict of the names it remembers: asked several times for every event, it answers without a call.

    Args:
        salt: 1 to 64 bytes; part of the model's manifest, since its baselines are written in these hashes.
    """

    def __init__(self, salt: bytes) -> None:
        if not 1 <= len(salt) <= 64:
            raise ValueError(f"salt must have 1 to 64 bytes, has {len(salt)}")
        super().__init__({None: 0, "": 0})
        self.salt = salt
        self._keyed = hashlib.blake2b(digest_size=8, key=salt)

    def __call__(self, name: str | None) -> int:
        """Unsigned 64-bit hash of *name*; 0 only for a missing or empty name."""
        return self[name]

    def __missing__(self, name: str) -> int:
        hashed = self._keyed.copy()
        hashed.update(name.encode())
        value = int.from_bytes(hashed.digest(), "little") or 1
        if len(name) <= _LONGEST_KEPT:
            if len(self) >= CACHE_SIZE:
                self.clear()
                self.update({None: 0, "": 0})
            self[name] = value
        return value
