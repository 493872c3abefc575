"""Which partition an agent belongs to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner.default import murmur2 as kafkas

from trustwatch.ingest.record_keys import agent_partition_key, murmur2, partition_of


@given(st.binary(max_size=200))
def test_the_hash_is_kafkas(data: bytes) -> None:
    """Other producers that key by the same bytes must reach the same partition."""
    assert murmur2(data) == kafkas(data) & 0xFFFFFFFF


@given(st.text(), st.text(), st.text(), st.text())
def test_names_do_not_run_into_each_other(tenant: str, issuer: str, agent: str, rest: str) -> None:
    """The key is compacted by: two agents must never share one."""
    if rest:
        assert agent_partition_key(tenant + rest, issuer, agent) != agent_partition_key(tenant, rest + issuer, agent)
    assert 0 <= partition_of(agent_partition_key(tenant, issuer, agent), 8) < 8
