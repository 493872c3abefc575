"""A secret that somebody sends is compared in one way, wherever it comes."""

from __future__ import annotations

import hmac
from typing import Any

from trustwatch.ingest.settings import Secret


def test_what_is_compared_is_of_one_length(monkeypatch: Any) -> None:
    """`compare_digest` takes the shorter way where lengths differ, which tells how long the secret is."""
    lengths: set[int] = set()

    def compare(one: bytes, other: bytes) -> bool:
        lengths.update((len(one), len(other)))
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for given in (b"", b"x" * 9000, b"hunter2"):
        Secret("hunter2").matches(given)

    assert len(lengths) == 1
