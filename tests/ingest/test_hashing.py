"""Identities of names: stable, keyed, never zero for a name, the same alone and in a batch."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustwatch.ingest.hashing import NameHasher, blake2b_digest, blake2b_initial_state, siphash

VECTORS = [
    (0, 0x726FDB47DD0E0E31),
    (1, 0x74F839C593DC67FD),
    (7, 0xAB0200F58B01D137),
    (8, 0x93F5F5799A932462),
    (15, 0xA129CA6149BE45E5),
    (16, 0x3F2ACC7F57C29BDB),
    (63, 0x958A324CEB064572),
]
"""Lengths and hashes of the reference implementation: key and text are the bytes 0, 1, 2 and so on."""


@pytest.mark.parametrize(("length", "expected"), VECTORS)
def test_siphash_equals_the_reference(length: int, expected: int) -> None:
    """The published vectors of SipHash-2-4, wherever in a buffer the text begins."""
    k0, k1 = np.frombuffer(bytes(range(16)), "<u8").astype(np.uint64)
    for start in (0, 3):
        data = np.frombuffer(b"\xff" * start + bytes(range(length)) + b"\xee" * 8, np.uint8)

        assert int(siphash(data, start, length, k0, k1)) == expected


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), max_size=30))
def test_name_hash_is_the_same_in_every_company(names: list[str]) -> None:
    """A name's hash does not depend on its neighbours in a batch, nor on whether they are ASCII; only "" is 0."""
    h = NameHasher(b"salt")

    assert h.hash_many(names).tolist() == [h(name) for name in names]
    assert [h(name) == 0 for name in names] == [name == "" for name in names]


@pytest.mark.parametrize("salt", [b"", b"x" * 65])
def test_name_hash_refuses_a_bad_salt(salt: bytes) -> None:
    with pytest.raises(ValueError, match="1 to 64"):
        NameHasher(salt)


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
