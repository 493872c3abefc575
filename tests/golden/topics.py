"""Raw records of our topics, as brokers keep them: read into rows, and written again."""

from __future__ import annotations

import base64
import time
from typing import Any

from .support import Row

KINDS = ("events", "risk", "decisions", "alerts", "dlq")


def read_topics(bootstrap: str, prefix: str) -> list[Row]:
    """Every record of the topics *prefix*.KIND, by topic and partition in order."""
    from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": f"{prefix}-dump", "enable.auto.commit": False})
    rows = []
    for kind in KINDS:
        topic = f"{prefix}.{kind}"
        for partition in sorted(consumer.list_topics(topic, 30.0).topics[topic].partitions):
            _, end = consumer.get_watermark_offsets(TopicPartition(topic, partition), 30.0)
            consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING)])
            found: list[Row] = []
            while end and (not found or found[-1]["offset"] < end - 1):
                message = consumer.poll(30.0)
                assert message is not None and message.error() is None, topic
                found.append(_row(kind, message))
            rows += found
    consumer.close()
    return rows


def _row(kind: str, message: Any) -> Row:
    return {
        "topic": kind,
        "partition": message.partition(),
        "offset": message.offset(),
        "timestamp": message.timestamp()[1],
        "key": _text(message.key()),
        "value": _text(message.value()),
        "headers": [[name, _text(value)] for name, value in message.headers() or []],
    }


def _text(raw: bytes | None) -> str | None:
    return None if raw is None else base64.b64encode(raw).decode()


def _raw(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)


def write_topic(bootstrap: str, topic: str, rows: list[Row], partitions: int) -> None:
    """Make a topic, and write rows of `read_topics` into it: each in its partition, in order, at the same offset.

    It keeps records however old they are: those of 0.1 are older than our topics keep them.
    """
    from confluent_kafka import Producer
    from confluent_kafka.admin import AdminClient, NewTopic

    kept = {"retention.ms": "-1", "message.timestamp.type": "CreateTime"}
    admin = AdminClient({"bootstrap.servers": bootstrap})  # must live until the answer is there
    admin.create_topics([NewTopic(topic, partitions, 1, config=kept)])[topic].result(30.0)
    producer = Producer({"bootstrap.servers": bootstrap, "max.in.flight.requests.per.connection": 1})
    written: dict[tuple[int, int], int] = {}

    def delivered(error: Any, message: Any) -> None:
        assert error is None, error
        written[message.partition(), message.offset()] = message.timestamp()[1]

    for row in rows:
        headers = [(name, _raw(value)) for name, value in row["headers"]]
        producer.produce(
            topic,
            _raw(row["value"]),
            _raw(row["key"]),
            row["partition"],
            timestamp=row["timestamp"],
            headers=headers,
            on_delivery=delivered,
        )
    deadline = time.monotonic() + 60
    while producer.flush(1.0):
        assert time.monotonic() < deadline
    assert written == {(row["partition"], row["offset"]): row["timestamp"] for row in rows}
