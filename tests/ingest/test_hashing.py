"""Identities of names: stable, keyed, never zero for a name, bounded in memory."""

from __future__ import annotations

import hashlib

import pytest
from trustwatch.ingest.hashing import CACHE_SIZE, NameHasher, agent_key


def test_agent_key_is_stable() -> None:
    """The key of an agent is stored for ever, so its value is part of the format."""
    assert agent_key("acme", "https://as.example", "a1") == 0xCFCD1692EB22EB26


def test_agent_key_keeps_its_parts_apart() -> None:
    """Moving a character from one part to the next names another agent."""
    keys = {agent_key("ab", "c", "d"), agent_key("a", "bc", "d"), agent_key("a", "b", "cd"), agent_key("", "abc", "d")}

    assert len(keys) == 4


def test_name_hash_is_keyed_blake2b() -> None:
    """A hash is BLAKE2b of the name under the salt, so that nobody without the salt can aim at a known name."""
    expected = hashlib.blake2b("naïve".encode(), digest_size=8, key=b"salt").digest()

    assert NameHasher(b"salt")("naïve") == int.from_bytes(expected, "little")
    assert NameHasher(b"salt")("naïve") != NameHasher(b"other")("naïve")


def test_name_hash_of_nothing_is_zero() -> None:
    """A missing and an empty name hash to 0, also after the memory was emptied."""
    h = NameHasher(b"salt")
    for number in range(CACHE_SIZE + 5):
        h(str(number))

    assert (h(None), h(""), h[None]) == (0, 0, 0)
    assert len(h) <= CACHE_SIZE


def test_name_hash_remembers_short_names_only() -> None:
    """A long name gets the same hash each time, but is not kept: memory does not grow with the length of names."""
    h = NameHasher(b"salt")
    long = "x" * 2048

    assert h(long) == h(long) != 0
    assert long not in h
    assert h("short") and "short" in h


@pytest.mark.parametrize("salt", [b"", b"x" * 65])
def test_name_hash_refuses_a_bad_salt(salt: bytes) -> None:
    """BLAKE2b takes keys of 1 to 64 bytes."""
    with pytest.raises(ValueError, match="1 to 64"):
        NameHasher(salt)
