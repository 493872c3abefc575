"""What the contract tests of the two Kafka clients share: topics, members, and records by hand."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient

from trustwatch.ingest import kafka as ours
from trustwatch.ingest.kafka.settings import KafkaClientSettings, KafkaTuning
from trustwatch.ingest.record_keys import agent_partition_key, raw_id_hash
from trustwatch.ingest.source import Record, RecordKind
from trustwatch.ingest.topics import record_codec

from .followers import Follower

if TYPE_CHECKING:
    from scripts.service_stack import KafkaCluster

CLIENTS = ("kafka-python", "confluent")
NOW_MS = 1_780_000_000_000
TUNING = KafkaTuning(request_timeout_ms=5_000, metadata_timeout_ms=3_000, delivery_timeout_ms=6_000)
"""Short time limits."""
_names = itertools.count()

open_writer = partial(ours.open_writer, tuning=TUNING)
open_reader = partial(ours.open_reader, tuning=TUNING)
open_admin = partial(ours.open_admin, tuning=TUNING)


def settings(kafka: KafkaCluster, client: str = "kafka-python", **more: Any) -> KafkaClientSettings:
    """Settings of a test of its own: names that no other test has, and a short session."""
    name = f"test-{time.time_ns()}-{next(_names)}"
    made = KafkaClientSettings(
        bootstrap_servers=tuple(kafka.bootstrap.split(",")),
        client=client,
        group_id=name,  # type: ignore[arg-type]
        names={"events": name},
        session_timeout_s=6.0,
    )
    return msgspec.structs.replace(made, **more)


def make_topic(kafka: KafkaCluster, name: str, partitions: int = 1, replication: int = 1, **configs: str) -> None:
    """A topic; `_` stands for `.` in names of options."""
    wanted = {
        "num_partitions": partitions,
        "replication_factor": replication,
        "configs": {key.replace("_", "."): value for key, value in configs.items()},
    }
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap.split(","))
    try:
        admin.create_topics({name: wanted}, wait_for_metadata=True)
    finally:
        admin.close()


def foreign_producer(kafka: KafkaCluster, **more: Any) -> KafkaProducer:
    """A producer as other people have it."""
    return KafkaProducer(bootstrap_servers=kafka.bootstrap.split(","), **more)


def event(number: int, agent: str = "a") -> bytes:
    made = {
        "id": f"e{number}",
        "source": "urn:test",
        "time": "2026-05-28T20:26:40Z",
        "tenant": "t",
        "type": "api.call",
        "action": "read",
        "outcome": "success",
        "agent": {"id": agent, "issuer": "i"},
    }
    return msgspec.json.encode(made)


def record(number: int, agent: str = "a") -> Record:
    """An event as the ingest role writes it."""
    payload = event(number, agent)
    return Record(
        RecordKind.EVENT, raw_id_hash(payload), NOW_MS + number, payload, agent_partition_key("t", "i", agent)
    )


def write(
    made: KafkaClientSettings, records: Iterable[Record], partition: int | None = None, tuning: KafkaTuning = TUNING
) -> None:
    writer = open_writer(made, tuning=tuning)
    try:
        for one in records:
            writer.send(
                made.topic_names.events,
                one.key or None,
                one.payload,
                partition=partition,
                headers=record_codec.headers_for(one),
                timestamp_ms=one.received_ms,
            )
        writer.flush(10)
    finally:
        writer.close()


class Member(Follower):
    """A follower that has joined the workers' group; its source is its own."""

    def __init__(
        self,
        made: KafkaClientSettings,
        starts: Mapping[int, int] | None = None,
        *,
        tuning: KafkaTuning = TUNING,
        member: str = "",
    ) -> None:
        super().__init__(ours.open_group_source(made, tuning, member=member), starts)
        try:
            self.source.join(self)
        except BaseException:
            self.source.close()
            raise
