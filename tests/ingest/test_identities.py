"""Identities: stable under a key, other ones under another key, and never the same for two names."""

from __future__ import annotations

from pathlib import Path

import pytest

from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.identities import IdentityHasher, open_identity_key, unkeyed_agent_key

KEY = bytes(range(32))
NAME = ("acme", "https://as.example", "a1")


def test_the_formats_are_stable() -> None:
    """Keys are stored, and the unkeyed hash finds what 0.1 stored: their values are part of the formats."""
    assert unkeyed_agent_key(*NAME) == 0xCFCD1692EB22EB26
    assert IdentityHasher(KEY).agent_hash(*NAME) == (0x81F5E65171D9C1F1, 0x654CE0BB4B001BB0)
    assert IdentityHasher(KEY).event_id_hash("acme", "urn:x", "e1", b"") == 0x64689FE75FCC5C82
    assert IdentityHasher().event_id_hash("acme", "urn:x", "e1", b"") == 0x089171BF79A533AC


def test_parts_are_kept_apart() -> None:
    """Moving a character from one part to the next names another agent."""
    names = [("ab", "c", "d"), ("a", "bc", "d"), ("a", "b", "cd"), ("", "abc", "d")]

    assert len({IdentityHasher(KEY).agent_hash(*name) for name in names}) == 4
    assert len({unkeyed_agent_key(*name) for name in names}) == 4


def test_an_identity_has_128_bits_of_its_key() -> None:
    """Both halves change with the key, and no principal shares one with an agent."""
    ours, theirs = IdentityHasher(KEY), IdentityHasher(bytes(32))

    assert set(ours.agent_hash(*NAME)) & set(theirs.agent_hash(*NAME)) == set()
    assert ours.agent_key(*NAME) == ours.agent_hash(*NAME).key != ours.agent_hash(*NAME).check
    assert ours.principal_key(*NAME) not in ours.agent_hash(*NAME)
    assert ours.event_id_hash(*NAME, b"") != theirs.event_id_hash(*NAME, b"")
    assert ours == IdentityHasher(KEY) != theirs
    assert KEY.hex() not in repr(ours) + ours.proof


def test_the_key_is_a_file_of_its_owner(tmp_path: Path) -> None:
    """It is made once, readable by nobody else, and the same for the next process."""
    path = tmp_path / "identity-key"
    made = open_identity_key(path, create=True)

    assert path.stat().st_mode & 0o777 == 0o600
    assert open_identity_key(path, create=False) == open_identity_key(path, create=True) == made


@pytest.mark.parametrize(
    ("content", "mode", "why"),
    [
        (None, 0o600, "is missing. Put it back from a backup"),
        ("00" * 32, 0o640, "others may read"),
        ("00" * 31, 0o600, "expected 64 hexadecimal digits"),
        ("00" * 65, 0o600, "expected 64 hexadecimal digits"),
        ("not hexadecimal", 0o600, "expected 64 hexadecimal digits"),
    ],
)
def test_what_is_no_key_is_refused(tmp_path: Path, content: str | None, mode: int, why: str) -> None:
    """The error says what is wrong with which file, and shows nothing of it."""
    path = tmp_path / "identity-key"
    if content is not None:
        path.write_text(content)
        path.chmod(mode)
    with pytest.raises(ConfigError, match=why) as refused:
        open_identity_key(path, create=False)

    assert str(path) in str(refused.value)
    assert not content or content not in str(refused.value)


def test_a_digest_of_a_call_is_of_one_key_and_one_agent() -> None:
    """So nobody who reads it tries what the call may have said, by way of no other agent either."""
    keyed = IdentityHasher(b"k" * 32).call_digest
    digest = keyed("acme", "https://as.example", "bot", b"[]")
    others = [
        IdentityHasher(b"l" * 32).call_digest("acme", "https://as.example", "bot", b"[]"),
        keyed("globex", "https://as.example", "bot", b"[]"),
        keyed("acme", "https://as.example", "bo", b"t[]"),
        keyed("acme", "https://as.example", "bot", b"[1]"),
    ]
    assert len({digest, *others}) == 5 and len(digest) == 32
