"""Which partition an agent belongs to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner.default import murmur2 as kafkas

from trustwatch.ingest.record_keys import murmur2


@given(st.binary(max_size=200))
def test_the_hash_is_kafkas(data: bytes) -> None:
    """Other producers that key by the same bytes must reach the same partition."""
    assert murmur2(data) == kafkas(data) & 0xFFFFFFFF
