"""The compiled hash against the one of the standard library."""

from __future__ import annotations

import hashlib
import random

import numpy as np

from trustwatch.ingest.hashing import blake2b_digest, blake2b_initial_state


def test_digests_are_those_of_hashlib() -> None:
    """All lengths around the ends of blocks, several blocks, whatever stood in the room before."""
    draw, state = random.Random(3), np.zeros(8, np.uint64)

    for person in (b"", b"tw-event-id", b"sixteen bytes...", draw.randbytes(16)):
        begun = blake2b_initial_state(person)
        for length in (*range(10), 63, 64, 119, 120, 127, 128, 129, 255, 256, 257, 384, 5000):
            text = draw.randbytes(length)
            room = np.frombuffer(text + draw.randbytes(300), np.uint8).copy()
            wanted = hashlib.blake2b(text, digest_size=8, person=person).digest()
            assert int(blake2b_digest(room, length, begun, state)).to_bytes(8, "little") == wanted
