"""Records of ours and of others as they lie in a topic; the log that writes them; settings that keep their secrets."""

from __future__ import annotations

import base64
import sys
from collections.abc import Collection
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustwatch.ingest.errors import ConfigError, Unavailable
from trustwatch.ingest.kafka import open_group_source
from trustwatch.ingest.kafka.settings import KafkaClientSettings, KafkaSecuritySettings
from trustwatch.ingest.kafka.shared import FairBuffer
from trustwatch.ingest.log.event_log import LogFailed
from trustwatch.ingest.record_keys import agent_partition_key, partition_of, unkeyed_event_id_hash
from trustwatch.ingest.settings import Secret
from trustwatch.ingest.source import Record, RecordKind
from trustwatch.ingest.topics import record_codec
from trustwatch.ingest.topics.record_codec import RecordRun, SourcePartition, TopicRecord
from trustwatch.ingest.topics.topic_commit_log import TopicCommitLog
from trustwatch.scoring.records.dead_letters import RefusedInput
from trustwatch_client.events import MAX_EVENT_BYTES

HERE = SourcePartition("trustwatch.events", 0, 1)


def native(**more: Any) -> bytes:
    event = {
        "id": "e",
        "source": "urn:s",
        "time": "2026-05-28T20:26:40Z",
        "tenant": "t",
        "type": "api.call",
        "action": "read",
        "outcome": "success",
        "agent": {"id": "a", "issuer": "i"},
    }
    return msgspec.json.encode(event | more)


def letter_of(record: Record) -> RefusedInput:
    assert record.kind == RecordKind.DEAD
    return msgspec.json.decode(record.payload, type=RefusedInput)


@given(st.integers(0, 255), st.integers(0, 2**64 - 1), st.integers(0, 2**62), st.binary())
def test_a_record_of_ours_comes_back_as_it_went(kind: int, id_hash: int, ms: int, payload: bytes) -> None:
    """Kinds that this version does not know too: what they mean is the pipeline's to say."""
    record = Record(kind, id_hash, ms, payload, b"route")
    raw = TopicRecord(5, ms, record.key, record.payload, record_codec.headers_for(record))
    assert record_codec.to_record(raw, HERE) == record._replace(key=b"")
    assert record_codec.id_hash_in(raw.headers) == id_hash


def test_identity_of_an_event_without_a_source_is_of_the_topic() -> None:
    """Ids are unique within a source; who names none cannot use up the ids of another."""
    payload = native(source=None)
    record = record_codec.to_record(TopicRecord(0, 7, None, payload, []), HERE)
    assert record == Record(
        RecordKind.EVENT, unkeyed_event_id_hash("t", "topic:trustwatch.events", "e", payload), 7, payload
    )


@pytest.mark.parametrize("partition", range(8))
def test_only_in_its_agents_partition(partition: int) -> None:
    """Two workers would keep the agent otherwise; records of ours are trusted (the topic's ACL says who may write)."""
    home = partition_of(agent_partition_key("t", "i", "a"), 8)
    record = record_codec.to_record(TopicRecord(0, 7, None, native(), []), SourcePartition("e", partition, 8))
    assert record.kind == (RecordKind.EVENT if partition == home else RecordKind.DEAD)


@pytest.mark.parametrize(
    ("value", "ms", "headers", "told"),
    [
        (None, 7, [], "tombstone"),
        (native(), -1, [], "no timestamp"),
        (b"{", 7, [], "not a JSON object"),
        (native(outcome="maybe"), 7, [], "outcome"),
        (native(), 7, [("content-type", b"application/CloudEvents-Batch+json")], "batch mode"),
        (native(), 7, [("content-type", b"\xff")], "not UTF-8"),
        (native(), 7, [("ce_id", b"\xff")], "not UTF-8"),
        (native(), 7, [("ce_id", b"1")], "specversion"),
        (None, -1, [("tw", b"123456789")], "tombstone"),
        (native(pad="x" * MAX_EVENT_BYTES), 7, [], "bytes are kept"),
    ],
)
def test_what_cannot_be_read_is_a_dead_letter(value: bytes | None, ms: int, headers: Any, told: str) -> None:
    """With the reason, what arrived, and an id that another reading gives again."""
    raw = TopicRecord(3, ms, b"k", value, headers)
    letter = letter_of(record_codec.to_record(raw, HERE))
    assert told in letter.reason + letter.path
    assert letter == letter_of(record_codec.to_record(raw, HERE))
    assert letter.letter_id != letter_of(record_codec.to_record(raw._replace(offset=4), HERE)).letter_id
    assert letter.letter_id != letter_of(record_codec.to_record(raw, HERE._replace(partition=1))).letter_id
    assert (letter.source, letter.received_ms) == ("topic:trustwatch.events", max(ms, 0))
    assert base64.b64decode(letter.raw) == (value or b"")[:MAX_EVENT_BYTES]


