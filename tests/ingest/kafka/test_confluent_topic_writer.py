"""Failures and waits of `ConfluentTopicWriter`; with a real broker: the contract of writers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from trustwatch.ingest.errors import Unavailable
from trustwatch.ingest.kafka.confluent import topic_writer
from trustwatch.ingest.kafka.confluent.client_connection import BoundedCall
from trustwatch.ingest.kafka.settings import KafkaClientSettings, KafkaTuning

TUNING = KafkaTuning(metadata_timeout_ms=300)


class SilentProducer:
    """Stands for librdkafka's: keeps what it is given until it is told to acknowledge it."""

    def __init__(self) -> None:
        self.given: list[tuple[bytes, Callable[..., None]]] = []
        self.values: list[bytes] = []
        self.answers = False
        self.has_room = True
        self.refuses: dict[bytes, Exception] = {}
        self.fails: dict[bytes, KafkaError] = {}

    def produce(self, _topic: str, value: bytes, _key: bytes, _partition: int, *, on_delivery: Any, **_: Any) -> None:
        if value in self.refuses:
            raise self.refuses[value]
        if not self.has_room:
            raise BufferError
        self.given.append((value, on_delivery))
        self.values.append(value)

    def poll(self, timeout_s: float) -> None:
        time.sleep(min(timeout_s, 0.005))
        for value in [value for value, _ in self.given] if self.answers else ():
            self.acknowledge(value)

    def acknowledge(self, value: bytes) -> None:
        at = next(at for at, (given, _) in enumerate(self.given) if given == value)
        _, on_delivery = self.given.pop(at)
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
    opened = topic_writer.ConfluentTopicWriter(KafkaClientSettings(bootstrap_servers=("b:1",)), TUNING)
    yield opened
    producer.answers = True
    opened.close()


def test_a_record_that_finds_no_room_waits_for_it(
    writer: topic_writer.ConfluentTopicWriter, producer: SilentProducer
) -> None:
    """It is sent once outcomes make room; if none does in time, `send` raises."""
    producer.has_room = False
    with pytest.raises(Unavailable, match="records wait already"):
        writer.send("topic", b"k", b"refused", partition=0)
    threading.Timer(0.05, setattr, [producer, "has_room", True]).start()
    writer.send("topic", b"k", b"later", partition=0)
    producer.answers = True
    writer.flush(5)
    assert producer.values == [b"later"]


def test_a_flush_does_not_wait_for_later_records(
    writer: topic_writer.ConfluentTopicWriter, producer: SilentProducer
) -> None:
    """Other threads may go on sending forever."""
    writer.send("topic", b"k", b"first", partition=0)
    threading.Timer(0.05, writer.send, ["topic", b"k", b"second"], {"partition": 0}).start()
    threading.Timer(0.1, producer.acknowledge, [b"first"]).start()
    writer.flush(5)
    with pytest.raises(Unavailable, match="1 records are not acknowledged"):
        writer.flush(0.05)


def test_a_producer_that_lost_its_sequence_is_replaced(
    writer: topic_writer.ConfluentTopicWriter, producer: SilentProducer
) -> None:
    """The send that learns of it and the next flush raise; what the old producer still reports does not count."""
    writer.send("topic", b"k", b"first", partition=0)
    producer.refuses[b"second"] = KafkaException(KafkaError(KafkaError._FATAL, "lost", fatal=True))
    with pytest.raises(Unavailable, match="lost"):
        writer.send("topic", b"k", b"second", partition=0)
    assert writer.replaced == 1
    with pytest.raises(Unavailable, match="_FATAL"):
        writer.flush(5)
    writer.flush(0)


def test_every_flush_that_waits_for_a_record_raises_its_failure(
    writer: topic_writer.ConfluentTopicWriter, producer: SilentProducer
) -> None:
    """A flush that begins later does not raise it."""
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
    writer: topic_writer.ConfluentTopicWriter,
) -> None:
    """A flush that is under way ends; after it neither flushes nor closing wait."""
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
