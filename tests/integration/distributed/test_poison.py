"""Records that are not events, or in the wrong place, written by others: dead letters, and the partition goes on."""

from __future__ import annotations

import json
import struct
import time
from collections import Counter
from typing import Any, NamedTuple

import pytest
from kafka import KafkaProducer

from trustwatch.ingest.formats.cloudevents import NATIVE_CLOUDEVENT_TYPE
from trustwatch.ingest.record_keys import agent_partition_key, partition_of
from trustwatch.ingest.source import RecordKind
from trustwatch.scoring.records.dead_letters import PIPELINE_SENDER
from trustwatch_client.events import MAX_EVENT_BYTES

from ...support.distributed_testbed import PARTITIONS

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

STRUCTURED = [("content-type", b"application/cloudevents+json")]


class Poison(NamedTuple):
    """A bad record, and a word that its reason must have. *ours*: it bears our mark, so the pipeline refuses it."""

    value: bytes | None
    headers: list[tuple[str, bytes]]
    reason: str
    ours: bool = False


def event(agent: str, number: int) -> dict[str, Any]:
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {
        "id": f"{agent}/{number}",
        "source": "urn:foreign",
        "time": at,
        "type": "tool.call",
        "tenant": "acme-corp",
        "action": "read_file",
        "outcome": "success",
        "agent": {"id": agent, "issuer": "https://as.example"},
    }


def cloud_event(agent: str, number: int) -> tuple[bytes, list[tuple[str, bytes]]]:
    """The same in binary mode."""
    value = event(agent, number)
    attributes = {
        "specversion": "1.0",
        "type": NATIVE_CLOUDEVENT_TYPE,
        "id": value.pop("id"),
        "source": value.pop("source"),
    }
    headers = [(f"ce_{name}", text.encode()) for name, text in attributes.items()]
    return json.dumps(value).encode(), [*headers, ("content-type", b"application/json")]


def route(agent: str) -> tuple[bytes, int]:
    key = agent_partition_key("acme-corp", "https://as.example", agent)
    return key, partition_of(key, PARTITIONS)


def poisons(agent: str) -> list[Poison]:
    no_type = {"specversion": "1.0", "id": "1", "source": "urn:x", "data": event(agent, 1)}
    return [
        Poison(b"\x00\xff garbage", [], "JSON"),
        Poison(None, [], "tombstone"),
        Poison(b"[]", [], ""),
        Poison(json.dumps({**event(agent, 0), "time": "yesterday"}).encode(), [], ""),
        Poison(b'{"specversion": "1.0"', STRUCTURED, ""),
        Poison(json.dumps(no_type).encode(), STRUCTURED, "type"),
        Poison(b"{}", [("ce_specversion", b"1.0"), ("ce_id", b"\xff")], "UTF-8"),
        Poison(b"[]", [("content-type", b"application/cloudevents-batch+json")], "batch"),
        Poison(bytes(3_000_000), [], f"the first {MAX_EVENT_BYTES} of 3000000 bytes"),  # small while compressed
        *forged(agent),
    ]


def forged(agent: str) -> list[Poison]:
    """What somebody writes who may write to the topic, and knows our mark: each once stopped its partition."""
    name = {"tenant": "acme-corp", "issuer": "https://as.example"}
    rule = {**name, "rule_id": agent, "kind": "agent", "key": "", "agent_type": "", "agent_id": agent}
    rule |= {"features": None, "resource": None, "expires_ms": 2**70}
    order = {**name, "erasure_id": "e", "kind": "agent", "name": "", "pseudonym": "p"}
    letter = {"letter_id": agent, "received_ms": 2**63, "source": "s", "reason": "r", "path": "$", "raw": "eA=="}
    records = [
        (RecordKind.TICK, b"no time at all", "tick"),
        (RecordKind.CONTROL, {"command": "feedback.adopt", "rule": rule, "by": "ann", "why": "w"}, "command"),
        (RecordKind.FORGET, order, "the name to forget"),
        (RecordKind.DEAD, letter, ""),
    ]
    return [
        Poison(
            value if isinstance(value, bytes) else json.dumps(value).encode(),
            [("tw", struct.pack("<BQ", kind, 5))],
            reason,
            ours=True,
        )
        for kind, value, reason in records
    ]


def test_poison_becomes_dead_letters_and_stops_nothing(rig: Any) -> None:
    """Each with its reason, its offset and its bytes, in the table and on the topic; good records around them count.

    Good ones come twice, in native form and as CloudEvents in binary mode with the same ids.
    """
    producer = KafkaProducer(
        bootstrap_servers=rig.kafka.bootstrap, acks="all", compression_type="gzip", max_request_size=8_000_000
    )
    topic, sent, expected = rig.kafka_settings.topic_names.events, Counter(), {}
    rig.worker()
    for number in range(12):
        agent = f"neighbour-{number}"
        key, partition = route(agent)
        for poison in poisons(agent):
            told = producer.send(topic, poison.value, key, poison.headers, partition).get(10)
            expected[partition, told.offset] = poison
        stray = json.dumps(event(agent, 7)).encode()
        lost = producer.send(topic, stray, key, [], (partition + 1) % PARTITIONS).get(10)
        expected[lost.partition, lost.offset] = Poison(stray, [], "partition")
        for count in range(20):
            producer.send(topic, json.dumps(event(agent, count)).encode(), key, [], partition)
            value, headers = cloud_event(agent, count)
            producer.send(topic, value, key, headers, partition)
        sent["acme-corp", agent] = 20
    producer.close()
    rig.settle()
    state = rig.check_end(sent)
    letters = {(one.partition, one.offset): one for one in state.letters.values()}
    assert letters.keys() == expected.keys()
    for place, letter in letters.items():
        assert letter.raw == (expected[place].value or b"")[:MAX_EVENT_BYTES]
        assert expected[place].reason in letter.reason
        assert letter.source == (PIPELINE_SENDER if expected[place].ours else f"topic:{topic}")
    on_topic = {}
    for raw in rig.records("dead_letters")["dead_letters"]:
        headers = dict(raw.headers)
        place = int(headers["source_partition"]), int(headers["source_offset"])
        on_topic[place] = headers["reason"].decode(), raw.value
        assert headers["letter_id"] == raw.key
    assert on_topic == {place: (letter.reason, letter.raw) for place, letter in letters.items()}
    assert "Traceback" not in rig.logs()
