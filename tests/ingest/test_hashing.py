"""Identities of names: stable, keyed, never zero for a name, the same alone and in a batch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustwatch.ingest.hashing import NameHasher, siphash

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
