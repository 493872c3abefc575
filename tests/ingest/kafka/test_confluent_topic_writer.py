"""Records of `ConfluentTopicWriter` that wait for their turn; with a real broker: the contract of writers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError

from trustwatch.ingest.errors import Unavailable
from trustwatch.ingest.kafka.confluent import topic_writer
from trustwatch.ingest.kafka.confluent.client_connection import BoundedCall
from trustwatch.ingest.kafka.confluent.topic_writer import PendingRecords
from trustwatch.ingest.kafka.settings import KafkaClientSettings, KafkaTuning

TUNING = KafkaTuning(delivery_timeout_ms=300)


class SilentProducer:
    """Stands for librdkafka's: keeps what it is given until it is told to acknowledge it."""

    def __init__(self) -> None:
        self.given: list[tuple[bytes, Callable[..., None]]] = []
        self.values: list[bytes] = []
        self.answers = False
        self.refuses: dict[bytes, Exception] = {}
        self.fails: dict[bytes, KafkaError] = {}

    def produce(self, _topic: str, value: bytes, _key: bytes, _partition: int, *, on_delivery: Any, **_: Any) -> None:
        if value in self.refuses:
            raise self.refuses[value]
        self.given.append((value, on_delivery))
        self.values.append(value)

    def poll(self, timeout_s: float) -> None:
        time.sleep(min(timeout_s, 0.005))
        taken, self.given = (self.given, []) if self.answers else ([], self.given)
        for value, on_delivery in taken:
            on_delivery(self.fails.get(value), None)

    def list_topics(self, **_: Any) -> Any:
        return SimpleNamespace(topics={"topic": SimpleNamespace(partitions={0: None})})

    def purge(self) -> None:
        self.given = []

    def __len__(self) -> int:
        return len(self.given)


@pytest.fixture
def producer() -> SilentProducer:
    return SilentProducer()


@pytest.fixture
def writer(producer: SilentProducer, monkeypatch: pytest.MonkeyPatch) -> Iterator[topic_writer.ConfluentTopicWriter]:
    monkeypatch.setattr(topic_writer, "Producer", lambda *_, **__: producer)
    monkeypatch.setattr(topic_writer, "_EXPIRY_INTERVAL_S", 0.05)
    opened = topic_writer.ConfluentTopicWriter(KafkaClientSettings(bootstrap_servers=("b:1",)), TUNING)
    yield opened
    producer.answers = True
    opened.close()


def send_later(writer: topic_writer.ConfluentTopicWriter, *values: bytes) -> None:
    """Send when the request before has left already."""
    time.sleep(0.005)
    for value in values:
        writer.send("topic", b"k", value, partition=0)


def test_a_partition_has_one_request_at_a_time(
    writer: topic_writer.ConfluentTopicWriter, producer: SilentProducer
) -> None:
    """What comes behind it is handed over with its outcome, in order."""
    writer.send("topic", b"k", b"first", partition=0)
    send_later(writer, b"second", b"third")
    assert producer.values == [b"first"]
    producer.answers = True
    writer.flush(5)
    assert producer.values == [b"first", b"second", b"third"]


def test_what_waits_too_long_is_given_up(writer: topic_writer.ConfluentTopicWriter, producer: SilentProducer) -> None:
    """Its sender was told that it failed, and sends it again: it is not written after all."""
    writer.send("topic", b"k", b"first", partition=0)
    send_later(writer, b"second")
    with pytest.raises(Unavailable, match="TIMED_OUT"):
        writer.flush(5)
    producer.answers = True
    send_later(writer, b"third")
    writer.flush(5)
    assert producer.values == [b"first", b"third"]


def test_a_waiting_record_that_is_refused_ends_nothing(
    writer: topic_writer.ConfluentTopicWriter, producer: SilentProducer
) -> None:
    """Its sender has gone on by then: the flush says so."""
    producer.refuses[b"odd"] = OverflowError("timestamp")
    writer.send("topic", b"k", b"first", partition=0)
    send_later(writer, b"odd", b"third")
    producer.answers = True
    with pytest.raises(Unavailable, match="OverflowError: timestamp"):
        writer.flush(5)
    writer.flush(5)
    assert producer.values == [b"first", b"third"]


def test_counting_what_waits_costs_each_flush_once() -> None:
    """Each flush that fails adds a link, and a broker may be away for long."""
    pending = first = PendingRecords()
    first.count = 1
    for _ in range(200):
        pending = PendingRecords(pending)
    assert pending.waiting() == 1
    first.count = 0
    assert pending.waiting() == 0


def test_every_flush_that_waits_for_a_record_tells_that_it_failed(
    writer: topic_writer.ConfluentTopicWriter, producer: SilentProducer
) -> None:
    """Each may have been for its sake; a flush that begins later has heard nothing of it."""
    producer.fails[b"lost"] = KafkaError(KafkaError.INVALID_RECORD)
    writer.send("topic", b"k", b"lost", partition=0)
    told: list[str] = []

    def wait() -> None:
        with pytest.raises(Unavailable) as raised:
            writer.flush(5)
        told.append(str(raised.value))

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    assert told == []
    producer.answers = True
    for thread in threads:
        thread.join()
    assert [text.split(":")[1] for text in told] == [" INVALID_RECORD"] * 3
    writer.send("topic", b"k", b"after", partition=0)
    writer.flush(5)


def test_a_process_that_ends_waits_no_longer(
    writer: topic_writer.ConfluentTopicWriter, producer: SilentProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flush that is under way ends; after it none waits, and closing neither; what has arrived is good."""
    monkeypatch.setattr(topic_writer, "_EXPIRY_INTERVAL_S", 60.0)
    writer.flush(5)
    writer.send("topic", b"k", b"first", partition=0)
    threading.Timer(0.1, writer.bound_waits, [0.1]).start()
    for at_most_s in (2.0, 0.5):
        began = time.monotonic()
        with pytest.raises(Unavailable, match="1 records are not acknowledged"):
            writer.flush(60)
        assert time.monotonic() - began < at_most_s
    began = time.monotonic()
    writer.close()
    assert time.monotonic() - began < 2.0
    writer.flush(60)


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """Ends a close that would not end by itself; set after the test."""
    event = threading.Event()
    yield event
    event.set()


def test_callbacks_run_on_the_thread_that_waits_and_their_time_does_not_count() -> None:
    """Work in hand is committed there, however long that takes."""
    ran: list[threading.Thread] = []

    def hand_back() -> None:
        time.sleep(0.3)
        ran.append(threading.current_thread())

    closing = BoundedCall(lambda: [closing.call_back(hand_back) for _ in range(2)])
    assert closing.run(0.2)
    assert ran == [threading.current_thread()] * 2


def test_one_that_takes_too_long_is_left_and_calls_nobody_any_more(released: threading.Event) -> None:
    """Its thread stays; the owner of the partitions may be gone by then."""
    ran: list[str] = []
    ended = threading.Event()

    def close() -> None:
        released.wait(30)
        closing.call_back(lambda: ran.append("late"))
        ended.set()

    closing = BoundedCall(close)
    began = time.monotonic()
    assert not closing.run(0.2)
    assert time.monotonic() - began < 5.0
    released.set()
    assert ended.wait(10)
    assert closing.wait(10)
    assert ran == []


def test_what_closing_raises_comes_out() -> None:
    """A login that is refused, for one."""

    def refuse() -> None:
        raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        BoundedCall(refuse).run(5)
