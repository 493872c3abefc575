"""Form of our records in topics, and conversion of records that others wrote. No client is imported here.

A record of ours has the payload as value, the partition key of its agent as key, the time of arrival as timestamp, and
one header `tw` of 9 bytes, little-endian: u8 kind, u64 id hash. The topic's ACL determines who may write such records.

A record without that header comes from another program: a native event, or a CloudEvent in structured or binary mode.
A record that cannot be read, or is in a partition that is not its agent's (two workers would keep that agent), becomes
a dead letter at its offset: no record is skipped, and none stops the partition.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from trustwatch_client.events import MAX_EVENT_BYTES

from ..errors import MalformedEvent
from ..events import decode_event
from ..formats import cloudevents
from ..identities import IdentityHasher
from ..record_keys import agent_partition_key, partition_of, record_id
from ..source import Record, RecordKind

RECORD_HEADER = "tw"
_HEADER_STRUCT = struct.Struct("<BQ")
_unpack, _record = _HEADER_STRUCT.unpack, Record._make
_CLOUDEVENT_PREFIX = "ce_"


class TopicRecord(NamedTuple):
    """One record of a topic as a client returns it. `timestamp_ms` is -1 if it has none."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


class RecordRun(NamedTuple):
    """Records with consecutive offsets; the first has *base_offset*. Never empty."""

    base_offset: int
    records: list[Record]


class SourcePartition(NamedTuple):
    """Origin of records: the topic, one of its partitions, and the number of its partitions.

    Attributes:
        identities: make the id hashes of records that other programs wrote.
    """

    topic: str
    partition: int
    partitions: int
    identities: IdentityHasher = IdentityHasher()


def headers_for(record: Record) -> list[tuple[str, bytes]]:
    return [(RECORD_HEADER, _HEADER_STRUCT.pack(record.kind, record.id_hash))]


def to_record(raw: TopicRecord, origin: SourcePartition) -> Record:
    """Return the record that *raw* carries; a dead letter if it carries none."""
    record = own_record(raw.timestamp_ms, raw.value, raw.headers)
    if record is not None:
        return record
    try:
        return _foreign_record(raw, origin)
    except MalformedEvent as error:
        return _dead_letter_record(raw, origin, error)


def own_record(timestamp_ms: int, payload: bytes | None, headers: Sequence[tuple[str, bytes | None]]) -> Record | None:
    """The record if it is ours, else None."""
    if payload is not None and timestamp_ms >= 0:
        for name, value in headers:
            if name == RECORD_HEADER and value is not None and len(value) == _HEADER_STRUCT.size:
                return _record((*_unpack(value), timestamp_ms, payload, b""))
    return None


def to_record_runs(raws: Iterable[TopicRecord], origin: SourcePartition) -> list[RecordRun]:
    """Records of one partition in the order of their offsets, cut where offsets are missing."""
    runs: list[RecordRun] = []
    records: list[Record] = []
    expected = -1
    for raw in raws:
        if raw.offset != expected:
            records = []
            runs.append(RecordRun(raw.offset, records))
        records.append(to_record(raw, origin))
        expected = raw.offset + 1
    return runs


def header_texts(record: TopicRecord) -> dict[str, str]:
    """Headers with names in small letters; other bytes than UTF-8 are replaced."""
    return {name.lower(): value.decode(errors="replace") for name, value in record.headers if value is not None}


def id_hash_in(headers: Iterable[tuple[str, bytes | None]]) -> int:
    """Id hash that our header carries; 0 if there is none."""
    for name, value in headers:
        if name == RECORD_HEADER and value is not None and len(value) == _HEADER_STRUCT.size:
            return int(_HEADER_STRUCT.unpack(value)[1])
    return 0


def _foreign_record(raw: TopicRecord, origin: SourcePartition) -> Record:
    """Convert a record that another program wrote to our topic. Raises MalformedEvent."""
    if raw.value is None:
        raise MalformedEvent("record has no value (a tombstone); events are not deleted from the topic")
    if raw.timestamp_ms < 0:
        raise MalformedEvent("record has no timestamp; the producer or the topic must set one")
    payload = _native_payload(raw.value, raw.headers)
    event = decode_event(payload)
    issuer = event.agent.issuer or ""
    right = partition_of(agent_partition_key(event.tenant or "", issuer, event.agent.id), origin.partitions)
    if right != origin.partition:
        raise MalformedEvent(
            f"record is in partition {origin.partition}, its agent belongs to partition {right}: the key must be the"
            " JSON array [tenant, issuer, agent id] without spaces, and the partition its murmur2, as with Kafka"
        )
    source = event.source or f"topic:{origin.topic}"
    id_hash = origin.identities.event_id_hash(event.tenant, source, event.id, payload)
    return Record(RecordKind.EVENT, id_hash, raw.timestamp_ms, payload)


def _native_payload(value: bytes, headers: Sequence[tuple[str, bytes | None]]) -> bytes:
    """Native event JSON of a record's value and headers (Kafka protocol binding of CloudEvents 1.0)."""
    named = {}
    for name, content in headers:  # headers of other programs may hold anything
        if content is not None and (name == "content-type" or name.startswith(_CLOUDEVENT_PREFIX)):
            try:
                named[name] = content.decode()
            except UnicodeDecodeError:
                raise MalformedEvent(f"header `{name}` is not UTF-8") from None
    media_type = named.get("content-type", "").strip().lower()
    if media_type.startswith("application/cloudevents-batch"):
        raise MalformedEvent("CloudEvents in batch mode are not defined for Kafka: one record holds one event")
    if media_type.startswith("application/cloudevents"):
        return cloudevents.decode_structured(value)
    attributes = {
        name.removeprefix(_CLOUDEVENT_PREFIX): text
        for name, text in named.items()
        if name.startswith(_CLOUDEVENT_PREFIX)
    }
    if not attributes:
        return value
    return cloudevents.decode_binary(attributes, named.get("content-type"), value)


def _dead_letter_record(raw: TopicRecord, origin: SourcePartition, error: MalformedEvent) -> Record:
    """Record that the pipeline turns into a dead letter, with the same id at each reading."""
    kept, reason = raw.value or b"", error.reason
    if len(kept) > MAX_EVENT_BYTES:
        reason = f"{reason} (the first {MAX_EVENT_BYTES} of {len(kept)} bytes are kept)"
        kept = kept[:MAX_EVENT_BYTES]
    received_ms = max(raw.timestamp_ms, 0)
    letter = {
        "letter_id": record_id(received_ms, origin.partition, raw.offset, "dead"),
        "received_ms": received_ms,
        "source": f"topic:{origin.topic}",
        "reason": reason,
        "path": error.path,
        "raw": base64.b64encode(kept).decode(),
    }
    return Record(RecordKind.DEAD, 0, received_ms, msgspec.json.encode(letter))
