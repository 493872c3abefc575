"""Raw records of the topics of 0.1, written again as its brokers kept them."""

from __future__ import annotations

import base64
import time
from typing import Any

from .support import Row

KINDS = ("events", "risk", "decisions", "alerts", "dlq")


def _raw(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)


def write_topic(bootstrap: str, topic: str, rows: list[Row], partitions: int) -> None:
    """Make a topic, and write its rows: each in its partition, in order, at the same offset.

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
