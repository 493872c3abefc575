"""How our records lie in Kafka, and what becomes of records that others wrote. No client is imported here.

A record of ours has the payload as value, the route of its agent as key, the time of arrival as timestamp, and one
header `tw` of 9 bytes, little-endian: u8 kind, u64 id hash. Who may write such records is the topic's ACL to say.

A record without that header was written by somebody else: a native event, or a CloudEvent in structured or binary mode.
What cannot be read, and what lies in a partition that is not its agent's (two workers would keep that agent), is handed
out as a dead letter at its offset: nothing is skipped, and nothing stops the partition.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from ..errors import MalformedEvent
from ..events import MAX_EVENT_BYTES, decode_event
from ..formats import cloudevents
from ..identity import event_id_hash, record_id
from ..routing import agent_route, partition_of
from ..source import Kind, Record
from .handout import Run

HEADER = "tw"
_TW = struct.Struct("<BQ")
_unpack, _record = _TW.unpack, Record._make
_CE = "ce_"


class Raw(NamedTuple):
    """One Kafka record as a client hands it out. `timestamp_ms` is -1 where it has none."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


class Place(NamedTuple):
    """Where records were read: the topic, one of its partitions, and how many it has."""

    topic: str
    partition: int
    partitions: int


def headers_of(record: Record) -> list[tuple[str, bytes]]:
    """Headers of the Kafka record that carries *record*."""
    return [(HEADER, _TW.pack(record.kind, record.id_hash))]


def record_from(raw: Raw, place: Place) -> Record:
    """The record that *raw* carries; a dead letter where it carries none."""
    record = ours(raw.timestamp_ms, raw.value, raw.headers)
    if record is not None:
        return record
    try:
        return _foreign(raw, place)
    except MalformedEvent as error:
        return _dead_letter(raw, place, error)


def ours(timestamp_ms: int, payload: bytes | None, headers: Sequence[tuple[str, bytes | None]]) -> Record | None:
    """The record, if it is one of ours."""
    if payload is not None and timestamp_ms >= 0:
        for name, value in headers:
            if name == HEADER and value is not None and len(value) == _TW.size:
                return _record((*_unpack(value), timestamp_ms, payload, b""))
    return None


def runs_from(raws: Iterable[Raw], place: Place) -> list[Run]:
    """Records of one partition in the order of their offsets, cut where offsets are missing."""
    runs: list[Run] = []
    records: list[Record] = []
    expected = -1
    for raw in raws:
        if raw.offset != expected:
            records = []
            runs.append(Run(raw.offset, records))
        records.append(record_from(raw, place))
        expected = raw.offset + 1
    return runs


def id_hash_of(headers: Iterable[tuple[str, bytes | None]]) -> int:
    """Id hash that our header carries; 0 where there is none."""
    for name, value in headers:
        if name == HEADER and value is not None and len(value) == _TW.size:
            return int(_TW.unpack(value)[1])
    return 0


def _foreign(raw: Raw, place: Place) -> Record:
    """A record that somebody else wrote to our topic.

    Raises:
        MalformedEvent: it is no event, or it is in the wrong partition.
    """
    if raw.value is None:
        raise MalformedEvent("record has no value (a tombstone); events are not deleted from the topic")
    if raw.timestamp_ms < 0:
        raise MalformedEvent("record has no timestamp; the producer or the topic must set one")
    payload = _native(raw.value, raw.headers)
    event = decode_event(payload)
    issuer = event.agent.issuer or ""
    right = partition_of(agent_route(event.tenant or "", issuer, event.agent.id), place.partitions)
    if right != place.partition:
        raise MalformedEvent(
            f"record is in partition {place.partition}, its agent belongs to partition {right}: the key must be the"
            " JSON array [tenant, issuer, agent id] without spaces, and the partition its murmur2, as with Kafka"
        )
    source = event.source or f"topic:{place.topic}"
    return Record(Kind.EVENT, event_id_hash(event.tenant, source, event.id, payload), raw.timestamp_ms, payload)


def _native(value: bytes, headers: Sequence[tuple[str, bytes | None]]) -> bytes:
    """Native event JSON of a record's value and headers (Kafka protocol binding of CloudEvents 1.0)."""
    named = {name: _text(name, content) for name, content in headers if content is not None}
    media_type = named.get("content-type", "").strip().lower()
    if media_type.startswith("application/cloudevents-batch"):
        raise MalformedEvent("CloudEvents in batch mode are not defined for Kafka: one record holds one event")
    if media_type.startswith("application/cloudevents"):
        return cloudevents.from_structured(value)
    attributes = {name.removeprefix(_CE): text for name, text in named.items() if name.startswith(_CE)}
    if not attributes:
        return value
    return cloudevents.from_attributes(attributes, named.get("content-type"), value)


def _text(name: str, content: bytes) -> str:
    if name != "content-type" and not name.startswith(_CE):
        return ""  # other people's headers may hold anything
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise MalformedEvent(f"header `{name}` is not UTF-8") from None


def _dead_letter(raw: Raw, place: Place, error: MalformedEvent) -> Record:
    """The input that the pipeline makes a dead letter of, with the same id at each reading."""
    kept, reason = raw.value or b"", error.reason
    if len(kept) > MAX_EVENT_BYTES:
        reason = f"{reason} (the first {MAX_EVENT_BYTES} of {len(kept)} bytes are kept)"
        kept = kept[:MAX_EVENT_BYTES]
    received_ms = max(raw.timestamp_ms, 0)
    letter = {
        "letter_id": record_id(received_ms, place.partition, raw.offset, "dead"),
        "received_ms": received_ms,
        "source": f"topic:{place.topic}",
        "reason": reason,
        "path": error.path,
        "raw": base64.b64encode(kept).decode(),
    }
    return Record(Kind.DEAD, 0, received_ms, msgspec.json.encode(letter))
