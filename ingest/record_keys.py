"""Keys of records: the identity of an event, and the partition key of an agent."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from functools import lru_cache, reduce

import msgspec

EVENT_ID_PURPOSE, RAW_RECORD_PURPOSE = b"tw-event-id", b"tw-event-raw"
"""Purposes of the hashes of ids, and of records without one."""


class _EventIdentity(msgspec.Struct, gc=False):
    tenant: str | None = None
    source: str | None = None
    id: str | None = None


_identity_decoder = msgspec.json.Decoder(_EventIdentity)


def event_id_bytes(tenant: str | None, source: str | None, event_id: str) -> bytes:
    """The text that an event's id is hashed from; no two ids share one."""
    tenant, source = tenant or "", source or ""
    return f"{len(tenant)}:{len(source)}:{tenant}{source}{event_id}".encode()


def unkeyed_event_id_hash(tenant: str | None, source: str | None, event_id: str | None, raw: bytes | memoryview) -> int:
    """As `identities.IdentityHasher.event_id_hash`, the same everywhere and forever: for files and tools.

    Ids that share one can be searched for, so a deployment takes its own hashes.
    """
    data = event_id_bytes(tenant, source, event_id) if event_id else raw
    person = EVENT_ID_PURPOSE if event_id else RAW_RECORD_PURPOSE
    return int.from_bytes(hashlib.blake2b(data, digest_size=8, person=person).digest(), "little") or 1


def raw_record_digest(raw: bytes | memoryview) -> str:
    """Name of a record that has none: 128 bits of BLAKE2b, hexadecimal, so that collisions cannot be found."""
    return hashlib.blake2b(raw, digest_size=16, person=RAW_RECORD_PURPOSE).hexdigest()


class RawRecordHash:
    """`raw_record_digest` of a record in parts, so that a common beginning is hashed once."""

    def __init__(self, parts: Iterable[bytes] = ()) -> None:
        self._hash = hashlib.blake2b(digest_size=16, person=RAW_RECORD_PURPOSE)
        for part in parts:
            self._hash.update(part)

    def followed_by(self, *parts: bytes) -> RawRecordHash:
        """Returns the hash of the record extended by *parts*; this one stays as it is."""
        longer = RawRecordHash()
        longer._hash = self._hash.copy()
        for part in parts:
            longer._hash.update(part)
        return longer

    def hex(self) -> str:
        """The digest."""
        return self._hash.hexdigest()


def raw_id_hash(raw: bytes | memoryview) -> int:
    """Identity of an event that is not decoded yet; a record that cannot be decoded is identified by its bytes."""
    try:
        named = _identity_decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return unkeyed_event_id_hash(None, None, None, raw)
    return unkeyed_event_id_hash(named.tenant, named.source, named.id, raw)


_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_ULID_LENGTH, _ULID_TIME_LENGTH = 26, 10


def record_id(at_ms: int, *parts: object, order: int | None = None) -> str:
    """A ULID whose random part is a hash of *parts*: the same cause always gets the same id, so a repeated
    transaction writes the same row instead of a second one.

    With *order* (an offset), ids of one millisecond sort by it: a body of events arrives in one, and its changes of
    level must be listed as they happened.

    >>> record_id(1_764_000_000_000, 0, 17)[:10]
    '01KAV9FT00'
    >>> record_id(1_764_000_000_000, 0, 17, order=17) < record_id(1_764_000_000_000, 0, 18, order=18)
    True
    """
    random = int.from_bytes(hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=10).digest(), "big")
    if order is not None:
        random = (order & (1 << 40) - 1) << 40 | random & (1 << 40) - 1
    number = (at_ms & (1 << 48) - 1) << 80 | random
    return "".join(_CROCKFORD[(number >> shift) & 31] for shift in range(125, -1, -5))


def record_time_ms(record: str) -> int | None:
    """UTC milliseconds in an id of `record_id`; None for any other text.

    >>> record_time_ms(record_id(1_764_000_000_000, 0, 17))
    1764000000000
    """
    places = [_CROCKFORD.find(letter) for letter in record]
    if len(places) != _ULID_LENGTH or min(places) < 0:
        return None
    return reduce(lambda number, place: number << 5 | place, places[:_ULID_TIME_LENGTH], 0)


# The partition of an agent is a pure function of its name, the same for every client and for all time.


_encode_key = msgspec.json.Encoder().encode
_UINT32_MASK = 0xFFFFFFFF
_MURMUR2_MULTIPLIER = 0x5BD1E995


def agent_partition_key(tenant: str, issuer: str, agent_id: str) -> bytes:
    """Key of an agent's records on every topic: a JSON array of its three names, so that none can run into another.

    >>> agent_partition_key("acme", "https://as.example", "payer")
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
    h, last = 0x9747B28C ^ length, max(length - 1, 0) // _SHARED_BYTES * _SHARED_BYTES
    for start in range(0, last, _SHARED_BYTES):
        h = _mix_shared(h, data[start : start + _SHARED_BYTES])
    whole = length & ~3
    h = _mix(h, data[last:whole])
    rest = data[whole:]
    if rest:
        h = (h ^ int.from_bytes(rest, "little")) * _MURMUR2_MULTIPLIER & _UINT32_MASK
    h = (h ^ h >> 13) * _MURMUR2_MULTIPLIER & _UINT32_MASK
    return h ^ h >> 15


def _mix(h: int, words: bytes) -> int:
    """Hash on, by words of four bytes."""
    for (k,) in _each_word(words):
        mixed = k * _MURMUR2_MULTIPLIER & _UINT32_MASK
        h = (h * _MURMUR2_MULTIPLIER ^ (mixed ^ mixed >> 24) * _MURMUR2_MULTIPLIER) & _UINT32_MASK
    return h


_SHARED_BYTES = 32
_each_word = struct.Struct("<I").iter_unpack
_mix_shared = lru_cache(maxsize=4_096)(_mix)
"""Keys of agents begin with their tenant and issuer: those of one length share all but the end."""


@lru_cache(maxsize=65_536)
def key_for_partition(partition: int, partitions: int) -> bytes:
    """Returns a key that leads to a given partition, for records of no single agent.

    >>> partition_of(key_for_partition(3, 8), 8)
    3
    """
    for number in range(1_000 * partitions):
        key = b"partition-%d" % number
        if partition_of(key, partitions) == partition:
            return key
    raise ValueError(f"no key found that leads to partition {partition} of {partitions}")
