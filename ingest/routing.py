"""Which agent goes to which partition: a pure function of its name, the same for every client and for all time."""

from __future__ import annotations

from functools import lru_cache

import msgspec

_encode_key = msgspec.json.Encoder().encode
_UINT32_MASK = 0xFFFFFFFF
_MURMUR2_MULTIPLIER = 0x5BD1E995


def agent_partition_key(tenant: str, issuer: str, agent_id: str) -> bytes:
    """Key of an agent's records on every topic: a JSON array of its three names, so that none can run into another.

    >>> agent_route("acme", "https://as.example", "payer")
    b'["acme","https://as.example","payer"]'
    """
    return _encode_key((tenant, issuer, agent_id))


@lru_cache(maxsize=65_536)
def partition_of(key: bytes, partitions: int) -> int:
    """The partition that Kafka's own producers choose for *key* (murmur2), whatever our clients' default is.

    >>> partition_of(b'["acme","https://as.example","payer"]', 4)
    2
    """
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def murmur2(data: bytes) -> int:
    """MurmurHash2 as in `org.apache.kafka.common.utils.Utils.murmur2`, as an unsigned 32-bit number."""
    length = len(data)
    h = 0x9747B28C ^ length
    whole = length & ~3
    for start in range(0, whole, 4):
        k = int.from_bytes(data[start : start + 4], "little") * _MURMUR2_MULTIPLIER & _UINT32_MASK
        k = (k ^ k >> 24) * _MURMUR2_MULTIPLIER & _UINT32_MASK
        h = h * _MURMUR2_MULTIPLIER & _UINT32_MASK ^ k
    rest = data[whole:]
    if rest:
        h = (h ^ int.from_bytes(rest, "little")) * _MURMUR2_MULTIPLIER & _UINT32_MASK
    h = (h ^ h >> 13) * _MURMUR2_MULTIPLIER & _UINT32_MASK
    return h ^ h >> 15


@lru_cache(maxsize=65_536)
def key_for_partition(partition: int, partitions: int) -> bytes:
    """A key that leads to a given partition, for what is no one agent's.

    >>> partition_of(route_to(3, 8), 8)
    3
    """
    for number in range(1_000 * partitions):
        key = b"partition-%d" % number
        if partition_of(key, partitions) == partition:
            return key
    raise ValueError(f"no key found that leads to partition {partition} of {partitions}")