def test_headers_of_other_people_are_left_alone() -> None:
    """Tracing headers hold bytes."""
    record = record_codec.to_record(
        TopicRecord(0, 7, None, native(), [("trace", b"\xff"), ("x", None), ("tw", None)]), HERE
    )
    assert record.kind == RecordKind.EVENT


def test_runs_are_cut_at_gaps() -> None:
    """Offsets within a run are consecutive."""
    raws = [
        TopicRecord(offset, 1, None, b"%d" % offset, record_codec.headers_for(Record(0, 1, 1, b"")))
        for offset in (3, 4, 7, 8, 9)
    ]
    runs = record_codec.to_record_runs(raws, HERE)
    assert [(run.base_offset, [one.payload for one in run.records]) for run in runs] == [
        (3, [b"3", b"4"]),
        (7, [b"7", b"8", b"9"]),
    ]


def test_partitions_take_turns() -> None:
    """Whatever waits of each; runs without a gap between them are one; what is dropped does not come."""
    handout = FairBuffer()
    one = Record(0, 1, 1, b"")
    handout.add(0, [RecordRun(0, [one] * 3), RecordRun(3, [one] * 3), RecordRun(9, [one])])
    handout.add(1, [RecordRun(0, [one] * 2)])
    handout.add(2, [RecordRun(0, [one] * 2)])
    handout.add(3, [])
    handout.drop([2])
    taken = []
    while (batch := handout.take(2)) is not None:
        taken.append((batch.partition, batch.base_offset, len(batch.records)))
    assert taken == [(0, 0, 2), (1, 0, 2), (0, 2, 2), (0, 4, 2), (0, 9, 1)]


class Writer:
    """A `TopicWriter` in memory that fails when it is told."""

    def __init__(self) -> None:
        self.sent: list[tuple[Any, ...]] = []
        self.failing = ""

    def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        *,
        partition: int | None = None,
        headers: Collection[tuple[str, bytes]] = (),
        timestamp_ms: int | None = None,
    ) -> None:
        if self.failing == "send":
            raise Unavailable("the queue is full")
        self.sent.append((topic, key, value, partition, list(headers), timestamp_ms))

    def flush(self, timeout_s: float) -> None:
        if self.failing == "flush":
            raise Unavailable("no answer")

    def partitions(self, topic: str) -> int:
        return 4

    def close(self) -> None:
        pass


@pytest.mark.parametrize("failing", ["send", "flush"])
def test_the_log_fails_as_a_whole_until_it_is_reopened(failing: str) -> None:
    """As the one on disk: nothing is acknowledged, everything is refused, then it goes on."""
    writer = Writer()
    log = TopicCommitLog(writer, "events")
    records = [Record(0, i, 100 + i, b"%d" % i, agent_partition_key("t", "i", str(i))) for i in range(3)]
    assert (log.append(records), log.next_offset) == (0, 3)
    log.sync()
    assert writer.sent == [
        ("events", one.key, one.payload, partition_of(one.key, 4), record_codec.headers_for(one), one.received_ms)
        for one in records
    ]
    writer.failing = failing
    with pytest.raises(LogFailed, match="topic:events"):
        log.append(records)
        log.sync()
    assert log.failed
    writer.failing = ""
    with pytest.raises(LogFailed, match="reopen"):
        log.append(records)
    log.reopen()
    first = log.append(records)
    log.sync()
    assert first >= 3
    log.close()
    with pytest.raises(LogFailed):
        log.sync()


def test_the_log_takes_no_record_without_a_key() -> None:
    """It could go anywhere; nothing of the call is queued."""
    writer = Writer()
    with pytest.raises(ValueError, match="needs a key"):
        TopicCommitLog(writer, "events").append([Record(0, 1, 1, b"", b"k"), Record(0, 1, 1, b"")])
    assert writer.sent == []


def test_settings_show_no_secret() -> None:
    """In logs and tracebacks."""
    security = KafkaSecuritySettings(
        protocol="SASL_SSL",
        mechanism="PLAIN",
        username="user",
        password=Secret("hunter2"),
        client_secret=Secret("hunter3"),
    )
    settings = KafkaClientSettings(bootstrap_servers=("a:1",), security=security)
    assert "hunter" not in repr(settings)
    assert repr(settings).count("***") == 2
    assert "password=None" in repr(KafkaSecuritySettings())


@pytest.mark.parametrize(
    ("client", "hidden", "install"),
    [("confluent", "confluent_kafka", ".[fast]"), ("kafka-python", "crc32c", ".[kafka]")],
)
def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, client: Any, hidden: str, install: str) -> None:
    """kafka-python runs without crc32c, at eight times the cost: that is refused too."""
    monkeypatch.setitem(sys.modules, hidden, None)
    with pytest.raises(ConfigError, match=r"pip install") as error:
        open_group_source(KafkaClientSettings(bootstrap_servers=("127.0.0.1:1",), client=client))
    assert install in str(error.value)
